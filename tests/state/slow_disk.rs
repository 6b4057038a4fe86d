//! The state on a disk that takes its time: everything is written in the end. sled's own threads wait for each other for
//! ever there, if they are given too much at once. Whether they do is chance; that all of them are busy is not, and is what
//! it takes.
//!
//! The disk is slow because a small library, put before the C library by the dynamic linker, sleeps in its calls. The C
//! compiler that makes it is the one that links Rust programs.
use std::{fs, process::Command, sync::Arc, time::Duration};

use coracle::{
    metrics::Metrics,
    storage::{
        StateStore,
        state::{SledState, StateOptions},
    },
    types::{Mutation, Revision, Variant},
};
use tokio::time::Instant;

use super::{applied, key, record};

const SLOW_DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>
static void take_time(void) {
    static atomic_uint calls;
    unsigned call = atomic_fetch_add(&calls, 1);
    usleep(call * 2654435761u % 30000);
}
int sync_file_range(int fd, off64_t from, off64_t bytes, unsigned flags) {
    static atomic_uint under_way;
    int (*call)(int, off64_t, off64_t, unsigned) = dlsym(RTLD_NEXT, "sync_file_range");
    if (atomic_fetch_add(&under_way, 1) + 1 == 7) {
        fputs("all of sled's seven threads write: one that shrinks the file would not come to it\n", stderr);
        _exit(7);
    }
    take_time();
    int result = call(fd, from, bytes, flags);
    atomic_fetch_sub(&under_way, 1);
    return result;
}
int fsync(int fd) {
    int (*call)(int) = dlsym(RTLD_NEXT, "fsync");
    take_time();
    return call(fd);
}
"#;

/// Long enough for any machine, and short enough to be told.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_state_is_written_to_a_slow_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("slow_disk.c"), dir.path().join("slow_disk.so"));
    fs::write(&source, SLOW_DISK).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
    assert!(made.unwrap().success(), "cc makes the library");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "slow_disk::on_a_slow_disk", "--ignored", "--nocapture"])
        .env("LD_PRELOAD", &library)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if started.elapsed() > PATIENCE => break None,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(ended.expect("the state is written, however slow the disk").success());
}

#[test]
#[ignore = "on the slow disk that the other test makes"]
fn on_a_slow_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = StateOptions { write_behind: Duration::from_millis(3), ..StateOptions::default() };
    let state = SledState::open(dir.path(), options, Metrics::new()).unwrap();
    // Contents come, grow, and go, so that sled's file shrinks now and then.
    let started = Instant::now();
    let mut revision = 0;
    let contents: Vec<_> = (0..16).map(|number| record("x".repeat(65_000 - number * 4_000), 1)).collect();
    while started.elapsed() < Duration::from_secs(15) {
        revision += 1;
        let keys = 1 + (revision % 30) as u8;
        let writes = (0..keys).map(|number| {
            if revision % 5 == 0 {
                Mutation::DeleteConfig(key(number), Variant::Formal)
            } else {
                let mut record = (*contents[(revision as usize + usize::from(number)) % 16]).clone();
                record.modified = Revision(revision);
                Mutation::PutConfig(key(number), Variant::Formal, Arc::new(record))
            }
        });
        state.commit(applied(revision), writes.collect()).unwrap();
    }
    state.flush().unwrap();
    assert_eq!(state.applied().revision(), Revision(revision));
}
