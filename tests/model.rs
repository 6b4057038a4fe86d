//! Random commands: the state machine against its rules written down once more, naively, over plain maps.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use coracle::{
    state_machine::{ClientLabels, Overlay, StateReader, apply, visible},
    storage::{Applied, StateStore, memory::MemoryState},
    types::{
        Attributes, Author, Command, ConfigKey, Content, LogId, Millis, Namespace, NamespaceId, Precondition, Proposal,
        Publication, Rejection, Reply, Request, RequestId, Revision, Tag, Variant, limits,
    },
};
use proptest::prelude::*;

/// What a version is, as far as the rules care.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    text: String,
    app: Option<String>,
    ips: Vec<String>,
    created: u64,
    modified: u64,
    at: u64,
}

/// The rules, naively.
#[derive(Default)]
struct Reference {
    /// By key and the label of the version: `""` formal, `beta`, `t0`….
    versions: BTreeMap<(u8, String), Stored>,
    namespaces: BTreeSet<u8>,
}

#[derive(Debug, Clone)]
enum Action {
    Publish { key: u8, label: String, text: u8, app: Option<u8>, ip: u8, cas: Option<u8>, absent: bool },
    Remove { key: u8, label: String },
    Create(u8),
    Update(u8),
    Delete(u8),
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Applied { told: bool },
    Unchanged,
    Refused,
    Full,
}

impl Reference {
    fn run(&mut self, action: &Action, revision: u64, time: u64) -> Outcome {
        match action {
            Action::Publish { key, label, text, app, ip, cas, absent } => {
                let text = text.to_string();
                let old = self.versions.get(&(*key, label.clone())).cloned();
                let wanted = cas.map(|it| it.to_string());
                let cas_fails = wanted.is_some_and(|it| old.as_ref().is_some_and(|old| old.text != it));
                if *absent && old.is_some() || !*absent && cas_fails {
                    return Outcome::Refused;
                }
                let gray = self.versions.keys().filter(|(it, label)| it == key && !label.is_empty()).count();
                if old.is_none() && !label.is_empty() && gray >= 10 {
                    return Outcome::Full;
                }
                let ips = if label == "beta" { vec![ip.to_string()] } else { Vec::new() };
                let told = old.as_ref().is_none_or(|old| old.text != text || old.ips != ips);
                let kept = old.as_ref().and_then(|old| old.app.clone());
                let stored = Stored {
                    text,
                    app: app.map(|it| it.to_string()).or(kept),
                    ips,
                    created: old.as_ref().map_or(revision, |old| old.created),
                    modified: revision,
                    at: old.map_or(time, |old| old.at.max(time)),
                };
                self.versions.insert((*key, label.clone()), stored);
                Outcome::Applied { told }
            }
            Action::Remove { key, label } => match self.versions.remove(&(*key, label.clone())) {
                Some(_) => Outcome::Applied { told: true },
                None => Outcome::Unchanged,
            },
            Action::Create(id) if self.namespaces.insert(*id) => Outcome::Applied { told: false },
            Action::Update(id) if self.namespaces.contains(id) => Outcome::Applied { told: false },
            Action::Delete(id) if self.namespaces.remove(id) => Outcome::Applied { told: false },
            Action::Create(_) | Action::Update(_) | Action::Delete(_) => Outcome::Refused,
        }
    }

    fn sees(&self, key: u8, ip: &str, asked: Option<&str>, carried: Option<&str>) -> Option<&str> {
        let version = |label: &str| self.versions.get(&(key, label.to_owned()));
        let found = match (version("beta").filter(|it| it.ips.iter().any(|it| it == ip)), asked, carried) {
            (Some(beta), _, _) => Some(beta),
            (None, Some(asked), _) => version(asked),
            (None, None, Some(carried)) => version(carried).or_else(|| version("")),
            (None, None, None) => version(""),
        };
        found.map(|it| &*it.text)
    }
}

fn key(number: u8) -> ConfigKey {
    ConfigKey::new(&NamespaceId::public(), "g", &format!("k{number}")).unwrap()
}

fn variant(label: &str) -> Variant {
    match label {
        "" => Variant::Formal,
        "beta" => Variant::Beta,
        tag => Variant::Tag(Tag::parse(tag).unwrap()),
    }
}

fn command(action: &Action) -> Command {
    let namespace = |id: &u8| Namespace {
        id: NamespaceId::parse(&format!("n{id}")).unwrap(),
        name: String::new(),
        description: String::new(),
    };
    match action {
        Action::Publish { key: at, label, text, app, ip, cas, absent } => {
            Command::PublishConfig(Box::new(Publication {
                key: key(*at),
                variant: variant(label),
                content: Content::new(text.to_string()),
                attributes: Attributes { app_name: app.map(|it| it.to_string()), ..Attributes::default() },
                beta_ips: if label == "beta" { vec![ip.to_string()] } else { Vec::new() },
                precondition: match (absent, cas) {
                    (true, _) => Precondition::Absent,
                    (false, Some(text)) => Precondition::DigestIsOrAbsent(Content::new(text.to_string()).digest()),
                    (false, None) => Precondition::None,
                },
                author: Author::default(),
            }))
        }
        Action::Remove { key: at, label } => {
            Command::RemoveConfig { key: key(*at), variant: variant(label), created: None }
        }
        Action::Create(id) => Command::CreateNamespace(namespace(id)),
        Action::Update(id) => Command::UpdateNamespace(namespace(id)),
        Action::Delete(id) => Command::DeleteNamespace(namespace(id).id),
    }
}

fn actions() -> impl Strategy<Value = Vec<(Action, u64)>> {
    let label = || prop_oneof![3 => Just(String::new()), 1 => Just("beta".to_owned()), 3 => (0..13_u8).prop_map(|it| format!("t{it}"))];
    let publish = (
        0..3_u8,
        label(),
        0..3_u8,
        prop::option::weighted(0.2, 0..2_u8),
        0..3_u8,
        prop::option::weighted(0.3, 0..3_u8),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(key, label, text, app, ip, cas, absent)| Action::Publish {
            key,
            label,
            text,
            app,
            ip,
            cas,
            absent,
        });
    let action = prop_oneof![
        8 => publish,
        2 => (0..3_u8, label()).prop_map(|(key, label)| Action::Remove { key, label }),
        1 => (0..2_u8).prop_map(Action::Create),
        1 => (0..2_u8).prop_map(Action::Update),
        1 => (0..2_u8).prop_map(Action::Delete),
    ];
    prop::collection::vec((action, 0..50_u64), 1..80)
}

proptest! {
    #[test]
    fn the_state_machine_keeps_the_rules(actions in actions(), group in 1..7_usize) {
        let (state, mut reference) = (MemoryState::new(), Reference::default());
        let mut revision = 0;
        // In groups, as entries are applied: those of one group see each other before anything is committed.
        for group in actions.chunks(group) {
            let mut view = Overlay::new(&state);
            let mut writes = Vec::new();
            for (action, time) in group {
                revision += 1;
                let proposal = Proposal { command: command(action), proposed_at: Millis(*time), request: None };
                let effects = apply(&view, Revision(revision), &proposal).unwrap();
                let told = effects.event.is_some();
                let outcome = match effects.reply {
                    Reply::Applied(at) => {
                        prop_assert_eq!(at, Revision(revision));
                        Outcome::Applied { told }
                    }
                    Reply::Unchanged(_) => Outcome::Unchanged,
                    Reply::Rejected(Rejection::TooManyGrayVersions) => Outcome::Full,
                    Reply::Rejected(_) => Outcome::Refused,
                };
                prop_assert_eq!(outcome, reference.run(action, revision, *time), "{:?}", action);
                view.stage(&effects.writes);
                writes.extend(effects.writes);
            }
            state.commit(Applied { last: Some(LogId { term: 1, node: 0, index: revision }), membership: None }, writes).unwrap();
        }
        let mut found = BTreeMap::new();
        for at in 0..3_u8 {
            for label in ["".to_owned(), "beta".to_owned()].into_iter().chain((0..13).map(|it| format!("t{it}"))) {
                if let Some(record) = state.record(&key(at), &variant(&label)).unwrap() {
                    let stored = Stored {
                        text: record.content.text().into(), app: record.attributes.app_name.clone(), ips: record.beta_ips.clone(),
                        created: record.created.0, modified: record.modified.0, at: record.modified_at.0,
                    };
                    found.insert((at, label), stored);
                }
            }
            for (ip, asked, carried) in [("0", None, None), ("1", Some("t1"), None), ("2", None, Some("t2")), ("x", Some("t12"), Some("t2"))] {
                let tag = |it: Option<&str>| it.map(|it| Tag::parse(it).unwrap());
                let client = ClientLabels { ip: ip.into(), asked_tag: tag(asked), carried_tag: tag(carried) };
                let seen = state.versions(&key(at)).and_then(|it| visible(&it, &client)).map(|it| it.head.digest);
                let expected = reference.sees(at, ip, asked, carried).map(|text| Content::new(text).digest());
                prop_assert_eq!(seen, expected);
            }
        }
        prop_assert_eq!(found, reference.versions);
        prop_assert_eq!(state.namespaces().len(), reference.namespaces.len());
    }
}

/// Nodes apply the same entries in groups of their own, so nothing may depend on where a group ends.
#[test]
fn what_is_remembered_of_requests_does_not_depend_on_groups_and_is_bounded() {
    let command = |text: u64| {
        command(&Action::Publish {
            key: (text % 3) as u8,
            label: String::new(),
            text: (text % 7) as u8,
            app: None,
            ip: 0,
            cas: None,
            absent: false,
        })
    };
    let count = limits::REQUESTS_REMEMBERED_MAX as u64 + 12_000;
    // Now and then an id comes again: as a repetition, for something else, and after it was forgotten.
    let id = |at: u64| {
        let number = match at % 10 {
            4 => at / 2,
            6 => at / 400,
            _ => at,
        };
        RequestId::parse(&number.to_string()).unwrap()
    };
    let proposal = |at: u64| {
        let command = command(if at % 20 == 4 { at / 2 } else { at });
        Proposal { request: Some(Request::new(id(at), &command)), command, proposed_at: Millis(at) }
    };
    let states = [1, 700, 1024].map(|group| {
        let state = MemoryState::new();
        let mut replies = Vec::new();
        let entries: Vec<u64> = (1..=count).collect();
        for group in entries.chunks(group) {
            let (mut view, mut writes) = (Overlay::new(&state), Vec::new());
            for at in group {
                let effects = apply(&view, Revision(*at), &proposal(*at)).unwrap();
                view.stage(&effects.writes);
                writes.extend(effects.writes);
                replies.push(effects.reply);
            }
            let last = Some(LogId { term: 1, node: 0, index: group[group.len() - 1] });
            state.commit(Applied { last, membership: None }, writes).unwrap();
        }
        (state, replies)
    });
    for (state, replies) in &states[1..] {
        assert!(*replies == states[0].1, "the same answers");
        assert_eq!(state.witness(), states[0].0.witness(), "the same rows");
    }
    let (state, replies) = &states[0];
    assert_eq!(state.remembered_count(), limits::REQUESTS_REMEMBERED_MAX);
    assert!(state.remembered_request(id(1)).is_none(), "the oldest are forgotten");
    assert!(state.remembered_request(id(count)).is_some());
    let repeated = replies.iter().zip(1..).filter(|(reply, at)| **reply != Reply::Applied(Revision(*at))).count();
    assert!(repeated > 1_000, "{repeated} were repetitions");
}
