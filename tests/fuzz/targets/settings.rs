//! A settings file and, after `---`, lines of the environment.
//!
//! A file is taken or refused in words that name it. What is taken has a value for every setting, can be printed, and says
//! where each value came from: the environment goes before the file.
use std::fs;

use coracle::settings::{KEYS, Origin, Settings, variable};

use super::{http::split, scratch};

pub const WORDS: &[&str] = &[
    "port = 1\n",
    "data = \"d\"\n",
    "quiet = true\n",
    "standalone = false\n",
    "max-content = \"10m\"\n",
    "members = \"1=a:1,2=b:2\"\n",
    "\n---\n",
    "CORACLE_PORT=1\n",
    "CORACLE_MAX_CONTENT=18446744073709551615k\n",
    "\"\"\"",
    "[[",
    "[a.b]\n",
    "{ a = ",
    "\\u0000",
    "1979-05-27T07:32:00Z",
    "0x",
    "nan",
];

pub fn run(input: &[u8]) {
    let parts = split(input, b"\n---\n");
    let variables: Vec<(String, String)> = String::from_utf8_lossy(parts.get(1).copied().unwrap_or_default())
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let path = scratch::file("settings.toml");
    fs::write(&path, parts[0]).unwrap();
    let settings = match Settings::load([], variables.clone(), Some(&path)) {
        Ok(settings) => settings,
        Err(err) => {
            assert!(err.0.contains("settings.toml"), "{err}");
            return;
        }
    };
    for key in KEYS {
        let bytes = settings.bytes(key.name);
        if let (Ok(Some(bytes)), Some(text)) = (&bytes, settings.text(key.name)) {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            assert!(digits.parse::<usize>().is_ok_and(|number| number <= *bytes), "{text} is {bytes}");
        }
        for err in [bytes.err(), settings.on(key.name).err(), settings.parse::<u16>(key.name, "a port").err()] {
            assert!(err.is_none_or(|err| err.0.starts_with(key.name)));
        }
        let said = variables.iter().rev().find(|(name, _)| *name == variable(key.name));
        if let Some((name, value)) = said {
            assert_eq!(settings.text(key.name).unwrap_or_default(), value.trim());
            let origin = Origin::Environment(name.clone()).to_string();
            assert!(settings.wrong(key.name, "x").0.contains(&origin));
        }
    }
    assert!(settings.print().lines().count() >= KEYS.len());
    assert!(settings.warnings.len() <= variables.len());
}
