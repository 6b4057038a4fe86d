//! What a publish asks for and may ask for, whichever protocol carried it.
use std::sync::Arc;

use crate::types::{
    Attributes, Author, ConfigKey, Content, ContentType, Digest, InvalidName, Precondition, Publication, Tag, Variant,
    limits,
};

/// Nacos: `ParamUtils`. Bounds of what describes a configuration, in characters.
const DESCRIPTION_MAX: usize = 128;
/// Nacos answers `true` to a longer one and stores nothing: a column is too narrow.
const APP_NAME_MAX: usize = 128;
const USE_MAX: usize = 32;
const SCHEMA_MAX: usize = 32_768;
const CONFIG_TAGS_MAX: usize = 5;
const CONFIG_TAG_MAX: usize = 64;
/// An operator's name. Nacos: the column of users' names has 50.
const USER_MAX: usize = 128;
/// A data key that was encrypted itself, as text; it has to fit a header of an answer. Nacos: a column of 1,024.
const ENCRYPTED_DATA_KEY_MAX: usize = 4_096;
/// A beta rule lists at most this many addresses.
const BETA_IPS_MAX: usize = 10_000;

/// A publish as it was asked for. What is `None` was not said.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) content: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) beta_ips: Option<String>,
    pub(super) cas_md5: Option<String>,
    pub(super) user: Option<String>,
    pub(super) ip: String,
    pub(super) content_type: Option<String>,
    pub(super) app_name: Option<String>,
    pub(super) config_tags: Option<String>,
    pub(super) description: Option<String>,
    pub(super) usage: Option<String>,
    pub(super) effect: Option<String>,
    pub(super) schema: Option<String>,
    pub(super) encrypted_data_key: Option<String>,
}

/// Why a publish is refused.
pub(super) enum Refusal {
    /// A name breaks the rules.
    Name(InvalidName),
    /// The content cannot be stored.
    Content(String),
    /// Something that describes it cannot.
    Description(String),
}

impl Asked {
    /// What to publish under this key.
    pub(super) fn publication(self, key: ConfigKey, content_bytes_max: usize) -> Result<Publication, Refusal> {
        let content = self.content.as_deref().unwrap_or("null");
        if self.content.is_none() || content.trim().is_empty() {
            return Err(Refusal::Content(format!("content is blank : {content}")));
        }
        if content.len() > content_bytes_max {
            return Err(Refusal::Content(format!("invalid content, over {content_bytes_max}")));
        }
        let tag = self.tag.as_deref().filter(|it| !it.trim().is_empty());
        let tag = tag.map(Tag::parse).transpose().map_err(Refusal::Name)?;
        self.check_description()?;
        let beta_ips = self.beta_ips.as_deref().unwrap_or_default().split(',').map(str::trim);
        let beta_ips: Vec<String> = beta_ips.filter(|it| !it.is_empty()).map(str::to_owned).collect();
        if beta_ips.len() > BETA_IPS_MAX {
            return Err(Refusal::Description(format!("too many betaIps, over {BETA_IPS_MAX}")));
        }
        if beta_ips.iter().any(|ip| ip.len() > limits::ADDRESS_BYTES_MAX) {
            let max = limits::ADDRESS_BYTES_MAX;
            return Err(Refusal::Description(format!("too long address in betaIps, over {max}")));
        }
        let precondition = match self.cas_md5.as_deref().map(str::trim).filter(|it| !it.is_empty()) {
            None => Precondition::None,
            Some(md5) => Digest::from_hex(md5).map_or(Precondition::DigestUnknown, Precondition::DigestIsOrAbsent),
        };
        let variant = match tag {
            _ if !beta_ips.is_empty() => Variant::Beta,
            Some(tag) => Variant::Tag(tag),
            None => Variant::Formal,
        };
        let author = Author { user: self.user.as_deref().map(Arc::from), ip: self.ip.into() };
        let attributes = Attributes {
            content_type: ContentType::parse(self.content_type.as_deref().unwrap_or_default()),
            app_name: self.app_name,
            config_tags: self.config_tags,
            description: self.description,
            usage: self.usage,
            effect: self.effect,
            schema: self.schema,
            encrypted_data_key: self.encrypted_data_key.filter(|it| !it.trim().is_empty()),
        };
        let content = Content::new(self.content.unwrap_or_default());
        Ok(Publication { key, variant, content, attributes, beta_ips, precondition, author })
    }

    fn check_description(&self) -> Result<(), Refusal> {
        let bounds = [
            ("appName", &self.app_name, APP_NAME_MAX),
            ("desc", &self.description, DESCRIPTION_MAX),
            ("use", &self.usage, USE_MAX),
            ("effect", &self.effect, USE_MAX),
            ("type", &self.content_type, USE_MAX),
            ("schema", &self.schema, SCHEMA_MAX),
            ("src_user", &self.user, USER_MAX),
            ("encryptedDataKey", &self.encrypted_data_key, ENCRYPTED_DATA_KEY_MAX),
        ];
        for (name, text, max) in bounds {
            if text.as_ref().is_some_and(|it| it.chars().count() > max) {
                return Err(Refusal::Description(format!("too long {name}, over {max}")));
            }
        }
        let tags = self.config_tags.as_deref().unwrap_or_default();
        if tags.split(',').count() > CONFIG_TAGS_MAX {
            return Err(Refusal::Description(format!("too much config_tags, over {CONFIG_TAGS_MAX}")));
        }
        if tags.split(',').any(|tag| tag.chars().count() > CONFIG_TAG_MAX) {
            return Err(Refusal::Description(format!("too long tag, over {CONFIG_TAG_MAX}")));
        }
        Ok(())
    }
}

/// The version that a removal names. Publishing stores tag `t` as gray name `tag_t`; both spellings mean that version.
pub(super) fn variant_to_remove(tag: Option<&str>) -> Result<Variant, InvalidName> {
    match tag.filter(|it| !it.trim().is_empty()) {
        None => Ok(Variant::Formal),
        Some(tag) => Tag::parse(tag.strip_prefix("tag_").unwrap_or(tag)).map(Variant::Tag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NamespaceId;

    fn longest() -> Asked {
        let text = |chars: usize| Some("\u{1d11e}".repeat(chars));
        let ip = "f".repeat(limits::ADDRESS_BYTES_MAX);
        Asked {
            content: Some("x".into()),
            beta_ips: Some(vec![ip.as_str(); BETA_IPS_MAX].join(",")),
            user: text(USER_MAX),
            ip: ip.clone(),
            app_name: text(APP_NAME_MAX),
            config_tags: Some(vec![text(CONFIG_TAG_MAX).unwrap(); CONFIG_TAGS_MAX].join(",")),
            description: text(DESCRIPTION_MAX),
            usage: text(USE_MAX),
            effect: text(USE_MAX),
            schema: text(SCHEMA_MAX),
            encrypted_data_key: text(ENCRYPTED_DATA_KEY_MAX),
            ..Asked::default()
        }
    }

    fn publication(asked: Asked) -> Result<Publication, Refusal> {
        asked.publication(ConfigKey::new(&NamespaceId::public(), "G", "a").unwrap(), 100)
    }

    #[test]
    fn what_is_stored_with_a_content_has_a_bound() {
        let Ok(publication) = publication(longest()) else { panic!("the longest that are allowed") };
        let Attributes { app_name, config_tags, description, usage, effect, schema, encrypted_data_key, .. } =
            &publication.attributes;
        let texts = [app_name, config_tags, description, usage, effect, schema, encrypted_data_key];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        // A number for the length of each, of three bytes at most.
        let addresses: usize = publication.beta_ips.iter().map(|it| it.len() + 3).sum();
        let author = publication.author.user.as_ref().map_or(0, |it| it.len()) + publication.author.ip.len();
        let names = limits::DATA_ID_BYTES_MAX + limits::GROUP_BYTES_MAX + limits::NAMESPACE_BYTES_MAX;
        let all = texts + addresses + author + names + limits::REQUEST_ID_BYTES_MAX;
        assert!(all + 1_000 < limits::BESIDE_CONTENT_BYTES_MAX, "{all}");
    }

    #[test]
    fn what_is_longer_is_refused() {
        type Lengthen = fn(&mut Asked);
        let cases: [(&str, Lengthen); 10] = [
            ("betaIps", |it| it.beta_ips.as_mut().unwrap().push('x')),
            ("betaIps", |it| it.beta_ips.as_mut().unwrap().push_str(",x")),
            ("src_user", |it| it.user.as_mut().unwrap().push('x')),
            ("appName", |it| it.app_name.as_mut().unwrap().push('x')),
            ("tag", |it| it.config_tags.as_mut().unwrap().push('x')),
            ("desc", |it| it.description.as_mut().unwrap().push('x')),
            ("use", |it| it.usage.as_mut().unwrap().push('x')),
            ("effect", |it| it.effect.as_mut().unwrap().push('x')),
            ("schema", |it| it.schema.as_mut().unwrap().push('x')),
            ("encryptedDataKey", |it| it.encrypted_data_key.as_mut().unwrap().push('x')),
        ];
        for (name, lengthen) in cases {
            let mut asked = longest();
            lengthen(&mut asked);
            match publication(asked) {
                Err(Refusal::Description(why)) => assert!(why.contains(name), "{why}"),
                _ => panic!("{name} was not refused"),
            }
        }
    }
}
