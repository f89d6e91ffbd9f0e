//! File systems of which something is known that matters here.

use std::os::fd::AsFd;

/// What holds a file. The numbers are those of linux/magic.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2 to ext4, which share a number.
    Ext,
    Xfs,
    Btrfs,
    /// In user space.
    Fuse,
    Other,
}

impl FileSystem {
    /// Other if it can't be asked.
    pub fn of(file: impl AsFd) -> FileSystem {
        match rustix::fs::fstatfs(file).map(|stat| stat.f_type as u64) {
            Ok(0xef53) => FileSystem::Ext,
            Ok(0x5846_5342) => FileSystem::Xfs,
            Ok(0x9123_683e) => FileSystem::Btrfs,
            Ok(0x6573_5546) => FileSystem::Fuse,
            _ => FileSystem::Other,
        }
    }

    /// True if a file that was removed while it is open is gone like any other: on NFS it only gets another name.
    pub fn frees_when_closed(self) -> bool {
        matches!(self, FileSystem::Ext | FileSystem::Xfs | FileSystem::Btrfs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_disk_is_none_of_them() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert_eq!(FileSystem::of(&file), FileSystem::Other);
        assert!(!FileSystem::of(&file).frees_when_closed());
    }
}
