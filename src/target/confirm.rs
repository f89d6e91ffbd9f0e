//! What `syncfs` leaves open: whether it wrote, and whether it would have told of a failure.
//!
//! Before Linux 5.8 it does not tell that a file's data could not be written. A file system in user space (FUSE) is not even asked to write, but for a few
//! kinds. There each copy is asked.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use crate::copy;
use crate::file_system::FileSystem;

/// The first whose `syncfs` tells of all failures (fs/sync.c).
const LINUX_TELLS: (u32, u32) = (5, 8);

/// Brings a copy to the disk where syncing its file system would not, or might fail to without a word.
pub(crate) fn confirm(copy: &File) -> io::Result<()> {
    static TELLS: OnceLock<bool> = OnceLock::new();
    let tells = TELLS.get_or_init(|| {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        version(&release).is_some_and(|version| version >= LINUX_TELLS)
    });
    match (FileSystem::of(copy), *tells) {
        (FileSystem::Fuse, _) => copy.sync_all(),
        (_, true) => Ok(()),
        // It tells those that nobody was told of so far.
        (_, false) => copy::wait_until_written(copy, 0, 0),
    }
}

/// Major and minor of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("4.18.0-553.el8_10.x86_64"), Some((4, 18)));
        assert_eq!(version("5"), None);
        assert!(version("5.10.0") >= Some(LINUX_TELLS));
        assert!(version("5.7.19") < Some(LINUX_TELLS));
    }

    #[test]
    fn a_copy_that_can_be_written_is_confirmed() {
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, b"content").unwrap();
        confirm(&file).unwrap();
        copy::wait_until_written(&file, 0, 0).unwrap();
    }
}
