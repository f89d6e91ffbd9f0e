//! Small file systems, made for a test: to be filled, to be made read-only, to fail, to share blocks.
//!
//! Rule: the errors are the kernel's own, and need no device-mapper, which not every kernel has. A loop mount fails to read what
//! was cut off from its image, and fails to write when the file system that its image is on became read-only. What a test
//! mounts, its handle unmounts.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::scratch;

/// A mounted file system.
pub struct Mount {
    home: TempDir,
    image: Option<PathBuf>,
    /// The file system that the image is on, if it is one of ours.
    below: Option<Box<Mount>>,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("{program} {arguments:?}: {text}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("A path of plain text")
}

/// What is read from now on comes from the disks.
pub fn forget_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("Caches that forget");
}

impl Mount {
    /// In memory, `megabytes` large.
    pub fn tmpfs(megabytes: u64) -> Result<Mount, String> {
        let mount = Mount {
            home: scratch::dir(),
            image: None,
            below: None,
        };
        std::fs::create_dir(mount.path()).expect("A mount point");
        let size = format!("size={megabytes}m");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs", text(&mount.path())],
        )?;
        Ok(mount)
    }

    /// ext4 on a file, `megabytes` large.
    pub fn image(megabytes: u64) -> Result<Mount, String> {
        let home = scratch::dir();
        let image = home.path().join("image");
        Mount::ext4_on(home, image, None, megabytes)
    }

    /// XFS that lets files share blocks, on a file.
    pub fn xfs(megabytes: u64) -> Result<Mount, String> {
        Mount::made_by(&["mkfs.xfs", "-q", "-m", "reflink=1"], megabytes)
    }

    /// XFS as it was before files could share blocks.
    pub fn xfs_without_sharing(megabytes: u64) -> Result<Mount, String> {
        Mount::made_by(&["mkfs.xfs", "-q", "-m", "reflink=0"], megabytes)
    }

    /// btrfs, on which files can always share blocks, on a file.
    pub fn btrfs(megabytes: u64) -> Result<Mount, String> {
        Mount::made_by(&["mkfs.btrfs", "-q"], megabytes)
    }

    /// A program's (FUSE): what is written to it goes to a directory beside it. Such a file system is not told to sync, and may know no flags of a rename.
    pub fn in_user_space() -> Result<Mount, String> {
        let mount = Mount {
            home: scratch::dir(),
            image: None,
            below: None,
        };
        let inner = mount.home.path().join("inner");
        for directory in [&inner, &mount.path()] {
            std::fs::create_dir(directory).expect("A directory");
        }
        run("bindfs", &[text(&inner), text(&mount.path())])?;
        Ok(mount)
    }

    fn made_by(mkfs: &[&str], megabytes: u64) -> Result<Mount, String> {
        let home = scratch::dir();
        let image = home.path().join("image");
        Mount::on(home, image, None, megabytes, mkfs, "loop")
    }

    /// The same on an image that is itself on such a file system, for [`Mount::fail_writes`].
    pub fn image_on_image(megabytes: u64) -> Result<Mount, String> {
        let below = Mount::image(megabytes * 2)?;
        let image = below.path().join("image");
        Mount::ext4_on(scratch::dir(), image, Some(Box::new(below)), megabytes)
    }

    fn ext4_on(
        home: TempDir,
        image: PathBuf,
        below: Option<Box<Mount>>,
        megabytes: u64,
    ) -> Result<Mount, String> {
        // Without a journal, an I/O error stays with the file that it hits.
        let mkfs = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal"];
        let options = "loop,errors=remount-ro";
        let mount = Mount::on(home, image, below, megabytes, &mkfs, options)?;
        // What mkfs makes.
        let _ = std::fs::remove_dir(mount.path().join("lost+found"));
        Ok(mount)
    }

    fn on(
        home: TempDir,
        image: PathBuf,
        below: Option<Box<Mount>>,
        megabytes: u64,
        mkfs: &[&str],
        options: &str,
    ) -> Result<Mount, String> {
        let file = std::fs::File::create(&image).expect("An image file");
        file.set_len(megabytes << 20).expect("The image's size");
        let mount = Mount {
            home,
            image: Some(image.clone()),
            below,
        };
        std::fs::create_dir(mount.path()).expect("A mount point");
        run(mkfs[0], &[&mkfs[1..], &[text(&image)]].concat())?;
        run("mount", &["-o", options, text(&image), text(&mount.path())])?;
        Ok(mount)
    }

    pub fn path(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// From now on, what lies beyond the first `megabytes` of the image can't be read.
    pub fn cut_off(&self, megabytes: u64) {
        let image = self.image.as_ref().expect("A mount on an image");
        run("sync", &["-f", text(&self.path())]).expect("What was written reaches the image");
        let file = std::fs::File::options()
            .write(true)
            .open(image)
            .expect("The image");
        file.set_len(megabytes << 20).expect("The image's new size");
        forget_caches();
    }

    /// Read-only from now on, for those too who have files open for writing: as after an error in the file system's own data.
    pub fn make_read_only(&self) {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("The mounts");
        let path = text(&self.path()).to_string();
        let device = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (device, at) = (words.next()?, words.next()?);
            (at == path).then(|| device.trim_start_matches("/dev/").to_string())
        });
        let device = device.unwrap_or_else(|| panic!("{path} is not mounted"));
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "test")
            .unwrap_or_else(|e| panic!("Cannot trigger an error on {device}: {e}"));
    }

    /// From now on, what is written does not reach the disk.
    pub fn fail_writes(&self) {
        self.below
            .as_ref()
            .expect("An image on an image")
            .make_read_only();
    }

    /// Takes all space that is left.
    pub fn fill(&self) {
        use std::io::Write;
        let path = self.path().join("filling");
        let mut file = std::fs::File::create(&path).expect("A file that fills");
        let mut chunk = vec![1u8; 1 << 20];
        while !chunk.is_empty() {
            while file.write_all(&chunk).is_ok() {}
            chunk.truncate(chunk.len() / 2);
        }
    }

    pub fn unfill(&self) {
        std::fs::remove_file(self.path().join("filling")).expect("The file that fills");
    }

    /// The mount point is empty from now on, for whoever looks; who has files open there keeps them.
    pub fn vanish(&self) {
        run("umount", &["-l", text(&self.path())]).expect("A lazy unmount");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", text(&self.path())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_image_gives_io_errors_to_a_reader() {
        let mount = match Mount::image(64) {
            Ok(mount) => mount,
            Err(reason) => crate::skip!("{reason}"),
        };
        let path = mount.path().join("file");
        std::fs::write(&path, vec![7u8; 40 << 20]).expect("A file");
        mount.cut_off(8);
        let read = std::fs::read(&path).map(|bytes| bytes.len());
        assert_eq!(read.map_err(|e| e.raw_os_error()), Err(Some(5)));
    }

    #[test]
    fn an_image_whose_disk_fails_gives_io_errors_to_a_writer_that_syncs() {
        let mount = match Mount::image_on_image(64) {
            Ok(mount) => mount,
            Err(reason) => crate::skip!("{reason}"),
        };
        mount.fail_writes();
        let mut file = std::fs::File::create(mount.path().join("file")).expect("A file");
        let written = std::io::Write::write_all(&mut file, &vec![7u8; 40 << 20]);
        let synced = written.and_then(|()| file.sync_all());
        assert_eq!(synced.map_err(|e| e.raw_os_error()), Err(Some(5)));
    }

    #[test]
    fn an_image_becomes_read_only_under_an_open_file() {
        let mount = match Mount::image(64) {
            Ok(mount) => mount,
            Err(reason) => crate::skip!("{reason}"),
        };
        let open = std::fs::File::create(mount.path().join("open")).expect("A file");
        mount.make_read_only();
        let other = std::fs::File::create(mount.path().join("other"));
        assert_eq!(other.map(drop).map_err(|e| e.raw_os_error()), Err(Some(30)));
        drop(open);
    }
}
