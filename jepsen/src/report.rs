//! What a run leaves: the history, a report for programs, and words for whoever watches.
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    check::{Check, Verdict},
    history::{Delivery, Fault, History, Logged, Op, Outcome, Silence, Stand, StateAt},
};

/// What was run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub verdict: Verdict,
    pub seed: u64,
    pub nodes: usize,
    pub program: String,
    pub network: String,
    pub seconds: f64,
    /// Running processes that were killed, whatever the fault.
    pub kills: u64,
    /// Disks that lost what was not flushed.
    pub power_losses: u64,
    pub checking_seconds: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    #[serde(flatten)]
    meta: &'a Meta,
    counts: Counts,
    checks: &'a [Check],
    faults: &'a [Fault],
    states: &'a [StateAt],
}

#[derive(Default, Serialize)]
struct Counts {
    operations: usize,
    ok: usize,
    conflict: usize,
    fail: usize,
    info: usize,
    deliveries: usize,
}

impl Counts {
    fn of(history: &History) -> Self {
        let mut counts =
            Self { operations: history.ops.len(), deliveries: history.deliveries.len(), ..Self::default() };
        for op in &history.ops {
            *match op.outcome {
                Outcome::Ok => &mut counts.ok,
                Outcome::Conflict => &mut counts.conflict,
                Outcome::Fail => &mut counts.fail,
                Outcome::Info => &mut counts.info,
            } += 1;
        }
        counts
    }
}

/// `report.json`, `history.jsonl`, `timeline.html`.
pub fn write(out: &Path, meta: &Meta, checks: &[Check], history: &History) -> io::Result<()> {
    let (faults, states) = (&history.faults[..], &history.states[..]);
    let report = Report { meta, counts: Counts::of(history), checks, faults, states };
    std::fs::write(out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(out.join("timeline.html"), crate::timeline::page(meta, checks, history))?;
    let mut lines = BufWriter::new(File::create(out.join("history.jsonl"))?);
    all(&mut lines, "op", &history.ops)?;
    all(&mut lines, "delivery", &history.deliveries)?;
    all(&mut lines, "silence", &history.silences)?;
    all(&mut lines, "fault", &history.faults)?;
    all(&mut lines, "stand", &history.stands)?;
    all(&mut lines, "state", &history.states)?;
    all(&mut lines, "logged", &history.logs)?;
    all(&mut lines, "panic", &history.panics)?;
    all(&mut lines, "stray", &history.strays)?;
    all(&mut lines, "decoys", &[history.decoys])?;
    lines.flush()
}

fn all<T: Serialize>(lines: &mut impl Write, kind: &str, things: &[T]) -> io::Result<()> {
    things.iter().try_for_each(|it| writeln!(lines, "{}", serde_json::json!({ kind: it })))
}

/// Judges a history that was written before.
pub fn check_again(file: &Path) -> Result<Verdict, String> {
    let lines = BufReader::new(File::open(file).map_err(|err| format!("{}: {err}", file.display()))?).lines();
    let mut history = History::default();
    for line in lines {
        let line = line.map_err(|err| format!("{}: {err}", file.display()))?;
        let line = serde_json::from_str(&line).map_err(|err| format!("{}: {err}: {line}", file.display()))?;
        match line {
            Line::Op(it) => history.ops.push(it),
            Line::Delivery(it) => history.deliveries.push(it),
            Line::Silence(it) => history.silences.push(it),
            Line::Fault(it) => history.faults.push(it),
            Line::Stand(it) => history.stands.push(it),
            Line::State(it) => history.states.push(it),
            Line::Logged(it) => history.logs.push(it),
            Line::Panic(it) => history.panics.push(it),
            Line::Stray(it) => history.strays.push(it),
            Line::Decoys(it) => history.decoys += it,
        }
    }
    let checks = crate::check::all(&history);
    tell(&checks);
    Ok(checks.iter().fold(Verdict::True, |all, it| all.and(it.verdict)))
}

/// A line of a history.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Op(Op),
    Delivery(Delivery),
    Silence(Silence),
    Fault(Fault),
    Stand(Stand),
    State(StateAt),
    Logged(Logged),
    Panic(String),
    Stray(String),
    Decoys(u64),
}

fn tell(checks: &[Check]) {
    for check in checks {
        println!("{:<22} {:?} ({} looked at)", check.name, check.verdict, check.looked_at);
        check.notes.iter().for_each(|it| println!("    {it}"));
        check.shown.iter().for_each(|it| println!("  ! {it}"));
        if check.anomalies > check.shown.len() {
            println!("  ! and {} more", check.anomalies - check.shown.len());
        }
    }
}

/// Says what was found.
pub fn print(meta: &Meta, checks: &[Check], out: &Path) {
    tell(checks);
    let Meta { verdict, seed, seconds, kills, power_losses, checking_seconds, .. } = meta;
    println!("{kills} processes killed, {power_losses} disks lost power");
    println!("verdict {verdict:?}, seed {seed}, {seconds:.0} s, checked in {checking_seconds:.1} s; {}", out.display());
}
