//! Every bound of the system, by name, with its reason.
use std::time::Duration;

/// Nacos: `ParamCheckRule`, data id.
pub const DATA_ID_BYTES_MAX: usize = 256;
/// Nacos: `ParamCheckRule`, group.
pub const GROUP_BYTES_MAX: usize = 128;
/// Nacos: `ParamCheckRule`, namespace.
pub const NAMESPACE_BYTES_MAX: usize = 64;
/// Nacos: `ParamUtils`, tag.
pub const TAG_BYTES_MAX: usize = 16;
/// Nacos: `maxContent`, the default; a setting may lower or raise it.
pub const CONTENT_BYTES_MAX_DEFAULT: usize = 10 * 1024 * 1024;
/// No setting may raise the content limit above this: one entry must fit a log segment with room to spare.
pub const CONTENT_BYTES_MAX_EVER: usize = 32 * 1024 * 1024;
/// What is stored with a content, and what a proposal is wrapped in: together no more than this, so that a message between
/// members has room for every entry.
pub const BESIDE_CONTENT_BYTES_MAX: usize = 1 << 20;
/// An address in text: the longest there are, IPv6 with a zone, have less.
pub const ADDRESS_BYTES_MAX: usize = 64;
/// Nacos: `nacos.config.gray.version.max.count`.
pub const GRAY_VERSIONS_MAX: usize = 10;
/// Nacos: more keys in one listener request are refused.
pub const LISTEN_KEYS_MAX: usize = 10_000;
/// A connection listens to at most this many keys: ten times what a client in Java or Go puts on one.
pub const STREAM_KEYS_MAX: usize = 30_000;
/// Nacos: `nacos.config.fuzzy.watch.max.pattern.count`, for one connection.
pub const STREAM_PATTERNS_MAX: usize = 20;
/// Nacos: a long poll is held at least this long.
pub const LONG_POLL_WAIT_MIN: Duration = Duration::from_secs(10);
/// Nobody waits longer than this, whatever the header says: a proxy in between would have cut the connection.
pub const LONG_POLL_WAIT_MAX: Duration = Duration::from_secs(120);
/// Nacos: the answer leaves this much before the client gives up.
pub const LONG_POLL_MARGIN: Duration = Duration::from_millis(500);
/// Contents on one page of a listing, in bytes: an answer is built in memory.
pub const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Ids that one request may remove.
pub const REMOVED_IDS_MAX: usize = 10_000;
/// How long a write may take before the caller is told that its outcome is unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that has just started waits this long for what was acknowledged elsewhere, before it answers with what it has.
/// Shorter than the deadline of a client's request, longer than most elections.
pub const CATCH_UP_MAX: Duration = Duration::from_millis(1_500);
/// How long a read waits for a revision or a leader before the caller is told to try again.
pub const READ_BARRIER_TIMEOUT: Duration = Duration::from_secs(5);
/// A request id is a UUID or something like it.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// So many requests with an id are remembered, the newest ones: ten seconds at 3,000 a second, some 4 MiB of memory, and
/// 60 ms of a start.
pub const REQUESTS_REMEMBERED_MAX: usize = 32_768;
/// Proposals that wait for a place in the log; more are refused at once, with nothing written.
pub const PROPOSALS_QUEUED_MAX: usize = 16_384;
/// Proposals that one group may take from the queue.
pub const GROUP_PROPOSALS_MAX: usize = 1_024;
/// Bytes of proposals that one group may take: bounds the latency of a group, and a peer message.
pub const GROUP_BYTES_MAX_TOTAL: usize = 4 * 1024 * 1024;
