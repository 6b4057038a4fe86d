//! A reader that sees decided but uncommitted writes, so that a group of entries needs one commit.
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::{ReadError, StateReader, Versions};
use crate::types::{
    ConfigKey, ConfigRecord, Head, Mutation, Namespace, NamespaceId, RememberedRequest, RequestId, Revision, Variant,
};

/// The state as it will be once the staged writes are committed.
pub struct Overlay<'a> {
    base: &'a dyn StateReader,
    records: BTreeMap<(ConfigKey, Variant), Option<Arc<ConfigRecord>>>,
    versions: BTreeMap<ConfigKey, Arc<Versions>>,
    namespaces: BTreeMap<NamespaceId, Option<Namespace>>,
    requests: BTreeMap<RequestId, Option<RememberedRequest>>,
    /// Staged requests that are remembered, by the entries that did them.
    requests_in_order: BTreeMap<Revision, RequestId>,
    /// Requests of the base up to here are staged: forgotten, as the oldest go first, or done again.
    forgotten_upto: Revision,
    remembered_count: usize,
}

impl<'a> Overlay<'a> {
    /// Nothing staged.
    pub fn new(base: &'a dyn StateReader) -> Self {
        Self {
            base,
            records: BTreeMap::new(),
            versions: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            requests: BTreeMap::new(),
            requests_in_order: BTreeMap::new(),
            forgotten_upto: Revision(0),
            remembered_count: base.remembered_count(),
        }
    }

    /// Makes these writes visible to what reads through this overlay.
    pub fn stage(&mut self, writes: &[Mutation]) {
        for write in writes {
            match write {
                Mutation::PutConfig(key, variant, record) => self.stage_record(key, variant, Some(record)),
                Mutation::DeleteConfig(key, variant) => self.stage_record(key, variant, None),
                Mutation::PutNamespace(namespace) => {
                    self.namespaces.insert(namespace.id.clone(), Some(namespace.clone()));
                }
                Mutation::DeleteNamespace(id) => drop(self.namespaces.insert(id.clone(), None)),
                Mutation::RememberRequest(request) => self.stage_request(request.request.id, Some(*request)),
                Mutation::ForgetRequest(request) => {
                    self.stage_request(request.request.id, None);
                    self.forgotten_upto = self.forgotten_upto.max(request.revision);
                }
            }
        }
    }

    fn stage_request(&mut self, id: RequestId, new: Option<RememberedRequest>) {
        let old = self.remembered_request(id);
        if let Some(old) = old {
            self.requests_in_order.remove(&old.revision);
        }
        if let Some(new) = new {
            self.requests_in_order.insert(new.revision, id);
        }
        self.remembered_count = self.remembered_count + usize::from(new.is_some()) - usize::from(old.is_some());
        self.requests.insert(id, new);
    }

    fn stage_record(&mut self, key: &ConfigKey, variant: &Variant, record: Option<&Arc<ConfigRecord>>) {
        let base = self.base;
        let versions = self.versions.entry(key.clone()).or_insert_with(|| base.versions(key).unwrap_or_default());
        let ips = record.map_or(&[][..], |record| &record.beta_ips);
        Arc::make_mut(versions).set(variant, ips, record.map(|record| record.head()));
        self.records.insert((key.clone(), variant.clone()), record.cloned());
    }
}

impl StateReader for Overlay<'_> {
    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError> {
        if !self.versions.contains_key(key) {
            return self.base.record(key, variant);
        }
        match self.records.get(&(key.clone(), variant.clone())) {
            Some(staged) => Ok(staged.clone()),
            None => self.base.record(key, variant),
        }
    }

    fn look(&self, key: &ConfigKey) -> (Revision, Option<Arc<Versions>>) {
        let versions = match self.versions.get(key) {
            Some(staged) => Some(staged.clone()).filter(|it| !it.is_empty()),
            None => self.base.versions(key),
        };
        (self.revision(), versions)
    }

    fn namespace(&self, id: &NamespaceId) -> Option<Namespace> {
        match self.namespaces.get(id) {
            Some(staged) => staged.clone(),
            None => self.base.namespace(id),
        }
    }

    /// Of the base alone: no entry decides by what is staged in other keys.
    fn namespaces(&self) -> Vec<Namespace> {
        self.base.namespaces()
    }

    /// Of the base alone: no entry decides by what is staged in other keys.
    fn list(&self, wanted: &dyn Fn(&ConfigKey) -> bool) -> Vec<(ConfigKey, Head)> {
        self.base.list(wanted)
    }

    fn remembered_request(&self, id: RequestId) -> Option<RememberedRequest> {
        match self.requests.get(&id) {
            Some(staged) => *staged,
            None => self.base.remembered_request(id),
        }
    }

    fn oldest_request(&self, after: Revision) -> Option<RememberedRequest> {
        let mut from = after.max(self.forgotten_upto);
        // What the base holds is older than whatever is staged.
        while let Some(oldest) = self.base.oldest_request(from) {
            if !self.requests.contains_key(&oldest.request.id) {
                return Some(oldest);
            }
            from = oldest.revision;
        }
        let after = (Bound::Excluded(after), Bound::Unbounded);
        let (_, id) = self.requests_in_order.range(after).next()?;
        self.remembered_request(*id)
    }

    fn remembered_count(&self) -> usize {
        self.remembered_count
    }

    fn revision(&self) -> Revision {
        self.base.revision()
    }
}
