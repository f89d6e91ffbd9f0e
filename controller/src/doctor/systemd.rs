//! The systemd drop-ins that load the library into a server.
//!
//! What makes it right: they name the library that was installed with this program. A preload that names a missing file makes the loader complain and go on, so a server
//! starts even if the library is uninstalled; nothing else of the unit is touched.

use std::path::{Path, PathBuf};

/// Where packages put the library.
const PACKAGED: &str = "/usr/lib/libhotmirror.so";

/// The library to load into a server.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().ok();
    let beside = program.and_then(|program| library_beside(&program));
    beside.unwrap_or_else(|| PACKAGED.into())
}

/// The one below the same prefix as the program.
fn library_beside(program: &Path) -> Option<PathBuf> {
    let prefix = program.parent()?.parent()?;
    let library = prefix.join("lib/libhotmirror.so");
    library.is_file().then_some(library)
}

pub fn print() {
    print!("{}", drop_ins(&library()));
}

fn drop_ins(library: &Path) -> String {
    let library = library.display();
    format!(
        "\
# MariaDB: /etc/systemd/system/mariadb.service.d/hotmirror.conf
[Service]
Environment=LD_PRELOAD={library}

# MySQL, Percona Server: /etc/systemd/system/mysql.service.d/hotmirror.conf (on Red Hat: mysqld.service.d)
[Service]
Environment=LD_PRELOAD={library}

# Then: systemctl daemon-reload && systemctl restart mariadb   (or mysql, mysqld)
# A unit with PrivateTmp is fine; one with its own /dev/shm (PrivateIPC, TemporaryFileSystem) needs
# Environment=HOTMIRROR_RUNTIME_DIR=/run/hotmirror and RuntimeDirectory=hotmirror, and the same variable for the program.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_the_one_below_the_programs_prefix() {
        let prefix = tempfile::tempdir().unwrap();
        let program = prefix.path().join("bin/hotmirror");
        let library = prefix.path().join("lib/libhotmirror.so");
        assert_eq!(library_beside(&program), None);
        std::fs::create_dir(prefix.path().join("lib")).unwrap();
        std::fs::write(&library, "").unwrap();
        assert_eq!(library_beside(&program), Some(library.clone()));
        let line = format!("\nEnvironment=LD_PRELOAD={}\n", library.display());
        assert_eq!(drop_ins(&library).matches(&line).count(), 2);
    }
}
