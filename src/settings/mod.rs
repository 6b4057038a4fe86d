//! The server's settings: flag before environment before file before default. One table names them all; flags, variables
//! and file keys follow from it by rule.
use std::{collections::BTreeMap, fmt, path::Path};

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The flag is `--name`, the variable `CORACLE_NAME` (with `_` for `-`), the file key `name`.
    pub name: &'static str,
    /// What counts when nobody says anything; empty: not set.
    pub default: &'static str,
    /// Whether it is on or off, and the flag takes no value.
    pub switch: bool,
    /// One line for `--help`.
    pub help: &'static str,
}

const fn value(name: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { name, default, switch: false, help }
}

const fn switch(name: &'static str, help: &'static str) -> Key {
    Key { name, default: "false", switch: true, help }
}

/// All settings.
pub const KEYS: &[Key] = &[
    switch("standalone", "Run one node without consensus"),
    value("node-id", "", "This node's id in a cluster: 1 or more, never used again for another disk"),
    value("members", "", "All members as ID=HOST:PORT,… where they talk to each other; the same list on every node"),
    switch("join", "Do not form a cluster: wait to be added with `coracle cluster add`"),
    value("data", "coracle-data", "The directory for log, state and snapshots"),
    value("listen", "127.0.0.1", "The address to serve HTTP and gRPC on; 0.0.0.0 lets other machines in"),
    value("port", "8848", "The port to serve HTTP on; gRPC is served on port + 1000"),
    value("member-port", "", "The port for other members; --port - 1000 unless set"),
    value("member-listen", "", "The address to listen on for other members; that of this node in --members unless set"),
    value("reads", "local", "What a read promises that does not ask for more: local or linearizable"),
    value("max-content", "10m", "The largest content, in bytes; k and m are understood"),
    value("snapshot-entries", "20000", "Write a snapshot after this many entries"),
    value("heartbeat-ms", "150", "How often a leader says that it is there"),
    value("election-min-ms", "400", "Campaign after at least this long without a leader"),
    value("election-max-ms", "600", "Campaign after at most this long without a leader"),
    value("log-format", "auto", "auto, text or json; auto is text on a terminal"),
    value("log-level", "info", "error, warn, info, debug, trace, or a filter like coracle::raft=debug,info"),
    switch("quiet", "Do not print the block of facts at the start"),
];

/// Variables of this prefix are settings.
const PREFIX: &str = "CORACLE_";
/// Variables of the same prefix that are for the command line, not the server.
const OTHER_VARIABLES: &[&str] = &["CORACLE_SERVER", "CORACLE_NAMESPACE", "CORACLE_GROUP", "CORACLE_CONFIG"];

/// The variable of a setting.
pub fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A key of the settings file.
    File(String),
    /// A variable of the environment.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Settings that cannot be used; says what to do, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

/// All values, with where they came from.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, (String, Origin)>,
    /// Variables that look like settings and are none, with the nearest that is.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Lays flags over variables over a file over defaults.
    ///
    /// # Errors
    /// [`SettingsError`] for a file that cannot be read, and for unknown keys in it.
    pub fn load(
        flags: impl IntoIterator<Item = (String, String)>,
        variables: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let defaults = KEYS.iter().map(|key| (key.name, (key.default.to_owned(), Origin::Default)));
        let mut settings = Self { values: defaults.collect(), warnings: Vec::new() };
        if let Some(path) = file {
            settings.read_file(path)?;
        }
        for (variable_name, value) in variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            match KEYS.iter().find(|key| variable(key.name) == variable_name) {
                Some(key) => settings.set(key.name, value, Origin::Environment(variable_name)),
                None if OTHER_VARIABLES.contains(&&*variable_name) => {}
                None => {
                    let nearest = nearest(&variable_name, KEYS.iter().map(|key| variable(key.name)));
                    settings.warnings.push(format!("{variable_name} is not a setting; did you mean {nearest}?"));
                }
            }
        }
        for (name, value) in flags {
            match KEYS.iter().find(|key| key.name == name) {
                Some(key) => settings.set(key.name, value, Origin::Flag),
                None => return Err(SettingsError(format!("--{name} is not a setting"))),
            }
        }
        Ok(settings)
    }

    fn set(&mut self, name: &'static str, value: String, origin: Origin) {
        self.values.insert(name, (value, origin));
    }

    fn read_file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|err| SettingsError(format!("cannot read the settings file {shown}: {err}")))?;
        let table: toml::Table =
            text.parse().map_err(|err| SettingsError(format!("the settings file {shown} is not TOML: {err}")))?;
        for (name, value) in table {
            let Some(key) = KEYS.iter().find(|key| key.name == name) else {
                let nearest = nearest(&name, KEYS.iter().map(|key| key.name.to_owned()));
                return Err(SettingsError(format!("{shown}: {name:?} is not a setting; did you mean {nearest:?}?")));
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(_) | toml::Value::Boolean(_) => value.to_string(),
                toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                    return Err(SettingsError(format!("{shown}: {name} must be a text, a number, true or false")));
                }
            };
            self.set(key.name, text, Origin::File(shown.to_string()));
        }
        Ok(())
    }

    /// The text of a setting; `None` when it is not set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.trim()).filter(|it| !it.is_empty())
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`SettingsError`] that names the setting, where its value came from, and what it must be.
    pub fn parse<T: std::str::FromStr>(&self, name: &str, must_be: &str) -> Result<Option<T>, SettingsError> {
        self.text(name).map(|text| text.parse().map_err(|_| self.wrong(name, must_be))).transpose()
    }

    /// Whether a switch is on.
    ///
    /// # Errors
    /// [`SettingsError`] for something else than `true` and `false`.
    pub fn on(&self, name: &str) -> Result<bool, SettingsError> {
        Ok(self.parse(name, "true or false")?.unwrap_or_default())
    }

    /// A number of bytes, with `k` or `m` behind it or not.
    ///
    /// # Errors
    /// [`SettingsError`] for anything else.
    pub fn bytes(&self, name: &str) -> Result<Option<usize>, SettingsError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let lower = text.to_ascii_lowercase();
        let (number, unit) = match (lower.strip_suffix('k'), lower.strip_suffix('m')) {
            (Some(number), _) => (number, 1 << 10),
            (None, Some(number)) => (number, 1 << 20),
            (None, None) => (&*lower, 1),
        };
        let number: Option<usize> = number.trim().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(unit));
        bytes.map(Some).ok_or_else(|| self.wrong(name, "a number of bytes, like 512k or 10m"))
    }

    /// The error for a value that cannot be used.
    pub fn wrong(&self, name: &str, must_be: &str) -> SettingsError {
        let (value, origin) = self.values.get(name).map_or(("", &Origin::Default), |(value, origin)| (value, origin));
        SettingsError(format!("{name} is {value:?} ({origin}), but must be {must_be}"))
    }

    /// Each value and where it came from, a line each, aligned.
    pub fn print(&self) -> String {
        let lines = KEYS.iter().map(|key| {
            let (value, origin) = &self.values[key.name];
            let shown = if value.is_empty() { "-" } else { value };
            format!("{:<18} {shown:<24} {origin}\n", key.name)
        });
        lines.collect()
    }
}

/// The nearest of some names, by the number of letters to change (Levenshtein).
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    candidates.min_by_key(|it| distance(name, it)).unwrap_or_default()
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn flag_goes_before_environment_before_file_before_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("coracle.toml");
        std::fs::write(&file, "port = 1\ndata = \"from-file\"\nlisten = \"from-file\"\nquiet = true\n").unwrap();
        let settings = Settings::load(
            pairs(&[("port", "3")]),
            pairs(&[("CORACLE_PORT", "2"), ("CORACLE_DATA", "from-env"), ("HOME", "/root")]),
            Some(&file),
        )
        .unwrap();
        let got = ["port", "data", "listen", "max-content"].map(|name| settings.text(name).unwrap().to_owned());
        assert_eq!(got, ["3", "from-env", "from-file", "10m"]);
        assert!(settings.on("quiet").unwrap());
        let printed = settings.print();
        for line in ["port               3                        flag", "environment CORACLE_DATA", "default"] {
            assert!(printed.contains(line), "{line:?} in\n{printed}");
        }
        assert_eq!(printed.lines().count(), KEYS.len());
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest_known_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("coracle.toml");
        std::fs::write(&file, "prot = 1\n").unwrap();
        let err = Settings::load([], [], Some(&file)).unwrap_err();
        assert!(err.0.contains("did you mean \"port\"?"), "{err}");
        let settings = Settings::load([], pairs(&[("CORACLE_NOD_ID", "1"), ("CORACLE_SERVER", "x")]), None).unwrap();
        assert_eq!(settings.warnings, ["CORACLE_NOD_ID is not a setting; did you mean CORACLE_NODE_ID?"]);
    }

    #[test]
    fn wrong_values_say_where_they_came_from() {
        let settings = Settings::load([], pairs(&[("CORACLE_PORT", "x"), ("CORACLE_QUIET", "maybe")]), None).unwrap();
        let err = settings.parse::<u16>("port", "a port").unwrap_err();
        assert_eq!(err.0, "port is \"x\" (environment CORACLE_PORT), but must be a port");
        assert!(settings.on("quiet").is_err());
    }

    #[test]
    fn bytes_have_units() {
        for (text, expected) in [("1", Some(1)), ("2k", Some(2048)), ("10M", Some(10 << 20)), ("x", None), ("-1", None)]
        {
            let settings = Settings::load(pairs(&[("max-content", text)]), [], None).unwrap();
            assert_eq!(settings.bytes("max-content").ok().flatten(), expected, "{text}");
        }
    }

    #[test]
    fn every_setting_has_a_name_that_fits_all_three_places() {
        for key in KEYS {
            assert!(key.name.bytes().all(|it| it.is_ascii_lowercase() || it == b'-'), "{}", key.name);
            assert!(!key.help.is_empty() && !OTHER_VARIABLES.contains(&&*variable(key.name)), "{}", key.name);
        }
    }
}
