//! The ancestor's interface, to the letter: one call makes a backup and calls back while it runs.
//!
//! All functions of the caller but the one that excludes files are called by the thread that called us. A failure is told once: to the error function, and by the result.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_float, c_int, c_ulong, c_void};
use std::time::Duration;

use engine::session::Phase;

use crate::backup::{self, Backup, Step};
use crate::failure::{Failure, guarded};
use crate::plan::{Asked, ExcludeFunction};

/// The caller's thread looks that often; the interface promises once a second.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

type PollFunction = unsafe extern "C" fn(c_float, *const c_char, *mut c_void) -> c_int;
type ErrorFunction = unsafe extern "C" fn(c_int, *const c_char, *mut c_void);
type MomentFunction = unsafe extern "C" fn(*mut c_void);

/// A pointer that C reads as a variable.
#[repr(transparent)]
pub struct Text(*const c_char);
// SAFETY: it points to a constant.
unsafe impl Sync for Text {}

#[unsafe(no_mangle)]
pub static tokubackup_version_string: Text = Text(
    concat!("hotmirror ", env!("CARGO_PKG_VERSION"), "\0")
        .as_ptr()
        .cast(),
);

/// Bytes per second that backups read, from now on: 0 pauses, ULONG_MAX is no bound.
#[unsafe(no_mangle)]
pub extern "C" fn tokubackup_throttle_backup(bytes_per_second: c_ulong) {
    let _ = guarded(|| {
        backup::throttle(bytes_per_second);
        Ok(())
    });
}

/// What is called while a backup runs.
struct Callbacks {
    poll: Option<PollFunction>,
    poll_extra: *mut c_void,
    before_stop: Option<MomentFunction>,
    before_extra: *mut c_void,
    after_stop: Option<MomentFunction>,
    after_extra: *mut c_void,
    /// The share that poll was told last.
    told: Cell<f32>,
}

/// # Safety
/// Each array holds `dir_count` pointers that are null or NUL-terminated strings; the functions have the types of the interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tokubackup_create_backup(
    source_dirs: *const *const c_char,
    dest_dirs: *const *const c_char,
    dir_count: c_int,
    poll: Option<PollFunction>,
    poll_extra: *mut c_void,
    error: Option<ErrorFunction>,
    error_extra: *mut c_void,
    exclude: Option<ExcludeFunction>,
    exclude_extra: *mut c_void,
    before_stop: Option<MomentFunction>,
    before_extra: *mut c_void,
    after_stop: Option<MomentFunction>,
    after_extra: *mut c_void,
) -> c_int {
    let asked = Asked {
        source_dirs,
        dest_dirs,
        count: usize::try_from(dir_count).unwrap_or(0),
        exclude,
        exclude_extra,
        parallel: 0,
        log_len: 0,
    };
    let callbacks = Callbacks {
        poll,
        poll_extra,
        before_stop,
        before_extra,
        after_stop,
        after_extra,
        told: Cell::new(0.0),
    };
    let result = guarded(|| {
        // SAFETY: the caller's word.
        let backup = unsafe { Backup::start(&asked) }?;
        callbacks.accompany(&backup)
    });
    let Err(failure) = result else { return 0 };
    if let Some(error) = error {
        let message = CString::new(failure.message).unwrap_or_default();
        // SAFETY: a function of this type, by the caller's word; the message lives until it returns.
        unsafe { error(failure.errno, message.as_ptr(), error_extra) };
    }
    failure.errno
}

impl Callbacks {
    fn accompany(&self, backup: &Backup) -> Result<(), Failure> {
        self.poll(0.0, "Backup begins")?;
        self.wait(backup, Step::Live)?;
        if let Some(before_stop) = self.before_stop {
            // SAFETY: a function of this type, by the caller's word.
            unsafe { before_stop(self.before_extra) };
        }
        backup.allow(Step::Cut);
        let cut = self.wait(backup, Step::Cut);
        // Whatever before_stop has stopped goes on, cut or no cut.
        if let Some(after_stop) = self.after_stop {
            // SAFETY: as above.
            unsafe { after_stop(self.after_extra) };
        }
        cut?;
        self.wait(backup, Step::Settled)?;
        self.poll(1.0, "Backup complete")?;
        backup.allow(Step::Finished);
        while !backup.wait(Step::Finished, POLL_INTERVAL)? {
            // Too late to stop it: the files are on their way to their names.
            let _ = self.poll(1.0, "Backup complete");
        }
        Ok(())
    }

    fn wait(&self, backup: &Backup, step: Step) -> Result<(), Failure> {
        while !backup.wait(step, POLL_INTERVAL)? {
            let (progress, message) = describe(backup);
            self.poll(progress, &message)?;
        }
        Ok(())
    }

    /// A result that isn't 0 ends the backup, and is its result. The share never goes back, even where the copy begins again.
    fn poll(&self, progress: f32, message: &str) -> Result<(), Failure> {
        let Some(poll) = self.poll else { return Ok(()) };
        let progress = progress.max(self.told.get());
        self.told.set(progress);
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: a function of this type, by the caller's word; the message lives until it returns.
        match unsafe { poll(progress, message.as_ptr(), self.poll_extra) } {
            0 => Ok(()),
            result => Err(Failure {
                errno: result,
                ..Failure::cancelled()
            }),
        }
    }
}

/// A share of the whole, and a sentence. The share leaves room for what follows the copying.
fn describe(backup: &Backup) -> (f32, String) {
    let (phase, progress) = backup.progress();
    let share = progress.copied_bytes as f32 / progress.total_bytes.max(1) as f32;
    let share = match phase {
        Phase::Attach | Phase::Scan | Phase::BaseCopy => share.min(1.0) * 0.95,
        _ => 0.95,
    };
    let again = backup.grown_log_len().map(|len| {
        let mib = len >> 20;
        format!(", again with a capture log of {mib} MiB since a smaller one overflowed")
    });
    let message = format!(
        "Backup progress {} of {} bytes, {} of {} files{}",
        progress.copied_bytes,
        progress.total_bytes,
        progress.copied_files,
        progress.total_files,
        again.unwrap_or_default()
    );
    (share, message)
}
