//! Bugs that are planted on purpose, to show that the tests find them. None is in a program that is built without the
//! feature `planted-bugs`; with it, `CORACLE_PLANTED_BUG=name` plants one. `.ci/planted-bugs` plants each and wants to see
//! a test fail.
//!
//! A place that can be broken asks [`is`]; without the feature that is a constant, and nothing is left of the question.

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub(crate) enum Bug {
    /// The log calls an entry durable before the disk has it.
    AckBeforeFsync,
    /// The leader answers a linearizable read without asking a majority whether it still leads.
    ReadWithoutQuorum,
    /// A follower answers a linearizable read with what it has.
    LocalReadAsLinearizable,
    /// A long poll compares before it registers, and not again.
    CompareBeforeRegister,
    /// Watchers are told before the change can be read.
    NoticeBeforeCommit,
    /// A removal answers the revision of what it took away.
    RemovalForgetsItsRevision,
    /// A removal tells nobody.
    RemovalIsNotTold,
    /// Some rows of a snapshot are not loaded.
    SnapshotDropsRows,
    /// Nobody is told that a snapshot replaced the state.
    SnapshotTellsNobody,
    /// A vote is not written to the log.
    VoteNotPersisted,
    /// A write of which the leader never told the outcome is sent again.
    ForwardedTwice,
    /// A read takes from the cache whatever is there.
    CacheKeepsWhatIsOlder,
    /// A request that comes again is done again.
    RequestIdIgnored,
}

#[cfg(feature = "planted-bugs")]
const NAMES: [(&str, Bug); 13] = [
    ("ack-before-fsync", Bug::AckBeforeFsync),
    ("read-without-quorum", Bug::ReadWithoutQuorum),
    ("local-read-as-linearizable", Bug::LocalReadAsLinearizable),
    ("compare-before-register", Bug::CompareBeforeRegister),
    ("notice-before-commit", Bug::NoticeBeforeCommit),
    ("removal-forgets-its-revision", Bug::RemovalForgetsItsRevision),
    ("removal-is-not-told", Bug::RemovalIsNotTold),
    ("snapshot-drops-rows", Bug::SnapshotDropsRows),
    ("snapshot-tells-nobody", Bug::SnapshotTellsNobody),
    ("vote-not-persisted", Bug::VoteNotPersisted),
    ("forwarded-twice", Bug::ForwardedTwice),
    ("cache-keeps-what-is-older", Bug::CacheKeepsWhatIsOlder),
    ("request-id-ignored", Bug::RequestIdIgnored),
];

/// Whether this bug is planted.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

/// Whether this bug is planted.
///
/// # Panics
/// When a bug of another name was asked for: a misspelt one would seem to be found by no test.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is(bug: Bug) -> bool {
    static PLANTED: std::sync::LazyLock<Option<Bug>> = std::sync::LazyLock::new(|| {
        #[expect(clippy::disallowed_methods, reason = "no setting: a program for people has no bugs to plant")]
        let name = std::env::var("CORACLE_PLANTED_BUG").ok()?;
        let known = NAMES.iter().find(|(it, _)| *it == name);
        Some(
            known
                .unwrap_or_else(|| panic!("there is no bug {name:?} to plant; there are {:?}", NAMES.map(|it| it.0)))
                .1,
        )
    });
    *PLANTED == Some(bug)
}
