//! The command line: arguments to client calls, answers to text, errors to exit codes.
mod cluster;
mod config;

use std::{fmt, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::client::{Client, Error};

/// How a command ends, for scripts. The numbers are a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code: 1 other, 2 usage, 3 not found, 5 conflict, 6 unreachable or unknown outcome, 7 not ready.
    pub code: u8,
    /// What went wrong; empty when it has been said.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure without a better code.
    pub fn other(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string(), hint: String::new() }
    }

    fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string(), hint: "see `coracle --help`".into() }
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        let (code, hint) = match &err {
            Error::NotFound => (3, ""),
            Error::Conflict => (5, "read it again, merge, and pass its md5 with --if-md5"),
            Error::Invalid(_) => (2, ""),
            Error::Unavailable(_) => (7, "nothing was written; try again"),
            Error::OutcomeUnknown(_) => (6, "the write may have happened: read back before trying again"),
            Error::Unreachable(_) => (6, "is the server running? Name it with --server HOST:PORT"),
            Error::Unexpected(_) => (1, "is that a coracle or Nacos server?"),
        };
        Self { code, message: err.to_string(), hint: hint.into() }
    }
}

/// What the program is asked to do.
pub enum Action {
    /// Run a server: flags, settings file, whether only to print the settings.
    Server(Vec<(String, String)>, Option<PathBuf>, bool),
    /// Read or write configurations.
    Config(ArgMatches),
    /// See or change the cluster.
    Cluster(ArgMatches),
}

/// A flag of the server, as the settings table has it.
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// Shown by `--help`.
    pub help: &'static str,
    /// Shown by `--help` when it is not empty.
    pub default: &'static str,
    /// Whether it takes no value.
    pub switch: bool,
}

fn server(flags: &[Flag]) -> Command {
    let mut command = Command::new("server")
        .about("Run a server")
        .after_help("Every flag is also a variable (--foo-bar is CORACLE_FOO_BAR) and a key of the settings file.")
        .arg(Arg::new("config").long("config").value_name("FILE").help("A settings file, in TOML"))
        .arg(
            Arg::new("print-settings")
                .long("print-settings")
                .action(ArgAction::SetTrue)
                .help("Print each setting and where it came from, and exit"),
        );
    for flag in flags {
        let mut arg = Arg::new(flag.name).long(flag.name);
        arg = if flag.switch {
            arg.action(ArgAction::SetTrue).help(flag.help)
        } else {
            let default = if flag.default.is_empty() { String::new() } else { format!(" [default: {}]", flag.default) };
            arg.value_name("VALUE").help(format!("{}{default}", flag.help))
        };
        command = command.arg(arg);
    }
    command
}

fn command(flags: &[Flag]) -> Command {
    let global = |name: &'static str, variable: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).env(variable).default_value(default).global(true).help(help)
    };
    let ask = |command: Command| {
        command.infer_subcommands(true).subcommand_required(true).arg_required_else_help(true).arg(global(
            "server",
            "CORACLE_SERVER",
            "127.0.0.1:8848",
            "HOST:PORT, or several separated by commas",
        ))
    };
    let config = ask(Command::new("config").visible_alias("cfg").about("Read and write configurations"))
        .arg(global("namespace", "CORACLE_NAMESPACE", "", "The namespace; public unless set").short('n'))
        .arg(global("group", "CORACLE_GROUP", "DEFAULT_GROUP", "The group").short('g'));
    Command::new("coracle")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A configuration centre in one binary that speaks the Nacos protocol")
        .after_help(
            "Exit codes: 0 done, 1 other failure, 2 wrong usage, 3 not found, 5 conflict, 6 unreachable or outcome \
             unknown, 7 not ready.",
        )
        .infer_subcommands(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(server(flags))
        .subcommand(config::commands(config))
        .subcommand(cluster::commands(ask(Command::new("cluster").about("See and change the cluster"))))
}

/// Reads the arguments. Ends the process for `--help`, `--version` and wrong usage, as is custom.
pub fn parse(flags: &[Flag]) -> Action {
    let mut matches = command(flags).get_matches();
    match matches.remove_subcommand() {
        Some((name, matches)) if name == "server" => {
            let given = |name: &str| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
            let value = |flag: &Flag| {
                if flag.switch {
                    "true".to_owned()
                } else {
                    matches.get_one::<String>(flag.name).cloned().unwrap_or_default()
                }
            };
            let flags = flags.iter().filter(|flag| given(flag.name));
            let flags = flags.map(|flag| (flag.name.to_owned(), value(flag))).collect();
            let file = matches.get_one::<String>("config").map(PathBuf::from);
            Action::Server(flags, file, matches.get_flag("print-settings"))
        }
        Some((name, matches)) if name == "cluster" => Action::Cluster(matches),
        Some((_, matches)) => Action::Config(matches),
        // Not reached: a subcommand is required.
        None => Action::Config(matches),
    }
}

/// Asks a server.
///
/// # Errors
/// [`Failure`], with the exit code of the process.
pub async fn ask(action: Action) -> Result<(), Failure> {
    match action {
        Action::Config(matches) => config::run(&matches).await,
        Action::Cluster(matches) => cluster::run(&matches).await,
        Action::Server(_, _, _) => Err(Failure::usage("a server is run, not asked")),
    }
}

fn client(matches: &ArgMatches, namespace: &str, group: &str) -> Result<Client, Failure> {
    let mut builder = Client::builder().namespace(namespace).group(group);
    for server in text(matches, "server").split(',').map(str::trim).filter(|it| !it.is_empty()) {
        builder = builder.server(server.trim_start_matches("http://").trim_end_matches('/'));
    }
    Ok(builder.build()?)
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", |it| it)
}
