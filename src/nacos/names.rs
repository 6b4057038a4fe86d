//! How Nacos spells names, and what it says about illegal ones.
use crate::types::{ConfigKey, InvalidName, NameField, NameProblem, NamespaceId, limits};

/// The default namespace is written as an absent, an empty or a `public` tenant. `null` and `PUBLIC` are other ones.
pub(crate) fn namespace(tenant: &str) -> Result<NamespaceId, InvalidName> {
    NamespaceId::parse(spelled_out(tenant))
}

/// The same as text, whatever rule it breaks.
fn spelled_out(tenant: &str) -> &str {
    if tenant.trim().is_empty() { "public" } else { tenant }
}

/// A key from the three names of a request.
pub(crate) fn key(data_id: &str, group: &str, tenant: &str) -> Result<ConfigKey, InvalidName> {
    ConfigKey::of(spelled_out(tenant), group, data_id)
}

/// Refuses names that break the rules; what is blank or missing is another matter.
pub(crate) fn check(data_id: Option<&str>, group: Option<&str>, tenant: &str) -> Result<(), InvalidName> {
    fn stand_in(name: Option<&str>) -> &str {
        name.filter(|it| !it.trim().is_empty()).unwrap_or("x")
    }
    ConfigKey::check(spelled_out(tenant), stand_in(group), stand_in(data_id))
}

/// The address that a client or a proxy gives, unless it is none: what it is compared with and stored as is short.
pub(crate) fn address(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|it| !it.is_empty() && it.len() <= limits::ADDRESS_BYTES_MAX)
}

/// Why Nacos refuses a name, in its words.
pub(crate) fn complaint(err: &InvalidName) -> String {
    let field = match err.field {
        NameField::Namespace => "namespaceId/tenant",
        NameField::Group => "group",
        NameField::DataId => "dataId",
        NameField::Tag => "tag",
    };
    match (err.field, err.problem) {
        (NameField::Tag, NameProblem::TooLong { max }) => format!("too long tag, over {max}"),
        (NameField::Tag, _) | (_, NameProblem::Blank) => format!("invalid {field} : {}", err.value),
        (_, NameProblem::IllegalCharacter) => {
            format!("Param '{field}' is illegal, illegal characters should not appear in the param.")
        }
        (_, NameProblem::TooLong { max }) => {
            format!("Param '{field}' is illegal, the param length should not exceed {max}.")
        }
    }
}

/// Whether Nacos finds it in the filter before its handlers, and not in one of them.
pub(crate) fn is_found_by_filter(err: &InvalidName) -> bool {
    err.field != NameField::Tag && err.problem != NameProblem::Blank
}
