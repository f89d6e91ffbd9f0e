//! The `hotmirror` program: finds the command, runs it, and says how it ended.

#![forbid(unsafe_code)]

/// A line on stdout.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::system::say(format_args!($($text)*))
    };
}

mod args;
mod backup;
mod binlog;
mod cancel;
mod client;
mod doctor;
mod exit;
mod files;
mod hint;
mod manifest;
mod pages;
mod prepare;
mod progress;
mod reach;
mod recover;
mod replica;
mod restore;
mod safe_slave;
mod server;
mod status;
mod system;
mod undo;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::low::{Cli, Command};
use exit::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse_from(std::env::args_os().map(args::low::spelled_out));
    init_tracing(cli.global.verbose);
    let json = matches!(&cli.command, Command::Backup(args) if args.show.json);
    // A panic has told its own message, and undone on its way here what was done.
    match std::panic::catch_unwind(|| run(cli)) {
        Err(_) => ExitCode::from(exit::ExitCode::Internal as u8),
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            tell(&failure, json);
            ExitCode::from(failure.exit_code() as u8)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let options = args::options(&cli.global)?;
    let state_dir = args::state_dir(&cli.global, &options);
    match cli.command {
        Command::Backup(args) => backup::run(&args::backup(*args, &options)?, &state_dir),
        Command::Recover(args) => {
            recover::run(&state_dir, args::connection(&args.connection, &options)?)
        }
        Command::Prepare(args) => prepare::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Replica(args) => replica::run(&args, &options),
        Command::Verify(args) => verify::run(&args.backup),
        Command::Status(args) => status::show(&state_dir, &args),
        Command::Throttle(args) => status::throttle(&state_dir, &args),
        Command::Doctor(args) if args.print_systemd => {
            doctor::print_systemd();
            Ok(())
        }
        Command::Doctor(args) => doctor::run(&args, &args::connection(&args.connection, &options)?),
        Command::Completions { shell } => {
            pages::completions(shell);
            Ok(())
        }
        Command::Man { dir } => pages::manual(&dir),
    }
}

fn tell(failure: &Failure, json: bool) {
    let message = failure.message();
    if json {
        progress::show::event(serde_json::json!({
            "event": "failed",
            "exit_code": failure.exit_code() as u8,
            "error": message,
            "hint": failure.hint(),
        }));
    }
    eprintln!("ERROR: {message}");
    if let Some(hint) = failure.hint() {
        eprintln!("HINT: {hint}");
    }
}

fn init_tracing(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .init();
}
