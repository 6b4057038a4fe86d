//! The thread that writes tables to sled, and how a snapshot makes it stand still.
use std::{
    io,
    path::Path,
    sync::{Arc, PoisonError, mpsc},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Shared, Table,
    open::{self, Generation},
    rows,
};
use crate::storage::{Applied, SnapshotFile, SnapshotJob, StorageError, Witness, snapshot};

/// How long a commit waits for room before it gives up on the disk.
const ROOM_PATIENCE: Duration = Duration::from_secs(60);
/// While a snapshot is written nothing else is: a large state and a slow disk may take this long.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(600);

/// A table takes no longer than this to be written, a few MiB as it has, or whoever runs this node is told.
const STALLED: Duration = Duration::from_secs(10);
/// A state that is closed waits this long for what is still to be written. The log has it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// Runs until the state is closed and everything is written.
pub(super) fn run(shared: &Shared) {
    let _ended = Ended(shared);
    loop {
        let closing = {
            let control = shared.control();
            let idle = |control: &mut super::Control| !control.hurry && !control.closed;
            let (mut control, _) = shared
                .wake
                .wait_timeout_while(control, shared.options.write_behind, idle)
                .unwrap_or_else(PoisonError::into_inner);
            control.hurry = false;
            control.closed
        };
        if let Err(err) = write_all(shared) {
            tracing::error!(%err, "the state cannot be written; this node applies no more");
            shared.control().failed = Some(err.to_string());
            shared.wake.notify_all();
            return;
        }
        if closing {
            return;
        }
    }
}

/// Tells, however it comes to its end, that the thread has ended.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.control().ended = true;
        self.0.wake.notify_all();
    }
}

/// Has the thread write what there is, and end; `false`: it has not, in [`CLOSE_PATIENCE`].
pub(super) fn close(shared: &Shared) -> bool {
    shared.control().closed = true;
    shared.wake.notify_all();
    let running = |control: &mut super::Control| !control.ended;
    let waited = shared.wake.wait_timeout_while(shared.control(), CLOSE_PATIENCE, running);
    waited.unwrap_or_else(PoisonError::into_inner).0.ended
}

/// Writes what is frozen, then what is active, unless a snapshot makes sled stand still.
fn write_all(shared: &Shared) -> Result<(), StorageError> {
    loop {
        if shared.control().held {
            return Ok(());
        }
        let (table, generation) = {
            let mut live = shared.write();
            if live.frozen.is_empty() {
                if live.active.rows.is_empty() {
                    return Ok(());
                }
                live.freeze(None);
            }
            let Some(table) = live.frozen.front().cloned() else { return Ok(()) };
            (table, live.generation.clone())
        };
        shared.control().writing_since = Some(Instant::now());
        wait_for_log(shared)?;
        open::apply(&generation.db, &table).map_err(|err| StorageError::caused("write the state", err))?;
        shared.control().writing_since = None;
        shared.metrics.state_writer_stalled.set(0);
        {
            let mut live = shared.write();
            // An installed snapshot may have replaced everything meanwhile.
            if live.frozen.front().is_some_and(|front| Arc::ptr_eq(front, &table)) {
                live.frozen.pop_front();
            }
        }
        if table.hold.is_some() {
            let mut control = shared.control();
            // The snapshot may have been given up.
            control.held = control.snapshotting == table.hold;
        }
        shared.wake.notify_all();
    }
}

/// Waits until the log is durable as far as it is written; the rows at hand are of entries that came before.
fn wait_for_log(shared: &Shared) -> Result<(), StorageError> {
    let Some(log) = shared.log.get() else { return Ok(()) };
    let (done, is_done) = mpsc::sync_channel(1);
    log.barrier(Box::new(move |result| {
        // The receiver waits below.
        drop(done.send(result));
    }));
    let durable = is_done.recv().unwrap_or_else(|_| Err(io::Error::other("the log has stopped")));
    durable.map_err(|err| StorageError::caused("wait for the log before the state is written", err))
}

/// Asks for writing now.
pub(super) fn hurry(shared: &Shared) {
    shared.control().hurry = true;
    shared.wake.notify_all();
}

fn waiting_bytes(shared: &Shared) -> usize {
    let live = shared.read();
    live.active.bytes + live.frozen.iter().map(|table| table.bytes).sum::<usize>()
}

/// Whether there is room for more that waits to be written.
pub(super) fn has_room(shared: &Shared) -> bool {
    waiting_bytes(shared) < shared.options.waiting_bytes_max
}

/// Waits while too much waits to be written.
pub(super) fn wait_for_room(shared: &Shared) -> Result<(), StorageError> {
    let control = shared.control();
    if let Some(why) = &control.failed {
        return Err(StorageError::new(why.clone()));
    }
    // Set under the lock, as it is cleared after it was taken.
    if control.writing_since.is_some_and(|since| since.elapsed() > STALLED)
        && shared.metrics.state_writer_stalled.set(1) == 0
    {
        tracing::error!(
            "the state has not been written for {STALLED:?}: the disk stands still, or sled does. This node goes on until too \
             much waits; if it does not recover, restart it: nothing is lost, the log has everything"
        );
    }
    drop(control);
    if has_room(shared) {
        return Ok(());
    }
    hurry(shared);
    let started = Instant::now();
    let mut control = shared.control();
    loop {
        let mut held = false;
        let full = |control: &mut super::Control| {
            held |= control.held;
            control.failed.is_none() && !has_room(shared)
        };
        let (woken, waited) =
            shared.wake.wait_timeout_while(control, ROOM_PATIENCE, full).unwrap_or_else(PoisonError::into_inner);
        match &woken.failed {
            Some(why) => return Err(StorageError::new(why.clone())),
            None if !waited.timed_out() => return Ok(()),
            None if held && started.elapsed() < SNAPSHOT_PATIENCE => control = woken,
            None => return Err(StorageError::new("the state is written too slowly: the disk has stalled")),
        }
    }
}

/// Writes everything, and makes it durable.
pub(super) fn flush(shared: &Shared) -> Result<(), StorageError> {
    hurry(shared);
    let dirty = |control: &mut super::Control| {
        let live = shared.read();
        control.hurry = true;
        control.failed.is_none() && !control.held && !(live.active.rows.is_empty() && live.frozen.is_empty())
    };
    let (control, _) =
        shared.wake.wait_timeout_while(shared.control(), ROOM_PATIENCE, dirty).unwrap_or_else(PoisonError::into_inner);
    if let Some(why) = &control.failed {
        return Err(StorageError::new(why.clone()));
    }
    drop(control);
    let generation = shared.read().generation.clone();
    generation.sync()
}

/// While this lives, sled is to stand still once it has the state that the snapshot is of.
struct Hold(Arc<Shared>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut control = self.0.control();
        (control.held, control.snapshotting, control.hurry) = (false, None, true);
        drop(control);
        self.0.wake.notify_all();
    }
}

/// Pins the state as it is now, and gives back the work of writing it to a file.
pub(super) fn begin_snapshot(shared: &Arc<Shared>) -> Option<SnapshotJob> {
    let number = {
        let mut control = shared.control();
        if control.snapshotting.is_some() || control.closed || control.failed.is_some() {
            return None;
        }
        control.snapshots += 1;
        control.snapshotting = Some(control.snapshots);
        control.snapshots
    };
    let hold = Hold(shared.clone());
    let (table, generation) = {
        let mut live = shared.write();
        live.freeze(Some(number));
        (live.frozen.back().cloned()?, live.generation.clone())
    };
    hurry(shared);
    Some(Box::new(move || {
        let started = Instant::now();
        let Some(file) = export(&hold.0, &table, &generation)? else { return installed(&hold.0) };
        hold.0.metrics.snapshots.inc();
        hold.0.metrics.snapshot_seconds.observe(started.elapsed().as_secs_f64());
        Ok(file)
    }))
}

/// `None`: another state was installed meanwhile, and what this one would have been is gone with it.
fn export(shared: &Shared, table: &Table, generation: &Arc<Generation>) -> Result<Option<SnapshotFile>, StorageError> {
    let is_replaced = || !Arc::ptr_eq(generation, &shared.read().generation);
    let not_yet =
        |control: &mut super::Control| !control.held && control.failed.is_none() && !control.closed && !is_replaced();
    let held = shared.wake.wait_while(shared.control(), not_yet).unwrap_or_else(PoisonError::into_inner).held;
    if is_replaced() {
        return Ok(None);
    }
    if !held {
        return Err(StorageError::new("the state is closed, or cannot be written"));
    }
    let file = write_file(shared, &generation.db, &table.applied, table.witness)?;
    let mut newest = shared.newest();
    if newest.as_ref().is_none_or(|it| it.applied.revision() < file.applied.revision()) {
        *newest = Some(file.clone());
    }
    drop(newest);
    snapshot::delete_old(&shared.snapshots());
    Ok(Some(file))
}

/// The snapshot that was installed.
fn installed(shared: &Shared) -> Result<SnapshotFile, StorageError> {
    shared.newest().clone().ok_or_else(|| StorageError::new("the state was replaced"))
}

fn write_file(
    shared: &Shared,
    db: &sled::Db,
    applied: &Applied,
    expected: Witness,
) -> Result<SnapshotFile, StorageError> {
    let dir = shared.snapshots();
    write_rows(&dir, db, applied, expected).inspect_err(|_| {
        // A part of one only takes room.
        snapshot::remove_unfinished(&dir);
    })
}

fn write_rows(dir: &Path, db: &sled::Db, applied: &Applied, expected: Witness) -> Result<SnapshotFile, StorageError> {
    let failed = |err: io::Error| StorageError::caused(format!("write a snapshot to {}", dir.display()), err);
    let mut writer = snapshot::SnapshotWriter::create(dir, applied, expected).map_err(failed)?;
    rows::scan(db, |name, value| writer.row(name, &value).map_err(failed))?;
    if writer.witness() != expected {
        return Err(StorageError::new(
            "the rows in sled are not those that were written: the disk has damaged them. Restart this node: it will \
             rebuild its state",
        ));
    }
    writer.finish(dir, applied.clone()).map_err(failed)
}
