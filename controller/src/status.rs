//! `hotmirror status` and `hotmirror throttle`: looking at running backups, and slowing one down.
//!
//! What makes it right: both only touch small files in the state directory; a running backup looks at them, and never waits for us.

use std::path::Path;

use indicatif::HumanBytes;

use crate::args::low::{StatusArgs, ThrottleArgs};
use crate::args::{UsageError, absolute, units};
use crate::exit::Failure;
use crate::progress::show::phase_name;
use crate::progress::status::{self, Status};

pub fn show(state_dir: &Path, args: &StatusArgs) -> Result<(), Failure> {
    let running = running(state_dir)?;
    if args.json {
        for status in &running {
            say!("{}", serde_json::to_string(status).expect("plain data"));
        }
        return Ok(());
    }
    if running.is_empty() {
        say!("No backup is running");
    }
    running.iter().for_each(print);
    Ok(())
}

fn print(status: &Status) {
    let (header, progress) = (&status.header, &status.progress);
    say!(
        "Backup to {} (process {})",
        header.target.display(),
        header.owner_pid
    );
    say!(
        "  server       {} (process {})",
        header.endpoint,
        header.server_pid
    );
    say!("  started      {}", status.started);
    say!("  updated      {}", status.updated);
    say!(
        "  phase        {}, pass {}",
        phase_name(status.phase),
        progress.pass
    );
    say!(
        "  copied       {} of {}, {} of {} files",
        HumanBytes(progress.copied_bytes),
        HumanBytes(progress.total_bytes),
        progress.copied_files,
        progress.total_files
    );
    say!(
        "  capture log  {} of {} in use",
        HumanBytes(progress.log_used_bytes),
        HumanBytes(progress.log_capacity_bytes)
    );
    match status.throttle_bytes_per_s {
        0 => say!("  throttle     none"),
        rate => say!("  throttle     {}/s", HumanBytes(rate)),
    }
}

pub fn throttle(state_dir: &Path, args: &ThrottleArgs) -> Result<(), Failure> {
    let rate = units::parse_bytes(&args.value).map_err(|reason| UsageError::Value {
        option: "throttle".into(),
        value: args.value.clone(),
        reason,
    })?;
    let mut running = running(state_dir)?;
    if let Some(target) = &args.target_dir {
        let target = absolute(target.clone());
        running.retain(|status| status.header.target == target);
    }
    let status = match running.as_slice() {
        [] => return Err(Failure::NotRunning),
        [status] => status,
        several => {
            return Err(Failure::SeveralRunning {
                count: several.len(),
            });
        }
    };
    status::ask_for_rate(state_dir, status, rate).map_err(|source| Failure::State {
        path: state_dir.into(),
        source,
    })?;
    match rate {
        0 => say!(
            "The backup to {} has no throttle now",
            status.header.target.display()
        ),
        rate => say!(
            "The backup to {} reads {}/s at most now",
            status.header.target.display(),
            HumanBytes(rate)
        ),
    }
    Ok(())
}

fn running(state_dir: &Path) -> Result<Vec<Status>, Failure> {
    status::running(state_dir).map_err(|source| Failure::State {
        path: state_dir.into(),
        source,
    })
}
