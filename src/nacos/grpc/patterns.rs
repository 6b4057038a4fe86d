//! Pattern watches of one client: which keys it was told are there, and what it has to be told about that.
//!
//! Nacos: `ConfigFuzzyWatchContextService`. A client names a pattern and the keys that it knows; it is told the difference in
//! numbered parts, and from then on which matching key came or went, whichever pattern matched it. Nothing is remembered as
//! a message: what is sent, and sent again, says how things stand when it is sent.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    nacos::wire::{
        messages::{ConfigFuzzyWatchContext, ConfigFuzzyWatchSyncRequest, group_key},
        payload::Payload,
    },
    service::{Services, Watcher},
    types::{ConfigKey, KeyPattern, limits},
};

/// Keys in one part. Nacos: `nacos.config.push.batchSize`.
const PART_KEYS: usize = 20;

/// Why a pattern is not watched, or not in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// There are [`limits::STREAM_PATTERNS_MAX`] already; this one is not watched.
    Patterns,
    /// More keys match than a connection may be told of, [`limits::STREAM_KEYS_MAX`]: the rest is left out.
    Keys,
}

/// What a client asked for.
pub(super) struct Asked {
    /// As the client spells it, and hears it again.
    pub(super) text: String,
    pub(super) pattern: KeyPattern,
    /// What the client believes to be there.
    pub(super) known: BTreeSet<ConfigKey>,
    /// Whether it waits for being told that it knows all.
    pub(super) initializing: bool,
}

/// The pattern watches of one client.
#[derive(Default)]
pub(super) struct Patterns(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// By their text.
    watched: BTreeMap<String, KeyPattern>,
    /// What the client knows, or will know when it has acknowledged all parts.
    known: BTreeSet<ConfigKey>,
    next_part: u64,
    /// What was not acknowledged yet.
    parts: BTreeMap<u64, Part>,
    /// The newest part that was taken for sending.
    taken: u64,
}

/// A piece of the difference between what a client knows and what there is.
struct Part {
    text: String,
    content: PartContent,
    initializing: bool,
}

enum PartContent {
    Keys {
        keys: Vec<ConfigKey>,
        number: usize,
        of: usize,
    },
    /// All parts were acknowledged.
    Finish,
}

impl Told {
    fn matches(&self, key: &ConfigKey) -> bool {
        self.watched.values().any(|pattern| pattern.matches(key))
    }

    fn add_part(&mut self, part: Part) {
        self.next_part += 1;
        self.parts.insert(self.next_part, part);
    }

    /// Takes note of how things stand with a key; whether the client has to be told.
    fn look(&mut self, key: &ConfigKey, is_there: bool) -> bool {
        if !is_there {
            return self.known.remove(key);
        }
        if self.known.contains(key) {
            return false;
        }
        if self.known.len() >= limits::STREAM_KEYS_MAX {
            tracing::warn!(%key, "a client watches patterns that match more keys than it may be told of");
            return false;
        }
        self.known.insert(key.clone())
    }
}

impl Patterns {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a pattern, and puts in line what the client does not know. Asked again, it compares again.
    pub(super) fn watch(&self, watcher: &Watcher, services: &Services, asked: Asked) -> Result<(), Limit> {
        let Asked { text, pattern, known, initializing } = asked;
        let mut told = self.told();
        if told.watched.len() >= limits::STREAM_PATTERNS_MAX && !told.watched.contains_key(&text) {
            return Err(Limit::Patterns);
        }
        // Register first, compare second: what changes between the two is marked.
        watcher.add_pattern(&pattern);
        let there = services.matching(&pattern);
        told.watched.insert(text.clone(), pattern.clone());
        told.parts.retain(|_, part| part.text != text);
        let mut differing = Vec::new();
        let mut limit = Ok(());
        for key in &there {
            if !told.known.contains(key) && told.known.len() >= limits::STREAM_KEYS_MAX {
                limit = Err(Limit::Keys);
                break;
            }
            told.known.insert(key.clone());
            if !known.contains(key) {
                differing.push(key.clone());
            }
        }
        for key in known.into_iter().filter(|key| pattern.matches(key) && !there.contains(key)) {
            told.known.remove(&key);
            differing.push(key);
        }
        let of = differing.len().div_ceil(PART_KEYS);
        for (keys, number) in differing.chunks(PART_KEYS).zip(1..) {
            let content = PartContent::Keys { keys: keys.to_vec(), number, of };
            told.add_part(Part { text: text.clone(), content, initializing });
        }
        if of == 0 && initializing {
            told.add_part(Part { text, content: PartContent::Finish, initializing });
        }
        drop(told);
        watcher.wake();
        limit
    }

    /// Watches a pattern no longer.
    pub(super) fn cancel(&self, watcher: &Watcher, text: &str) {
        let mut told = self.told();
        let Some(pattern) = told.watched.remove(text) else { return };
        told.parts.retain(|_, part| part.text != text);
        // Two texts may be one pattern.
        if !told.watched.values().any(|it| *it == pattern) {
            watcher.remove_pattern(&pattern);
        }
        let known = std::mem::take(&mut told.known);
        told.known = known.into_iter().filter(|key| told.matches(key)).collect();
    }

    /// After a mark: whether the client has to be told that this key came or went.
    pub(super) fn has_news(&self, services: &Services, key: &ConfigKey) -> bool {
        let mut told = self.told();
        told.matches(key) && told.look(key, services.exists(key))
    }

    /// After the state was replaced: the keys that came or went.
    pub(super) fn all_news(&self, services: &Services) -> Vec<ConfigKey> {
        let mut told = self.told();
        let mut there = BTreeSet::new();
        for pattern in told.watched.values() {
            there.append(&mut services.matching(pattern));
        }
        let mut news: Vec<ConfigKey> = told.known.iter().filter(|key| !there.contains(*key)).cloned().collect();
        for key in &news {
            told.look(key, false);
        }
        news.extend(there.into_iter().filter(|key| told.look(key, true)));
        news
    }

    /// Whether a pattern still matches it.
    pub(super) fn matches(&self, key: &ConfigKey) -> bool {
        self.told().matches(key)
    }

    /// Whether the client was told, or is about to be, that this key is there.
    pub(super) fn knows(&self, key: &ConfigKey) -> bool {
        self.told().known.contains(key)
    }

    /// The parts that are to be sent for the first time.
    pub(super) fn take_fresh(&self) -> Vec<u64> {
        let mut told = self.told();
        let Told { taken, next_part, parts, .. } = &mut *told;
        let before = std::mem::replace(taken, *next_part);
        parts.range(before + 1..).map(|(part, _)| *part).collect()
    }

    /// Whether a part is still to be sent.
    pub(super) fn is_pending(&self, part: u64) -> bool {
        self.told().parts.contains_key(&part)
    }

    /// A part was acknowledged, or given up; after the last one the client is told that it knows all.
    pub(super) fn settle(&self, part: u64) {
        let mut told = self.told();
        let Some(Part { text, content, initializing: true }) = told.parts.remove(&part) else { return };
        let is_last = !told.parts.values().any(|it| it.text == text);
        if is_last && matches!(content, PartContent::Keys { .. }) {
            told.add_part(Part { text, content: PartContent::Finish, initializing: true });
        }
    }

    /// The message of a part, as things stand now.
    pub(super) fn message(&self, part: u64, request_id: u64) -> Option<Payload> {
        let told = self.told();
        let Part { text, content, initializing } = told.parts.get(&part)?;
        let (contexts, sync_type, total_batch, current_batch) = match content {
            PartContent::Finish => (None, "FINISH_FUZZY_WATCH_INIT_NOTIFY", 0, 0),
            PartContent::Keys { keys, number, of } => {
                let contexts = keys.iter().map(|key| ConfigFuzzyWatchContext {
                    group_key: group_key(key),
                    changed_type: if told.known.contains(key) { "ADD_CONFIG" } else { "DELETE_CONFIG" },
                });
                let kind = if *initializing { "FUZZY_WATCH_INIT_NOTIFY" } else { "FUZZY_WATCH_DIFF_SYNC_NOTIFY" };
                (Some(contexts.collect()), kind, *of, *number)
            }
        };
        let message = ConfigFuzzyWatchSyncRequest {
            headers: BTreeMap::new(),
            request_id: request_id.to_string(),
            group_key_pattern: text,
            contexts,
            sync_type,
            total_batch,
            current_batch,
            module: "config",
        };
        Some(Payload::new("ConfigFuzzyWatchSyncRequest", &message))
    }
}
