//! What this process is to the library: not a server (inert), a server with a rendezvous (live), or a child that a server forked.
//!
//! One pointer decides on the path of every hooked call: null means that nothing is to be done. It is set before the rendezvous' magic,
//! so that a controller that finds the file finds a process whose every later call registers.
//!
//! A child of a fork must not touch its parent's rendezvous or log. It starts with neither; the first call in it that changes a file makes a rendezvous
//! of its own (a server that daemonizes is such a child). A child that only calls exec never gets there.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};

use engine::capture_log::Control;
use engine::capture_log::layout::Rendezvous;

use crate::cancellation::Deferred;
use crate::{EMBEDDED, bounce, hooks, inflight, locks, rendezvous, session};

/// Comma-separated names that replace [`SERVERS`].
const PROCESS_VARIABLE: &CStr = c"HOTMIRROR_PROCESS";
const SERVERS: &[u8] = b"mysqld,mariadbd";

const INERT: u8 = 0;
const LIVE: u8 = 1;
const FORKED: u8 = 2;
const REVIVING: u8 = 3;

/// Read by every hooked call, written when the process starts or forks; alone on its cache line.
#[repr(align(64))]
struct Process {
    rendezvous: AtomicPtr<Rendezvous>,
    /// The same, or null where hooks keep a fence to themselves: all that the shortest path has to know, in one word.
    unfenced: AtomicPtr<Rendezvous>,
    membarrier: AtomicBool,
    state: AtomicU8,
    /// Pid that the rendezvous is named after.
    pid: AtomicU32,
}

static PROCESS: Process = Process {
    rendezvous: AtomicPtr::new(std::ptr::null_mut()),
    unfenced: AtomicPtr::new(std::ptr::null_mut()),
    membarrier: AtomicBool::new(false),
    state: AtomicU8::new(INERT),
    pid: AtomicU32::new(0),
};

unsafe extern "C" {
    static program_invocation_short_name: *const c_char;
}

/// The rendezvous, if this process has one.
#[inline]
pub fn live() -> Option<&'static Rendezvous> {
    // Pairs with the release in `publish`.
    let rendezvous = PROCESS.rendezvous.load(Ordering::Acquire);
    // SAFETY: null, or a mapping that is never unmapped.
    unsafe { rendezvous.as_ref() }
}

/// The rendezvous, if this process has one and the controller can put fences into its hooks.
#[inline(always)]
pub fn live_unfenced() -> Option<&'static Rendezvous> {
    // Pairs with the release in `publish`.
    let rendezvous = PROCESS.unfenced.load(Ordering::Acquire);
    // SAFETY: as in `live`.
    unsafe { rendezvous.as_ref() }
}

/// The rendezvous; a forked child that is about to change a file makes its own.
#[inline]
pub fn live_or_revived() -> Option<&'static Rendezvous> {
    let live = live();
    if live.is_some() { live } else { revive() }
}

/// Whether the controller can put a fence into hooks, so that they need none of their own.
#[inline]
pub fn membarrier() -> bool {
    PROCESS.membarrier.load(Ordering::Relaxed)
}

/// The control word as it is now; idle in a process without a rendezvous.
#[inline]
pub fn control() -> Control {
    live().map_or(Control::IDLE, |rendezvous| {
        Control(rendezvous.control.word.load(Ordering::Relaxed))
    })
}

/// True in a child that has no rendezvous yet.
#[inline]
pub fn forked() -> bool {
    PROCESS.state.load(Ordering::Relaxed) == FORKED
}

/// True in a server and its children: what can't be captured is declined there.
#[inline]
pub fn is_server() -> bool {
    PROCESS.state.load(Ordering::Relaxed) != INERT
}

#[cold]
fn revive() -> Option<&'static Rendezvous> {
    let state = &PROCESS.state;
    // Others that come meanwhile go on without: nobody can have attached to what does not exist.
    state
        .compare_exchange(FORKED, REVIVING, Ordering::Acquire, Ordering::Relaxed)
        .ok()?;
    let _deferred = Deferred::new();
    let _ = publish();
    live()
}

/// Makes the rendezvous and goes live, or stays inert for good.
fn publish() -> Result<(), rustix::io::Errno> {
    let made = rendezvous::create();
    let Ok(made) = made else {
        PROCESS.state.store(INERT, Ordering::Relaxed);
        return made.map(|_| ());
    };
    bounce::prepare();
    PROCESS.membarrier.store(made.membarrier, Ordering::Relaxed);
    PROCESS.pid.store(made.pid, Ordering::Relaxed);
    if made.membarrier {
        PROCESS.unfenced.store(made.address, Ordering::Release);
    }
    PROCESS.rendezvous.store(made.address, Ordering::Release);
    PROCESS.state.store(LIVE, Ordering::Relaxed);
    rendezvous::announce(made.address);
    Ok(())
}

extern "C" fn start() {
    hooks::resolve();
    if !EMBEDDED {
        if !named_as_server() {
            return;
        }
        // A panic must leave nothing on the server's stderr, nor allocate.
        std::panic::set_hook(Box::new(|_| {}));
        rendezvous::remember_dir();
    }
    // SAFETY: the handler has the right type and calls only what is safe after a fork.
    unsafe { libc::pthread_atfork(None, None, Some(become_forked)) };
    hooks::look_around();
    if let Err(errno) = publish() {
        rendezvous::complain(errno);
    }
}

fn named_as_server() -> bool {
    // SAFETY: libc sets the pointer to a NUL-terminated string before it runs constructors.
    let name = unsafe { CStr::from_ptr(program_invocation_short_name) };
    // SAFETY: the name is NUL-terminated, and no other thread runs yet that could change the environment.
    let wanted = unsafe { libc::getenv(PROCESS_VARIABLE.as_ptr()) };
    let wanted = if wanted.is_null() {
        SERVERS
    } else {
        // SAFETY: an environment variable's value is NUL-terminated.
        unsafe { CStr::from_ptr(wanted) }.to_bytes()
    };
    wanted
        .split(|byte| *byte == b',')
        .any(|wanted| !wanted.is_empty() && wanted == name.to_bytes())
}

/// In the child, in its only thread: forget everything that belongs to the parent.
unsafe extern "C" fn become_forked() {
    if PROCESS.state.load(Ordering::Relaxed) == INERT {
        return;
    }
    for pointer in [&PROCESS.rendezvous, &PROCESS.unfenced] {
        pointer.store(std::ptr::null_mut(), Ordering::Relaxed);
    }
    PROCESS.pid.store(0, Ordering::Relaxed);
    bounce::forget();
    let had_session = session::forget();
    hooks::forget();
    inflight::forget();
    // They are many, and most processes that fork have never taken one.
    if had_session {
        // SAFETY: no other thread exists that could hold or wait for one of the locks.
        unsafe { locks::renew() };
    }
    PROCESS.state.store(FORKED, Ordering::Relaxed);
}

/// At exit. The mapping stays: other threads may still be inside a call.
extern "C" fn end() {
    let pid = PROCESS.pid.load(Ordering::Relaxed);
    if !EMBEDDED && pid != 0 && pid == rustix::process::getpid().as_raw_nonzero().get() as u32 {
        rendezvous::remove(pid);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// Makes sure that the linker keeps the constructor, where this library is an archive.
#[cfg(feature = "embedded")]
pub fn keep_constructor() {
    std::hint::black_box(&START);
}

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;
