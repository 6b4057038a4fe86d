//! Names of rows, so that their order as bytes is the order of what they name; one letter in front for each table.
//!
//! ```text
//! c <namespace/group/data_id>                       the formal version
//! g <namespace/group/data_id> 0x00 beta             the beta version
//! g <namespace/group/data_id> 0x00 tag_<tag>        a version by tag
//! n <namespace>                                     a namespace
//! r <16 bytes>                                      a request that was done
//! m                                                 where the state stands; not a row that the witness counts
//! x <name of a row> 0x00 <u32, big endian>          a piece of a row too large for one value; only inside sled
//! ```
//! Names contain neither `/` nor 0x00, which makes every name end where it seems to end; that of a request has its length.
use super::codec::DecodeError;
use crate::types::{ConfigKey, Digest, NamespaceId, RequestId, Tag, Variant};

/// First byte of formal versions.
pub(super) const FORMAL: u8 = b'c';
/// First byte of gray versions.
pub(super) const GRAY: u8 = b'g';
/// First byte of namespaces.
pub(super) const NAMESPACE: u8 = b'n';
/// First byte of requests that were done.
pub(super) const REQUEST: u8 = b'r';
/// First byte of pieces of large rows.
pub(super) const PIECE: u8 = b'x';
/// The whole name of the row that says where the state stands.
pub(super) const META: &[u8] = b"m";

const SEPARATOR: u8 = 0;
const BETA: &str = "beta";
const TAG_PREFIX: &str = "tag_";

/// What a row is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowName {
    /// A version of a configuration.
    Config(ConfigKey, Variant),
    /// A namespace.
    Namespace(NamespaceId),
    /// A request that was done.
    Request(RequestId),
}

/// The name of a version's row.
pub(super) fn config(key: &ConfigKey, variant: &Variant) -> Vec<u8> {
    let text = key.as_str().as_bytes();
    match variant {
        Variant::Formal => [&[FORMAL], text].concat(),
        Variant::Beta => [&[GRAY], text, &[SEPARATOR], BETA.as_bytes()].concat(),
        Variant::Tag(tag) => [&[GRAY], text, &[SEPARATOR], TAG_PREFIX.as_bytes(), tag.as_str().as_bytes()].concat(),
    }
}

/// The name of a namespace's row.
pub(super) fn namespace(id: &NamespaceId) -> Vec<u8> {
    [&[NAMESPACE], id.as_str().as_bytes()].concat()
}

/// The name of a request's row.
pub(super) fn request(id: RequestId) -> Vec<u8> {
    [&[REQUEST], &id.digest().as_bytes()[..]].concat()
}

/// The name of one piece of a row; pieces are numbered from 0.
pub(super) fn piece(row: &[u8], number: u32) -> Vec<u8> {
    [&[PIECE], row, &[SEPARATOR], &number.to_be_bytes()].concat()
}

/// Reads the name of a row that is neither the meta row nor a piece.
///
/// # Errors
/// [`DecodeError`] when it is not the name of such a row.
pub(super) fn parse(name: &[u8]) -> Result<RowName, DecodeError> {
    let unknown = || DecodeError(format!("{} names no row", name.escape_ascii()));
    let (table, rest) = name.split_first().ok_or_else(unknown)?;
    if *table == REQUEST {
        let id = rest.try_into().map_err(|_| unknown())?;
        return Ok(RowName::Request(RequestId::from_digest(Digest::from_bytes(id))));
    }
    let rest = std::str::from_utf8(rest).map_err(|_| unknown())?;
    let key = |text: &str| ConfigKey::parse(text).map_err(|err| DecodeError(err.to_string()));
    match *table {
        FORMAL => Ok(RowName::Config(key(rest)?, Variant::Formal)),
        GRAY => {
            let (text, label) = rest.split_once(char::from(SEPARATOR)).ok_or_else(unknown)?;
            let variant = match label.strip_prefix(TAG_PREFIX) {
                Some(tag) => Variant::Tag(Tag::parse(tag).map_err(|err| DecodeError(err.to_string()))?),
                None if label == BETA => Variant::Beta,
                None => return Err(unknown()),
            };
            Ok(RowName::Config(key(text)?, variant))
        }
        NAMESPACE => {
            let id = NamespaceId::parse(rest).map_err(|err| DecodeError(err.to_string()))?;
            Ok(RowName::Namespace(id))
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ConfigKey {
        ConfigKey::parse(text).unwrap()
    }

    fn tag(text: &str) -> Variant {
        Variant::Tag(Tag::parse(text).unwrap())
    }

    #[test]
    fn names_are_these_bytes_and_are_read_back() {
        let request = RequestId::from_digest(Digest::from_bytes(*b"0123456789/\0\xffxyz"));
        let cases: [(RowName, &[u8]); 6] = [
            (RowName::Config(key("public/g/a"), Variant::Formal), b"cpublic/g/a"),
            (RowName::Config(key("public/g/a"), Variant::Beta), b"gpublic/g/a\0beta"),
            (RowName::Config(key("public/g/a"), tag("beta")), b"gpublic/g/a\0tag_beta"),
            (RowName::Config(key("d-1/g:1/a.b"), tag("v1.0")), b"gd-1/g:1/a.b\0tag_v1.0"),
            (RowName::Namespace(NamespaceId::parse("dev").unwrap()), b"ndev"),
            (RowName::Request(request), b"r0123456789/\0\xffxyz"),
        ];
        for (name, bytes) in cases {
            let encoded = match &name {
                RowName::Config(key, variant) => config(key, variant),
                RowName::Namespace(id) => namespace(id),
                RowName::Request(id) => super::request(*id),
            };
            assert_eq!(encoded.escape_ascii().to_string(), bytes.escape_ascii().to_string());
            assert_eq!(parse(bytes), Ok(name));
        }
    }

    #[test]
    fn other_names_are_refused() {
        let cases: [&[u8]; 14] = [
            b"",
            b"m",
            b"c",
            b"cpublic",
            b"cpublic/g",
            b"cpublic/g/\0",
            b"gpublic/g/a",
            b"gpublic/g/a\0",
            b"gpublic/g/a\0tag_",
            b"gpublic/g/a\0gamma",
            b"n",
            b"r0123456789abcde",
            b"r0123456789abcdefg",
            b"zpublic/g/a",
        ];
        for name in cases {
            assert!(parse(name).is_err(), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn pieces_of_one_row_are_neighbours_in_the_order_of_their_numbers() {
        let (short, long) = (config(&key("p/g/a"), &Variant::Formal), config(&key("p/g/ab"), &Variant::Formal));
        let mut names = vec![piece(&long, 0), piece(&short, 256), piece(&short, 255), piece(&short, 1)];
        names.sort();
        assert_eq!(names, [piece(&short, 1), piece(&short, 255), piece(&short, 256), piece(&long, 0)]);
    }
}
