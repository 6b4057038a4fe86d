//! The program: arguments, then a server or a question to one, then an exit code.
use std::{io::IsTerminal, process::ExitCode};

use coracle::{
    cli::{self, Action, Failure, Flag},
    server,
    settings::{KEYS, Settings},
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let flags: Vec<Flag> = KEYS
        .iter()
        .map(|key| Flag { name: key.name, help: key.help, default: key.default, switch: key.switch })
        .collect();
    match run(cli::parse(&flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message, hint }) => {
            eprintln!("error: {message}");
            if !hint.is_empty() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(code)
        }
    }
}

fn run(action: Action) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|err| Failure::other(format!("cannot start: {err}")))?;
    match action {
        Action::Server(flags, file, print) => {
            let settings = Settings::load(flags, std::env::vars(), file.as_deref()).map_err(Failure::other)?;
            if print {
                print!("{}", settings.print());
                return Ok(());
            }
            log_to_stderr(&settings)?;
            for warning in &settings.warnings {
                tracing::warn!("{warning}");
            }
            runtime.block_on(server::run(&settings)).map_err(Failure::other)
        }
        action @ (Action::Config(_) | Action::Cluster(_)) => runtime.block_on(cli::ask(action)),
    }
}

/// Whose words are left out.
const CONSENSUS: &str = "openraft";

fn log_to_stderr(settings: &Settings) -> Result<(), Failure> {
    let level = settings.text("log-level").unwrap_or("info");
    // What consensus says below "error" is for its authors, and much while a member is away; its front door says that
    // somebody has not waited for an answer. Who wants to read it names it.
    let filter = EnvFilter::try_new(format!("{CONSENSUS}=error,{CONSENSUS}::raft=off,{level}"));
    let filter =
        filter.map_err(|err| Failure::other(settings.wrong("log-level", &format!("a level or a filter ({err})"))))?;
    let json = match settings.text("log-format") {
        Some("json") => true,
        Some("text") => false,
        Some("auto") | None => !std::io::stderr().is_terminal(),
        Some(_) => return Err(Failure::other(settings.wrong("log-format", "auto, text or json"))),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init()
    } else {
        builder.init()
    }
    Ok(())
}
