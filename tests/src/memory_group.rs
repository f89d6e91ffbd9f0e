//! A control group with little memory: what is more than the machine's memory for those in it is a size that a test can make.
//!
//! Rule: page cache counts as the group's that first touched it, so whoever is measured has to be in the group before it reads or writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Made for one test; gone with its handle, once all in it have ended.
pub struct MemoryGroup {
    dir: PathBuf,
    is_v2: bool,
}

impl MemoryGroup {
    /// An error where groups can't be made, or don't bound memory.
    pub fn new(megabytes: u64) -> Result<MemoryGroup, String> {
        let (root, is_v2) = mounted()?;
        let group = MemoryGroup {
            dir: root.join(format!("hotmirror-test-{}", std::process::id())),
            is_v2,
        };
        if is_v2 {
            // It is on already, or we may not.
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let failed = |e| format!("Cannot make a memory group in {}: {e}", root.display());
        std::fs::create_dir(&group.dir).map_err(failed)?;
        let limit = if is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        let bytes = (megabytes << 20).to_string();
        std::fs::write(group.dir.join(limit), bytes).map_err(failed)?;
        Ok(group)
    }

    fn members(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Words that run the command line behind them in the group.
    pub fn wrapper(&self) -> [String; 4] {
        let enter = format!("echo $$ > '{}' && exec \"$@\"", self.members().display());
        ["sh".into(), "-c".into(), enter, "sh".into()]
    }

    /// Takes a running process in. What it has touched so far is not the group's.
    pub fn add(&self, pid: u32) {
        std::fs::write(self.members(), pid.to_string()).expect("A process that can be moved");
    }

    /// Runs a command in the group.
    pub fn run(&self, words: &[&str]) -> Output {
        let [shell, arguments @ ..] = self.wrapper();
        let mut command = Command::new(shell);
        command.args(arguments).args(words).stdin(Stdio::null());
        let output = command.output().expect("A shell");
        assert!(output.status.success(), "{words:?}: {output:?}");
        output
    }

    /// Bytes of files that wait to be written, or are being written.
    pub fn dirty_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir.join("memory.stat")).expect("The statistics");
        let names = match self.is_v2 {
            true => ["file_dirty", "file_writeback"],
            false => ["total_dirty", "total_writeback"],
        };
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let wanted = lines.filter(|(name, _)| names.contains(name));
        wanted
            .map(|(_, bytes)| bytes.parse::<u64>().unwrap_or(0))
            .sum()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.dir) {
            eprintln!("Left: {}: {error}", self.dir.display());
        }
    }
}

/// Where groups that bound memory are made, and whether they are of the second version.
fn mounted() -> Result<(PathBuf, bool), String> {
    let mounts = std::fs::read_to_string("/proc/mounts").map_err(|e| e.to_string())?;
    let bounds_memory = |dir: &Path| {
        let controllers = std::fs::read_to_string(dir.join("cgroup.controllers"));
        controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"))
    };
    let found = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, dir, kind, options, ..] = fields[..] else {
            return None;
        };
        let dir = PathBuf::from(dir);
        match kind {
            "cgroup2" if bounds_memory(&dir) => Some((dir, true)),
            "cgroup" if options.split(',').any(|option| option == "memory") => Some((dir, false)),
            _ => None,
        }
    });
    found.ok_or_else(|| "No control groups that bound memory".into())
}
