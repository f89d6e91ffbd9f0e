//! What a backup tells while it runs: to people, to machines, and to `hotmirror status`.
//!
//! What makes it right: the engine only reports events; whether a bar, lines or JSON come of them is decided here and nowhere else. Whoever reads the
//! status file sees a whole one, since it is replaced, not written over.

pub mod show;
pub mod status;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotmirror::session::{Event, Monitor, Phase, Progress, Throttle};

use show::Show;
use status::StatusFile;

/// The status file is replaced this often at most.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);

pub struct Reporter {
    state: Mutex<State>,
    throttle: Arc<Throttle>,
}

struct State {
    show: Show,
    status: Option<StatusFile>,
    written: Option<Instant>,
    phase: Phase,
    progress: Progress,
    warnings: Vec<String>,
}

impl Reporter {
    pub fn new(show: Show, throttle: Arc<Throttle>) -> Reporter {
        Reporter {
            state: Mutex::new(State {
                show,
                status: None,
                written: None,
                phase: Phase::Attach,
                progress: Progress::default(),
                warnings: Vec::new(),
            }),
            throttle,
        }
    }

    /// From here on `hotmirror status` sees this backup.
    pub fn publish(&self, status: StatusFile) {
        self.lock().status = Some(status);
    }

    /// A step of the controller's own.
    pub fn step(&self, text: &str) {
        self.lock().show.step(text);
    }

    pub fn warn(&self, text: &str) {
        let mut state = self.lock();
        state.show.warning(text);
        state.warnings.push(text.into());
    }

    pub fn warnings(&self) -> Vec<String> {
        self.lock().warnings.clone()
    }

    /// Removes the bar, so that what is printed next has its line.
    pub fn end(&self) {
        let mut state = self.lock();
        state.show.end();
        state.status = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Monitor for Reporter {
    fn event(&self, event: &Event) {
        let mut state = self.lock();
        match event {
            Event::Phase(phase) => {
                state.phase = *phase;
                state.written = None;
                state.show.phase(*phase);
            }
            Event::Progress(progress) => {
                state.progress = *progress;
                let phase = state.phase;
                state.show.progress(phase, progress);
            }
            Event::Warning(text) => {
                state.show.warning(text);
                state.warnings.push(text.clone());
            }
        }
        let is_due = state
            .written
            .is_none_or(|written| written.elapsed() >= STATUS_INTERVAL);
        if is_due {
            state.written = Some(Instant::now());
            let (phase, progress) = (state.phase, state.progress);
            if let Some(status) = &mut state.status {
                status.write(phase, &progress, self.throttle.rate());
                if let Some(rate) = status.wanted_rate() {
                    self.throttle.set(rate);
                }
            }
        }
    }
}
