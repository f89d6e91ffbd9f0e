//! The floor: what a plain copy of the same files takes when nobody uses them.
//!
//! Rules: a copy is complete when it is on the disk, as a backup is. What was not in the page cache while the server ran is not there for the copy either.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use hotmirror_tests::server::Server;

use crate::measure::{cold_files, median, size_gb};

/// Seconds for each GB, by each way of copying.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    pub cp_s_per_gb: f64,
    pub direct_s_per_gb: f64,
}

impl Floor {
    pub fn s_per_gb(self) -> f64 {
        self.cp_s_per_gb.min(self.direct_s_per_gb)
    }
}

const CP: &str = r#"cp -a "$1" "$2""#;
/// Past the page cache, two files at a time; what is small is copied plainly.
const DIRECT: &str = r#"
    cd "$1" && find . -type d -exec mkdir -p "$2/{}" \; &&
    find . -type f -size -256k -exec cp -a --parents -t "$2" {} + &&
    find . -type f -size +255k -print0 | xargs -0 -r -P 2 -I{} dd if={} of="$2/{}" bs=4M iflag=direct oflag=direct status=none
"#;

/// Takes what is on the disk out of the page cache.
const DROP: &str = r#"dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0 status=none"#;

/// Measures on the files of a server, which it ends. Binlogs, of which a backup takes few, are removed.
pub fn measure(mut server: Server, rounds: u32, home: &Path) -> Floor {
    let cold = cold_files(server.data_dir());
    server.shut_down();
    let source = server.data_dir();
    run(r#"rm -f "$1"/binlog.*"#, source, source);
    let gb = size_gb(source);
    let per_gb = |script| {
        let left = cold.iter().filter(|file| file.exists());
        left.for_each(|file| run(DROP, file, file));
        copy(script, source, home) / gb
    };
    let (mut cp, mut direct) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        cp.push(per_gb(CP));
        direct.push(per_gb(DIRECT));
    }
    Floor {
        cp_s_per_gb: median(cp),
        direct_s_per_gb: median(direct),
    }
}

fn copy(script: &str, source: &Path, home: &Path) -> f64 {
    let target = home.join("floor");
    let start = Instant::now();
    run(script, source, &target);
    run(r#"sync -f "$2""#, source, &target);
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&target).expect("The copy can be removed");
    seconds
}

fn run(script: &str, source: &Path, target: &Path) {
    let status = Command::new("sh")
        .args(["-ec", script, "sh"])
        .args([source, target])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "Failed: {script}"
    );
}
