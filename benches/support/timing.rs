//! Timing for benches: a rate over a span of time, shorter when `CORACLE_BENCH_BRIEF` is set.
#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use tokio::time::Instant;

/// Whether the benches are only to show that they run.
pub fn brief() -> bool {
    std::env::vars().any(|(name, _)| name == "CORACLE_BENCH_BRIEF")
}

/// How often something happens in a second; `work` says how often it happened in one call.
pub fn per_second(span: Duration, mut work: impl FnMut() -> u64) -> f64 {
    let span = if brief() { span / 20 } else { span };
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < span {
        count += work();
    }
    count as f64 / started.elapsed().as_secs_f64()
}
