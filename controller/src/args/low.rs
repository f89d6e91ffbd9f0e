//! What clap reads: the shape of the command line, its help, and nothing of its meaning.
//!
//! What makes it right: options that an option file may give as well are plain text here, and are checked in one place for both.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Hot physical backup of a running MySQL-family server.
#[derive(Debug, Parser)]
#[command(
    name = "hotmirror",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// `-pSECRET` as `--password=SECRET`: the servers' clients take a value that is attached, and only that.
pub fn spelled_out(word: OsString) -> OsString {
    match word.as_bytes().strip_prefix(b"-p") {
        Some(secret) if !secret.is_empty() => {
            let mut long = OsString::from("--password=");
            long.push(OsStr::from_bytes(secret));
            long
        }
        _ => word,
    }
}

#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    #[command(flatten)]
    pub defaults: DefaultsArgs,
    /// Where undo stacks and status files are [default: /var/lib/hotmirror, or ~/.local/state/hotmirror]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// More messages on stderr; twice for all of them
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Option files")]
pub struct DefaultsArgs {
    /// Read this option file only
    #[arg(long, global = true, value_name = "FILE")]
    pub defaults_file: Option<PathBuf>,
    /// Read this option file after the global ones
    #[arg(long, global = true, value_name = "FILE")]
    pub defaults_extra_file: Option<PathBuf>,
    /// Read groups with this suffix, too
    #[arg(long, global = true, value_name = "SUFFIX")]
    pub defaults_group_suffix: Option<String>,
    /// Read no option file
    #[arg(long, global = true)]
    pub no_defaults: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Back up a running server
    Backup(Box<BackupArgs>),
    /// Let the server's own recovery run on a backup, beforehand
    Prepare(PrepareArgs),
    /// Put a backup into a data directory
    Restore(RestoreArgs),
    /// Make a running replica of a backup
    Replica(Box<ReplicaArgs>),
    /// Compare a backup with the checksums in its manifest
    Verify(VerifyArgs),
    /// Show running backups
    Status(StatusArgs),
    /// Change the throttle of a running backup
    Throttle(ThrottleArgs),
    /// Check that a server can be backed up, with a remedy for each finding
    Doctor(DoctorArgs),
    /// Undo what a killed backup left on server and disk
    Recover(RecoverArgs),
    /// Print a shell's completion script
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages into a directory
    Man { dir: PathBuf },
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    #[arg(long, short = 'H')]
    pub host: Option<String>,
    #[arg(long, short = 'P')]
    pub port: Option<String>,
    #[arg(long, short = 'S')]
    pub socket: Option<String>,
    #[arg(long, short)]
    pub user: Option<String>,
    /// Asks for it if no value is given; MYSQL_PWD is used if the option is not
    #[arg(long, short, num_args = 0..=1, require_equals = true)]
    pub password: Option<Option<String>>,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct ShowArgs {
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
    /// One JSON event per line on stdout
    #[arg(long)]
    pub json: bool,
}

/// Which binlogs become part of the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binlogs {
    /// Those that recovery needs: the last one or two, and what is written meanwhile
    #[default]
    Needed,
    /// A new one is begun first, and recovery needs no other: less to copy
    Rotate,
    All,
    /// None: the copy starts with a fresh binlog
    None,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Where the backup goes: a directory that is empty or does not exist
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<String>,
    /// Copying threads [default: 4]
    #[arg(long, value_name = "N")]
    pub parallel: Option<String>,
    /// Bytes per second to read at most, as 50M; 0 for no bound [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub throttle: Option<String>,
    /// Size of the capture log in shared memory [default: 64M]
    #[arg(long, value_name = "BYTES")]
    pub log_size: Option<String>,
    /// How commits are held at the cut: auto, binlog, backup-stage, ftwrl, none [default: auto]
    #[arg(long)]
    pub lock: Option<String>,
    /// Longest wait for each lock [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub lock_timeout: Option<String>,
    /// Wait this long for statements that run for more than 2 seconds before asking for a lock [default: not at all]
    #[arg(long, value_name = "SECONDS")]
    pub wait_for_long_queries: Option<String>,
    /// End statements that have run for this long while the lock is waited for [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub kill_long_queries_after: Option<String>,
    /// Longest wait for a write of the server's that is under way [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub grace_timeout: Option<String>,
    /// Rounds of copying what changed before the backup gives up [default: 20]
    #[arg(long, value_name = "N")]
    pub max_passes: Option<String>,
    /// Leave out: a glob on the path below a root, or DATABASE.TABLE with wildcards
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// needed, rotate, all or none [default: needed]
    #[arg(long)]
    pub binlogs: Option<String>,
    /// Write the position under the names that other tools use, too
    #[arg(long)]
    pub compat_info: bool,
    /// On a replica: cut when its appliers have no temporary tables open
    #[arg(long)]
    pub safe_slave: bool,
    /// Longest wait for that; 0 for one try [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub safe_slave_timeout: Option<String>,
    /// When the time is up: fail or proceed [default: fail]
    #[arg(long, value_name = "ACTION")]
    pub safe_slave_timeout_action: Option<String>,
    /// Stop the server at the cut and compare source and stage to the byte
    #[arg(long, hide = true)]
    pub test_freeze_at_cut: bool,
    #[command(flatten)]
    pub show: ShowArgs,
}

#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The backup
    pub backup: PathBuf,
    /// The server's binary [default: the one that was backed up]
    #[arg(long, value_name = "FILE")]
    pub mysqld: Option<PathBuf>,
    /// Longest wait for the recovery
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub timeout: u64,
    /// Memory for recovery (innodb_buffer_pool_size)
    #[arg(long, value_name = "BYTES", default_value = "256M")]
    pub use_memory: String,
    /// System user to run the server as, if started by root [default: the owner of the data directory]
    #[arg(long)]
    pub user: Option<String>,
}

#[derive(Debug, Args)]
#[group(id = "how", required = true, multiple = false)]
pub struct RestoreWay {
    /// Copy; the backup stays
    #[arg(long, group = "how")]
    pub copy_back: bool,
    /// Move; the backup is used up
    #[arg(long, group = "how")]
    pub move_back: bool,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub way: RestoreWay,
    /// The backup
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The new data directory: empty or not existing
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where external root N goes [default: where it came from]
    #[arg(long, value_name = "N=DIR")]
    pub external: Vec<String>,
    /// Owner of the files, as USER or USER:GROUP, names or numbers [default: as in the backup]
    #[arg(long)]
    pub owner: Option<String>,
    /// Do not compare with the manifest's checksums
    #[arg(long)]
    pub no_verify: bool,
    /// The server's binary, for tablespaces that change their place [default: the one that was backed up]
    #[arg(long, value_name = "FILE")]
    pub mysqld: Option<PathBuf>,
}

/// Whom a replica made from a backup follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Of {
    /// The server that was backed up
    #[default]
    Source,
    /// The sources of the server that was backed up
    Sibling,
}

/// How a replica is told where to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StartAt {
    /// By GTID where there are GTIDs
    #[default]
    Auto,
    Gtid,
    /// By file and offset
    Position,
}

#[derive(Debug, Args)]
pub struct ReplicaArgs {
    /// The backup
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The new data directory: empty or not existing
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Whom to follow: the server that was backed up, or its sources
    #[arg(long, value_enum, default_value_t)]
    pub of: Of,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The source [default: as in the backup]
    #[arg(long, value_name = "HOST")]
    pub source_host: Option<String>,
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<u16>,
    /// User for replication [default: for a sibling, as in the backup]
    #[arg(long, value_name = "USER")]
    pub replication_user: Option<String>,
    /// Asks for it if no value is given; HOTMIRROR_REPLICATION_PASSWORD is used if the option is not
    #[arg(long, value_name = "PASSWORD", num_args = 0..=1, require_equals = true)]
    pub replication_password: Option<Option<String>>,
    #[arg(long, value_enum, default_value_t)]
    pub start_at: StartAt,
    /// Follow this channel only, of those that a sibling has
    #[arg(long, value_name = "NAME")]
    pub channel: Vec<String>,
    /// Seconds to wait until the replica has caught up
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub timeout: u64,
    #[command(flatten)]
    pub server: NewServerArgs,
    /// Move the files; the backup is used up
    #[arg(long)]
    pub move_back: bool,
    /// Where external root N goes [default: where it came from]
    #[arg(long, value_name = "N=DIR")]
    pub external: Vec<String>,
    /// Owner of the files, as USER or USER:GROUP, names or numbers [default: as in the backup]
    #[arg(long)]
    pub owner: Option<String>,
    /// Do not compare with the manifest's checksums
    #[arg(long)]
    pub no_verify: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The new server")]
pub struct NewServerArgs {
    /// [default: a random number]
    #[arg(long, value_name = "N")]
    pub server_id: Option<u32>,
    /// Where it listens [default: mysqld.sock in its data directory]
    #[arg(long, short = 'S', value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Where it listens over TCP [default: nowhere]
    #[arg(long, short = 'P')]
    pub port: Option<u16>,
    /// The server's binary [default: the one that was backed up]
    #[arg(long, value_name = "FILE")]
    pub mysqld: Option<PathBuf>,
    /// One more line for its option file
    #[arg(long, value_name = "NAME=VALUE")]
    pub option: Vec<String>,
    /// A user of the server that may set up replication
    #[arg(long, short)]
    pub user: Option<String>,
    /// Asks for it if no value is given; MYSQL_PWD is used if the option is not
    #[arg(long, short, num_args = 0..=1, require_equals = true)]
    pub password: Option<Option<String>>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The backup
    pub backup: PathBuf,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// One JSON object per running backup
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ThrottleArgs {
    /// Bytes per second, as 50M; 0 for no bound
    pub value: String,
    /// Which backup, if several run: its target directory
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Check the space there, too
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// Print the systemd drop-ins that load the library, and do nothing else
    #[arg(long)]
    pub print_systemd: bool,
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
}
