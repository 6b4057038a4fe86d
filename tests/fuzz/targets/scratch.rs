//! A folder for one thread, in memory where the system has such a place.
use std::path::{Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    static SCRATCH: TempDir = {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        made.or_else(|_| tempfile::tempdir()).unwrap()
    };
}

/// The path of a file in it.
pub fn file(name: &str) -> PathBuf {
    SCRATCH.with(|it| it.path().join(name))
}
