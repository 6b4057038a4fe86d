//! Which keys a client wants to hear about without naming them.
use std::{fmt, sync::Arc};

use super::{ConfigKey, NamespaceId, limits};

/// Longest text of a pattern, in bytes: three names of full length with their wildcards and separators.
const PATTERN_BYTES_MAX: usize =
    limits::NAMESPACE_BYTES_MAX + limits::GROUP_BYTES_MAX + limits::DATA_ID_BYTES_MAX + 2 * 2 + 2 * 2;

/// What a name has to look like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum NamePattern {
    Any,
    Is(Arc<str>),
    StartsWith(Arc<str>),
    EndsWith(Arc<str>),
    Contains(Arc<str>),
}

impl NamePattern {
    fn parse(text: &str) -> Self {
        if text == "*" {
            return Self::Any;
        }
        let (front, rest) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
        let (back, name) = rest.strip_suffix('*').map_or((false, rest), |name| (true, name));
        match (front, back) {
            (true, true) => Self::Contains(name.into()),
            (true, false) => Self::EndsWith(name.into()),
            (false, true) => Self::StartsWith(name.into()),
            (false, false) => Self::Is(name.into()),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(whole) => **whole == *name,
            Self::StartsWith(front) => name.starts_with(&**front),
            Self::EndsWith(back) => name.ends_with(&**back),
            Self::Contains(part) => name.contains(&**part),
        }
    }
}

/// A pattern of keys: `namespace>>group>>data id`, where `*` may stand at the beginning, at the end, or at both ends of the
/// group and the data id. As in Nacos (`FuzzyGroupKeyPattern`) one in the middle matches nothing, and a blank namespace is
/// the default one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPattern {
    namespace: NamespaceId,
    group: NamePattern,
    data_id: NamePattern,
}

/// A text that is no pattern; says what one looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPattern(String);

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(80).collect();
        write!(f, "{shown:?} is no pattern; write namespace>>group>>dataId, such as public>>DEFAULT_GROUP>>app-*")
    }
}

impl std::error::Error for InvalidPattern {}

impl KeyPattern {
    /// # Errors
    /// [`InvalidPattern`] unless there are three parts, of which the first is blank or a namespace and the others are not
    /// empty, in at most 456 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = || InvalidPattern(text.into());
        if text.len() > PATTERN_BYTES_MAX {
            return Err(invalid());
        }
        let mut parts = text.split(">>");
        let (Some(namespace), Some(group), Some(data_id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        if group.is_empty() || data_id.is_empty() {
            return Err(invalid());
        }
        let namespace = match namespace.trim() {
            "" => NamespaceId::public(),
            name => NamespaceId::parse(name).map_err(|_| invalid())?,
        };
        Ok(Self { namespace, group: NamePattern::parse(group), data_id: NamePattern::parse(data_id) })
    }

    /// Whether this key is meant.
    pub fn matches(&self, key: &ConfigKey) -> bool {
        key.namespace() == self.namespace.as_str()
            && self.group.matches(key.group())
            && self.data_id.matches(key.data_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ConfigKey {
        ConfigKey::parse(text).unwrap()
    }

    #[test]
    fn a_star_matches_at_the_ends_of_a_name() {
        let cases = [
            ("public>>g>>*", "public/g/a", true),
            ("public>>g>>*", "public/h/a", false),
            ("public>>g>>*", "dev/g/a", false),
            (">>g>>a", "public/g/a", true),
            ("dev>>*>>*", "dev/g/a", true),
            ("public>>g>>app-*", "public/g/app-1", true),
            ("public>>g>>app-*", "public/g/app-", true),
            ("public>>g>>app-*", "public/g/an-app-1", false),
            ("public>>g>>*.yaml", "public/g/a.yaml", true),
            ("public>>g>>*.yaml", "public/g/a.yaml.bak", false),
            ("public>>g>>*mid*", "public/g/amidst", true),
            ("public>>g>>*mid*", "public/g/mud", false),
            ("public>>g>>**", "public/g/a", true),
            ("public>>g>>a*b", "public/g/a-b", false),
            ("public>>*g>>a", "public/big/a", true),
        ];
        for (pattern, candidate, expected) in cases {
            assert_eq!(KeyPattern::parse(pattern).unwrap().matches(&key(candidate)), expected, "{pattern} {candidate}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_an_example() {
        for text in
            ["", "no-separators", "a>>b", "a>>b>>c>>d", "public>>>>x", "public>>g>>", "a b>>g>>x", &"x".repeat(999)]
        {
            let err = KeyPattern::parse(text).unwrap_err().to_string();
            assert!(err.contains("such as public>>") && err.len() < 250, "{err}");
        }
    }
}
