//! The process's mappings, read from /proc/self/maps line by line through a buffer on the stack.

use engine::capture_log::FileId;
use rustix::fs::{CWD, Mode, OFlags};

use crate::path::{self, PathBuffer};

/// A line is at most a path long, and something.
const BUFFER_LEN: usize = 2 * path::PATH_MAX;

pub struct Mapping<'l> {
    pub start: u64,
    pub end: u64,
    pub writable: bool,
    pub shared: bool,
    device: u64,
    inode: u64,
    path: &'l [u8],
}

impl<'l> Mapping<'l> {
    /// `start-end perms offset major:minor inode path`
    fn parse(line: &'l [u8]) -> Option<Mapping<'l>> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut range = fields.next()?.splitn(2, |byte| *byte == b'-');
        let (start, end) = (number(range.next()?, 16)?, number(range.next()?, 16)?);
        let perms = fields.next()?;
        let _offset = fields.next()?;
        let mut device = fields.next()?.splitn(2, |byte| *byte == b':');
        let (major, minor) = (number(device.next()?, 16)?, number(device.next()?, 16)?);
        Some(Mapping {
            start,
            end,
            writable: perms.get(1) == Some(&b'w'),
            shared: perms.get(3) == Some(&b's'),
            device: rustix::fs::makedev(major as u32, minor as u32),
            inode: number(fields.next()?, 10)?,
            path: fields.next().unwrap_or(&[]).trim_ascii_start(),
        })
    }

    /// The mapped file. Its device as stat gives it, which is another than the one in the line on file systems with subvolumes or layers.
    pub fn file(&self) -> Option<FileId> {
        if self.inode == 0 {
            return None;
        }
        let mut path = PathBuffer::new();
        path.push(self.path)?;
        let by_path = path::look(libc::AT_FDCWD, path.as_c_str(), true)
            .filter(|stat| stat.st_ino == self.inode);
        let device = by_path.map_or(self.device, |stat| stat.st_dev);
        Some(FileId {
            device,
            inode: self.inode,
        })
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// None if not all mappings could be seen.
pub fn each_mapping(mut visit: impl FnMut(Mapping<'_>)) -> Option<()> {
    let file = rustix::fs::openat(
        CWD,
        c"/proc/self/maps",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let mut buffer = [0u8; BUFFER_LEN];
    let mut len = 0;
    loop {
        let read = rustix::io::read(&file, buffer.get_mut(len..)?).ok()?;
        len = len.checked_add(read)?;
        let mut line_start = 0;
        while let Some(line_len) = buffer
            .get(line_start..len)?
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let line_end = line_start.checked_add(line_len)?;
            visit(Mapping::parse(buffer.get(line_start..line_end)?)?);
            line_start = line_end.checked_add(1)?;
        }
        if read == 0 {
            return (len == line_start).then_some(());
        }
        buffer.copy_within(line_start..len, 0);
        len = len.checked_sub(line_start)?;
    }
}
