//! Folders whose names survive a loss of power.
use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Makes a folder, and those above it that are missing. The name of each is durable on return: a file in a folder can be
/// flushed as often as one likes, it is lost with the folder's name.
///
/// # Errors
/// When a folder cannot be made or flushed.
pub fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = folder_of(path);
    create(parent)?;
    match fs::create_dir(path) {
        // Somebody else was faster.
        Err(_) if path.is_dir() => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}

/// Gives a file another name. The name is durable on return: until then a loss of power may bring the old one back, whatever
/// was flushed elsewhere meanwhile.
///
/// # Errors
/// When the file cannot be renamed, or the folder not be flushed.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    File::open(folder_of(to))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_folders_are_made_and_a_file_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create(&deep).unwrap();
        create(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create(&dir.path().join("file")).is_err());
        assert!(create(&dir.path().join("file/below")).is_err());
    }
}
