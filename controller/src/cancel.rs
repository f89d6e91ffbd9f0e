//! Ending early on SIGINT, SIGTERM and SIGHUP.
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
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
