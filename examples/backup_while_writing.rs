//! Backs up a directory while a thread writes to it, by the interface of hotmirror.h.
//!
//!     rustc --edition 2024 backup_while_writing.rs -L PREFIX/lib -l HotBackup
//!     LD_LIBRARY_PATH=PREFIX/lib ./backup_while_writing SOURCE DESTINATION

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// As in hotmirror.h.
#[repr(C)]
struct Options {
    size: usize,
    source_dirs: *const *const c_char,
    dest_dirs: *const *const c_char,
    dir_count: usize,
    exclude: Option<unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int>,
    exclude_extra: *mut c_void,
    parallel: usize,
    log_size: u64,
}

#[repr(C)]
struct RawSession {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn hotmirror_start(options: *const Options, session: *mut *mut RawSession) -> c_int;
    fn hotmirror_wait_live(session: *mut RawSession, timeout_ms: i64) -> c_int;
    fn hotmirror_cut(session: *mut RawSession) -> c_int;
    fn hotmirror_finish(session: *mut RawSession) -> c_int;
    fn hotmirror_close(session: *mut RawSession);
    fn hotmirror_last_error(session: *const RawSession) -> *const c_char;
}

struct Session(*mut RawSession);

impl Session {
    fn start(source: &CStr, destination: &CStr) -> Result<Session, String> {
        let (sources, destinations) = ([source.as_ptr()], [destination.as_ptr()]);
        let options = Options {
            size: size_of::<Options>(),
            source_dirs: sources.as_ptr(),
            dest_dirs: destinations.as_ptr(),
            dir_count: 1,
            exclude: None,
            exclude_extra: null_mut(),
            parallel: 0,
            log_size: 0,
        };
        let mut raw = null_mut();
        // SAFETY: the options and all that they point to live until the call returns.
        let code = unsafe { hotmirror_start(&options, &mut raw) };
        let session = Session(raw);
        session.result(code).map(|()| session)
    }

    fn result(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the text is NUL-terminated, and holds until the next call.
        let text = unsafe { CStr::from_ptr(hotmirror_last_error(self.0)) };
        Err(text.to_string_lossy().into_owned())
    }

    fn complete(&self) -> Result<(), String> {
        // SAFETY: a handle that is open.
        self.result(unsafe { hotmirror_wait_live(self.0, -1) })?;
        // SAFETY: as above.
        self.result(unsafe { hotmirror_cut(self.0) })?;
        // SAFETY: as above.
        self.result(unsafe { hotmirror_finish(self.0) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: a handle of the library, or null; it is not used again.
        unsafe { hotmirror_close(self.0) };
    }
}

/// Writes records of 512 bytes all over a file of 4 MiB.
fn write_on(path: &Path, stopped: &AtomicBool) -> std::io::Result<()> {
    let file = File::create(path)?;
    for count in 0u64.. {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        file.write_all_at(&[b'a' + (count % 26) as u8; 512], count * 7919 % 8192 * 512)?;
    }
    Ok(())
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, source, destination] = &arguments[..] else {
        return Err("Usage: backup_while_writing SOURCE DESTINATION".into());
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let (path, flag) = (Path::new(source).join("records"), stopped.clone());
    let writer = std::thread::spawn(move || write_on(&path, &flag));
    let c_string = |text: &String| CString::new(text.as_str()).map_err(|error| error.to_string());
    let session = Session::start(&c_string(source)?, &c_string(destination)?)?;
    session.complete()?;
    stopped.store(true, Ordering::Relaxed);
    let written = writer.join().map_err(|_| "The writer panicked")?;
    written.map_err(|error| error.to_string())?;
    println!("{destination} is {source} as it was at one moment");
    Ok(())
}
