//! What exists, in memory: heads of versions, namespaces, and the witness of all rows. Authoritative for existence; knows
//! no contents and no disk.
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::{Witness, codec, codec::DecodeError, keys, keys::RowName};
use crate::{
    state_machine::Versions,
    types::{ConfigKey, Head, Mutation, Namespace, NamespaceId, RememberedRequest, RequestId, Revision, Variant},
};

/// A row as every store, snapshot file and witness sees it: its name, and its bytes unless it is taken away.
pub(super) struct Row {
    /// See [`keys`].
    pub(super) name: Vec<u8>,
    /// The encoded record or namespace; `None` takes the row away.
    pub(super) value: Option<Bytes>,
    /// What the row adds to the witness; 0 when it is taken away.
    pub(super) hash: u128,
}

impl Row {
    /// The bytes of a mutation.
    pub(super) fn of(write: &Mutation) -> Self {
        let (name, value) = match write {
            Mutation::PutConfig(key, variant, record) => {
                (keys::config(key, variant), Some(codec::encode_record(record)))
            }
            Mutation::DeleteConfig(key, variant) => (keys::config(key, variant), None),
            Mutation::PutNamespace(namespace) => {
                (keys::namespace(&namespace.id), Some(codec::encode_namespace(namespace)))
            }
            Mutation::DeleteNamespace(id) => (keys::namespace(id), None),
            Mutation::RememberRequest(it) => (keys::request(it.request.id), Some(codec::encode_request(it))),
            Mutation::ForgetRequest(it) => (keys::request(it.request.id), None),
        };
        let hash = value.as_ref().map_or(0, |value| row_hash(&name, value));
        Self { name, value, hash }
    }
}

/// What one row adds to the witness. The name is the seed, so that two rows that swap their values are noticed.
pub(super) fn row_hash(name: &[u8], value: &[u8]) -> u128 {
    xxh3_128_with_seed(value, xxh3_64(name))
}

/// The mutation that writes this row.
///
/// # Errors
/// [`DecodeError`] when name or value cannot be read, or do not belong together.
pub(super) fn decode_row(name: &[u8], value: Bytes) -> Result<Mutation, DecodeError> {
    match keys::parse(name)? {
        RowName::Config(key, variant) => Ok(Mutation::PutConfig(key, variant, Arc::new(codec::decode_record(value)?))),
        RowName::Namespace(id) => {
            let namespace = codec::decode_namespace(value)?;
            if namespace.id != id {
                return Err(DecodeError(format!("the row of namespace {id} holds {}", namespace.id)));
            }
            Ok(Mutation::PutNamespace(namespace))
        }
        RowName::Request(id) => {
            let remembered = codec::decode_request(value)?;
            if remembered.request.id != id {
                return Err(DecodeError("the row of a request holds another one".into()));
            }
            Ok(Mutation::RememberRequest(remembered))
        }
    }
}

/// What is known of the row of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredRow {
    hash: u128,
    /// Length of its value in bytes.
    bytes: usize,
}

/// One configuration; there is at least one version.
struct Entry {
    versions: Arc<Versions>,
    /// By variant, in no order: nearly always one, at most eleven.
    rows: Vec<(Variant, StoredRow)>,
}

/// The requests that are remembered, each with the hash of its row.
#[derive(Default)]
pub(super) struct Requests {
    by_id: BTreeMap<RequestId, (RememberedRequest, u128)>,
    in_order: BTreeMap<Revision, RequestId>,
}

impl Requests {
    /// Gives back the hash of the row that was there before.
    fn insert(&mut self, remembered: RememberedRequest, hash: u128) -> Option<u128> {
        let id = remembered.request.id;
        let old = self.remove(id);
        self.by_id.insert(id, (remembered, hash));
        self.in_order.insert(remembered.revision, id);
        old
    }

    fn remove(&mut self, id: RequestId) -> Option<u128> {
        let (old, hash) = self.by_id.remove(&id)?;
        self.in_order.remove(&old.revision);
        Some(hash)
    }

    /// The request of that id.
    pub(super) fn get(&self, id: RequestId) -> Option<RememberedRequest> {
        self.by_id.get(&id).map(|(remembered, _)| *remembered)
    }

    /// The first one that was done after a revision.
    pub(super) fn oldest(&self, after: Revision) -> Option<RememberedRequest> {
        let (_, id) = self.in_order.range((Bound::Excluded(after), Bound::Unbounded)).next()?;
        self.get(*id)
    }

    /// All of them, in the order of their ids.
    pub(super) fn all(&self) -> impl Iterator<Item = RememberedRequest> {
        self.by_id.values().map(|(remembered, _)| *remembered)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// All that exists.
#[derive(Default)]
pub(super) struct Index {
    configs: BTreeMap<ConfigKey, Entry>,
    namespaces: BTreeMap<NamespaceId, (Namespace, u128)>,
    requests: Requests,
    witness: Witness,
}

impl Index {
    /// Takes a mutation in. Gives back how many bytes the row had before, 0 if there was none.
    pub(super) fn apply(&mut self, write: &Mutation, row: &Row) -> usize {
        let stored = StoredRow { hash: row.hash, bytes: row.value.as_ref().map_or(0, Bytes::len) };
        match write {
            Mutation::PutConfig(key, variant, record) => {
                self.set_config(key, variant, &record.beta_ips, Some((record.head(), stored)))
            }
            Mutation::DeleteConfig(key, variant) => self.set_config(key, variant, &[], None),
            Mutation::PutNamespace(namespace) => {
                let old = self.namespaces.insert(namespace.id.clone(), (namespace.clone(), row.hash));
                self.count(old.map(|(_, hash)| hash), Some(row.hash));
                0
            }
            Mutation::DeleteNamespace(id) => {
                let old = self.namespaces.remove(id);
                self.count(old.map(|(_, hash)| hash), None);
                0
            }
            Mutation::RememberRequest(remembered) => {
                let old = self.requests.insert(*remembered, row.hash);
                self.count(old, Some(row.hash));
                0
            }
            Mutation::ForgetRequest(remembered) => {
                let old = self.requests.remove(remembered.request.id);
                self.count(old, None);
                0
            }
        }
    }

    fn set_config(
        &mut self,
        key: &ConfigKey,
        variant: &Variant,
        ips: &[String],
        new: Option<(Head, StoredRow)>,
    ) -> usize {
        if new.is_none() && !self.configs.contains_key(key) {
            return 0;
        }
        let entry = self
            .configs
            .entry(key.clone())
            .or_insert_with(|| Entry { versions: Arc::default(), rows: Vec::with_capacity(1) });
        Arc::make_mut(&mut entry.versions).set(variant, ips, new.map(|(head, _)| head));
        let at = entry.rows.iter().position(|(it, _)| it == variant);
        let old = at.map(|at| entry.rows.swap_remove(at).1);
        if let Some((_, stored)) = new {
            entry.rows.push((variant.clone(), stored));
        }
        if entry.rows.is_empty() {
            self.configs.remove(key);
        }
        self.count(old.map(|it| it.hash), new.map(|(_, it)| it.hash));
        old.map_or(0, |it| it.bytes)
    }

    fn count(&mut self, old: Option<u128>, new: Option<u128>) {
        let Witness { rows, hash } = &mut self.witness;
        *rows = *rows + u64::from(new.is_some()) - u64::from(old.is_some());
        *hash = hash.wrapping_sub(old.unwrap_or(0)).wrapping_add(new.unwrap_or(0));
    }

    /// Count and hash of all rows.
    pub(super) fn witness(&self) -> Witness {
        self.witness
    }

    /// The versions of a configuration, if there are any.
    pub(super) fn versions(&self, key: &ConfigKey) -> Option<Arc<Versions>> {
        self.configs.get(key).map(|entry| entry.versions.clone())
    }

    /// The revision that wrote a version last, if it exists.
    pub(super) fn modified(&self, key: &ConfigKey, variant: &Variant) -> Option<Revision> {
        self.configs.get(key).and_then(|entry| entry.versions.head(variant)).map(|head| head.modified)
    }

    /// The namespace of that id.
    pub(super) fn namespace(&self, id: &NamespaceId) -> Option<Namespace> {
        self.namespaces.get(id).map(|(namespace, _)| namespace.clone())
    }

    /// What is remembered of requests.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// All namespaces in the order of their ids.
    pub(super) fn namespaces(&self) -> Vec<Namespace> {
        self.namespaces.values().map(|(namespace, _)| namespace.clone()).collect()
    }

    /// Heads of formal versions in the order of keys.
    pub(super) fn list(&self, wanted: &dyn Fn(&ConfigKey) -> bool) -> Vec<(ConfigKey, Head)> {
        let formal = |(key, entry): (&ConfigKey, &Entry)| entry.versions.formal.map(|head| (key.clone(), head));
        self.configs.iter().filter(|(key, _)| wanted(key)).filter_map(formal).collect()
    }
}
