//! The names of things. No value of these types breaks the naming rules.
//!
//! The rules are those of a Nacos server (`ParamCheckRule`): ASCII letters, digits, `_ - . :` in a data id (256 bytes)
//! and a group (128); letters, digits, `_ -` in a namespace (64).
use std::{fmt, sync::Arc};

use super::limits;

/// The part of a request that a refused name was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameField {
    /// The namespace, called `tenant` in older Nacos protocols.
    Namespace,
    /// The group.
    Group,
    /// The data id.
    DataId,
    /// The tag of a gray version.
    Tag,
}

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameProblem {
    /// Empty, or nothing but white space.
    Blank,
    /// A character outside the alphabet of the field.
    IllegalCharacter,
    /// Longer than `max` bytes.
    TooLong {
        /// The bound that was exceeded, in bytes.
        max: usize,
    },
}

/// A name that breaks the rules, with the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    /// Where the name stood.
    pub field: NameField,
    /// What is wrong with it.
    pub problem: NameProblem,
    /// The name as it came.
    pub value: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (field, alphabet) = match self.field {
            NameField::Namespace => ("namespace", "letters, digits, '_' and '-'"),
            NameField::Group => ("group", "letters, digits and _ - . :"),
            NameField::DataId => ("data id", "letters, digits and _ - . :"),
            NameField::Tag => ("tag", "letters, digits and _ - . :"),
        };
        match self.problem {
            NameProblem::Blank => write!(f, "{field} is blank"),
            NameProblem::IllegalCharacter => write!(f, "{field} {:?} may contain only {alphabet}", self.value),
            NameProblem::TooLong { max } => write!(f, "{field} is longer than {max} characters"),
        }
    }
}

impl std::error::Error for InvalidName {}

/// A namespace. The default one is `public`, however a client spells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(Arc<str>);

impl NamespaceId {
    /// The default namespace.
    pub fn public() -> Self {
        Self("public".into())
    }

    /// # Errors
    /// [`InvalidName`] unless `name` is 1 to 64 of `[A-Za-z0-9_-]`.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        Self::check(name)?;
        Ok(Self(name.into()))
    }

    /// Whether this is the default namespace.
    pub fn is_public(&self) -> bool {
        &*self.0 == "public"
    }

    /// The canonical spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(name: &str) -> Result<(), InvalidName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        check(name, NameField::Namespace, limits::NAMESPACE_BYTES_MAX, legal)
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one configuration. Cheap to clone: one shared text, `namespace/group/data_id`, in which `/` cannot occur.
///
/// Keys are ordered by that text, so all keys of a namespace, and of a group in it, are neighbours.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigKey {
    text: Arc<str>,
    group_at: u16,
    data_id_at: u16,
}

impl ConfigKey {
    /// # Errors
    /// [`InvalidName`] when the group or the data id is blank, too long, or has an illegal character.
    pub fn new(namespace: &NamespaceId, group: &str, data_id: &str) -> Result<Self, InvalidName> {
        Self::of(namespace.as_str(), group, data_id)
    }

    /// The same, with the namespace by its name.
    ///
    /// # Errors
    /// [`InvalidName`] when a name breaks its rule.
    pub fn of(namespace: &str, group: &str, data_id: &str) -> Result<Self, InvalidName> {
        Self::check(namespace, group, data_id)?;
        let group_at = namespace.len() + 1;
        let data_id_at = group_at + group.len() + 1;
        let text = [namespace, "/", group, "/", data_id].concat().into();
        // Both fit: the three parts are bounded by 64, 128 and 256 bytes.
        Ok(Self { text, group_at: group_at as u16, data_id_at: data_id_at as u16 })
    }

    /// Whether a key may have these names.
    ///
    /// # Errors
    /// [`InvalidName`] for the first that breaks its rule: namespace, data id, group.
    pub fn check(namespace: &str, group: &str, data_id: &str) -> Result<(), InvalidName> {
        NamespaceId::check(namespace)?;
        check(data_id, NameField::DataId, limits::DATA_ID_BYTES_MAX, is_name_byte)?;
        check(group, NameField::Group, limits::GROUP_BYTES_MAX, is_name_byte)
    }

    /// Reads the text form, `namespace/group/data_id`.
    ///
    /// # Errors
    /// [`InvalidName`] when a part is missing or breaks its rule.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let mut parts = text.splitn(3, '/');
        let (namespace, group, data_id) = (parts.next(), parts.next(), parts.next());
        Self::of(namespace.unwrap_or_default(), group.unwrap_or_default(), data_id.unwrap_or_default())
    }

    /// The text form, unique among all keys.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The namespace, in its canonical spelling.
    pub fn namespace(&self) -> &str {
        &self.text[..usize::from(self.group_at) - 1]
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.text[usize::from(self.group_at)..usize::from(self.data_id_at) - 1]
    }

    /// The data id.
    pub fn data_id(&self) -> &str {
        &self.text[usize::from(self.data_id_at)..]
    }
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigKey({})", self.text)
    }
}

/// The tag of a gray version: 1 to 16 of `[A-Za-z0-9_.:-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// # Errors
    /// [`InvalidName`] when it is blank, longer than 16 bytes, or has an illegal character.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        check(name, NameField::Tag, limits::TAG_BYTES_MAX, is_name_byte)?;
        Ok(Self(name.into()))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"_-.:".contains(&b)
}

fn check(name: &str, field: NameField, max: usize, legal: impl Fn(u8) -> bool) -> Result<(), InvalidName> {
    let problem = if name.trim().is_empty() {
        NameProblem::Blank
    } else if name.len() > max {
        NameProblem::TooLong { max }
    } else if !name.bytes().all(legal) {
        NameProblem::IllegalCharacter
    } else {
        return Ok(());
    };
    Err(InvalidName { field, problem, value: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_its_parts() {
        let key = ConfigKey::new(&NamespaceId::parse("dev-1").unwrap(), "G:1", "a.b-c_d").unwrap();
        assert_eq!((key.namespace(), key.group(), key.data_id()), ("dev-1", "G:1", "a.b-c_d"));
        assert_eq!(ConfigKey::parse(key.as_str()).unwrap(), key);
    }

    #[test]
    fn names_are_checked() {
        let cases = [
            ("", Some(NameProblem::Blank)),
            (" ", Some(NameProblem::Blank)),
            ("a/b", Some(NameProblem::IllegalCharacter)),
            ("配置", Some(NameProblem::IllegalCharacter)),
            ("a b", Some(NameProblem::IllegalCharacter)),
            ("a-b_c.d:e", None),
        ];
        for (name, expected) in cases {
            let got = ConfigKey::new(&NamespaceId::public(), "g", name).err().map(|err| err.problem);
            assert_eq!(got, expected, "{name:?}");
        }
        assert!(ConfigKey::new(&NamespaceId::public(), "g", &"d".repeat(256)).is_ok());
        assert!(ConfigKey::new(&NamespaceId::public(), "g", &"d".repeat(257)).is_err());
        assert!(ConfigKey::new(&NamespaceId::public(), &"g".repeat(129), "d").is_err());
        assert!(NamespaceId::parse("a.b").is_err());
        assert!(NamespaceId::parse(&"n".repeat(65)).is_err());
    }
}
