//! The disk as a file system of the kernel (FUSE). Nothing is cached by the kernel, so that it cannot remember what the disk
//! has lost.
use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{Disk, Failure, Stat};

/// Nothing is remembered.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
const HANDLE: FileHandle = FileHandle(0);
const BLOCK: u32 = 4096;
/// What `statfs` says there is, in blocks.
const BLOCKS: u64 = 1 << 20;

/// A disk that is mounted until this is dropped.
pub struct Mounted {
    disk: Arc<Mutex<Disk>>,
    _session: BackgroundSession,
}

impl Mounted {
    /// Mounts a new disk on a folder.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let disk = Arc::new(Mutex::new(Disk::default()));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful".into())];
        let session = fuser::spawn_mount(Files(disk.clone()), dir, &config)?;
        Ok(Self { disk, _session: session })
    }

    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Files(Arc<Mutex<Disk>>);

impl Files {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::NoEntry => Errno::ENOENT,
        Failure::Exists => Errno::EEXIST,
        Failure::NotEmpty => Errno::ENOTEMPTY,
        Failure::NotFolder => Errno::ENOTDIR,
        Failure::IsFolder => Errno::EISDIR,
        Failure::Full => Errno::ENOSPC,
        Failure::Io => Errno::EIO,
    }
}

#[allow(clippy::disallowed_methods, reason = "files carry the time of the machine")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn attributes(stat: Stat) -> FileAttr {
    let (kind, perm) = if stat.is_folder { (FileType::Directory, 0o755) } else { (FileType::RegularFile, 0o644) };
    FileAttr {
        ino: INodeNo(stat.number),
        size: stat.bytes,
        blocks: stat.bytes.div_ceil(512),
        atime: stat.modified,
        mtime: stat.modified,
        ctime: stat.modified,
        crtime: stat.modified,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Failure>) {
    match done {
        Ok(()) => reply.ok(),
        Err(failure) => reply.error(errno(failure)),
    }
}

fn entry(reply: ReplyEntry, stat: Result<Stat, Failure>) {
    match stat {
        Ok(stat) => reply.entry(&TTL, &attributes(stat), GENERATION),
        Err(failure) => reply.error(errno(failure)),
    }
}

fn attr(reply: ReplyAttr, stat: Result<Stat, Failure>) {
    match stat {
        Ok(stat) => reply.attr(&TTL, &attributes(stat)),
        Err(failure) => reply.error(errno(failure)),
    }
}

impl Filesystem for Files {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.disk().lookup(parent.0, name));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        attr(reply, self.disk().stat(ino.0));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let resized = size.map_or(Ok(()), |size| disk.resize(ino.0, size));
        attr(reply, resized.and_then(|()| disk.stat(ino.0)));
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        entry(reply, self.disk().create(parent.0, name, true));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk().remove(parent.0, name));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk().remove(parent.0, name));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.disk().rename((parent.0, name), (newparent.0, newname)));
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.disk().opened(ino.0);
        reply.opened(HANDLE, FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk();
        match disk.create(parent.0, name, false) {
            Ok(stat) => {
                disk.opened(stat.number);
                reply.created(&TTL, &attributes(stat), GENERATION, HANDLE, FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(failure) => reply.error(errno(failure)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.disk().closed(ino.0);
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().read(ino.0, offset, size as usize) {
            Ok(bytes) => reply.data(bytes),
            Err(failure) => reply.error(errno(failure)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().write(ino.0, offset, data, now()) {
            Ok(()) => reply.written(data.len() as u32),
            Err(failure) => reply.error(errno(failure)),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // Closing a file makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(reply, self.disk().flush(ino.0));
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(reply, self.disk().flush_folder(ino.0));
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = match self.disk().list(ino.0) {
            Ok(listed) => listed,
            Err(failure) => return reply.error(errno(failure)),
        };
        let dots = [".", ".."].map(|name| (name.into(), ino.0, FileType::Directory));
        let kind = |stat: &Stat| if stat.is_folder { FileType::Directory } else { FileType::RegularFile };
        let named = listed.into_iter().map(|(name, stat)| (name, stat.number, kind(&stat)));
        let all = dots.into_iter().chain(named).zip(1u64..);
        for ((name, number, kind), next) in all.skip(offset as usize) {
            if reply.add(INodeNo(number), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let disk = self.disk();
        let total = (BLOCKS * u64::from(BLOCK)).min(disk.used_max);
        let free = total.saturating_sub(disk.used()) / u64::from(BLOCK);
        reply.statfs(BLOCKS, free, free, BLOCKS, BLOCKS, BLOCK, 255, BLOCK);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, io::Write};

    use coracle::{
        metrics::Metrics,
        replication::Applier,
        storage::{
            LogEntry, Payload, StateStore,
            state::{SledState, StateOptions},
        },
        types::LogId,
        watch::Hub,
    };

    use super::*;

    fn state(dir: &Path) -> Arc<SledState> {
        Arc::new(SledState::open(dir, StateOptions::default(), Metrics::new()).unwrap())
    }

    /// A member that is given a snapshot, and loses power before anything else is flushed.
    #[test]
    fn a_snapshot_that_was_installed_outlives_a_loss_of_power_as_the_state_does() {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, here) = (folder.path().join("elsewhere"), folder.path().join("here"));
        fs::create_dir(&here).unwrap();
        let mounted = match Mounted::new(&here) {
            Ok(mounted) => mounted,
            // As `coracle-jepsen` does where it may not mount.
            Err(err) => return eprintln!("skipped: mount a disk that forgets (root and /dev/fuse): {err}"),
        };
        let sender = state(&elsewhere);
        let entries = (1..=9).map(|index| LogEntry { id: LogId { term: 1, node: 1, index }, payload: Payload::Blank });
        Applier::new(sender.clone(), Arc::<Hub>::default(), Metrics::new()).apply(entries.collect()).unwrap();
        let sent = sender.begin_snapshot().unwrap()().unwrap();

        let receiver = state(&here.join("data"));
        let mut incoming = receiver.create_incoming().unwrap();
        incoming.write_all(&fs::read(&sent.path).unwrap()).unwrap();
        incoming.finish().unwrap();
        receiver.install(receiver.incoming_path()).unwrap();
        assert_eq!(receiver.applied().revision(), sent.applied.revision());

        mounted.disk().crash(None);
        drop(receiver);
        let receiver = state(&here.join("data"));
        let kept = receiver.snapshot().map(|it| it.applied.revision());
        assert_eq!(receiver.applied().revision(), sent.applied.revision(), "the state says that it is durable");
        assert_eq!(kept, Some(sent.applied.revision()), "what it began with stands in for the log");
    }
}
