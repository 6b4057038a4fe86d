//! Which version of a configuration a client sees.
//!
//! Nacos: `GrayRuleManager`. A beta version is for listed addresses and goes before tags; a tag asked for by name is
//! found or not, a tag that a client merely carries falls back to the formal version.
use crate::types::{Head, Tag, Variant};

/// What is known of the client that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientLabels {
    /// Its address, as text; beta rules compare texts.
    pub ip: String,
    /// A tag it asks for by name: that version or none.
    pub asked_tag: Option<Tag>,
    /// A tag it carries: that version if there is one.
    pub carried_tag: Option<Tag>,
}

/// The heads of a configuration's versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// The formal version.
    pub formal: Option<Head>,
    /// The beta version, and the addresses that get it.
    pub beta: Option<(Vec<String>, Head)>,
    /// Versions by tag, ordered by tag.
    pub tags: Vec<(Tag, Head)>,
}

impl Versions {
    /// The head of one version.
    pub fn head(&self, variant: &Variant) -> Option<&Head> {
        match variant {
            Variant::Formal => self.formal.as_ref(),
            Variant::Beta => self.beta.as_ref().map(|(_, head)| head),
            Variant::Tag(tag) => self.tags.iter().find(|(it, _)| it == tag).map(|(_, head)| head),
        }
    }

    /// How many gray versions there are.
    pub fn gray_count(&self) -> usize {
        self.tags.len() + usize::from(self.beta.is_some())
    }

    /// Whether there is no version at all.
    pub fn is_empty(&self) -> bool {
        self.formal.is_none() && self.gray_count() == 0
    }

    /// Sets or takes away the head of one version.
    pub fn set(&mut self, variant: &Variant, beta_ips: &[String], head: Option<Head>) {
        match variant {
            Variant::Formal => self.formal = head,
            Variant::Beta => self.beta = head.map(|head| (beta_ips.to_vec(), head)),
            Variant::Tag(tag) => {
                let at = self.tags.binary_search_by(|(it, _)| it.cmp(tag));
                match (at, head) {
                    (Ok(at), Some(head)) => self.tags[at].1 = head,
                    (Ok(at), None) => drop(self.tags.remove(at)),
                    (Err(at), Some(head)) => self.tags.insert(at, (tag.clone(), head)),
                    (Err(_), None) => {}
                }
            }
        }
    }
}

/// The version that a client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// Which one it is.
    pub variant: Variant,
    /// What is known of it.
    pub head: Head,
}

/// The version that this client sees, if any.
pub fn visible(versions: &Versions, client: &ClientLabels) -> Option<Visible> {
    if let Some((ips, head)) = &versions.beta
        && ips.contains(&client.ip)
    {
        return Some(Visible { variant: Variant::Beta, head: *head });
    }
    let tagged = |tag: &Tag| {
        let variant = Variant::Tag(tag.clone());
        versions.head(&variant).copied().map(|head| Visible { variant, head })
    };
    if let Some(asked) = &client.asked_tag {
        return tagged(asked);
    }
    client
        .carried_tag
        .as_ref()
        .and_then(tagged)
        .or_else(|| versions.formal.map(|head| Visible { variant: Variant::Formal, head }))
}
