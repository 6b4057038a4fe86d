//! Publish, remove, read and search configurations.
use std::{collections::BTreeSet, sync::Arc};

use super::{ServiceError, Services};
use crate::{
    state_machine::{ClientLabels, StateReader, Versions, Visible, visible},
    types::{
        Command, ConfigKey, ConfigRecord, Consistency, ContentType, NamespaceId, Publication, Reply, RequestId,
        Revision, Variant, limits,
    },
};

/// A read looks so often, if something changes between its looks at the versions and at the record each time.
const LOOKS_MAX: usize = 100;

/// What was read, and the revision of the state that it was read from.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// What this node had applied when it looked.
    pub revision: Revision,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The entry that decided.
    pub revision: Revision,
    /// Whether there was anything to change.
    pub changed: bool,
}

/// The version that a client sees.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which one.
    pub variant: Variant,
    /// What it says.
    pub record: Arc<ConfigRecord>,
}

/// Which configurations to list. What is empty or `None` matches everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The namespace.
    pub namespace: Option<NamespaceId>,
    /// The group, a pattern (see `blur`) or exactly.
    pub group: String,
    /// The data id, likewise.
    pub data_id: String,
    /// Whether group and data id are patterns: `*` any text, `_` any character (SQL `LIKE`, as in Nacos).
    pub blur: bool,
    /// The application.
    pub app_name: String,
    /// At least one of these tags.
    pub tags: Vec<String>,
    /// One of these types.
    pub types: Vec<String>,
    /// The content, a pattern.
    pub content: String,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// How many there are on all pages.
    pub total: usize,
    /// What is on this page.
    pub items: Vec<T>,
    /// There is not all that should be on this page, which would be too large, and the total is not known.
    pub is_cut: bool,
}

/// A configuration in a listing.
pub type Listed = (ConfigKey, Arc<ConfigRecord>);

impl Services {
    /// Publishes one version; once, when it comes again with the same id.
    ///
    /// # Errors
    /// [`ServiceError`]; `Rejected` when the precondition does not hold.
    pub async fn publish(&self, publication: Publication, id: Option<RequestId>) -> Result<Written, ServiceError> {
        written(self.propose(Command::PublishConfig(Box::new(publication)), id).await?)
    }

    /// Takes one version away; not an error when there is none. Once, when it comes again with the same id.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn remove(
        &self,
        key: ConfigKey,
        variant: Variant,
        id: Option<RequestId>,
    ) -> Result<Written, ServiceError> {
        written(self.propose(Command::RemoveConfig { key, variant, created: None }, id).await?)
    }

    /// The version of a configuration that this client sees.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] when the read cannot be as new as asked; `Internal` when the state cannot be read.
    pub async fn get(
        &self,
        key: &ConfigKey,
        client: &ClientLabels,
        consistency: Consistency,
    ) -> Result<Read<Option<Found>>, ServiceError> {
        self.read_barrier(consistency).await?;
        self.metrics.reads.inc();
        self.read(key, |versions| visible(versions, client))
    }

    /// The record of the version that `choose` names, of one state: a change between the look at the versions and that at the
    /// record may have made another one the right one, or made the record newer than the revision that is told.
    fn read(
        &self,
        key: &ConfigKey,
        choose: impl Fn(&Versions) -> Option<Visible>,
    ) -> Result<Read<Option<Found>>, ServiceError> {
        for _ in 0..LOOKS_MAX {
            // First: what a node that has loaded everything does not have is not there.
            let loaded = self.loaded();
            let (revision, versions) = self.state.look(key);
            let Some(Visible { variant, head }) = versions.and_then(|versions| choose(&versions)) else {
                loaded?;
                return Ok(Read { value: None, revision });
            };
            if let Some(record) = self.state.record(key, &variant)?
                && record.modified == head.modified
            {
                return Ok(Read { value: Some(Found { variant, record }), revision });
            }
        }
        Err(ServiceError::Unavailable(format!("{key} changes faster than it can be read; try again")))
    }

    /// A node that is still loading can say what there is, but not that there is none.
    pub(super) fn loaded(&self) -> Result<(), ServiceError> {
        if self.replicator.caught_up() {
            return Ok(());
        }
        Err(ServiceError::Unavailable("this node is still loading what the others have; ask another one".into()))
    }

    /// One version of a configuration, whoever asks.
    ///
    /// # Errors
    /// As [`Services::get`].
    pub async fn get_variant(
        &self,
        key: &ConfigKey,
        variant: &Variant,
        consistency: Consistency,
    ) -> Result<Read<Option<Arc<ConfigRecord>>>, ServiceError> {
        self.read_barrier(consistency).await?;
        self.metrics.reads.inc();
        let named =
            |versions: &Versions| versions.head(variant).map(|head| Visible { variant: variant.clone(), head: *head });
        let read = self.read(key, named)?;
        Ok(Read { value: read.value.map(|found| found.record), revision: read.revision })
    }

    /// The type of a version that was found: a gray one has that of the formal one.
    ///
    /// # Errors
    /// As [`Services::get`].
    pub async fn content_type(&self, key: &ConfigKey, found: &Found) -> Result<ContentType, ServiceError> {
        if found.variant == Variant::Formal {
            return Ok(found.record.attributes.content_type);
        }
        let formal = self.get_variant(key, &Variant::Formal, Consistency::Local).await?.value;
        Ok(formal.map_or(ContentType::Text, |it| it.attributes.content_type))
    }

    pub(super) async fn read_barrier(&self, consistency: Consistency) -> Result<(), ServiceError> {
        // A node that comes back may have forgotten what only others had on their disks, though it has answered it before.
        if consistency != Consistency::Linearizable && !self.replicator.caught_up() {
            self.catch_up(limits::CATCH_UP_MAX).await;
        }
        match consistency {
            // What this node has applied: nothing to wait for.
            Consistency::Local => {}
            Consistency::AtLeast(_) | Consistency::Linearizable => {
                self.replicator.read_barrier(consistency).await?;
            }
        }
        Ok(())
    }

    /// Formal versions that match, oldest first; `skip` of them are left out, at most `take` returned, and of these no more
    /// than have [`limits::PAGE_BYTES_MAX`] bytes of contents.
    ///
    /// # Errors
    /// As [`Services::get`].
    pub async fn search(
        &self,
        filter: Filter,
        skip: usize,
        take: usize,
        consistency: Consistency,
    ) -> Result<Read<Page<Listed>>, ServiceError> {
        self.read_barrier(consistency).await?;
        self.loaded()?;
        // First: what is listed after it is not older than it.
        let revision = self.state.revision();
        let state = self.state.clone();
        // A few at a time: what else waits for the disk, or for a processor, has to get on.
        let place =
            self.listings.clone().acquire_owned().await.map_err(|err| ServiceError::Internal(err.to_string()))?;
        let listing = tokio::task::spawn_blocking(move || {
            let _place = place;
            filter.page(&*state, skip, take)
        });
        let value = listing.await.map_err(|err| ServiceError::Internal(err.to_string()))??;
        Ok(Read { value, revision })
    }

    /// Takes away the formal versions that these revisions created, which are their ids; what is gone already is left out.
    /// Gives the revision of the last removal, if there was any.
    ///
    /// # Errors
    /// As [`Services::remove`]; `OutcomeUnknown`, too, when some were removed and others not.
    pub async fn remove_created(&self, ids: &BTreeSet<Revision>) -> Result<Option<Revision>, ServiceError> {
        // What was published through another node has its id there.
        self.read_barrier(Consistency::Linearizable).await?;
        self.loaded()?;
        let mut last = None;
        for (key, head) in self.state.list(&|_| true).into_iter().filter(|(_, head)| ids.contains(&head.created)) {
            let command = Command::RemoveConfig { key, variant: Variant::Formal, created: Some(head.created) };
            // Each is a change of its own, which one id cannot name; removing again what is gone changes nothing.
            match self.propose(command, None).await.and_then(written) {
                Ok(Written { changed: false, .. }) => {}
                Ok(Written { revision, .. }) => last = Some(revision),
                Err(err @ ServiceError::Unavailable(_)) if last.is_some() => {
                    return Err(ServiceError::OutcomeUnknown(format!("some were removed, the others not: {err}")));
                }
                Err(err) => return Err(err),
            }
        }
        Ok(last)
    }
}

pub(super) fn written(reply: Reply) -> Result<Written, ServiceError> {
    match reply {
        Reply::Applied(revision) => Ok(Written { revision, changed: true }),
        Reply::Unchanged(revision) => Ok(Written { revision, changed: false }),
        Reply::Rejected(rejection) => Err(ServiceError::Rejected(rejection)),
    }
}

impl Filter {
    fn page(&self, state: &dyn StateReader, skip: usize, take: usize) -> Result<Page<Listed>, ServiceError> {
        // Patterns are not looked at while the state is locked for the listing.
        let in_namespace = |key: &ConfigKey| self.namespace.as_ref().is_none_or(|it| it.as_str() == key.namespace());
        let mut heads = state.list(&in_namespace);
        heads.retain(|(key, _)| self.wants(key));
        heads.sort_by_key(|(_, head)| head.created);
        let mut page = Page { total: 0, items: Vec::new(), is_cut: false };
        let mut bytes = 0;
        for (key, _) in heads {
            let on_page = page.total >= skip && page.total - skip < take;
            if !on_page && !self.needs_records() {
                page.total += 1;
                continue;
            }
            let Some(record) = state.record(&key, &Variant::Formal)? else { continue };
            if !self.wants_record(&record) {
                continue;
            }
            page.total += 1;
            if on_page {
                bytes += record.content.len();
                if bytes > limits::PAGE_BYTES_MAX {
                    page.is_cut = true;
                    return Ok(page);
                }
                page.items.push((key, record));
            }
        }
        Ok(page)
    }

    fn wants(&self, key: &ConfigKey) -> bool {
        let text = |pattern: &str, text: &str| {
            pattern.is_empty() || if self.blur { like(pattern, text) } else { pattern == text }
        };
        text(&self.group, key.group()) && text(&self.data_id, key.data_id())
    }

    fn needs_records(&self) -> bool {
        !(self.app_name.is_empty() && self.tags.is_empty() && self.types.is_empty() && self.content.is_empty())
    }

    fn wants_record(&self, record: &ConfigRecord) -> bool {
        let attributes = &record.attributes;
        let tags = attributes.config_tags.as_deref().unwrap_or_default();
        let has_tag = |wanted: &String| tags.split(',').any(|tag| tag.trim() == wanted);
        (self.app_name.is_empty() || attributes.app_name.as_deref() == Some(&*self.app_name))
            && (self.tags.is_empty() || self.tags.iter().any(has_tag))
            && (self.types.is_empty() || self.types.iter().any(|it| it == attributes.content_type.as_str()))
            && (self.content.is_empty() || has_content(&self.content, record.content.text()))
    }
}

/// `*` and `%` stand for any text, `_` for any one character. Names are ASCII.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on if the last star has to swallow one more character.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*' | b'%') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(it) if *it == b'_' || *it == text[t] => (p, t) = (p + 1, t + 1),
            Some(_) | None => match star {
                Some((after, at)) => {
                    star = Some((after, at + 1));
                    (p, t) = (after, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|it| *it == b'*' || *it == b'%')
}

/// Whether a content is like a pattern: `*` and `%` stand for any text. In time of its length, whatever the pattern: for that
/// an underscore is an underscore here.
fn has_content(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once(['*', '%']) else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once(['*', '%']).unwrap_or(("", rest));
    for part in middle.split(['*', '%']) {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_sql() {
        let cases = [
            ("*", "", true),
            ("*", "abc", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abbc", true),
            ("a*b*c", "aXbYbZc", true),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("t-", "t-xml", false),
            ("", "a", false),
            ("a**", "a", true),
            ("*a", "b", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(like(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn contents_are_looked_through_in_time_of_their_length() {
        let cases = [
            ("*", "", true),
            ("port", "port=1", false),
            ("port*", "port=1", true),
            ("*port*", "a\nport=1", true),
            ("*1", "port=1", true),
            ("p*1", "port=1", true),
            ("po*rt=1*=1", "port=1", false),
            ("*配*值*", "x配=值🎉", true),
            ("*max_size*", "max-size", false),
            ("*%*a*", "ba", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(has_content(pattern, text), expected, "{pattern:?} {text:?}");
        }
        // A pattern of 256 bytes at each of ten million places would take seconds, a minute without optimization.
        let started = tokio::time::Instant::now();
        let (pattern, text) = (format!("*{}b*", "a".repeat(254)), "a".repeat(10 << 20));
        assert!(!has_content(&pattern, &text));
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }
}
