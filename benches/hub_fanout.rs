//! Question: how long does a change of one key take to mark and wake all who watch it, and how long does a poll take to
//! register and leave?
use std::{future::Future, pin::pin, sync::Arc, task::Context, time::Duration};

use coracle::{
    types::{ConfigKey, NamespaceId},
    watch::Hub,
};

#[path = "support/timing.rs"]
mod timing;

fn main() {
    let key = |number: usize| ConfigKey::new(&NamespaceId::public(), "g", &format!("k{number}")).expect("a legal name");
    for count in [1, 100, 5_000, 50_000] {
        let hub = Arc::<Hub>::default();
        let mut watchers: Vec<_> = (0..count).map(|_| hub.watch([key(0)])).collect();
        let changed = [key(0)];
        let rate = timing::per_second(Duration::from_secs(1), || {
            hub.publish(&changed);
            for watcher in &mut watchers {
                let mut taken = pin!(watcher.changed());
                assert!(taken.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready());
            }
            1
        });
        println!("{count:>6} watchers of one key: {:>9.1} µs for a change, taking included", 1e6 / rate);
    }
    for keys in [1, 3_000] {
        let hub = Arc::<Hub>::default();
        let keys: Vec<ConfigKey> = (0..keys).map(key).collect();
        let rate = timing::per_second(Duration::from_secs(1), || {
            drop(hub.watch(keys.iter().cloned()));
            1
        });
        println!("{:>6} keys: {:>9.1} µs to register and leave", keys.len(), 1e6 / rate);
    }
}
