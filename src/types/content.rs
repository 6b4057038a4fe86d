//! What a configuration says.
use std::fmt;

use bytes::Bytes;
use md5::{Digest as _, Md5};

/// The MD5 of a content's bytes: what Nacos clients compare. Not a protection against an attacker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Md5::digest(bytes).into())
    }

    /// A digest that was computed before and stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads 32 lower-case hexadecimal digits, the only form in which clients send digests.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let digits: &[u8; 32] = hex.as_bytes().try_into().ok()?;
        let mut out = [0; 16];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(out))
    }

    /// 32 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = String::with_capacity(32);
        for byte in self.0 {
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        out
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// UTF-8 text together with its digest: the constructors are the only way in, so the two cannot disagree.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    bytes: Bytes,
    digest: Digest,
}

impl Content {
    /// Takes the text and computes its digest.
    pub fn new(text: impl Into<String>) -> Self {
        let bytes = Bytes::from(text.into());
        Self { digest: Digest::of(&bytes), bytes }
    }

    /// What a checksummed record of our own says, whose digest is believed; `None` when the bytes are not UTF-8.
    pub fn restore(bytes: Bytes, digest: Digest) -> Option<Self> {
        std::str::from_utf8(&bytes).ok()?;
        Some(Self { bytes, digest })
    }

    /// The text.
    pub fn text(&self) -> &str {
        // Both constructors saw UTF-8.
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// The bytes of the text, shared, not copied.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl fmt::Debug for Content {
    /// Contents may be secrets: only the size and the digest are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes, {})", self.bytes.len(), self.digest)
    }
}

/// How a content is to be read. Carried for clients and consoles; the server does not interpret contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ContentType {
    /// Plain text; also what an unknown type becomes.
    #[default]
    Text,
    /// Java properties.
    Properties,
    /// XML.
    Xml,
    /// JSON.
    Json,
    /// HTML.
    Html,
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
    /// Said to be of no type.
    Unset,
}

impl ContentType {
    /// All types, each at the place of its stored number.
    pub const ALL: [Self; 8] =
        [Self::Text, Self::Properties, Self::Xml, Self::Json, Self::Html, Self::Yaml, Self::Toml, Self::Unset];

    /// The type of that name, case-sensitive as in Nacos (`ConfigType.isValidType`); [`ContentType::Text`] otherwise.
    pub fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|it| it.as_str() == name).unwrap_or_default()
    }

    /// The name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Properties => "properties",
            Self::Xml => "xml",
            Self::Json => "json",
            Self::Html => "html",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::Unset => "unset",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_md5_in_lower_case_hex() {
        let digest = Content::new("hello").digest();
        assert_eq!(digest.to_string(), "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(Digest::from_hex("5d41402abc4b2a76b9719d911017c592"), Some(digest));
        for bad in [
            "",
            "5D41402ABC4B2A76B9719D911017C592",
            "5d41402abc4b2a76b9719d911017c59",
            "zz41402abc4b2a76b9719d911017c592",
        ] {
            assert_eq!(Digest::from_hex(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn types_are_case_sensitive_and_unknown_ones_are_text() {
        for (name, expected) in [("yaml", "yaml"), ("YAML", "text"), ("foo", "text"), ("unset", "unset"), ("", "text")]
        {
            assert_eq!(ContentType::parse(name).as_str(), expected, "{name:?}");
        }
    }
}
