//! A disk that forgets what was not flushed. What is written is live at once; it becomes durable when the file is flushed,
//! and a name does when its folder is. Losing power leaves what is durable, or, torn, also some sectors of what is not.
pub mod mount;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    time::SystemTime,
};

use crate::random::Random;

/// Disks write a sector whole or not at all.
const SECTOR: usize = 512;
/// The number of the folder that is mounted.
pub const ROOT: u64 = 1;
/// How often to look for a byte that is worth damaging.
const LOOKS_MAX: usize = 100_000;

/// What went wrong, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    NoEntry,
    Exists,
    NotEmpty,
    NotFolder,
    IsFolder,
    Full,
    Io,
}

#[derive(Debug, Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Start and length of what was written since the last flush, in order.
    dirty: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Default)]
struct Folder {
    live: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

#[derive(Debug, Clone)]
enum Node {
    File(File),
    Folder(Folder),
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub number: u64,
    pub is_folder: bool,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// What a loss of power took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    pub bytes: u64,
    pub names: u64,
    /// Bytes of what was not durable that are there all the same.
    pub torn_bytes: u64,
}

/// The disk.
pub struct Disk {
    nodes: HashMap<u64, Node>,
    modified: HashMap<u64, SystemTime>,
    open: HashMap<u64, u32>,
    next: u64,
    /// Bytes of all live files.
    used: u64,
    /// Growing beyond this many bytes fails.
    pub used_max: u64,
    /// Every flush of a file fails.
    pub flushes_fail: bool,
    /// How many requests were failed on purpose.
    pub failed: u64,
    /// How often the power went.
    pub crashes: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Folder(Folder::default()))]),
            modified: HashMap::new(),
            open: HashMap::new(),
            next: ROOT + 1,
            used: 0,
            used_max: u64::MAX,
            flushes_fail: false,
            failed: 0,
            crashes: 0,
        }
    }
}

impl Disk {
    /// Bytes of all live files.
    pub fn used(&self) -> u64 {
        self.used
    }

    fn folder(&mut self, number: u64) -> Result<&mut Folder, Failure> {
        match self.nodes.get_mut(&number) {
            Some(Node::Folder(folder)) => Ok(folder),
            Some(Node::File(_)) => Err(Failure::NotFolder),
            None => Err(Failure::NoEntry),
        }
    }

    fn file(&mut self, number: u64) -> Result<&mut File, Failure> {
        match self.nodes.get_mut(&number) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Folder(_)) => Err(Failure::IsFolder),
            None => Err(Failure::NoEntry),
        }
    }

    pub fn lookup(&mut self, parent: u64, name: &OsStr) -> Result<Stat, Failure> {
        let number = *self.folder(parent)?.live.get(name).ok_or(Failure::NoEntry)?;
        self.stat(number)
    }

    pub fn stat(&self, number: u64) -> Result<Stat, Failure> {
        let (is_folder, bytes) = match self.nodes.get(&number).ok_or(Failure::NoEntry)? {
            Node::File(file) => (false, file.live.len() as u64),
            Node::Folder(_) => (true, 0),
        };
        let modified = self.modified.get(&number).copied().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Stat { number, is_folder, bytes, modified })
    }

    pub fn create(&mut self, parent: u64, name: &OsStr, is_folder: bool) -> Result<Stat, Failure> {
        if self.folder(parent)?.live.contains_key(name) {
            return Err(Failure::Exists);
        }
        let number = self.next;
        self.next += 1;
        let node = if is_folder { Node::Folder(Folder::default()) } else { Node::File(File::default()) };
        self.nodes.insert(number, node);
        self.folder(parent)?.live.insert(name.to_owned(), number);
        self.stat(number)
    }

    pub fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Failure> {
        let number = *self.folder(parent)?.live.get(name).ok_or(Failure::NoEntry)?;
        if let Some(Node::Folder(folder)) = self.nodes.get(&number)
            && !folder.live.is_empty()
        {
            return Err(Failure::NotEmpty);
        }
        self.folder(parent)?.live.remove(name);
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Failure> {
        let number = *self.folder(from.0)?.live.get(from.1).ok_or(Failure::NoEntry)?;
        self.folder(to.0)?.live.insert(to.1.to_owned(), number);
        if from != to {
            self.folder(from.0)?.live.remove(from.1);
        }
        Ok(())
    }

    /// The names of a folder, in order.
    pub fn list(&mut self, number: u64) -> Result<Vec<(OsString, Stat)>, Failure> {
        let names: Vec<(OsString, u64)> = self.folder(number)?.live.clone().into_iter().collect();
        names.into_iter().map(|(name, number)| Ok((name, self.stat(number)?))).collect()
    }

    pub fn opened(&mut self, number: u64) {
        *self.open.entry(number).or_default() += 1;
    }

    pub fn closed(&mut self, number: u64) {
        if let Some(count) = self.open.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&number);
            }
        }
    }

    pub fn read(&mut self, number: u64, offset: u64, bytes: usize) -> Result<&[u8], Failure> {
        let live = &self.file(number)?.live;
        let from = live.len().min(offset as usize);
        Ok(&live[from..live.len().min(from + bytes)])
    }

    pub fn write(&mut self, number: u64, offset: u64, bytes: &[u8], now: SystemTime) -> Result<(), Failure> {
        let end = offset as usize + bytes.len();
        let grown = end.saturating_sub(self.file(number)?.live.len()) as u64;
        self.grow(grown)?;
        let file = self.file(number)?;
        if grown > 0 {
            file.live.resize(end, 0);
        }
        file.live[offset as usize..end].copy_from_slice(bytes);
        match file.dirty.last_mut() {
            Some((start, length)) if *start + *length == offset as usize => *length += bytes.len(),
            _ => file.dirty.push((offset as usize, bytes.len())),
        }
        self.modified.insert(number, now);
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> Result<(), Failure> {
        if bytes > 0 && self.used + bytes > self.used_max {
            self.failed += 1;
            return Err(Failure::Full);
        }
        self.used += bytes;
        Ok(())
    }

    pub fn resize(&mut self, number: u64, bytes: u64) -> Result<(), Failure> {
        let old = self.file(number)?.live.len() as u64;
        self.grow(bytes.saturating_sub(old))?;
        self.used -= old.saturating_sub(bytes);
        self.file(number)?.live.resize(bytes as usize, 0);
        Ok(())
    }

    /// Makes a file durable, but not its name.
    pub fn flush(&mut self, number: u64) -> Result<(), Failure> {
        let fails = self.flushes_fail;
        let file = self.file(number)?;
        if fails {
            // As a kernel does it: what could not be written is not tried again, and the next flush succeeds without it.
            file.dirty.clear();
            self.failed += 1;
            return Err(Failure::Io);
        }
        file.durable.resize(file.live.len(), 0);
        for (start, length) in std::mem::take(&mut file.dirty) {
            let end = file.live.len().min(start + length);
            if start < end {
                file.durable[start..end].copy_from_slice(&file.live[start..end]);
            }
        }
        Ok(())
    }

    /// Makes the names in a folder durable.
    pub fn flush_folder(&mut self, number: u64) -> Result<(), Failure> {
        let folder = self.folder(number)?;
        folder.durable = folder.live.clone();
        self.collect();
        Ok(())
    }

    /// Loses power: what is live is what was durable. With `torn`, a part of each lost write is there.
    pub fn crash(&mut self, mut torn: Option<&mut Random>) -> Lost {
        self.crashes += 1;
        let mut lost = Lost::default();
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => {
                    for (start, length) in std::mem::take(&mut file.dirty) {
                        let kept =
                            torn.as_mut().map_or(0, |it| it.below((length / SECTOR + 1) as u64) as usize * SECTOR);
                        let end = file.live.len().min(start + kept);
                        if start < end {
                            file.durable.resize(file.durable.len().max(end), 0);
                            file.durable[start..end].copy_from_slice(&file.live[start..end]);
                        }
                        lost.bytes += (length - kept) as u64;
                        lost.torn_bytes += kept as u64;
                    }
                    file.live.clone_from(&file.durable);
                }
                Node::Folder(folder) => {
                    let differs = |(name, number): &(&OsString, &u64)| folder.durable.get(*name) != Some(*number);
                    let gone = |name: &&OsString| !folder.live.contains_key(*name);
                    lost.names += folder.live.iter().filter(differs).count() as u64;
                    lost.names += folder.durable.keys().filter(gone).count() as u64;
                    folder.live.clone_from(&folder.durable);
                }
            }
        }
        self.open.clear();
        self.collect();
        lost
    }

    /// Lets go of what no name leads to and nobody has open.
    fn collect(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut todo: Vec<u64> = self.open.keys().copied().chain([ROOT]).collect();
        while let Some(number) = todo.pop() {
            reached.insert(number);
            if let Some(Node::Folder(folder)) = self.nodes.get(&number) {
                let below = folder.live.values().chain(folder.durable.values());
                todo.extend(below.filter(|it| !reached.contains(it)));
            }
        }
        self.nodes.retain(|number, _| reached.contains(number));
        self.modified.retain(|number, _| reached.contains(number));
        let files = self.nodes.values().filter_map(|it| if let Node::File(it) = it { Some(it) } else { None });
        self.used = files.map(|it| it.live.len() as u64).sum();
    }

    /// Flips a bit of a byte that is not zero in a file whose name ends so. Says where.
    pub fn flip_bit(&mut self, ending: &str, random: &mut Random) -> Option<String> {
        let mut candidates = Vec::new();
        let mut todo = vec![ROOT];
        while let Some(folder) = todo.pop() {
            for (name, stat) in self.list(folder).ok()? {
                match stat.is_folder {
                    true => todo.push(stat.number),
                    false if name.to_string_lossy().ends_with(ending) => candidates.push((name, stat.number)),
                    false => {}
                }
            }
        }
        candidates.sort();
        for _ in 0..LOOKS_MAX {
            let (name, number) = candidates.get(random.below(candidates.len() as u64) as usize)?.clone();
            let file = self.file(number).ok()?;
            let at = random.below(file.live.len() as u64) as usize;
            if file.live.get(at).is_some_and(|it| *it != 0) && at < file.durable.len() {
                let bit = 1 << random.below(8);
                file.live[at] ^= bit;
                file.durable[at] = file.live[at];
                return Some(format!("bit {bit:#04x} of byte {at} of {}", name.to_string_lossy()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn name(text: &str) -> OsString {
        text.into()
    }

    fn content(disk: &mut Disk, file: &str) -> Option<Vec<u8>> {
        let stat = disk.lookup(ROOT, &name(file)).ok()?;
        disk.read(stat.number, 0, 1 << 20).ok().map(<[u8]>::to_vec)
    }

    #[test]
    fn only_what_was_flushed_survives_and_only_under_names_that_were() {
        let mut disk = Disk::default();
        for (file, flushed) in [("kept", true), ("tail", true), ("empty", false)] {
            let number = disk.create(ROOT, &name(file), false).unwrap().number;
            disk.write(number, 0, b"first", now()).unwrap();
            if flushed {
                disk.flush(number).unwrap();
            }
            if file == "tail" {
                disk.write(number, 5, b"second", now()).unwrap();
            }
        }
        disk.flush_folder(ROOT).unwrap();
        let unnamed = disk.create(ROOT, &name("unnamed"), false).unwrap().number;
        disk.write(unnamed, 0, b"x", now()).unwrap();
        disk.flush(unnamed).unwrap();
        let lost = disk.crash(None);
        assert_eq!(lost, Lost { bytes: 11, names: 1, torn_bytes: 0 });
        let got = ["kept", "tail", "empty", "unnamed"].map(|it| content(&mut disk, it));
        assert_eq!(got, [Some(b"first".to_vec()), Some(b"first".to_vec()), Some(Vec::new()), None]);
        assert_eq!(disk.used(), 10);
    }

    #[test]
    fn a_rename_that_was_not_flushed_is_undone() {
        let mut disk = Disk::default();
        for (file, text) in [("old", b"1"), ("new", b"2")] {
            let number = disk.create(ROOT, &name(file), false).unwrap().number;
            disk.write(number, 0, text, now()).unwrap();
            disk.flush(number).unwrap();
        }
        disk.flush_folder(ROOT).unwrap();
        disk.rename((ROOT, &name("new")), (ROOT, &name("old"))).unwrap();
        assert_eq!((content(&mut disk, "old"), content(&mut disk, "new")), (Some(b"2".to_vec()), None));
        assert_eq!(disk.crash(None).names, 2);
        assert_eq!((content(&mut disk, "old"), content(&mut disk, "new")), (Some(b"1".to_vec()), Some(b"2".to_vec())));
    }

    #[test]
    fn torn_writes_keep_whole_sectors_from_their_start() {
        let (mut random, mut partly) = (Random::new(3), 0);
        for _ in 0..50 {
            let mut disk = Disk::default();
            let number = disk.create(ROOT, &name("a"), false).unwrap().number;
            disk.write(number, 0, &[1; 2048], now()).unwrap();
            disk.flush(number).unwrap();
            disk.flush_folder(ROOT).unwrap();
            disk.write(number, 0, &[2; 2048], now()).unwrap();
            disk.crash(Some(&mut random));
            let content = content(&mut disk, "a").unwrap();
            let new = content.iter().take_while(|it| **it == 2).count();
            assert!(new % SECTOR == 0 && content[new..].iter().all(|it| *it == 1) && content.len() == 2048);
            partly += usize::from(new > 0 && new < 2048);
        }
        assert!(partly > 10);
    }

    #[test]
    fn a_full_disk_takes_no_more_but_overwrites() {
        let mut disk = Disk::default();
        let number = disk.create(ROOT, &name("a"), false).unwrap().number;
        disk.write(number, 0, &[0; 100], now()).unwrap();
        disk.used_max = disk.used();
        assert_eq!(disk.write(number, 50, &[1; 50], now()), Ok(()));
        assert_eq!(disk.write(number, 50, &[1; 51], now()), Err(Failure::Full));
        disk.flushes_fail = true;
        assert_eq!(disk.flush(number), Err(Failure::Io));
        assert_eq!(disk.failed, 2);
    }

    #[test]
    fn a_flipped_bit_is_one_bit_and_stays_through_a_crash() {
        let mut disk = Disk::default();
        let number = disk.create(ROOT, &name("1.seg"), false).unwrap().number;
        disk.write(number, 0, &[&[0; 90][..], &[7; 10]].concat(), now()).unwrap();
        disk.flush(number).unwrap();
        disk.flush_folder(ROOT).unwrap();
        assert!(disk.flip_bit(".snap", &mut Random::new(1)).is_none());
        disk.flip_bit(".seg", &mut Random::new(1)).unwrap();
        disk.crash(None);
        let content = content(&mut disk, "1.seg").unwrap();
        let bits: u32 = content[90..].iter().map(|it| (it ^ 7).count_ones()).sum();
        assert!(bits == 1 && content[..90].iter().all(|it| *it == 0));
    }
}
