//! The three ways to show progress: a bar on a terminal, lines elsewhere, JSON events for machines.
//!
//! What makes it right: machines get every event, people a line for each step and, without a terminal, one for each tenth of the base copy at most.

use std::io::{IsTerminal, Write};

use hotmirror::session::{Phase, Progress};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::low::ShowArgs;

pub enum Show {
    Bar(ProgressBar),
    Lines { tenths: u64 },
    Json,
    Quiet,
}

pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Attach => "Attaching to the server",
        Phase::Scan => "Listing the files",
        Phase::BaseCopy => "Copying",
        Phase::Passes => "Copying what changed",
        Phase::Payload => "Mirroring changes",
        Phase::Cut => "Cutting",
        Phase::Finish => "Finishing",
    }
}

impl Show {
    pub fn new(args: &ShowArgs) -> Show {
        if args.json {
            Show::Json
        } else if args.no_progress {
            Show::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            let template = "{msg:24} {bytes}/{total_bytes} {wide_bar} {binary_bytes_per_sec} {eta}";
            bar.set_style(
                ProgressStyle::with_template(template).expect("a template that is fixed"),
            );
            Show::Bar(bar)
        } else {
            Show::Lines { tenths: 0 }
        }
    }

    pub fn phase(&mut self, phase: Phase) {
        match self {
            Show::Bar(bar) => bar.set_message(phase_name(phase)),
            Show::Lines { .. } => line(phase_name(phase)),
            Show::Json => event(json!({"event": "phase", "phase": phase})),
            Show::Quiet => {}
        }
    }

    pub fn progress(&mut self, phase: Phase, progress: &Progress) {
        match self {
            Show::Bar(bar) => {
                bar.set_length(progress.total_bytes.max(progress.copied_bytes));
                bar.set_position(progress.copied_bytes);
            }
            Show::Lines { tenths } if phase == Phase::BaseCopy => {
                let now = progress.copied_bytes * 10 / progress.total_bytes.max(1);
                if now > *tenths {
                    *tenths = now;
                    line(&format!(
                        "Copied {} of {}, {} of {} files",
                        HumanBytes(progress.copied_bytes),
                        HumanBytes(progress.total_bytes),
                        progress.copied_files,
                        progress.total_files
                    ));
                }
            }
            Show::Json => event(json!({"event": "progress", "phase": phase, "progress": progress})),
            Show::Lines { .. } | Show::Quiet => {}
        }
    }

    pub fn step(&mut self, text: &str) {
        match self {
            Show::Bar(bar) => bar.suspend(|| line(text)),
            Show::Lines { .. } => line(text),
            Show::Json => event(json!({"event": "step", "text": text})),
            Show::Quiet => {}
        }
    }

    pub fn warning(&mut self, text: &str) {
        let warning = format!("WARNING: {text}");
        match self {
            Show::Bar(bar) => bar.suspend(|| line(&warning)),
            Show::Json => event(json!({"event": "warning", "text": text})),
            Show::Lines { .. } | Show::Quiet => line(&warning),
        }
    }

    pub fn end(&mut self) {
        if let Show::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn line(text: &str) {
    let time = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let _ = writeln!(std::io::stderr(), "{time} {text}");
}

/// One line of JSON on stdout, with the time.
pub fn event(mut value: serde_json::Value) {
    value["time"] = crate::system::now().into();
    // In one piece: a reader sees an event whole or not at all.
    let line = format!("{value}\n");
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush());
}
