//! Calls that change names. While capturing, one lock over all of them covers the look before, the real call and the append.
//!
//! A record needs the path and what it names. Both are learned while the entry exists: before a removal, after a creation. If the path can't be learned (no
//! descriptor left, a path too long), the record is Rescan: the names changed, look for yourself.

use std::cell::OnceCell;
use std::ffi::CStr;
use std::os::fd::OwnedFd;

use engine::capture_log::{FileId, Mode, Record};
use engine::file_system::FileSystem;
use libc::{c_char, c_int, c_long, c_uint, mode_t};
use rustix::fs::{FileType, Mode as Permissions, OFlags, Stat};

use super::{aio, open};
use crate::capture::{Capture, recorded, unregistered};
use crate::inflight::Call;
use crate::path::{self, PathBuffer};
use crate::real::{RealCall, syscall};
use crate::{lifecycle, locks};

/// A directory entry as the caller names it.
pub struct Entry {
    dirfd: c_int,
    path: *const c_char,
    /// Asked once, and only while capturing: that is a system call.
    usable: OnceCell<bool>,
}

impl Entry {
    pub fn at(dirfd: c_int, path: *const c_char) -> Entry {
        Entry {
            dirfd,
            path,
            usable: OnceCell::new(),
        }
    }

    pub fn here(path: *const c_char) -> Entry {
        Entry::at(libc::AT_FDCWD, path)
    }

    fn given(&self) -> Option<&CStr> {
        let usable = *self.usable.get_or_init(|| path::is_usable(self.path));
        // SAFETY: the kernel has read it to its end.
        usable.then(|| unsafe { CStr::from_ptr(self.path) })
    }

    fn device(&self) -> Option<u64> {
        path::device(self.dirfd, self.given()?)
    }

    fn look(&self) -> Option<Stat> {
        path::look(self.dirfd, self.given()?, false)
    }

    /// What the entry holds, if it is a symbolic link.
    fn symlink_target<'t>(&self, target: &'t mut PathBuffer) -> Option<&'t [u8]> {
        path::read_link(path::directory(self.dirfd), self.given()?, target)?;
        Some(target.as_bytes())
    }

    /// Keeps what the entry holds if it is a file that takes long to free, on a file system where that has no other effect than that it is freed later.
    fn keep(&self, stat: Option<&Stat>) -> Kept {
        let stat = stat?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || stat.st_nlink != 1 || stat.st_blocks < LONG_BLOCKS {
            return None;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = path::directory(self.dirfd);
        let file =
            rustix::fs::openat(directory, self.given()?, flags, Permissions::empty()).ok()?;
        FileSystem::of(&file).frees_when_closed().then_some(file)
    }

    fn learn<'p>(&self, path: &'p mut PathBuffer) -> Option<&'p [u8]> {
        path::of_entry(self.dirfd, self.given()?, path)
    }
}

/// To free a file of 64 MiB takes some milliseconds; in units of 512 bytes.
const LONG_BLOCKS: i64 = (64 << 20) / 512;

type Real<'r, F> = &'r RealCall<c_int, F>;

/// A file that loses its last name is kept by this until the lock of the names is free again.
pub type Kept = Option<OwnedFd>;

/// Makes `real`, which changes `entry`, under the lock of the names; `note` makes the call in its turn. Idle it is not registered, since a path may lead to anything.
pub fn renamed<F: FnOnce() -> c_int>(
    entry: &Entry,
    real: F,
    note: impl FnOnce(&Capture<'_>, Real<'_, F>) -> Kept,
) -> c_int {
    lifecycle::live_or_revived();
    let seen = lifecycle::control();
    // Asked before the call is registered: a slow file system that is of no interest holds up no grace period.
    if seen.mode() != Mode::Idle
        && let device = entry.device()
        && let Some(call) = Call::enter()
        && let Some(capture) = Capture::of(&call)
        && capture.may_concern(device)
    {
        return recorded(&call, -1, real, |capture, real| {
            let names = (!capture.nested()).then(locks::namespace);
            let kept = note(capture, real);
            if capture.nested() {
                // Without the lock, the order against the call that was interrupted is unknown.
                capture.append(&Record::Rescan);
            }
            drop(names);
            drop(kept);
        });
    }
    unregistered(seen, real, |capture, result| {
        if result == Some(0) {
            capture.append(&Record::Rescan);
        }
    })
}

/// Appends `record` of the path, or Rescan if it could not be learned.
fn append_named<'p>(
    capture: &Capture<'_>,
    path: Option<&'p [u8]>,
    record: impl FnOnce(&'p [u8]) -> Record<'p>,
) {
    match path {
        Some(path) => capture.append(&record(path)),
        None => capture.append(&Record::Rescan),
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub fn rename_entry(from: Entry, to: Entry, flags: c_uint, real: impl FnOnce() -> c_int) -> c_int {
    renamed(&from, real, |capture, real| {
        let (moved, target) = (from.look(), to.look());
        let kept = to.keep(target.as_ref());
        let (mut old, mut new) = (PathBuffer::new(), PathBuffer::new());
        let (from, to) = (from.learn(&mut old), to.learn(&mut new));
        if real.run() == Some(0) {
            let replaced = target.filter(|_| flags & libc::RENAME_EXCHANGE == 0);
            note_unnamed(capture, replaced.as_ref());
            note_renamed(capture, (moved, from), (target, to), flags);
        }
        kept
    })
}

/// A name of what was at an entry is gone.
fn note_unnamed(capture: &Capture<'_>, before: Option<&Stat>) {
    if let Some(file) = before.and_then(|before| capture.identify(before)) {
        aio::unnamed(capture, file);
    }
}

/// What the two entries held before, and their paths.
fn note_renamed(
    capture: &Capture<'_>,
    (moved, from): (Option<Stat>, Option<&[u8]>),
    (target, to): (Option<Stat>, Option<&[u8]>),
    flags: c_uint,
) {
    let Some(moved) = moved else {
        return capture.append(&Record::Rescan);
    };
    let Some(file) = capture.entry(&moved) else {
        return;
    };
    let replaced = target.as_ref().and_then(|target| capture.entry(target));
    // Two names of one file: rename does nothing, by POSIX.
    if replaced == Some(file) {
        return;
    }
    let (Some(from), Some(to)) = (from, to) else {
        return capture.append(&Record::Rescan);
    };
    capture.append(&Record::Rename {
        file,
        from,
        to,
        replaced,
        exchange: flags & libc::RENAME_EXCHANGE != 0,
        directory: is_directory(&moved),
    });
}

/// unlink, rmdir, remove: the entry tells which of them it was.
pub fn remove_entry(entry: Entry, real: impl FnOnce() -> c_int) -> c_int {
    renamed(&entry, real, |capture, real| {
        let before = entry.look();
        let file = before.as_ref().and_then(|before| capture.entry(before));
        let mut path = PathBuffer::new();
        let path = file.and_then(|_| entry.learn(&mut path));
        let kept = entry.keep(before.as_ref());
        if real.run() != Some(0) {
            return kept;
        }
        match (before, file) {
            (None, _) => capture.append(&Record::Rescan),
            (Some(_), None) => {}
            (Some(before), Some(file)) if is_directory(&before) => {
                append_named(capture, path, |path| Record::Rmdir { file, path })
            }
            (Some(before), Some(file)) => {
                note_unnamed(capture, Some(&before));
                append_named(capture, path, |path| Record::Unlink { file, path })
            }
        }
        kept
    })
}

/// As [`renamed`], of a call that makes something: `note` is for when it succeeded.
fn made(entry: &Entry, real: impl FnOnce() -> c_int, note: impl FnOnce(&Capture<'_>)) -> c_int {
    renamed(entry, real, |capture, real| {
        if real.run() == Some(0) {
            note(capture);
        }
        None
    })
}

/// A call that makes `entry`, which `record` describes from what is there afterwards.
fn make_entry<'p>(
    capture: &Capture<'_>,
    entry: &Entry,
    path: &'p mut PathBuffer,
    record: impl FnOnce(FileId, &Stat, &'p [u8]) -> Record<'p>,
) {
    let Some(made) = entry.look() else {
        return capture.append(&Record::Rescan);
    };
    if let Some(file) = capture.entry(&made) {
        let path = entry.learn(path);
        append_named(capture, path, |path| record(file, &made, path));
    }
}

pub fn link_entry(entry: Entry, real: impl FnOnce() -> c_int) -> c_int {
    made(&entry, real, |capture| {
        let mut unnamed = None;
        // A link to a symbolic link is one more symbolic link.
        let mut target = PathBuffer::new();
        if let Some(target) = entry.symlink_target(&mut target) {
            let path = &mut PathBuffer::new();
            return make_entry(capture, &entry, path, |file, _, path| Record::Symlink {
                file,
                path,
                target,
            });
        }
        make_entry(
            capture,
            &entry,
            &mut PathBuffer::new(),
            |file, made, path| {
                unnamed = Some(file).filter(|_| made.st_nlink == 1);
                Record::Link { file, path }
            },
        );
        // Its first name: what was written before could not be told from changes of another file.
        if let Some(file) = unnamed {
            capture.opaque(file);
        }
    })
}

pub fn make_directory(entry: Entry, real: impl FnOnce() -> c_int) -> c_int {
    made(&entry, real, |capture| {
        make_entry(
            capture,
            &entry,
            &mut PathBuffer::new(),
            |file, made, path| Record::Mkdir {
                file,
                path,
                attributes: open::attributes(made),
            },
        );
    })
}

pub fn make_symlink(target: *const c_char, entry: Entry, real: impl FnOnce() -> c_int) -> c_int {
    made(&entry, real, |capture| {
        // SAFETY: the real call has read it.
        let target = unsafe { path::given(target) }.map_or(&b""[..], CStr::to_bytes);
        make_entry(capture, &entry, &mut PathBuffer::new(), |file, _, path| {
            Record::Symlink { file, path, target }
        });
    })
}

hooks! {
    rename = libc::rename:
    (from: *const c_char, to: *const c_char) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        rename_entry(Entry::here(from), Entry::here(to), 0, || unsafe { real(from, to) })
    }

    renameat = libc::renameat:
    (from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int, |real| {
        let (old, new) = (Entry::at(from_dir, from), Entry::at(to_dir, to));
        // SAFETY: the caller's arguments, unchanged.
        rename_entry(old, new, 0, || unsafe { real(from_dir, from, to_dir, to) })
    }

    unlink = libc::unlink, remove = libc::remove, rmdir = libc::rmdir:
    (path: *const c_char) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        remove_entry(Entry::here(path), || unsafe { real(path) })
    }

    unlinkat = libc::unlinkat:
    (dirfd: c_int, path: *const c_char, flags: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        remove_entry(Entry::at(dirfd, path), || unsafe { real(dirfd, path, flags) })
    }

    link = libc::link:
    (from: *const c_char, to: *const c_char) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        link_entry(Entry::here(to), || unsafe { real(from, to) })
    }

    linkat = libc::linkat:
    (from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        link_entry(Entry::at(to_dir, to), || unsafe { real(from_dir, from, to_dir, to, flags) })
    }

    symlink = libc::symlink:
    (target: *const c_char, path: *const c_char) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        make_symlink(target, Entry::here(path), || unsafe { real(target, path) })
    }

    symlinkat = libc::symlinkat:
    (target: *const c_char, dirfd: c_int, path: *const c_char) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        make_symlink(target, Entry::at(dirfd, path), || unsafe { real(target, dirfd, path) })
    }

    mkdir = libc::mkdir:
    (path: *const c_char, mode: mode_t) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        make_directory(Entry::here(path), || unsafe { real(path, mode) })
    }

    mkdirat = libc::mkdirat:
    (dirfd: c_int, path: *const c_char, mode: mode_t) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        make_directory(Entry::at(dirfd, path), || unsafe { real(dirfd, path, mode) })
    }

    mkdtemp = libc::mkdtemp:
    (template: *mut c_char) -> *mut c_char, |real| {
        let mut made = std::ptr::null_mut();
        make_directory(Entry::here(template), || {
            // SAFETY: the caller's arguments, unchanged.
            made = unsafe { real(template) };
            if made.is_null() { -1 } else { 0 }
        });
        made
    }
}

optional_hooks! {
    // Before glibc 2.28 libc does not have it.
    renameat2 = c"renameat2":
    (from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char, flags: c_uint) -> c_int, |_real| {
        let (old, new) = (Entry::at(from_dir, from), Entry::at(to_dir, to));
        let args = [from_dir.into(), from as c_long, to_dir.into(), to as c_long, flags.into(), 0];
        // SAFETY: the caller's arguments, unchanged.
        rename_entry(old, new, flags, || unsafe { syscall(libc::SYS_renameat2, args) } as c_int)
    }
}
