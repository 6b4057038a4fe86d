//! Starts real `coracle` clusters, breaks them, and checks what they promised. What it does and what it found: README.md.
mod check;
mod client;
mod cluster;
mod disk;
mod grpc;
mod history;
mod http;
mod keys;
mod logfile;
mod nemesis;
mod net;
mod random;
mod recorder;
mod report;
mod run;
mod streamer;
mod subscriber;
mod timeline;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Parser;

use check::Verdict;
use net::Namespaces;
use run::Options;

/// How long the plan of `--ci` may go on breaking things; starting and judging come on top.
const CI_FAULTS: Duration = Duration::from_secs(265);
const CI_BASELINE: Duration = Duration::from_secs(10);
const SHORT_BASELINE: Duration = Duration::from_secs(3);

/// Starts a cluster, breaks it, and checks what it promised.
#[derive(Debug, Parser)]
struct Arguments {
    /// The plan of five minutes.
    #[arg(long)]
    ci: bool,
    /// Faults for so many seconds, in an order that the seed says.
    #[arg(long, value_name = "SECONDS")]
    short: Option<u64>,
    /// Faults for so many hours.
    #[arg(long, value_name = "HOURS")]
    soak: Option<f64>,
    /// Decides what clients ask and in which order things break.
    #[arg(long)]
    seed: Option<u64>,
    /// Three or five.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Only faults whose kind begins so, or with one of several between commas.
    #[arg(long)]
    only: Option<String>,
    /// Milliseconds from one operation of a client to its next.
    #[arg(long, default_value_t = 45)]
    pace: u64,
    /// Entries between two snapshots of a node: so few that snapshots and purges happen all the time.
    #[arg(long, default_value_t = 400)]
    snapshot_entries: u64,
    /// The server [target/release/coracle, ../target/release/coracle].
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where history and reports go [target/jepsen].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Without network namespaces.
    #[arg(long)]
    loopback: bool,
    /// Judges a history again.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// The namespaces that this process was put into.
    #[arg(long, hide = true)]
    inside: Option<String>,
}

fn main() -> ExitCode {
    match start() {
        Ok(Verdict::True) => ExitCode::SUCCESS,
        Ok(Verdict::False) => ExitCode::from(1),
        Ok(Verdict::Unknown) => ExitCode::from(2),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(3)
        }
    }
}

fn start() -> Result<Verdict, String> {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.check {
        return report::check_again(file);
    }
    if let Some(prefix) = arguments.inside.clone() {
        return run_here(arguments, Ok(prefix));
    }
    if arguments.loopback {
        return run_here(arguments, Err("asked for".into()));
    }
    let prefix = format!("cj{}n", std::process::id());
    match Namespaces::new(&prefix, arguments.nodes) {
        Ok(namespaces) => run_inside(&namespaces, &prefix),
        Err(err) => {
            println!("no network namespaces here, so on loopback: {err}");
            run_here(arguments, Err(err.to_string()))
        }
    }
}

/// Runs this program again where it can reach the nodes.
fn run_inside(namespaces: &Namespaces, prefix: &str) -> Result<Verdict, String> {
    let itself = std::env::current_exe().map_err(|err| err.to_string())?;
    let status = Command::new("ip")
        .args(["netns", "exec", &namespaces.control()])
        .arg(itself)
        .args(["--inside", prefix])
        .args(std::env::args_os().skip(1))
        .status()
        .map_err(|err| err.to_string())?;
    match status.code() {
        Some(0) => Ok(Verdict::True),
        Some(1) => Ok(Verdict::False),
        Some(2) => Ok(Verdict::Unknown),
        Some(_) | None => Err(format!("the run ended: {status}")),
    }
}

fn run_here(arguments: Arguments, namespaces: Result<String, String>) -> Result<Verdict, String> {
    let options = options(arguments, namespaces)?;
    println!("seed {}, {} nodes of {}", options.seed, options.nodes, options.program.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|err| err.to_string())?;
    runtime.block_on(run::run(options))
}

fn options(arguments: Arguments, namespaces: Result<String, String>) -> Result<Options, String> {
    let candidates = match arguments.program {
        Some(program) => vec![program],
        None => vec!["target/release/coracle".into(), "../target/release/coracle".into()],
    };
    let program = candidates.iter().find_map(|it| it.canonicalize().ok());
    let program =
        program.ok_or_else(|| format!("there is no {}: build it first, or say --program", candidates[0].display()))?;
    let out = arguments.out.unwrap_or_else(|| "target/jepsen".into());
    std::fs::create_dir_all(&out).map_err(|err| format!("{}: {err}", out.display()))?;
    let out = out.canonicalize().map_err(|err| format!("{}: {err}", out.display()))?;
    let (baseline, faults_until, repeat) = match (arguments.short, arguments.soak) {
        (Some(seconds), _) => (SHORT_BASELINE, Duration::from_secs(seconds), true),
        (None, Some(hours)) => (CI_BASELINE, Duration::from_secs_f64(hours * 3_600.0), true),
        (None, None) => (CI_BASELINE, CI_FAULTS, false),
    };
    if arguments.nodes < 3 {
        return Err("faults need three nodes or more".into());
    }
    Ok(Options {
        program,
        nodes: arguments.nodes,
        seed: arguments.seed.unwrap_or_else(|| u64::from(std::process::id())),
        out,
        baseline,
        faults_until,
        repeat,
        in_order: arguments.ci || arguments.only.is_some(),
        only: arguments.only,
        pace: Duration::from_millis(arguments.pace.max(1)),
        snapshot_entries: arguments.snapshot_entries,
        namespaces,
    })
}
