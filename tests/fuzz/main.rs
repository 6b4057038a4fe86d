//! Bytes that others wrote: the corpus of every target, and what a seeded mutator makes of it.
//!
//! `CORACLE_FUZZ_SECONDS` is about how long each target goes on (1 unless told): it stands for a number of inputs, so that a
//! run with the same seed is the same on a faster machine. `CORACLE_FUZZ_SEED` tries others. A failure leaves its input in
//! a file and says the command that repeats it. `fuzz/run` does the same with libFuzzer.
#![allow(clippy::unwrap_used)]

mod mutator;
#[path = "../support/random.rs"]
mod random;
mod seeds;
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use mutator::Mutator;
use random::Random;
use targets::{TARGETS, Target, target};
use tokio::time::{Duration, Instant};

/// Longer inputs are cut: those of the corpus are shorter.
const INPUT_BYTES_MAX: usize = 16 << 10;

fn setting(name: &str) -> Option<String> {
    std::env::vars().find(|(it, _)| it == name).map(|(_, value)| value)
}

/// The corpus of a target, in a fixed order.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|it| it.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs one input; on a failure says how to repeat it.
fn run(target: &Target, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if outcome.is_ok() {
        return;
    }
    let hash = xxhash_rust::xxh3::xxh3_64(input);
    let path = std::env::temp_dir().join(format!("{}-{hash:016x}", target.name));
    fs::write(&path, input).unwrap();
    panic!(
        "{} fails. Repeat with: CORACLE_FUZZ_TARGET={} CORACLE_FUZZ_INPUT={} cargo test --test fuzz_corpus one_input",
        target.name,
        target.name,
        path.display()
    );
}

fn fuzz(name: &str) {
    let target = target(name);
    let seconds: f64 = setting("CORACLE_FUZZ_SECONDS").map_or(1.0, |it| it.parse().unwrap());
    let seed = setting("CORACLE_FUZZ_SEED").map_or(1, |it| it.parse().unwrap());
    let inputs = corpus(name);
    assert!(!inputs.is_empty(), "{name} has a corpus");
    inputs.iter().for_each(|input| run(target, input));
    let mut mutator = Mutator { random: Random(seed), words: target.words, bytes_max: INPUT_BYTES_MAX };
    let count = (seconds * f64::from(target.rate)) as u64;
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    for _ in 0..count {
        let input = mutator.input(&inputs);
        let begun = Instant::now();
        run(target, &input);
        slowest = slowest.max(begun.elapsed());
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    println!("{name}: {} of the corpus, {count} more of seed {seed}, {rate:.0}/s, slowest {slowest:?}", inputs.len());
    assert!(count > 0 || seconds == 0.0, "not one input was tried");
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($name));
            }
        )+
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! {
    listen_body names form http_request grpc_payload log_segment snapshot stored_rows peer_message settings
}

#[test]
fn every_target_has_a_test_and_a_dictionary() {
    let names: Vec<&str> = TARGETS.iter().map(|it| it.name).collect();
    assert_eq!(names, TESTED);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for target in TARGETS {
        let name = target.name;
        let words = fs::read_to_string(dir.join("dictionaries").join(name)).unwrap();
        assert_eq!(words, seeds::dictionary(target), "{name}: write_seeds writes the dictionaries");
    }
}

/// Repeats the input of `CORACLE_FUZZ_INPUT` with the target of `CORACLE_FUZZ_TARGET`; otherwise a failure is made, to show
/// that one is reported.
#[test]
fn one_input() {
    if let (Some(name), Some(path)) = (setting("CORACLE_FUZZ_TARGET"), setting("CORACLE_FUZZ_INPUT")) {
        return run(target(&name), &fs::read(path).unwrap());
    }
    let broken =
        Target { name: "broken", run: |input| assert!(input.len() < 3), words: &[], rate: 1, allocates: (0, 0) };
    let outcome = catch_unwind(|| run(&broken, b"four"));
    let why = outcome.unwrap_err().downcast_ref::<String>().unwrap().clone();
    let path = why.split(' ').find_map(|it| it.strip_prefix("CORACLE_FUZZ_INPUT=")).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"four");
    fs::remove_file(path).unwrap();
}
