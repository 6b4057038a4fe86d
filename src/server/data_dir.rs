//! The data directory: who may use it, whose it is, and of which format.
use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::storage::folder;

/// The format that this program writes.
const FORMAT: u32 = 1;

/// What a directory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NodeMode {
    Standalone,
    Member,
}

/// Whose a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// 0 for a standalone node.
    pub(super) node: u64,
    /// 0 until it is known.
    #[serde(with = "hex")]
    pub(super) cluster: u64,
    pub(super) mode: NodeMode,
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(deserializer)?, 16).map_err(D::Error::custom)
    }
}

/// An open directory. Nobody else can open it for as long as this lives.
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a directory cannot be used; says what to do, in a sentence.
#[derive(Debug)]
pub(super) struct OpenError(String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

impl DataDir {
    /// Creates the directory if it is not there, and takes it for this process.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let shown = path.display();
        let unusable = |what: &str, err: io::Error| {
            OpenError(format!("cannot {what} {shown}: {err}; name a directory that can be written with --data"))
        };
        if path.exists() && !path.is_dir() {
            return Err(OpenError(format!("{shown} is not a directory; name another one with --data")));
        }
        folder::create(path).map_err(|err| unusable("create the data directory", err))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("LOCK"))
            .map_err(|err| unusable("write to the data directory", err))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = lock.read_to_string(&mut holder);
                let holder = if read.is_ok() { holder.trim() } else { "" };
                return Err(OpenError(format!(
                    "{shown} is in use by coracle pid {holder}; stop it, or name another directory with --data"
                )));
            }
            Err(TryLockError::Error(err)) => return Err(unusable("lock the data directory", err)),
        }
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{}", std::process::id()));
        written.map_err(|err| unusable("write to the data directory", err))?;
        let dir = Self { path: path.to_owned(), _lock: lock };
        dir.check_format()?;
        Ok(dir)
    }

    fn check_format(&self) -> Result<(), OpenError> {
        let path = self.path.join("FORMAT");
        let shown = path.display();
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(FORMAT) => Ok(()),
                Ok(newer) if newer > FORMAT => Err(OpenError(format!(
                    "{} was written in format {newer} by a newer coracle; this one knows {FORMAT}: start the newer one",
                    self.path.display()
                ))),
                Ok(_) | Err(_) => Err(OpenError(format!("{shown} does not say which format the data is in"))),
            },
            Err(err) if err.kind() == io::ErrorKind::NotFound => replace(&path, FORMAT.to_string().as_bytes())
                .map_err(|err| OpenError(format!("cannot write {shown}: {err}; is the disk full?"))),
            Err(err) => Err(OpenError(format!("cannot read {shown}: {err}"))),
        }
    }

    /// Whose the directory is; `None` if it is new.
    pub(super) fn identity(&self) -> Result<Option<Identity>, OpenError> {
        let path = self.path.join("identity.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|err| {
                OpenError(format!("{} cannot be understood ({err}); put it back from a backup", path.display()))
            }),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(OpenError(format!("cannot read {}: {err}", path.display()))),
        }
    }

    /// Says whose the directory is; durable on return.
    pub(super) fn save_identity(&self, identity: &Identity) -> Result<(), OpenError> {
        let path = self.path.join("identity.json");
        let failed = |err: io::Error| OpenError(format!("cannot write {}: {err}", path.display()));
        let text = serde_json::to_vec(identity).map_err(|err| failed(io::Error::other(err)))?;
        replace(&path, &text).map_err(failed)
    }

    pub(super) fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// For the state and its snapshots.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.path.join("data")
    }
}

/// Replaces a file: after a crash it is the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    folder::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let err = DataDir::open(dir.path()).err().unwrap().to_string();
        assert!(err.contains(&format!("is in use by coracle pid {}", std::process::id())), "{err}");
        drop(first);
        assert!(DataDir::open(dir.path()).is_ok());
    }

    #[test]
    fn it_remembers_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(data.identity().unwrap(), None);
        let identity = Identity { node: 3, cluster: u64::MAX - 1, mode: NodeMode::Member };
        data.save_identity(&identity).unwrap();
        assert_eq!(data.identity().unwrap(), Some(identity));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let cases = [(file.clone(), "is not a directory"), (file.join("below"), "cannot create")];
        for (path, expected) in cases {
            let err = DataDir::open(&path).err().unwrap().to_string();
            assert!(err.contains(expected) && err.contains("--data"), "{err}");
        }
        fs::write(dir.path().join("FORMAT"), "99").unwrap();
        assert!(DataDir::open(dir.path()).err().unwrap().to_string().contains("newer coracle"));
    }
}
