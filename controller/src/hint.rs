//! What the user can do about an error.
//!
//! What makes it right: a hint says something to do, in one line; an error that leaves nothing to do has none.

use std::borrow::Cow;

use hotmirror::capture_log::LinkError;
use hotmirror::human::Bytes;
use hotmirror::session::SessionError;

use crate::args::units;
use crate::backup::BackupError;
use crate::backup::binlogs::BinlogError;
use crate::backup::preflight::PreflightError;
use crate::backup::process::ProcessError;
use crate::backup::roots::RootError;
use crate::exit::{ExitCode, Failure};
use crate::prepare::instance::InstanceError;
use crate::replica::ReplicaError;
use crate::restore::RestoreError;
use crate::safe_slave::SafeSlaveError;
use crate::server::ServerError;
use crate::undo::UndoError;
use crate::verify::VerifyError;

impl Failure {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            &Failure::Session(SessionError::NotConverging {
                passes,
                left_bytes,
                throttle,
                shrinking,
                ..
            }) => Some(not_converging(passes, left_bytes, throttle, shrinking).into()),
            _ => self.fixed_hint().map(Cow::Borrowed),
        }
    }

    /// Of those that name no number.
    fn fixed_hint(&self) -> Option<&'static str> {
        match self {
            Failure::Session(error) => session_hint(error),
            Failure::Server(ServerError::PrivilegesMissing { .. }) => {
                Some("GRANT them; docs/operations.md has the statement")
            }
            Failure::Server(ServerError::NoRedo) => {
                Some("Back up once ALTER INSTANCE ENABLE INNODB REDO_LOG has run")
            }
            Failure::Server(ServerError::Unsupported(_)) => {
                Some("MariaDB 10.4, MySQL 5.6 and Percona Server 5.6 and later can be backed up")
            }
            Failure::Preflight(PreflightError::TargetNotEmpty(_)) => {
                Some("Choose a --target-dir that is empty or does not exist")
            }
            Failure::Preflight(
                PreflightError::TargetInside { .. } | PreflightError::RootInside { .. },
            ) => Some("Choose a --target-dir apart from the server's directories"),
            Failure::Preflight(PreflightError::SourceUnreadable { .. }) => {
                Some("Run as root or as the server's system user")
            }
            Failure::Process(ProcessError::Proc { .. }) => {
                Some("Run as root or as the server's system user")
            }
            Failure::Process(_) => {
                Some("Run on the server's own host, and connect through its Unix socket")
            }
            Failure::SafeSlave(SafeSlaveError::Timeout { .. }) => Some(
                "Raise --safe-slave-timeout, or take --safe-slave-timeout-action=proceed and its risk",
            ),
            Failure::SafeSlave(SafeSlaveError::NobodyRuns { .. }) => {
                Some("Start the appliers (START REPLICA SQL_THREAD)")
            }
            Failure::SafeSlave(SafeSlaveError::StillRuns { .. }) => Some(
                "What it does takes long or waits for a lock: raise --safe-slave-timeout, or without --safe-slave --lock-timeout, or back up later. `hotmirror recover` waits for it and starts it again.",
            ),
            Failure::SafeSlave(SafeSlaveError::GroupMember) => Some(
                "Leave --safe-slave out: a group replicates rows, which need no temporary tables",
            ),
            Failure::Undo(UndoError::Running { .. }) => Some("`hotmirror status` shows it"),
            Failure::Undo(_) => Some("`hotmirror recover` tries again"),
            Failure::Binlog(BinlogError::LeftOut { .. }) => Some("Use --binlogs=all"),
            Failure::Binlog(BinlogError::Closed) => Some(
                "Make room or mend what failed, and restart the server so that it begins a binlog",
            ),
            Failure::Backup(BackupError::GoldenDifference { .. }) => Some("Please report this"),
            Failure::Root(RootError::Escaped { .. }) => Some("Run the backup again"),
            Failure::Root(RootError::SeenOtherwise { .. }) => Some(
                "Run in the server's mount namespace (nsenter --mount --target PID), or have its directories mounted at the same paths",
            ),
            Failure::Root(RootError::NoFile { .. }) => {
                Some("Only files can be backed up: move the system tablespace off the device")
            }
            Failure::Instance(InstanceError::NoBinary(_)) => Some("Name it with --mysqld"),
            Failure::Instance(InstanceError::NoNamespace) => {
                Some("Run as root, with unshare and setpriv (package util-linux) installed")
            }
            Failure::Verify(VerifyError::HalfPrepared(_)) => Some("Run `hotmirror prepare` again"),
            Failure::Verify(_) => Some("Do not use this backup"),
            Failure::SeveralRunning { .. } => Some("Name one with --target-dir"),
            Failure::Findings { .. } => Some("Each finding above names its remedy"),
            Failure::Restore(error) => restore_hint(error),
            Failure::Replica(error) if replica_hint(error).is_some() => replica_hint(error),
            _ => match self.exit_code() {
                ExitCode::LockTimeout => Some(
                    "A statement or a DDL kept the lock; raise --lock-timeout or choose a quieter time",
                ),
                ExitCode::Connection => {
                    Some("Check --socket, --host, --port, --user and --password")
                }
                _ => None,
            },
        }
    }
}

fn restore_hint(error: &RestoreError) -> Option<&'static str> {
    match error {
        RestoreError::NotEmpty(_) | RestoreError::InTheWay(_) => {
            Some("Choose a directory that is empty or does not exist; a restore never overwrites")
        }
        RestoreError::Moved { .. } => Some("Move them back, or restore from another backup"),
        RestoreError::Verify(_) => Some("Do not use this backup"),
        _ => None,
    }
}

fn replica_hint(error: &ReplicaError) -> Option<&'static str> {
    match error {
        ReplicaError::NoPosition => {
            Some("Make a backup with a lock and of a server that writes a binlog")
        }
        ReplicaError::NoChannels => Some("Use --of=source"),
        ReplicaError::InTheWay(_) => {
            Some("Give the directory of the logs another place with --external")
        }
        ReplicaError::SocketInUse(_) => Some(
            "Name a socket of the new server's own with --socket, or leave it to the data directory",
        ),
        ReplicaError::Filter { .. } => {
            Some("Restore with hotmirror restore, and set the filter before replication starts")
        }
        ReplicaError::SeveralSources { .. } => Some("Name one of them with --channel"),
        ReplicaError::Start { .. } => Some("Name the server's binary with --mysqld"),
        ReplicaError::Broken { error, .. } if error.contains("is not in the master's binlog") => {
            Some(
                "The source lacks what the server that was backed up had written itself: once it has that, START SLAVE on the replica; if it never will, use --start-at=position",
            )
        }
        ReplicaError::Broken { .. } => Some(
            "The replica still runs and tells more; check --source-host, --source-port and the replication user",
        ),
        ReplicaError::Behind { .. } => Some("The replica still runs, and goes on catching up"),
        _ => None,
    }
}

fn session_hint(error: &SessionError) -> Option<&'static str> {
    match error {
        SessionError::Link(LinkError::NotLoaded { .. }) => Some(
            "Load libhotmirror.so into the server (LD_PRELOAD) and restart it; `hotmirror doctor --print-systemd` shows how",
        ),
        SessionError::Link(LinkError::OtherProtocol { .. }) => {
            Some("Install library and program of the same version, and restart the server")
        }
        SessionError::Link(LinkError::Stale { .. }) => {
            Some("The server was started without the library: load it and restart the server")
        }
        SessionError::Link(LinkError::NotTrusted { .. } | LinkError::Io { .. }) => {
            Some("Run as root or as the server's system user")
        }
        SessionError::Link(LinkError::NoRoom { .. }) => {
            Some("Make /dev/shm larger (docker: --shm-size), or --log-size smaller")
        }
        SessionError::Link(LinkError::Busy { .. }) => {
            Some("`hotmirror status` shows who; `hotmirror recover` ends what a killed backup left")
        }
        SessionError::Link(LinkError::Grace { .. }) => {
            Some("A write of the server's is stuck; raise --grace-timeout or look at its disk")
        }
        SessionError::LogFull { .. } | SessionError::Lost { .. } => {
            Some("Raise --log-size, or choose a quieter time or a faster target")
        }
        SessionError::Unexplained { .. } => Some(
            "Another program writes to the server's files, or the server in a way that the library does not see",
        ),
        SessionError::Unwatched { .. } => {
            Some("Run the backup again: one that begins when it is mounted watches it, too")
        }
        SessionError::ServerGone { .. } => Some("Look into the server's error log"),
        _ => None,
    }
}

/// A larger capture log than this is no advice.
const LOG_SIZE_ADVISED_MAX: u64 = 8 << 30;

/// What would let passes catch up with the server, by the numbers of those that did not.
fn not_converging(passes: u32, left_bytes: u64, throttle: u64, shrinking: bool) -> String {
    let mut raised = Vec::new();
    if throttle > 0 {
        raised.push(format!("--throttle (now {}/s)", Bytes(throttle)));
    } else {
        raised.push("--parallel".into());
    }
    if shrinking {
        raised.push(format!("--max-passes (now {passes})"));
    }
    // A last copy may have half of it; and the next backup may find somewhat more.
    let log_size = (left_bytes / 2)
        .saturating_mul(5)
        .checked_next_power_of_two();
    if let Some(log_size) = log_size.filter(|size| *size <= LOG_SIZE_ADVISED_MAX) {
        raised.push(format!("--log-size to {}", units::format_bytes(log_size)));
    }
    let raised = raised.join(" or ");
    format!("Raise {raised}, or choose a quieter time or a faster target")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(left_bytes: u64, throttle: u64, shrinking: bool) -> String {
        let error = SessionError::NotConverging {
            passes: 20,
            left_bytes,
            enough_bytes: 32 << 20,
            throttle,
            shrinking,
        };
        let hint = Failure::Session(error).hint();
        hint.unwrap_or_default().into_owned()
    }

    #[test]
    fn a_backup_that_does_not_catch_up_is_told_what_to_change_and_to_what() {
        let text = hint(100 << 20, 50 << 20, false);
        assert!(text.contains("--throttle (now 50.00 MiB/s)"), "{text}");
        assert!(text.contains("--log-size to 256M"), "{text}");
        assert!(!text.contains("--max-passes"), "{text}");
        let text = hint(2 << 30, 0, false);
        assert!(
            text.contains("--parallel") && text.contains("--log-size to 8G"),
            "{text}"
        );
        assert!(!text.contains("--throttle"), "{text}");
    }

    #[test]
    fn more_passes_are_advised_only_where_they_got_somewhere() {
        let text = hint(100 << 20, 0, true);
        assert!(text.contains("--max-passes (now 20)"), "{text}");
    }

    #[test]
    fn a_capture_log_that_no_memory_holds_is_not_advised() {
        let text = hint(1 << 40, 0, false);
        assert!(!text.contains("--log-size"), "{text}");
        assert!(!hint(u64::MAX, 0, false).contains("--log-size"));
    }
}
