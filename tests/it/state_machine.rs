//! Golden tables of the state machine: commands in, replies and events out. `UPDATE_EXPECT=1` rewrites the outcomes.
//!
//! A case is a list of commands, a line `----`, and what came of each; cases are separated by an empty line.
use std::{fs, path::Path, sync::Arc};

use coracle::{
    state_machine::{ClientLabels, StateReader, apply, visible},
    storage::{Applied, StateStore, memory::MemoryState},
    types::{
        Attributes, Author, Change, Command, ConfigKey, Content, Digest, LogId, Millis, Namespace, NamespaceId,
        Precondition, Proposal, Publication, Rejection, Reply, Request, RequestId, Revision, Tag, Variant,
    },
};

struct Machine {
    state: Arc<MemoryState>,
    at: u64,
}

impl Machine {
    fn new() -> Self {
        Self { state: Arc::new(MemoryState::new()), at: 0 }
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "see" {
            return self.see(&words[1..]);
        }
        self.at += 1;
        let command = command(&words);
        let proposal = Proposal {
            proposed_at: Millis(option(&words, "at").map_or(1000 + self.at, |it| it.parse().unwrap())),
            request: option(&words, "id").map(|id| Request::new(RequestId::parse(id).unwrap(), &command)),
            command,
        };
        let effects = apply(&*self.state, Revision(self.at), &proposal).unwrap();
        let event = effects.event.map_or(String::new(), |event| {
            let change = match event.change {
                Change::Put(_) => "put",
                Change::Deleted => "deleted",
            };
            format!(" / {change} {} {}", event.key, variant_text(&event.variant))
        });
        let applied = Applied { last: Some(LogId { term: 1, node: 0, index: self.at }), membership: None };
        self.state.commit(applied, effects.writes).unwrap();
        format!("{}{event}", reply_text(&effects.reply))
    }

    /// What a client sees: `see KEY [ip=…] [tag=…] [carries=…]`.
    fn see(&self, words: &[&str]) -> String {
        let client = ClientLabels {
            ip: option(words, "ip").unwrap_or_default().into(),
            asked_tag: option(words, "tag").map(|it| Tag::parse(it).unwrap()),
            carried_tag: option(words, "carries").map(|it| Tag::parse(it).unwrap()),
        };
        let key = ConfigKey::parse(words[0]).unwrap();
        let Some(seen) = self.state.versions(&key).and_then(|versions| visible(&versions, &client)) else {
            return "nothing".into();
        };
        let record = self.state.record(&key, &seen.variant).unwrap().unwrap();
        assert_eq!(record.head(), seen.head, "the index agrees with the record");
        let app = record.attributes.app_name.as_deref().unwrap_or("-");
        format!(
            "{} {} rev={} created={} time={} app={app}",
            variant_text(&seen.variant),
            record.content.text(),
            record.modified,
            record.created,
            record.modified_at.0
        )
    }
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn variant(words: &[&str]) -> Variant {
    match (option(words, "beta"), option(words, "tag")) {
        (Some(_), _) => Variant::Beta,
        (None, Some(tag)) => Variant::Tag(Tag::parse(tag).unwrap()),
        (None, None) => Variant::Formal,
    }
}

fn variant_text(variant: &Variant) -> String {
    match variant {
        Variant::Formal => "formal".into(),
        Variant::Beta => "beta".into(),
        Variant::Tag(tag) => format!("tag:{}", tag.as_str()),
    }
}

fn command(words: &[&str]) -> Command {
    let namespace = || Namespace {
        id: NamespaceId::parse(words[2]).unwrap(),
        name: words[2].to_uppercase(),
        description: String::new(),
    };
    match (words[0], words[1]) {
        ("namespace", "create") => Command::CreateNamespace(namespace()),
        ("namespace", "update") => Command::UpdateNamespace(namespace()),
        ("namespace", "delete") => Command::DeleteNamespace(NamespaceId::parse(words[2]).unwrap()),
        ("remove", key) => Command::RemoveConfig {
            key: ConfigKey::parse(key).unwrap(),
            variant: variant(words),
            created: option(words, "created").map(|it| Revision(it.parse().unwrap())),
        },
        ("publish", key) => Command::PublishConfig(Box::new(Publication {
            key: ConfigKey::parse(key).unwrap(),
            variant: variant(words),
            content: Content::new(words[2]),
            attributes: Attributes { app_name: option(words, "app").map(Into::into), ..Attributes::default() },
            beta_ips: option(words, "beta").map_or(Vec::new(), |ips| ips.split(',').map(Into::into).collect()),
            precondition: match option(words, "if") {
                None => Precondition::None,
                Some("absent") => Precondition::Absent,
                Some("unknown") => Precondition::DigestUnknown,
                Some(text) => Precondition::DigestIsOrAbsent(Digest::of(text.as_bytes())),
            },
            author: Author::default(),
        })),
        other => panic!("no such command: {other:?}"),
    }
}

fn reply_text(reply: &Reply) -> String {
    match reply {
        Reply::Applied(revision) => format!("applied {revision}"),
        Reply::Unchanged(revision) => format!("unchanged {revision}"),
        Reply::Rejected(Rejection::PreconditionFailed { current: None }) => "rejected: nothing is stored".into(),
        Reply::Rejected(Rejection::PreconditionFailed { current: Some(_) }) => "rejected: other content".into(),
        Reply::Rejected(Rejection::TooManyGrayVersions) => "rejected: too many gray versions".into(),
        Reply::Rejected(Rejection::NamespaceExists) => "rejected: namespace exists".into(),
        Reply::Rejected(Rejection::NamespaceAbsent) => "rejected: namespace absent".into(),
    }
}

#[test]
fn golden_tables() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    let mut cases = 0;
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let got: Vec<String> = text
            .trim_end()
            .split("\n\n")
            .map(|case| {
                cases += 1;
                let (comments, input): (Vec<&str>, Vec<&str>) =
                    case.lines().take_while(|line| *line != "----").partition(|line| line.starts_with('#'));
                let mut machine = Machine::new();
                let output: Vec<String> = input.iter().map(|line| machine.run(line)).collect();
                let lines = comments.iter().chain(&input).map(|line| (*line).to_owned());
                lines.chain(["----".to_owned()]).chain(output).collect::<Vec<_>>().join("\n")
            })
            .collect();
        let got = got.join("\n\n") + "\n";
        if std::env::vars().any(|(name, _)| name == "UPDATE_EXPECT") {
            fs::write(&path, got).unwrap();
        } else {
            assert_eq!(got, text, "{}", path.display());
        }
    }
    assert!(cases >= 10, "only {cases} cases were found");
}
