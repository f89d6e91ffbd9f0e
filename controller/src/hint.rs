//! What the user can do about an error.
//!
//! What makes it right: a hint says something to do, in one line; an error that leaves nothing to do has none.

use hotmirror::capture_log::LinkError;
use hotmirror::session::SessionError;

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
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Failure::Session(error) => session_hint(error),
            Failure::Server(ServerError::PrivilegesMissing { .. }) => {
                Some("GRANT them; docs/operations.md has the statement")
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
            Failure::SafeSlave(SafeSlaveError::GroupMember) => Some(
                "Leave --safe-slave out: a group replicates rows, which need no temporary tables",
            ),
            Failure::Undo(UndoError::Running { .. }) => Some("`hotmirror status` shows it"),
            Failure::Undo(_) => Some("`hotmirror recover` tries again"),
            Failure::Binlog(BinlogError::LeftOut { .. }) => Some("Use --binlogs=all"),
            Failure::Backup(BackupError::GoldenDifference { .. }) => Some("Please report this"),
            Failure::Root(RootError::Escaped { .. }) => Some("Run the backup again"),
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
        ReplicaError::SeveralSources { .. } => Some("Name one of them with --channel"),
        ReplicaError::Start { .. } => Some("Name the server's binary with --mysqld"),
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
        SessionError::NotConverging { .. } => {
            Some("Raise --max-passes or --parallel, or choose a quieter time or a faster target")
        }
        SessionError::Unexplained { .. } => Some(
            "Another program writes to the server's files, or the server in a way that the library does not see",
        ),
        SessionError::ServerGone { .. } => Some("Look into the server's error log"),
        _ => None,
    }
}
