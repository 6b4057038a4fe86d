//! From settings to what the parts want.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::node::{MemberOptions, Mode};
use crate::{
    replication::SnapshotPolicy,
    settings::{Settings, SettingsError},
    types::{Consistency, is_address, limits},
};

/// Nacos SDKs dial HTTP + 1000.
const GRPC_OFFSET: u16 = 1000;
/// Members talk on HTTP − 1000 unless told otherwise.
const MEMBER_OFFSET: u16 = 1000;

/// How to run a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory for log, state and snapshots; created if it is not there.
    pub data: PathBuf,
    /// Where to serve HTTP; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where to serve gRPC; port 0 takes a free one. Nacos clients take it for granted that it is HTTP + 1000.
    pub grpc: SocketAddr,
    /// Alone or in a cluster.
    pub mode: Mode,
    /// What a read promises whose client does not say.
    pub reads: Consistency,
    /// The largest content, in bytes.
    pub content_bytes_max: usize,
    /// When to write snapshots.
    pub snapshots: SnapshotPolicy,
    /// How many files and connections this process may have open; connections leave some for files and members.
    pub descriptors: u64,
}

/// Enough for the most connections, the peers and the files.
pub(super) const DESCRIPTORS_WANTED: u64 = 131_072;

impl Options {
    /// A standalone server on a free port of the loopback interface.
    pub fn standalone(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            http: (Ipv4Addr::LOCALHOST, 0).into(),
            grpc: (Ipv4Addr::LOCALHOST, 0).into(),
            mode: Mode::Standalone,
            reads: Consistency::Local,
            content_bytes_max: limits::CONTENT_BYTES_MAX_DEFAULT,
            snapshots: SnapshotPolicy::default(),
            descriptors: DESCRIPTORS_WANTED,
        }
    }

    /// A member of a cluster, serving HTTP on a free port of the loopback interface.
    pub fn member(data: &Path, member: MemberOptions) -> Self {
        Self { mode: Mode::Member(member), ..Self::standalone(data) }
    }

    /// What the settings ask for.
    ///
    /// # Errors
    /// [`SettingsError`] that says what to change, in a sentence.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let listen: IpAddr =
            settings.parse("listen", "an IP address, like 127.0.0.1 or 0.0.0.0")?.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let port: u16 = settings.parse("port", "a port, like 8848")?.unwrap_or(8848);
        if port > u16::MAX - GRPC_OFFSET || port == 0 {
            return Err(settings.wrong("port", "1 to 64535: port + 1000 is for the gRPC clients of Nacos"));
        }
        let reads = settings.text("reads").unwrap_or("local");
        let reads = Consistency::from_name(reads).ok_or_else(|| settings.wrong("reads", "local or linearizable"))?;
        let content_bytes_max = settings.bytes("max-content")?.unwrap_or(limits::CONTENT_BYTES_MAX_DEFAULT);
        if !(1..=limits::CONTENT_BYTES_MAX_EVER).contains(&content_bytes_max) {
            return Err(settings.wrong("max-content", "1 to 32m"));
        }
        let entries: u64 = settings.parse("snapshot-entries", "a number")?.unwrap_or(20_000);
        if entries == 0 {
            return Err(settings.wrong("snapshot-entries", "1 or more"));
        }
        let snapshots = SnapshotPolicy { entries, entries_kept: entries / 2, ..SnapshotPolicy::default() };
        let mode = mode(settings, port)?;
        let data = settings.text("data").unwrap_or("coracle-data").into();
        let (http, grpc) = (SocketAddr::new(listen, port), SocketAddr::new(listen, port + GRPC_OFFSET));
        Ok(Self { data, http, grpc, mode, reads, content_bytes_max, snapshots, descriptors: DESCRIPTORS_WANTED })
    }
}

fn mode(settings: &Settings, port: u16) -> Result<Mode, SettingsError> {
    let node: Option<u64> = settings.parse("node-id", "a number from 1")?;
    let (standalone, join) = (settings.on("standalone")?, settings.on("join")?);
    match (standalone, node, settings.text("members")) {
        (true, None, None) if !join => Ok(Mode::Standalone),
        (true, _, _) => Err(SettingsError(
            "standalone is for one node without others; leave out --node-id, --members and --join, or --standalone"
                .into(),
        )),
        (false, Some(0), _) => Err(settings.wrong("node-id", "1 or more")),
        (false, Some(node), Some(members)) => {
            let members = parse_members(settings, members)?;
            let mut member = MemberOptions::new(node, members).map_err(SettingsError)?;
            member.join = join;
            let own_port = match settings.parse("member-port", "a port, like 7848")? {
                Some(port) => port,
                None if port > MEMBER_OFFSET => port - MEMBER_OFFSET,
                None => return Err(settings.wrong("port", "more than 1000, or --member-port given")),
            };
            if member.listen.port() != own_port {
                return Err(SettingsError(format!(
                    "--members says that node {node} listens on {}, but its member port is {own_port} (--port - 1000, or \
                     --member-port): correct one of them",
                    member.members[&node]
                )));
            }
            if let Some(listen) = settings.parse::<IpAddr>("member-listen", "an IP address")? {
                member.listen.set_ip(listen);
            }
            let millis = |name: &str, default| {
                let given = settings.parse::<u64>(name, "a number of milliseconds");
                given.map(|it| it.map_or(default, Duration::from_millis))
            };
            let heartbeat = millis("heartbeat-ms", member.heartbeat)?;
            let min = millis("election-min-ms", member.election.0)?;
            let max = millis("election-max-ms", member.election.1)?;
            if heartbeat < Duration::from_millis(10) || min < heartbeat.saturating_mul(2) || max <= min {
                return Err(SettingsError(
                    "heartbeat-ms must be at least 10, election-min-ms at least twice that, and election-max-ms more \
                     than election-min-ms"
                        .into(),
                ));
            }
            (member.heartbeat, member.election) = (heartbeat, (min, max));
            Ok(Mode::Member(member))
        }
        (false, _, _) => Err(SettingsError(
            "say how to run: `coracle server --standalone` for one node, or --node-id N with --members \
             1=HOST:PORT,2=HOST:PORT,3=HOST:PORT for a cluster"
                .into(),
        )),
    }
}

fn parse_members(settings: &Settings, text: &str) -> Result<BTreeMap<u64, String>, SettingsError> {
    let mut members = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let wrong = || settings.wrong("members", "ID=HOST:PORT,ID=HOST:PORT,…");
        let (id, address) = item.split_once('=').ok_or_else(wrong)?;
        let id: u64 = id.trim().parse().map_err(|_| wrong())?;
        if id == 0 || !is_address(address) {
            return Err(wrong());
        }
        if members.values().any(|it| it == address) {
            return Err(SettingsError(format!("members names {address} twice")));
        }
        if members.insert(id, address.to_owned()).is_some() {
            return Err(SettingsError(format!("members names node {id} twice")));
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[(&str, &str)]) -> Result<Options, String> {
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = Settings::load(flags, [], None).unwrap();
        Options::from_settings(&settings).map_err(|err| err.0)
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_sentence() {
        let members = "1=127.0.0.1:17848,2=127.0.0.1:17858";
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[], "say how to run"),
            (&[("standalone", "true"), ("node-id", "1")], "leave out"),
            (&[("node-id", "3"), ("members", members), ("port", "18848")], "node 3 is not in --members"),
            (&[("node-id", "0"), ("members", members)], "node-id"),
            (&[("node-id", "1"), ("members", members), ("port", "8848")], "correct one of them"),
            (&[("node-id", "1"), ("members", "1=a:1,1=b:2")], "names node 1 twice"),
            (&[("node-id", "1"), ("members", "1=a:1,2=a:1")], "names a:1 twice"),
            (&[("node-id", "1"), ("members", "1")], "ID=HOST:PORT"),
            (&[("standalone", "true"), ("port", "65000")], "port + 1000"),
            (&[("standalone", "true"), ("max-content", "40m")], "1 to 32m"),
            (&[("standalone", "true"), ("reads", "quorum")], "local or linearizable"),
            (
                &[("node-id", "1"), ("members", members), ("port", "18848"), ("election-min-ms", "100")],
                "at least twice",
            ),
        ];
        for (flags, expected) in cases {
            let err = options(flags).unwrap_err();
            assert!(err.contains(expected), "{flags:?}: {err}");
        }
        assert!(options(&[("standalone", "true")]).is_ok());
        assert!(options(&[("node-id", "2"), ("members", members), ("port", "18858")]).is_ok());
    }
}
