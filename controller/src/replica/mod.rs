//! `hotmirror replica`: from a backup to a running replica, of the server that was backed up or of that server's own source.
//!
//! What makes it right: the backup is restored to places of its own, the new server gets an identity of its own, and it is told the position of the cut; it is
//! left running only once it replicates. Whatever fails before that ends it, and the restored files stay.

pub mod filters;
pub mod follow;
pub mod instance;
pub mod plan;
pub mod statements;

use std::path::PathBuf;
use std::time::Duration;

use crate::args::low::{ConnectionArgs, Of, ReplicaArgs, RestoreArgs, RestoreWay};
use crate::args::option_files::Options;
use crate::args::{self, UsageError, absolute};
use crate::backup::settings::{FILE_KEY, FILE_KEY_PREFIX};
use crate::cancel::{Cancel, Cancelled};
use crate::client::ClientError;
use crate::exit::Failure;
use crate::manifest::Manifest;
use crate::prepare;
use crate::prepare::instance::InstanceError;
use crate::restore;
use crate::restore::place::Destination;
use crate::server::Version;
use crate::system;
use follow::{Follower, Status};
use instance::{Daemon, Identity};
use plan::{Plan, Wishes};
use statements::{Statement, Words};

#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error(
        "The backup has no position: its server wrote no binlog, or it was made without a lock"
    )]
    NoPosition,
    #[error(
        "The backup has no position of a channel, so the server can have no sibling: it follows no source, or the backup was made without a lock"
    )]
    NoChannels,
    #[error("{0} is there already, and the new server would take it for its own")]
    InTheWay(PathBuf),
    #[error("A server listens at {0} already")]
    SocketInUse(PathBuf),
    #[error("The server behind {socket} has the data directory {found}, not {expected}")]
    OtherServer {
        socket: PathBuf,
        found: PathBuf,
        expected: PathBuf,
    },
    #[error("{name} of channel {channel:?} is not understood: {value:?}")]
    Filter {
        channel: String,
        name: String,
        value: String,
    },
    #[error("The backup has no channel {name:?}, only {known}")]
    NoChannel { name: String, known: String },
    #[error(
        "--source-host and --source-port name one source, but {count} channels are to be followed"
    )]
    SeveralSources { count: usize },
    #[error("--replication-user is required")]
    NoUser,
    #[error("Cannot start {executable}: {source}")]
    Start {
        executable: PathBuf,
        source: std::io::Error,
    },
    #[error("The restored server ended while it started ({status}); its log ends with:\n{log}")]
    Ended { status: String, log: String },
    #[error("The restored server let nobody in within {bound:?}; its log ends with:\n{log}")]
    TooSlow { bound: Duration, log: String },
    #[error("Channel {channel:?} is broken ({status}): {error}")]
    Broken {
        channel: String,
        status: String,
        error: String,
    },
    #[error("The replica has not caught up within {bound:?}: {status}")]
    Behind { bound: Duration, status: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Where the password for replication is, if the command line has none.
pub const PASSWORD_VARIABLE: &str = "HOTMIRROR_REPLICATION_PASSWORD";

/// How long the restored server may take for its recovery.
const START_BOUND: Duration = Duration::from_secs(3600);

pub fn run(args: &ReplicaArgs, options: &Options) -> Result<(), Failure> {
    let cancel = Cancel::on_signals().map_err(InstanceError::Begin)?;
    let manifest = Manifest::read(&absolute(args.from.clone()))?;
    let plan = Plan::new(&manifest, &wishes(args)?)?;
    let identity = identity(args, &manifest, &plan)?;
    let destinations = restore::destinations(&restore_args(args), &manifest)?;
    identity.check_free(&manifest, &destinations)?;
    if args.dry_run {
        let words = Words::of(&manifest.server.version);
        let statements = words.set_up(&plan, writes_binlogs(&manifest));
        print(&manifest, &identity, &destinations, &statements);
        return Ok(());
    }
    let credentials = args::connection(&login(args), options)?.credentials;

    restore::restore(&restore_args(args), &cancel)?;
    identity.settle(&manifest, &destinations)?;
    let mut daemon = Daemon::start(&identity)?;
    say!("The restored server starts as process {}", daemon.pid());
    let mut client = daemon.connect(&identity.socket, &credentials, START_BOUND, &cancel)?;
    identity.check_server(&mut client)?;
    // The server's binary may be of another version than the one that was backed up.
    let words = Words::of(&Version::detect(&mut client)?);
    for statement in words.set_up(&plan, writes_binlogs(&manifest)) {
        say!("{};", statement.shown);
        client.run_secret(&statement.text, &statement.shown)?;
    }
    daemon.release();
    let bound = Duration::from_secs(args.timeout);
    let asker = random_server_id(identity.server_id);
    let mut follower = Follower::new(&mut client, words, &plan.follow, asker);
    let channels = follower.wait(bound, &cancel)?;
    for channel in follower.untold() {
        say!(
            "WARNING: the source of channel {channel:?} could not be asked whether it has more than was received: --source-host, --source-port and --replication-password say how"
        );
    }
    report(&identity, daemon.pid(), &channels);
    Ok(())
}

fn writes_binlogs(manifest: &Manifest) -> bool {
    manifest.server.settings.log_bin.is_some()
}

/// The user is the new server's, and so is nothing else that option files say of connections.
fn login(args: &ReplicaArgs) -> ConnectionArgs {
    ConnectionArgs {
        user: args.server.user.clone(),
        password: args.server.password.clone(),
        ..ConnectionArgs::default()
    }
}

fn wishes(args: &ReplicaArgs) -> Result<Wishes, UsageError> {
    let given = &args.replication_password;
    let from_environment = std::env::var(PASSWORD_VARIABLE).ok();
    let password = match given {
        Some(_) => args::password::find(given, None).map_err(UsageError::Password)?,
        None => from_environment,
    };
    Ok(Wishes {
        of: args.of,
        host: args.source_host.clone(),
        port: args.source_port,
        user: args.replication_user.clone(),
        password,
        start_at: args.start_at,
        channels: args.channel.clone(),
    })
}

fn identity(args: &ReplicaArgs, manifest: &Manifest, plan: &Plan) -> Result<Identity, Failure> {
    let data_dir = as_text("--data-dir", absolute(args.data_dir.clone()))?;
    let server_id = match args.server.server_id {
        Some(id) if id == 0 || id == manifest.server.server_id => {
            return Err(UsageError::Value {
                option: "--server-id".into(),
                value: id.to_string(),
                reason: "a replica needs one that is not 0 and not that of the server that was backed up".into(),
            }
            .into());
        }
        Some(id) => id,
        None => random_server_id(manifest.server.server_id),
    };
    let socket = args.server.socket.clone();
    let socket = socket.map_or_else(|| Identity::default_socket(&data_dir), absolute);
    let mut channels = filters::option_lines(&manifest.server.version, &plan.follow)?;
    if args.of == Of::Sibling {
        channels.extend(manifest.server.settings.applier_lines());
    }
    Ok(Identity {
        socket: as_text("--socket", socket)?,
        channels,
        data_dir,
        server_id,
        port: args.server.port,
        program: prepare::program(manifest, args.server.mysqld.as_deref()),
        options: args.server.option.clone(),
    })
}

/// An option file is text.
fn as_text(option: &str, path: PathBuf) -> Result<PathBuf, UsageError> {
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(UsageError::Value {
            option: option.into(),
            value: path.display().to_string(),
            reason: "a name that is not UTF-8 cannot be written to an option file".into(),
        }),
    }
}

/// Random, so that replicas made on several hosts do not meet; above the small numbers that people choose.
fn random_server_id(taken: u32) -> u32 {
    let random = system::random_session().unwrap_or(u64::from(std::process::id()));
    let id = (random as u32 >> 1).max(1 << 16);
    if id == taken { id + 1 } else { id }
}

fn restore_args(args: &ReplicaArgs) -> RestoreArgs {
    RestoreArgs {
        way: RestoreWay {
            copy_back: !args.move_back,
            move_back: args.move_back,
        },
        from: args.from.clone(),
        data_dir: args.data_dir.clone(),
        external: args.external.clone(),
        owner: args.owner.clone(),
        no_verify: args.no_verify,
        mysqld: args.server.mysqld.clone(),
    }
}

/// What would be done.
fn print(
    manifest: &Manifest,
    identity: &Identity,
    destinations: &[Destination],
    statements: &[Statement],
) {
    for destination in destinations {
        say!(
            "# {} goes to {}",
            destination.place.display(),
            destination.directory.display()
        );
    }
    say!("# {}", identity.option_path().display());
    for line in identity.option_file(manifest, destinations, None).lines() {
        match line.split_once(FILE_KEY) {
            // The key itself.
            Some((prefix, value)) if !value.contains(FILE_KEY_PREFIX) => {
                say!("#     {prefix}{FILE_KEY} = …");
            }
            _ => say!("#     {line}"),
        }
    }
    for statement in statements {
        say!("{};", statement.shown);
    }
}

fn report(identity: &Identity, pid: u32, channels: &[Status]) {
    for status in channels {
        say!("Channel {:?} has caught up: {status}", status.channel);
    }
    say!(
        "Replica: process {pid}, server id {}, socket {}",
        identity.server_id,
        identity.socket.display()
    );
    let program: Vec<String> = identity
        .program
        .iter()
        .map(|word| word.display().to_string())
        .collect();
    say!(
        "Start it again with: {} --defaults-file={}",
        program.join(" "),
        identity.option_path().display()
    );
    say!("completed OK!");
}

#[cfg(test)]
mod tests;
