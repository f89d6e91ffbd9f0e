//! The systemd drop-ins that load the library into a server.
//!
//! What makes it right: a preload that names a missing file makes the loader complain and go on, so a server starts even if the library
//! is uninstalled; nothing else of the unit is touched.

const DROP_INS: &str = "\
# MariaDB: /etc/systemd/system/mariadb.service.d/hotmirror.conf
[Service]
Environment=LD_PRELOAD=/usr/lib/libhotmirror.so

# MySQL, Percona Server: /etc/systemd/system/mysql.service.d/hotmirror.conf (on Red Hat: mysqld.service.d)
[Service]
Environment=LD_PRELOAD=/usr/lib/libhotmirror.so

# Then: systemctl daemon-reload && systemctl restart mariadb   (or mysql, mysqld)
# A unit with PrivateTmp is fine; one with its own /dev/shm (PrivateIPC, TemporaryFileSystem) needs
# Environment=HOTMIRROR_RUNTIME_DIR=/run/hotmirror and RuntimeDirectory=hotmirror, and the same variable for the program.
";

pub fn print() {
    print!("{DROP_INS}");
}
