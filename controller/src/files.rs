//! The files of a finished backup: listing, checksums, copies.
//!
//! What makes it right: a file is read once, and its checksum is that of the very bytes that were read; blocks of zeros become holes, as they
//! were in the backup.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hotmirror::manifest::{Entry, Kind};

const BLOCK_LEN: usize = 1 << 20;
const WORKERS: usize = 4;

#[derive(Debug, thiserror::Error)]
#[error("Cannot {action} {path}: {source}")]
pub struct FileError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_path_buf();
        move |source| FileError {
            action,
            path,
            source,
        }
    }
}

/// Reads `file` to its end: size and CRC-32C. `each` sees every block with its offset.
fn read_through(
    file: &mut File,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<(u64, u32)> {
    let mut block = vec![0; BLOCK_LEN];
    let (mut size, mut crc) = (0, 0);
    loop {
        let len = match file.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            len => len?,
        };
        if len == 0 {
            return Ok((size, crc));
        }
        crc = crc32c::crc32c_append(crc, &block[..len]);
        each(size, &block[..len])?;
        size += len as u64;
    }
}

pub fn checksum(path: &Path) -> Result<(u64, u32), FileError> {
    let mut file = File::open(path).map_err(FileError::at("open", path))?;
    read_through(&mut file, |_, _| Ok(())).map_err(FileError::at("read", path))
}

/// Copies a file into a new one; gives size and CRC-32C of what was read.
pub fn copy(from: &Path, to: &Path) -> Result<(u64, u32), FileError> {
    let mut source = File::open(from).map_err(FileError::at("open", from))?;
    let mut target = File::create_new(to).map_err(FileError::at("create", to))?;
    let mut failed = None;
    let read = read_through(&mut source, |offset, block| {
        let written = write_block(&mut target, offset, block);
        written.inspect_err(|error| failed = Some(error.kind()))
    });
    let (size, crc) = match (read, failed) {
        (Ok(read), _) => read,
        (Err(source), Some(_)) => return Err(FileError::at("write", to)(source)),
        (Err(source), None) => return Err(FileError::at("read", from)(source)),
    };
    let finished = target.set_len(size).and_then(|()| target.sync_all());
    finished.map_err(FileError::at("write", to))?;
    Ok((size, crc))
}

/// Writes what isn't zero, by the pieces that a file system can leave out: a compressed page of InnoDB is some of them, and a hole.
fn write_block(target: &mut File, offset: u64, block: &[u8]) -> io::Result<()> {
    const PIECE_LEN: usize = 4096;
    let is_zero = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
    let mut at = 0;
    for stretch in block
        .chunks(PIECE_LEN)
        .collect::<Vec<_>>()
        .chunk_by(|one, next| is_zero(one) == is_zero(next))
    {
        let len: usize = stretch.iter().map(|piece| piece.len()).sum();
        if !is_zero(stretch[0]) {
            target.seek(SeekFrom::Start(offset + at as u64))?;
            target.write_all(&block[at..at + len])?;
        }
        at += len;
    }
    Ok(())
}

/// Brings all of the file system that `directory` is on to the disk.
pub fn sync_file_system(directory: &Path) -> Result<(), FileError> {
    let file = File::open(directory).map_err(FileError::at("open", directory))?;
    let synced = rustix::fs::syncfs(&file).map_err(std::io::Error::from);
    synced.map_err(FileError::at("sync", directory))
}

/// Runs `work` on all items, several at a time; the first error ends it.
pub fn in_parallel<T: Sync, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                failed
                    .lock()
                    .expect("nothing panics here")
                    .get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(worker);
        }
    });
    failed
        .into_inner()
        .expect("nothing panics here")
        .map_or(Ok(()), Err)
}

/// Everything below `places`, which are relative to `backup`, with fresh checksums.
pub fn inventory(backup: &Path, places: &[PathBuf]) -> Result<Vec<Entry>, FileError> {
    let mut entries = Vec::new();
    for place in places {
        list(backup, place, &mut entries)?;
    }
    let slots: Vec<Mutex<Entry>> = entries.into_iter().map(Mutex::new).collect();
    in_parallel(&slots, |slot| {
        let mut entry = slot.lock().expect("each is taken once");
        let path = backup.join(&entry.path);
        if let Kind::File { size, crc32c, .. } = &mut entry.kind {
            (*size, *crc32c) = checksum(&path)?;
        }
        Ok::<(), FileError>(())
    })?;
    let entries = slots
        .into_iter()
        .map(|slot| slot.into_inner().expect("nothing panics here"));
    Ok(entries.collect())
}

/// What is directly in `directory`, all of it.
pub fn names_in(directory: &Path) -> Result<Vec<OsString>, FileError> {
    let items = std::fs::read_dir(directory).map_err(FileError::at("read", directory))?;
    let names = items.map(|item| Ok(item?.file_name()));
    let names: std::io::Result<_> = names.collect();
    names.map_err(FileError::at("read", directory))
}

fn list(backup: &Path, relative: &Path, entries: &mut Vec<Entry>) -> Result<(), FileError> {
    let path = backup.join(relative);
    let metadata = std::fs::symlink_metadata(&path).map_err(FileError::at("look at", &path))?;
    let kind = if metadata.is_dir() {
        Kind::Directory
    } else if metadata.is_symlink() {
        let target = std::fs::read_link(&path).map_err(FileError::at("read", &path))?;
        Kind::Symlink { target }
    } else if metadata.is_file() {
        Kind::File {
            size: 0,
            crc32c: 0,
            link_to: None,
        }
    } else {
        return Ok(());
    };
    let is_directory = kind == Kind::Directory;
    entries.push(Entry {
        path: relative.into(),
        kind,
        mode: metadata.permissions().mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
    });
    if is_directory {
        let mut names = names_in(&path)?;
        names.sort();
        for name in names {
            list(backup, &relative.join(name), entries)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let mut bytes = vec![0; 3 * BLOCK_LEN + 5];
        bytes[7] = 1;
        bytes[2 * BLOCK_LEN] = 2;
        // Compressed pages.
        for page in 0..16 {
            bytes[BLOCK_LEN + page * 16384..][..4096].fill(3);
        }
        std::fs::write(&from, &bytes).unwrap();
        let read = copy(&from, &to).unwrap();
        assert_eq!(read, (bytes.len() as u64, crc32c::crc32c(&bytes)));
        assert_eq!(read, checksum(&to).unwrap());
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
        // And one where the file system notes them.
        let pieces = 1 + 16 + 1 + 1;
        assert!(std::fs::metadata(&to).unwrap().blocks() <= pieces * 4096 / 512);
    }

    #[test]
    fn an_inventory_names_everything_with_its_checksum() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data/db")).unwrap();
        std::fs::write(dir.path().join("data/db/t"), "x").unwrap();
        std::os::unix::fs::symlink("db", dir.path().join("data/link")).unwrap();
        let entries = inventory(dir.path(), &["data".into()]).unwrap();
        let paths: Vec<String> = entries
            .iter()
            .map(|entry| entry.path.display().to_string())
            .collect();
        assert_eq!(paths, ["data", "data/db", "data/db/t", "data/link"]);
        let Kind::File { size, crc32c, .. } = entries[2].kind else {
            unreachable!()
        };
        assert_eq!((size, crc32c), (1, crc32c::crc32c(b"x")));
    }

    #[test]
    fn the_first_error_ends_parallel_work() {
        let items: Vec<u32> = (0..100).collect();
        let error = in_parallel(&items, |item| if *item == 50 { Err(*item) } else { Ok(()) });
        assert_eq!(error, Err(50));
    }
}
