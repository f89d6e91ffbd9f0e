//! Ending early on SIGINT, SIGTERM and SIGHUP, unless whoever started us has them ignored, as nohup does.
//!
//! What makes it right: the handler only notes the signal; a thread that awaits it then ends what blocks (a copy, a statement that waits for a
//! lock), and the ordinary way out of an error undoes what was done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Debug, thiserror::Error)]
#[error("Cancelled by a signal")]
pub struct Cancelled;

type Interrupt = Box<dyn Fn() + Send>;

/// Whether the work is to end, and how to wake who would not notice.
#[derive(Default)]
pub struct Cancel {
    requested: AtomicBool,
    interrupts: Mutex<Vec<Interrupt>>,
}

impl Cancel {
    /// Cancelled by the first of the signals; later ones change nothing, since undoing must not be cut short.
    pub fn on_signals() -> std::io::Result<Arc<Cancel>> {
        let cancel = Arc::new(Cancel::default());
        let status = std::fs::read_to_string("/proc/self/status")?;
        let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter();
        let mut signals = Signals::new(heeded.filter(|signal| !is_ignored(*signal, &status)))?;
        let listener = cancel.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().for_each(|_| listener.request()))?;
        Ok(cancel)
    }

    /// Runs `interrupt` when work is to end, at once if it is already.
    pub fn on_request(&self, interrupt: impl Fn() + Send + 'static) {
        let mut interrupts = self.interrupts.lock().expect("interrupts do not panic");
        if self.is_requested() {
            interrupt();
        }
        interrupts.push(Box::new(interrupt));
    }

    pub fn request(&self) {
        if !self.requested.swap(true, Ordering::SeqCst) {
            let interrupts = self.interrupts.lock().expect("interrupts do not panic");
            interrupts.iter().for_each(|interrupt| interrupt());
        }
    }

    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_requested() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }
}

/// By the mask in a process's status, in which the first signal is the lowest bit.
fn is_ignored(signal: i32, status: &str) -> bool {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_and_shells_have_ignored_is_known() {
        let status =
            |mask| format!("Name:\thotmirror\nSigIgn:\t{mask}\nSigCgt:\tffffffffffffffff\n");
        let ignored =
            |mask| [SIGHUP, SIGINT, SIGTERM].map(|signal| is_ignored(signal, &status(mask)));
        assert_eq!(ignored("0000000000001001"), [true, false, false]);
        assert_eq!(ignored("0000000000001002"), [false, true, false]);
        assert_eq!(ignored("0000000000001000"), [false; 3]);
        assert!(!is_ignored(SIGHUP, "Name:\thotmirror\n"));
    }

    #[test]
    fn an_interrupt_runs_once_and_also_when_it_comes_late() {
        let cancel = Cancel::default();
        let count = Arc::new(Mutex::new(0));
        let counting = || {
            let count = count.clone();
            move || *count.lock().unwrap() += 1
        };
        cancel.on_request(counting());
        assert!(cancel.check().is_ok());
        cancel.request();
        cancel.request();
        assert_eq!(*count.lock().unwrap(), 1);
        cancel.on_request(counting());
        assert_eq!(*count.lock().unwrap(), 2);
        assert!(cancel.check().is_err());
    }
}
