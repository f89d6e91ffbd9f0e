//! How a command ends: every error and its exit code.
//!
//! What makes it right: codes are decided here and nowhere else, each has one meaning (docs/operations.md lists them), and none is ever reused.

use std::error::Error;

use hotmirror::capture_log::LinkError;
use hotmirror::copy::CopyError;
use hotmirror::pass::PassError;
use hotmirror::session::SessionError;
use hotmirror::target::TargetError;

use crate::args::UsageError;
use crate::backup::BackupError;
use crate::backup::binlogs::BinlogError;
use crate::backup::long_queries::LongQueryError;
use crate::backup::preflight::PreflightError;
use crate::backup::process::ProcessError;
use crate::backup::roots::RootError;
use crate::cancel::Cancelled;
use crate::client::ClientError;
use crate::files::FileError;
use crate::manifest::ManifestError;
use crate::prepare::instance::InstanceError;
use crate::replica::ReplicaError;
use crate::restore::RestoreError;
use crate::safe_slave::SafeSlaveError;
use crate::server::ServerError;
use crate::undo::UndoError;
use crate::verify::VerifyError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    Internal = 1,
    Usage = 2,
    Connection = 3,
    Privileges = 4,
    Library = 5,
    Target = 6,
    Busy = 7,
    Lost = 8,
    LockTimeout = 9,
    Cancelled = 10,
    Source = 11,
    Server = 12,
    DamagedBackup = 13,
    Unsupported = 14,
    Undo = 15,
    Findings = 16,
    Replication = 17,
    SafeSlave = 18,
}

/// Any error that ends a command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Binlog(#[from] BinlogError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    LongQuery(#[from] LongQueryError),
    #[error(transparent)]
    SafeSlave(#[from] SafeSlaveError),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("Cannot use {path}: {source}")]
    State {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("No backup is running")]
    NotRunning,
    #[error("{count} backups are running")]
    SeveralRunning { count: usize },
    #[error("{count} things keep this server from being backed up")]
    Findings { count: usize },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Failure {
        SessionError::Link(error).into()
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        SessionError::Target(error).into()
    }
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::Usage,
            Failure::Client(error) | Failure::Server(ServerError::Client(error)) => client(error),
            Failure::Server(ServerError::Unsupported(_)) => ExitCode::Unsupported,
            Failure::Server(ServerError::NoSuchLock { .. } | ServerError::LockNeeded { .. }) => {
                ExitCode::Usage
            }
            Failure::Server(ServerError::NoRedo) => ExitCode::Source,
            Failure::Server(ServerError::PrivilegesMissing { .. }) => ExitCode::Privileges,
            Failure::Process(ProcessError::Proc { .. }) => ExitCode::Source,
            Failure::Process(_) => ExitCode::Connection,
            Failure::Preflight(PreflightError::SourceUnreadable { .. }) => ExitCode::Source,
            Failure::Preflight(_) => ExitCode::Target,
            Failure::Root(RootError::Pattern(_)) => ExitCode::Usage,
            Failure::Root(_) => ExitCode::Source,
            Failure::Binlog(BinlogError::Client(error)) => client(error),
            Failure::Binlog(_) => ExitCode::Lost,
            Failure::Session(error) => session(error),
            Failure::Backup(BackupError::Unsettled { .. }) => ExitCode::Lost,
            Failure::Backup(BackupError::Info { .. }) => ExitCode::Target,
            Failure::Backup(BackupError::LockTimeout { .. }) => ExitCode::LockTimeout,
            Failure::Backup(_) => ExitCode::Internal,
            Failure::LongQuery(error) => match error {
                LongQueryError::StillRunning { .. } => ExitCode::LockTimeout,
                LongQueryError::Client(error) => client(error),
                LongQueryError::Cancelled(_) => ExitCode::Cancelled,
            },
            Failure::SafeSlave(error) => match error {
                SafeSlaveError::Client(error) => client(error),
                SafeSlaveError::Undo(_) => ExitCode::Undo,
                SafeSlaveError::Cancelled(_) => ExitCode::Cancelled,
                _ => ExitCode::SafeSlave,
            },
            Failure::Undo(UndoError::Running { .. }) => ExitCode::Busy,
            Failure::Undo(_) => ExitCode::Undo,
            Failure::Manifest(ManifestError::InUse(_)) => ExitCode::Busy,
            Failure::Manifest(_) | Failure::Verify(_) => ExitCode::DamagedBackup,
            Failure::Instance(InstanceError::NoBinary(_)) => ExitCode::Usage,
            Failure::Instance(InstanceError::NoNamespace) => ExitCode::Privileges,
            Failure::Instance(InstanceError::Cancelled) => ExitCode::Cancelled,
            Failure::Instance(_) => ExitCode::Server,
            Failure::Restore(error) => restore(error),
            Failure::Replica(error) => replica(error),
            Failure::File(_) => ExitCode::Target,
            Failure::State { .. } => ExitCode::Internal,
            Failure::NotRunning | Failure::SeveralRunning { .. } => ExitCode::Usage,
            Failure::Findings { .. } => ExitCode::Findings,
            Failure::Cancelled(_) => ExitCode::Cancelled,
        }
    }

    /// The message with what caused it.
    pub fn message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        text
    }
}

fn client(error: &ClientError) -> ExitCode {
    match error {
        ClientError::Unreachable { .. } | ClientError::Denied { .. } => ExitCode::Connection,
        ClientError::Privilege { .. } => ExitCode::Privileges,
        ClientError::LockTimeout { .. } => ExitCode::LockTimeout,
        ClientError::Interrupted { .. } => ExitCode::Cancelled,
        _ => ExitCode::Server,
    }
}

fn session(error: &SessionError) -> ExitCode {
    match error {
        SessionError::Link(LinkError::Busy { .. }) => ExitCode::Busy,
        SessionError::Link(LinkError::NoRoom { .. }) => ExitCode::Library,
        SessionError::Link(LinkError::SwitchedOff { .. } | LinkError::Grace { .. }) => {
            ExitCode::Lost
        }
        SessionError::Link(_) | SessionError::Refused { .. } => ExitCode::Library,
        SessionError::Target(_) | SessionError::Mirror { .. } => ExitCode::Target,
        SessionError::Pass(error) => pass(error),
        SessionError::Scan(_) | SessionError::Io { .. } => ExitCode::Source,
        SessionError::Cancelled => ExitCode::Cancelled,
        SessionError::ServerGone { .. } | SessionError::NeverQuiet { .. } => ExitCode::Server,
        SessionError::Failed => ExitCode::Internal,
        _ => ExitCode::Lost,
    }
}

fn pass(error: &PassError) -> ExitCode {
    match error {
        PassError::Cancelled => ExitCode::Cancelled,
        PassError::Slot { .. } => ExitCode::Target,
        PassError::Copy { source, .. } => match source {
            CopyError::Target(_) => ExitCode::Target,
            CopyError::Cancelled => ExitCode::Cancelled,
            CopyError::Source(_) => ExitCode::Source,
        },
        PassError::Open { .. } => ExitCode::Source,
        PassError::Memory(_) => ExitCode::Internal,
    }
}

fn restore(error: &RestoreError) -> ExitCode {
    match error {
        RestoreError::Verify(_) => ExitCode::DamagedBackup,
        RestoreError::Usage(_) => ExitCode::Usage,
        RestoreError::Recovery(_) => ExitCode::Server,
        RestoreError::Cancelled(_) => ExitCode::Cancelled,
        _ => ExitCode::Target,
    }
}

fn replica(error: &ReplicaError) -> ExitCode {
    match error {
        ReplicaError::NoPosition
        | ReplicaError::NoChannels
        | ReplicaError::NoChannel { .. }
        | ReplicaError::SeveralSources { .. }
        | ReplicaError::SocketInUse(_)
        | ReplicaError::OtherServer { .. }
        | ReplicaError::Filter { .. }
        | ReplicaError::NoUser => ExitCode::Usage,
        ReplicaError::InTheWay(_) => ExitCode::Target,
        ReplicaError::Start { .. } | ReplicaError::Ended { .. } | ReplicaError::TooSlow { .. } => {
            ExitCode::Server
        }
        ReplicaError::Broken { .. } | ReplicaError::Behind { .. } => ExitCode::Replication,
        ReplicaError::Client(error) => client(error),
        ReplicaError::Cancelled(_) => ExitCode::Cancelled,
    }
}
