//! The interface of hotmirror.h, which is generated from this file: a session that the caller takes from step to step.
//!
//! Its handle may be used from any thread, by one at a time. Every function gives a result code; the sentence behind a code that is not HOTMIRROR_OK
//! is kept in the handle. Numbers of codes are never reused, and structures grow at their end: their first field says which size the caller knows.

#![allow(non_camel_case_types, clippy::missing_safety_doc)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::time::Duration;

use crate::backup::{self, Backup, Step};
use crate::failure::{Failure, guarded};
use crate::plan::Asked;

/// No bound on what backups read.
pub const HOTMIRROR_UNTHROTTLED: u64 = u64::MAX;

/// What a function did.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum hotmirror_result {
    HOTMIRROR_OK = 0,
    /// An argument can't be meant: a null pointer, a destination that is not an empty directory.
    HOTMIRROR_INVALID_ARGUMENT = 1,
    /// The system reported an error: hotmirror_last_errno says which.
    HOTMIRROR_IO = 2,
    /// Another backup of this process is under way.
    HOTMIRROR_BUSY = 3,
    /// The time is up, and what was waited for has not happened.
    HOTMIRROR_TIMEOUT = 4,
    /// The backup was stopped.
    HOTMIRROR_CANCELLED = 5,
    /// The program wrote more at once than the capture log holds. Tried again, the log is larger, unless its size was given.
    HOTMIRROR_OVERFLOW = 6,
    /// Files kept changing in ways that could not be followed: try again.
    HOTMIRROR_UNSETTLED = 7,
    /// The function does not fit the state of the session.
    HOTMIRROR_WRONG_STATE = 8,
    /// A fault of the library.
    HOTMIRROR_INTERNAL = 9,
}

use hotmirror_result::*;

/// What to back up. Zero in a field that is not needed.
#[repr(C)]
pub struct hotmirror_options {
    /// sizeof(hotmirror_options).
    pub size: usize,
    /// Directories to back up, and for each an existing, empty directory that receives its content.
    pub source_dirs: *const *const c_char,
    pub dest_dirs: *const *const c_char,
    pub dir_count: usize,
    /// Gives non-zero for a path of the source that is to be left out, with all below it. Called once for each path, by threads of the library, one at a time.
    pub exclude:
        Option<unsafe extern "C" fn(source_path: *const c_char, extra: *mut c_void) -> c_int>,
    pub exclude_extra: *mut c_void,
    /// Threads that copy; 0: as many as fit the machine.
    pub parallel: usize,
    /// Bytes of the capture log; 0: 64 MiB, and twice as much each time that it overflows, up to 1 GiB.
    pub log_size: u64,
}

/// How far a session is.
#[repr(C)]
pub struct hotmirror_progress_info {
    /// sizeof(hotmirror_progress_info).
    pub size: usize,
    pub copied_bytes: u64,
    pub total_bytes: u64,
    pub copied_files: u64,
    pub total_files: u64,
    /// Bytes of the capture log that are in use.
    pub log_used_bytes: u64,
}

/// A backup under way.
pub struct hotmirror_session {
    backup: Option<Backup>,
    failure: Option<Failure>,
    message: CString,
}

impl hotmirror_session {
    /// Keeps why a function failed.
    fn note<T>(&mut self, result: Result<T, Failure>) -> hotmirror_result {
        let Err(failure) = result else {
            return HOTMIRROR_OK;
        };
        let code = failure.code;
        self.message = CString::new(failure.message.as_str()).unwrap_or_default();
        self.failure = Some(failure);
        code
    }

    fn reach(&mut self, step: Step) -> hotmirror_result {
        let result = guarded(|| {
            let backup = self.backup.as_ref().ok_or_else(wrong_state)?;
            if step > Step::Live && backup.reached() < Step::Live {
                // A failure is the better answer, if there is one.
                backup.wait(Step::Live, Duration::ZERO)?;
                return Err(wrong_state());
            }
            if step > Step::Cut && backup.reached() < Step::Cut {
                backup.wait(Step::Cut, Duration::ZERO)?;
                return Err(wrong_state());
            }
            backup.allow(step);
            while !backup.wait(step, Duration::from_secs(3600))? {}
            Ok(())
        });
        self.note(result)
    }
}

fn wrong_state() -> Failure {
    let message = "The session is not at the step that this function is for";
    Failure::new(libc::EINVAL, HOTMIRROR_WRONG_STATE, message)
}

fn null() -> Failure {
    Failure::invalid("A pointer is NULL")
}

/// Copies what the caller's structure holds, up to the size that it knows; the rest is zero.
///
/// # Safety
/// `options` is null, or points to as many bytes as its first field says.
unsafe fn read_options(options: *const hotmirror_options) -> Result<hotmirror_options, Failure> {
    // SAFETY: null, or a structure with at least its first field.
    let size = unsafe { options.cast::<usize>().as_ref() }.ok_or_else(null)?;
    let through_count = std::mem::offset_of!(hotmirror_options, exclude);
    if *size < through_count {
        let message = format!("The options' size is {size}, at least {through_count} is needed");
        return Err(Failure::invalid(message));
    }
    let mut known = std::mem::MaybeUninit::<hotmirror_options>::zeroed();
    let len = (*size).min(size_of::<hotmirror_options>());
    // SAFETY: `len` bytes are readable by the caller's word, and fit.
    unsafe {
        std::ptr::copy_nonoverlapping(options.cast::<u8>(), known.as_mut_ptr().cast::<u8>(), len);
    }
    // SAFETY: zeros are valid in each field: null, none, or 0.
    Ok(unsafe { known.assume_init() })
}

/// Starts a backup, in threads of the library. *session is set whatever the result: hotmirror_last_error tells why a backup did not start, and
/// hotmirror_close is due in any case.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_start(
    options: *const hotmirror_options,
    session: *mut *mut hotmirror_session,
) -> hotmirror_result {
    // SAFETY: null, or the caller's variable.
    let Some(slot) = (unsafe { session.as_mut() }) else {
        return HOTMIRROR_INVALID_ARGUMENT;
    };
    *slot = std::ptr::null_mut();
    let mut handle = Box::new(hotmirror_session {
        backup: None,
        failure: None,
        message: CString::default(),
    });
    let started = guarded(|| {
        // SAFETY: the caller's word.
        let options = unsafe { read_options(options) }?;
        let asked = Asked {
            source_dirs: options.source_dirs,
            dest_dirs: options.dest_dirs,
            count: options.dir_count,
            exclude: options.exclude,
            exclude_extra: options.exclude_extra,
            parallel: options.parallel,
            log_len: options.log_size,
        };
        // SAFETY: the caller's word.
        handle.backup = Some(unsafe { Backup::start(&asked) }?);
        Ok(())
    });
    let result = handle.note(started);
    *slot = Box::into_raw(handle);
    result
}

/// Waits until everything is copied and kept current: from then on hotmirror_cut takes a moment. A negative bound is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_wait_live(
    session: *mut hotmirror_session,
    timeout_ms: i64,
) -> hotmirror_result {
    // SAFETY: null, or a handle of ours.
    let Some(session) = (unsafe { session.as_mut() }) else {
        return HOTMIRROR_INVALID_ARGUMENT;
    };
    let bound = u64::try_from(timeout_ms).map_or(Duration::MAX, Duration::from_millis);
    let bound = bound.min(Duration::from_secs(100 * 365 * 86_400));
    let waited = guarded(|| {
        let backup = session.backup.as_ref().ok_or_else(wrong_state)?;
        match backup.wait(Step::Live, bound)? {
            true => Ok(()),
            false => {
                let message = format!("Not everything is copied after {timeout_ms} ms");
                Err(Failure::new(libc::ETIMEDOUT, HOTMIRROR_TIMEOUT, message))
            }
        }
    });
    session.note(waited)
}

/// Makes the moment of this call the moment of the backup. What was changed before the call is in it, what is changed after it returned is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_cut(session: *mut hotmirror_session) -> hotmirror_result {
    // SAFETY: null, or a handle of ours.
    match unsafe { session.as_mut() } {
        Some(session) => session.reach(Step::Cut),
        None => HOTMIRROR_INVALID_ARGUMENT,
    }
}

/// Completes the backup: when this returns, all files are on disk under their names. Needs a cut.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_finish(session: *mut hotmirror_session) -> hotmirror_result {
    // SAFETY: null, or a handle of ours.
    match unsafe { session.as_mut() } {
        Some(session) => session.reach(Step::Finished),
        None => HOTMIRROR_INVALID_ARGUMENT,
    }
}

/// Gives the backup up, and leaves the destinations empty. A finished backup stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_abort(session: *mut hotmirror_session) -> hotmirror_result {
    // SAFETY: null, or a handle of ours.
    let Some(session) = (unsafe { session.as_mut() }) else {
        return HOTMIRROR_INVALID_ARGUMENT;
    };
    let backup = session.backup.take();
    let aborted = guarded(|| {
        drop(backup);
        Ok(())
    });
    session.note(aborted)
}

/// Frees the handle; gives the backup up if it is not finished. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_close(session: *mut hotmirror_session) {
    if session.is_null() {
        return;
    }
    let _ = guarded(|| {
        // SAFETY: a handle that hotmirror_start made, which the caller does not use again.
        drop(unsafe { Box::from_raw(session) });
        Ok(())
    });
}

/// Tells how far the session is, in as many fields as info->size covers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_progress(
    session: *const hotmirror_session,
    info: *mut hotmirror_progress_info,
) -> hotmirror_result {
    // SAFETY: null, or a handle of ours.
    let backup = unsafe { session.as_ref() }.and_then(|session| session.backup.as_ref());
    // SAFETY: null, or a structure with at least its first field.
    let size = unsafe { info.cast::<usize>().as_ref() }.copied();
    let (Some(backup), Some(size)) = (backup, size) else {
        return HOTMIRROR_INVALID_ARGUMENT;
    };
    let (_, progress) = backup.progress();
    let told = hotmirror_progress_info {
        size,
        copied_bytes: progress.copied_bytes,
        total_bytes: progress.total_bytes,
        copied_files: progress.copied_files,
        total_files: progress.total_files,
        log_used_bytes: progress.log_used_bytes,
    };
    let len = size.min(size_of::<hotmirror_progress_info>());
    // SAFETY: the caller's structure has `len` bytes, by its first field.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const told).cast::<u8>(), info.cast::<u8>(), len);
    }
    HOTMIRROR_OK
}

/// Why the last function that failed did; empty if none did. Holds until the next call with this handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_last_error(session: *const hotmirror_session) -> *const c_char {
    // SAFETY: null, or a handle of ours.
    match unsafe { session.as_ref() } {
        Some(session) => session.message.as_ptr(),
        None => c"The session is NULL".as_ptr(),
    }
}

/// The errno of the last failure; 0 if there was none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hotmirror_last_errno(session: *const hotmirror_session) -> c_int {
    // SAFETY: null, or a handle of ours.
    let failure = unsafe { session.as_ref() }.and_then(|session| session.failure.as_ref());
    failure.map_or(0, |failure| failure.errno)
}

/// Bytes per second that backups of this process read, from now on: 0 pauses, HOTMIRROR_UNTHROTTLED is no bound.
#[unsafe(no_mangle)]
pub extern "C" fn hotmirror_throttle(bytes_per_second: u64) {
    let _ = guarded(|| {
        backup::throttle(bytes_per_second);
        Ok(())
    });
}

/// Version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn hotmirror_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
