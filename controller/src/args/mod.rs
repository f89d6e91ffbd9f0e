//! The command line: `low` is what clap reads, `option_files` what the servers' option files add, and this file makes checked arguments of both.
//!
//! What makes it right: a command gets arguments that are already known to make sense; the command line wins over files, and
//! `[hotmirror]` over `[client]`.

pub mod low;
pub mod option_files;
pub mod password;
pub mod units;

use std::path::PathBuf;
use std::time::Duration;

use crate::client::{Credentials, Endpoint};
use crate::safe_slave;
use crate::server::LockChoice;
use low::{BackupArgs, Binlogs, ConnectionArgs, Global};
use option_files::{OptionFileError, Options};

#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    #[error("{option} = {value:?}: {reason}")]
    Value {
        option: String,
        value: String,
        reason: String,
    },
    #[error("{0} is required")]
    Missing(&'static str),
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    OptionFile(#[from] OptionFileError),
    #[error("Cannot read the password: {0}")]
    Password(std::io::Error),
}

/// What every command that speaks to a server needs.
#[derive(Clone, Debug)]
pub struct Connection {
    pub endpoint: Endpoint,
    pub credentials: Credentials,
}

#[derive(Clone, Debug)]
pub struct Backup {
    pub connection: Connection,
    pub target: PathBuf,
    pub parallel: usize,
    pub throttle_bytes_per_s: u64,
    pub log_size: u64,
    pub lock: LockChoice,
    pub lock_timeout: Duration,
    /// None unless asked for.
    pub wait_for_long_queries: Option<Duration>,
    pub kill_long_queries_after: Option<Duration>,
    pub grace_timeout: Duration,
    pub max_passes: u32,
    pub exclude: Vec<String>,
    pub binlogs: Binlogs,
    pub compat_info: bool,
    /// None unless asked for.
    pub safe_slave: Option<safe_slave::Request>,
    pub golden: bool,
    pub show: low::ShowArgs,
}

const PARALLEL: usize = 4;
const LOG_SIZE: u64 = 64 << 20;
/// A log smaller than this could not hold a server's larger writes.
const LOG_SIZE_MIN: u64 = 1 << 20;
const LOCK_TIMEOUT_S: u64 = 60;
const GRACE_TIMEOUT_S: u64 = 30;
const SAFE_SLAVE_TIMEOUT_S: u64 = 300;
const MAX_PASSES: u32 = 20;

/// Looks an option up: command line first, then option files.
struct Layers<'a> {
    options: &'a Options,
}

impl Layers<'_> {
    fn text(&self, given: &Option<String>, name: &str) -> Option<String> {
        given
            .clone()
            .or_else(|| self.options.get(name).map(str::to_string))
    }

    fn parsed<T>(
        &self,
        given: &Option<String>,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, UsageError> {
        let Some(value) = self.text(given, name) else {
            return Ok(None);
        };
        parse(&value).map(Some).map_err(|reason| UsageError::Value {
            option: format!("--{name}"),
            value,
            reason,
        })
    }

    fn flag(&self, given: bool, name: &str) -> bool {
        given
            || matches!(
                self.options.get(name),
                Some("" | "1" | "on" | "ON" | "true")
            )
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| "not a number in range".to_string())
}

fn choice<T: clap::ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| {
        let names = T::value_variants().iter().filter_map(T::to_possible_value);
        let names: Vec<String> = names.map(|value| value.get_name().to_string()).collect();
        format!("one of {} is meant", names.join(", "))
    })
}

pub fn connection(args: &ConnectionArgs, options: &Options) -> Result<Connection, UsageError> {
    let layers = Layers { options };
    let host = layers.text(&args.host, "host");
    let port = layers.parsed(&args.port, "port", number::<u16>)?;
    let socket = layers
        .text(&args.socket, "socket")
        .map(|path| absolute(path.into()));
    let endpoint = Endpoint::from_options(host.as_deref(), port, socket.as_deref());
    let user = layers
        .text(&args.user, "user")
        .unwrap_or_else(password::login_name);
    let password =
        password::find(&args.password, options.get("password")).map_err(UsageError::Password)?;
    let credentials = Credentials { user, password };
    Ok(Connection {
        endpoint,
        credentials,
    })
}

pub fn backup(args: BackupArgs, options: &Options) -> Result<Backup, UsageError> {
    let layers = Layers { options };
    let seconds = |given: &Option<String>, name: &str, default: u64| {
        let value = layers.parsed(given, name, number::<u64>)?;
        Ok::<_, UsageError>(Duration::from_secs(value.unwrap_or(default)))
    };
    let bound = |given: &Option<String>, name: &str| {
        let value = layers.parsed(given, name, number::<u64>)?;
        Ok::<_, UsageError>(value.map(Duration::from_secs))
    };
    let target = layers.text(&args.target_dir, "target-dir");
    let mut exclude = args.exclude.clone();
    exclude.extend(options.get_all("exclude").map(str::to_string));
    let safe_slave_request = safe_slave::Request {
        timeout: seconds(
            &args.safe_slave_timeout,
            "safe-slave-timeout",
            SAFE_SLAVE_TIMEOUT_S,
        )?,
        action: layers
            .parsed(
                &args.safe_slave_timeout_action,
                "safe-slave-timeout-action",
                choice,
            )?
            .unwrap_or_default(),
    };
    let checked = Backup {
        target: absolute(target.ok_or(UsageError::Missing("--target-dir"))?.into()),
        parallel: layers
            .parsed(&args.parallel, "parallel", number)?
            .unwrap_or(PARALLEL),
        throttle_bytes_per_s: layers
            .parsed(&args.throttle, "throttle", units::parse_bytes)?
            .unwrap_or(0),
        log_size: layers
            .parsed(&args.log_size, "log-size", units::parse_bytes)?
            .unwrap_or(LOG_SIZE),
        lock: layers
            .parsed(&args.lock, "lock", choice)?
            .unwrap_or_default(),
        lock_timeout: seconds(&args.lock_timeout, "lock-timeout", LOCK_TIMEOUT_S)?,
        wait_for_long_queries: bound(&args.wait_for_long_queries, "wait-for-long-queries")?,
        kill_long_queries_after: bound(&args.kill_long_queries_after, "kill-long-queries-after")?,
        grace_timeout: seconds(&args.grace_timeout, "grace-timeout", GRACE_TIMEOUT_S)?,
        max_passes: layers
            .parsed(&args.max_passes, "max-passes", number)?
            .unwrap_or(MAX_PASSES),
        exclude,
        binlogs: layers
            .parsed(&args.binlogs, "binlogs", choice)?
            .unwrap_or_default(),
        compat_info: layers.flag(args.compat_info, "compat-info"),
        safe_slave: layers
            .flag(args.safe_slave, "safe-slave")
            .then_some(safe_slave_request),
        golden: args.test_freeze_at_cut,
        show: args.show.clone(),
        // Last, so that a wrong option is reported before a password is asked for.
        connection: connection(&args.connection, options)?,
    };
    check(&checked)?;
    Ok(checked)
}

fn check(backup: &Backup) -> Result<(), UsageError> {
    let range = |option: &str, value: String, reason: &str| UsageError::Value {
        option: option.into(),
        value,
        reason: reason.into(),
    };
    if !(1..=256).contains(&backup.parallel) {
        return Err(range(
            "--parallel",
            backup.parallel.to_string(),
            "1 to 256 are possible",
        ));
    }
    if backup.log_size < LOG_SIZE_MIN {
        return Err(range(
            "--log-size",
            backup.log_size.to_string(),
            "at least 1M is needed",
        ));
    }
    if backup.lock_timeout.is_zero() {
        return Err(range(
            "--lock-timeout",
            "0".into(),
            "at least 1 second is needed",
        ));
    }
    if backup.lock == LockChoice::None && backup.binlogs == Binlogs::None {
        return Err(UsageError::Conflict(
            "--lock=none with --binlogs=none makes a copy that cannot start: without the lock, transactions may be prepared at the cut, and \
             only the binlog says which of them are committed"
                .into(),
        ));
    }
    Ok(())
}

/// Relative paths are meant relative to where the program was started.
pub fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The options that the global flags ask for.
pub fn options(global: &Global) -> Result<Options, UsageError> {
    Ok(Options::load(&global.defaults)?)
}

pub fn state_dir(global: &Global, options: &Options) -> PathBuf {
    let given = global
        .state_dir
        .clone()
        .or_else(|| options.get("state-dir").map(PathBuf::from));
    given.map_or_else(crate::system::default_state_dir, absolute)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use low::{Cli, Command};

    fn backup_of(line: &str, file: &str) -> Result<Backup, UsageError> {
        let words = ["hotmirror", "backup", "--user=u", "--socket=/s"];
        let cli = Cli::parse_from(words.into_iter().chain(line.split_whitespace()));
        let options = Options::from_text(file);
        match cli.command {
            Command::Backup(args) => backup(*args, &options),
            _ => unreachable!(),
        }
    }

    #[test]
    fn the_command_line_wins_over_files() {
        let file = "[hotmirror]\nparallel=2\nthrottle=10M\ntarget_dir=/b\n";
        let checked = backup_of("--parallel=3", file).unwrap();
        assert_eq!(checked.parallel, 3);
        assert_eq!(checked.throttle_bytes_per_s, 10 << 20);
        assert_eq!(checked.target, PathBuf::from("/b"));
    }

    #[test]
    fn a_bad_value_is_named_with_its_option() {
        let message = |line: &str| backup_of(line, "").unwrap_err().to_string();
        assert_eq!(
            message("--target-dir=/b --parallel=0"),
            "--parallel = \"0\": 1 to 256 are possible"
        );
        assert_eq!(
            message("--target-dir=/b --throttle=fast"),
            "--throttle = \"fast\": a number is meant, with k, m, g or t behind it if needed"
        );
        assert_eq!(message(""), "--target-dir is required");
    }

    #[test]
    fn a_copy_that_could_not_start_is_refused() {
        assert!(backup_of("--target-dir=/b --lock=none --binlogs=none", "").is_err());
    }
}
