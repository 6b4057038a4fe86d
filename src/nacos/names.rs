//! How Nacos spells names, and what it says about illegal ones.
use crate::types::{ConfigKey, InvalidName, NameField, NameProblem, NamespaceId};

/// The default namespace is written as an absent, an empty or a `public` tenant. `null` and `PUBLIC` are other ones.
pub(crate) fn namespace(tenant: &str) -> Result<NamespaceId, InvalidName> {
    if tenant.trim().is_empty() { Ok(NamespaceId::public()) } else { NamespaceId::parse(tenant) }
}

/// A key from the three names of a request.
pub(crate) fn key(data_id: &str, group: &str, tenant: &str) -> Result<ConfigKey, InvalidName> {
    ConfigKey::new(&namespace(tenant)?, group, data_id)
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
