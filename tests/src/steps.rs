//! Runs the program step by step: it can be held at each of its events, so that a fault hits exactly the step it is meant for.
//!
//! How: `--json` events go to a pipe in packet mode with room for one packet. While an event lies there unread, the program can
//! run up to its next event and no further: writing that one blocks it. The event is looked at without taking it (`tee`).
//!
//! Rule: no seam in the program and no timing; an event that is seen is where the program is.

use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pipe::{PipeFlags, SpliceFlags};
use serde_json::Value;

use crate::program::{Outcome, Run, Spawned};

const PACKET_BYTES_MAX: usize = 4096;

/// A run that is held at its next event.
pub struct Stepped {
    run: Spawned,
    events: OwnedFd,
}

impl Stepped {
    pub fn start(run: Run) -> Stepped {
        let (reader, writer) = packet_pipe();
        Stepped {
            run: run.arg("--json").spawn(Stdio::from(writer)),
            events: reader,
        }
    }

    /// The event that the program is held at, left in place. None if it has ended.
    pub fn at(&self) -> Option<Value> {
        let (reader, writer) = packet_pipe();
        let len = rustix::pipe::tee(
            &self.events,
            &writer,
            PACKET_BYTES_MAX,
            SpliceFlags::empty(),
        );
        match len.unwrap_or_else(|e| panic!("Cannot look at the next event: {e}")) {
            0 => None,
            _ => Some(read_packet(&reader)),
        }
    }

    /// Lets the program go on to its next event.
    pub fn step(&self) {
        read_packet(&self.events);
    }

    /// Lets it run until it is held at an event that `wanted` describes. False if it ended before.
    pub fn run_to(&self, wanted: impl Fn(&Value) -> bool) -> bool {
        while let Some(event) = self.at() {
            if wanted(&event) {
                return true;
            }
            self.step();
        }
        false
    }

    pub fn run(&mut self) -> &mut Spawned {
        &mut self.run
    }

    /// Lets it run to its end.
    pub fn outcome(self) -> Outcome {
        let mut events = String::new();
        while self.at().is_some() {
            events += &read_packet(&self.events).to_string();
            events.push('\n');
        }
        // What came on stderr is the outcome's own.
        let mut outcome = self.run.outcome();
        outcome.stdout = events;
        outcome
    }
}

fn packet_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) =
        rustix::pipe::pipe_with(PipeFlags::DIRECT | PipeFlags::CLOEXEC).expect("A pipe");
    rustix::pipe::fcntl_setpipe_size(&writer, PACKET_BYTES_MAX).expect("A pipe of one packet");
    (reader, writer)
}

fn read_packet(pipe: &OwnedFd) -> Value {
    let mut bytes = vec![0; PACKET_BYTES_MAX];
    let len = rustix::io::read(pipe, &mut bytes).expect("An event");
    let text = String::from_utf8_lossy(&bytes[..len]);
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{text:?} is no event: {e}"))
}
