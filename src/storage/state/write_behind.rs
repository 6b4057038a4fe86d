//! The thread that writes tables to sled, and how a snapshot makes it stand still.
use std::{
    io,
    sync::{Arc, PoisonError, mpsc},
    time::Duration,
};

use super::{Shared, Table, open, rows};
use crate::storage::{Applied, SnapshotFile, SnapshotJob, StorageError, Witness, snapshot};

/// How long a commit waits for room before it gives up on the disk.
const ROOM_PATIENCE: Duration = Duration::from_secs(60);

/// Runs until the state is closed and everything is written.
pub(super) fn run(shared: &Shared) {
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

/// Writes what is frozen, then what is active, unless a snapshot makes sled stand still.
fn write_all(shared: &Shared) -> Result<(), StorageError> {
    loop {
        if shared.control().held {
            return Ok(());
        }
        let (table, db) = {
            let mut live = shared.write();
            if live.frozen.is_empty() {
                if live.active.rows.is_empty() {
                    return Ok(());
                }
                live.freeze(None);
            }
            let Some(table) = live.frozen.front().cloned() else { return Ok(()) };
            (table, live.db.clone())
        };
        wait_for_log(shared)?;
        open::apply(&db, &table).map_err(|err| StorageError::caused("write the state", err))?;
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

/// Waits while too much waits to be written.
pub(super) fn wait_for_room(shared: &Shared) -> Result<(), StorageError> {
    if let Some(why) = &shared.control().failed {
        return Err(StorageError::new(why.clone()));
    }
    if waiting_bytes(shared) < shared.options.waiting_bytes_max {
        return Ok(());
    }
    hurry(shared);
    let full = |control: &mut super::Control| {
        control.failed.is_none() && waiting_bytes(shared) >= shared.options.waiting_bytes_max
    };
    let (control, waited) =
        shared.wake.wait_timeout_while(shared.control(), ROOM_PATIENCE, full).unwrap_or_else(PoisonError::into_inner);
    match &control.failed {
        Some(why) => Err(StorageError::new(why.clone())),
        None if waited.timed_out() => Err(StorageError::new("the state is written too slowly: the disk has stalled")),
        None => Ok(()),
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
    let (db, generation) = {
        let live = shared.read();
        (live.db.clone(), live.generation)
    };
    open::sync(&db, &open::path(&shared.dir, generation))
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
    let table = {
        let mut live = shared.write();
        live.freeze(Some(number));
        live.frozen.back().cloned()?
    };
    hurry(shared);
    Some(Box::new(move || {
        let started = tokio::time::Instant::now();
        let file = export(&hold.0, &table)?;
        hold.0.metrics.snapshots.inc();
        hold.0.metrics.snapshot_seconds.observe(started.elapsed().as_secs_f64());
        Ok(file)
    }))
}

fn export(shared: &Shared, table: &Table) -> Result<SnapshotFile, StorageError> {
    let not_yet = |control: &mut super::Control| !control.held && control.failed.is_none() && !control.closed;
    let control = shared.wake.wait_while(shared.control(), not_yet).unwrap_or_else(PoisonError::into_inner);
    if !control.held {
        return Err(StorageError::new("the state is closed, or cannot be written"));
    }
    drop(control);
    let db = {
        let live = shared.read();
        if live.applied.revision() < table.applied.revision() {
            return Err(StorageError::new("the state was replaced"));
        }
        live.db.clone()
    };
    let file = write_file(shared, &db, &table.applied, table.witness)?;
    let mut newest = shared.newest();
    if newest.as_ref().is_none_or(|it| it.applied.revision() < file.applied.revision()) {
        *newest = Some(file.clone());
    }
    drop(newest);
    snapshot::delete_old(&shared.snapshots());
    Ok(file)
}

fn write_file(
    shared: &Shared,
    db: &sled::Db,
    applied: &Applied,
    expected: Witness,
) -> Result<SnapshotFile, StorageError> {
    let dir = shared.snapshots();
    let failed = |err: io::Error| StorageError::caused(format!("write a snapshot to {}", dir.display()), err);
    let mut writer = snapshot::SnapshotWriter::create(&dir, applied, expected).map_err(failed)?;
    rows::scan(db, |name, value| writer.row(name, &value).map_err(failed))?;
    if writer.witness() != expected {
        return Err(StorageError::new(
            "the rows in sled are not those that were written: the disk has damaged them. Restart this node: it will \
             rebuild its state",
        ));
    }
    writer.finish(&dir, applied.clone()).map_err(failed)
}
