//! The watch hub itself, compiled against a model checker's primitives and run under thousands of schedules: no change
//! that happens after a registration is lost (`src/watch/mod.rs`, promise 2), and the other order loses one.
#![allow(clippy::unwrap_used)]

mod sync {
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
}

mod types {
    pub(crate) use coracle::types::{ConfigKey, KeyPattern};
}

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../../src/watch/hub.rs"]
mod hub;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use coracle::types::NamespaceId;
use hub::Hub;
use shuttle::{
    future::block_on,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};
use sync::Arc;
use types::{ConfigKey, KeyPattern};

const SCHEDULES: usize = 20_000;

fn key(data_id: &str) -> ConfigKey {
    ConfigKey::new(&NamespaceId::public(), "g", data_id).unwrap()
}

/// A publisher commits and then announces; a poller must end with the committed value in hand.
fn poll_against_publish(register_first: bool) {
    let hub = Arc::new(Hub::default());
    let stored = Arc::new(AtomicU64::new(0));
    let publisher = thread::spawn({
        let (hub, stored) = (hub.clone(), stored.clone());
        move || {
            stored.store(1, Ordering::SeqCst);
            hub.publish(&[key("a")]);
        }
    });
    if register_first {
        let mut watcher = hub.watch([key("a")]);
        while stored.load(Ordering::SeqCst) == 0 {
            block_on(watcher.changed());
        }
    } else if stored.load(Ordering::SeqCst) == 0 {
        let mut watcher = hub.watch([key("a")]);
        block_on(watcher.changed());
    }
    assert_eq!(stored.load(Ordering::SeqCst), 1);
    publisher.join().unwrap();
    assert_eq!((hub.watcher_count(), hub.watched_key_count()), (0, 0));
}

#[test]
fn registering_before_comparing_loses_nothing() {
    shuttle::check_random(|| poll_against_publish(true), SCHEDULES);
}

#[test]
fn comparing_before_registering_loses_a_change() {
    let lost = catch_unwind(AssertUnwindSafe(|| shuttle::check_random(|| poll_against_publish(false), SCHEDULES)));
    assert!(lost.is_err(), "the model must be able to see a lost change");
}

#[test]
fn every_watcher_hears_of_every_key_it_watches() {
    shuttle::check_random(
        || {
            let hub = Arc::new(Hub::default());
            let pollers: Vec<_> = (0..2)
                .map(|_| {
                    let mut watcher = hub.watch([key("a"), key("b")]);
                    thread::spawn(move || {
                        let mut heard = BTreeSet::new();
                        while heard.len() < 2 {
                            heard.extend(block_on(watcher.changed()));
                        }
                    })
                })
                .collect();
            let publishers: Vec<_> = ["a", "b"]
                .map(|name| {
                    let hub = hub.clone();
                    thread::spawn(move || hub.publish(&[key(name)]))
                })
                .into_iter()
                .collect();
            for thread in pollers.into_iter().chain(publishers) {
                thread.join().unwrap();
            }
            assert_eq!((hub.watcher_count(), hub.watched_key_count()), (0, 0));
        },
        SCHEDULES / 4,
    );
}

/// A watcher that goes while a publish is on its way leaves nothing behind, and hinders nobody.
#[test]
fn a_watcher_may_go_at_any_moment() {
    shuttle::check_random(
        || {
            let hub = Arc::new(Hub::default());
            let watcher = hub.watch([key("a")]);
            let mut stays = hub.watch([key("a")]);
            let publisher = thread::spawn({
                let hub = hub.clone();
                move || hub.publish(&[key("a")])
            });
            let goes = thread::spawn(move || drop(watcher));
            block_on(stays.changed());
            publisher.join().unwrap();
            goes.join().unwrap();
            assert_eq!((hub.watcher_count(), hub.watched_key_count()), (1, 1));
        },
        SCHEDULES / 4,
    );
}

/// A key that matches appears while a pattern is being watched: who registers first and compares second hears of it.
#[test]
fn a_pattern_hears_of_a_key_that_appears() {
    shuttle::check_random(
        || {
            let hub = Arc::new(Hub::default());
            let stored = Arc::new(AtomicU64::new(0));
            let publisher = thread::spawn({
                let (hub, stored) = (hub.clone(), stored.clone());
                move || {
                    stored.store(1, Ordering::SeqCst);
                    hub.publish(&[key("app-1")]);
                }
            });
            let mut watcher = hub.watch([]);
            watcher.add_pattern(&KeyPattern::parse("public>>g>>app-*").unwrap());
            if stored.load(Ordering::SeqCst) == 0 {
                assert_eq!(block_on(watcher.changed()), BTreeSet::from([key("app-1")]));
            }
            publisher.join().unwrap();
            drop(watcher);
            assert_eq!((hub.watcher_count(), hub.watched_pattern_count()), (0, 0));
        },
        SCHEDULES / 4,
    );
}
