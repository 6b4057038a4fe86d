//! What must hold of the nodes after every tick.
use std::collections::BTreeMap;

use coracle::{
    storage::{LogStore, Vote, Witness},
    types::LogId,
};

use crate::world::World;

/// What was seen of the nodes so far.
#[derive(Default)]
pub(crate) struct Invariants {
    /// Node and life, and what it had applied.
    applied: BTreeMap<(u64, u64), u64>,
    /// States at a revision are equal everywhere.
    witnesses: BTreeMap<u64, (u64, Witness)>,
    votes: BTreeMap<u64, Vote>,
    /// Node and life, and what it knew to be committed.
    committed: BTreeMap<(u64, u64), u64>,
    /// Leaders, by term and id.
    leaders: BTreeMap<(u64, u64), u64>,
}

impl Invariants {
    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    pub(crate) fn check(&mut self, world: &mut World) {
        for id in world.running() {
            let verdict = self.check_node(world, id);
            world.check(verdict);
        }
        let verdict = world.oracle.judge();
        world.check(verdict);
        if world.now_ms.is_multiple_of(20) {
            world.look_for_lost_wakeups();
        }
    }

    fn check_node(&mut self, world: &mut World, id: u64) -> Result<(), String> {
        let slot = &world.slots[&id];
        let Some(running) = &slot.running else { return Ok(()) };
        let (life, log) = (slot.life, slot.disk.log.clone());
        let (applied, witness) = (running.state.applied(), running.state.witness());
        let status = running.replicator.status();
        if applied.last.is_none() {
            return Ok(());
        }
        let revision = applied.revision().0;
        world.oracle.checks += 4;
        self.check_vote(id, log.durable_state().vote)?;
        let before = self.applied.insert((id, life), revision).unwrap_or_default();
        if revision < before {
            return Err(format!("n{id} had applied {before} and now {revision}"));
        }
        if let Some(committed) = log.state().committed {
            let known = self.committed.insert((id, life), committed.index).unwrap_or_default();
            if committed.index < known {
                return Err(format!("n{id} knew {known} to be committed and now {}", committed.index));
            }
        }
        let (at, expected) = *self.witnesses.entry(revision).or_insert((id, witness));
        if witness != expected {
            return Err(format!("at revision {revision} n{id} has the state {witness:?}, n{at} had {expected:?}"));
        }
        // Only if the log has the entry that the state stands at is what comes before it in the log what was applied; after
        // a snapshot was installed, something else may be there until it is purged.
        let last = log.read(revision..revision + 1, 1).map_err(|err| err.to_string())?;
        let applied_from_log = last.first().map(|it| it.id) == applied.last;
        if applied_from_log && (revision > before || before == 0) {
            // A node that starts has applied what others had before it.
            let from = if before == 0 { world.oracle.frontier().map_or(0, |it| it.min(revision)) } else { before + 1 };
            for entry in log.read(from..revision + 1, usize::MAX).map_err(|err| err.to_string())? {
                world.oracle.applied(id, &entry)?;
            }
        }
        if status.leader == Some(id) {
            self.check_leader(world, id, status.term, log.state().purged, &*log)?;
        }
        Ok(())
    }

    /// A vote that is durable is never taken back for a lower one.
    fn check_vote(&mut self, id: u64, vote: Option<Vote>) -> Result<(), String> {
        let known = self.votes.get(&id).copied();
        if known > vote {
            return Err(format!("n{id} voted {known:?} and takes it back for {vote:?}"));
        }
        self.votes.extend(vote.map(|vote| (id, vote)));
        Ok(())
    }

    /// A new leader has all that was committed by leaders before it. (One term may have several leaders, of growing ids:
    /// openraft's `leader_id_adv`. What they commit is ordered all the same.)
    fn check_leader(
        &mut self,
        world: &mut World,
        id: u64,
        term: u64,
        purged: Option<LogId>,
        log: &dyn LogStore,
    ) -> Result<(), String> {
        if self.leaders.contains_key(&(term, id)) {
            return Ok(());
        }
        self.leaders.insert((term, id), world.now_ms);
        world.note(&format_args!("n{id} leads term {term}"));
        let Some(must_have) = world.oracle.chosen_before(term, id) else { return Ok(()) };
        if purged.is_some_and(|it| it.index >= must_have.index) {
            return Ok(());
        }
        let has = log.read(must_have.index..must_have.index + 1, 1).map_err(|err| err.to_string())?;
        if has.first().map(|it| it.id) == Some(must_have) {
            return Ok(());
        }
        Err(format!("n{id} leads term {term} without {must_have}, which is committed"))
    }
}
