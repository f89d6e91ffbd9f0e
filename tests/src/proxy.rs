//! A socket in front of a server's, which keeps back the answer to one statement: the program then is where that statement put
//! it, with all that the server has done for it, for as long as a test needs.
//!
//! Rule: nothing is changed or invented; what passes, passes as it was, and late at most.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::server::Server;

const HOLD_BOUND: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    is_held: bool,
    is_released: bool,
}

struct Shared {
    statement: Vec<u8>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Keeps back the answer to the first statement that contains the given text.
pub struct Proxy {
    shared: Arc<Shared>,
    socket: PathBuf,
}

impl Proxy {
    pub fn start(server: &Server, statement: &str) -> Proxy {
        let socket = server.home().join("proxy");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("A socket in front of the server's");
        let shared = Arc::new(Shared {
            statement: statement.into(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (behind, to_share) = (server.socket(), Arc::clone(&shared));
        // Ends with the test's process: a listener can't be woken but by a connection.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                connect(client, &behind, &to_share);
            }
        });
        Proxy { shared, socket }
    }

    pub fn socket(&self) -> &str {
        self.socket.to_str().expect("A path of plain text")
    }

    /// Waits until the server has answered the statement.
    pub fn wait_until_held(&self) {
        let state = self.shared.state.lock().expect("The state");
        let waiting = |state: &mut State| !state.is_held;
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, HOLD_BOUND, waiting);
        let timed_out = waited.expect("The state").1.timed_out();
        assert!(
            !timed_out,
            "The statement was not answered within {HOLD_BOUND:?}"
        );
    }

    /// Passes the answer on.
    pub fn release(&self) {
        self.shared.state.lock().expect("The state").is_released = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.release();
    }
}

impl Shared {
    fn hold(&self) {
        let mut state = self.state.lock().expect("The state");
        state.is_held = true;
        self.changed.notify_all();
        let held = |state: &mut State| !state.is_released;
        drop(self.changed.wait_while(state, held));
    }
}

fn connect(client: UnixStream, behind: &Path, shared: &Arc<Shared>) {
    let Ok(server) = UnixStream::connect(behind) else {
        return;
    };
    let is_asked = Arc::new(AtomicBool::new(false));
    let copy = |stream: &UnixStream| stream.try_clone().expect("A second handle of a stream");
    let (from, to) = (copy(&client), copy(&server));
    let (statement, asked) = (shared.statement.clone(), Arc::clone(&is_asked));
    std::thread::spawn(move || {
        pump(from, to, |bytes| {
            if bytes.windows(statement.len()).any(|part| part == statement) {
                asked.store(true, Ordering::SeqCst);
            }
        });
    });
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        pump(server, client, |_| {
            if is_asked.swap(false, Ordering::SeqCst) {
                shared.hold();
            }
        });
    });
}

/// Passes bytes on, each time after `before` has seen them, until either end is gone.
fn pump(mut from: UnixStream, mut to: UnixStream, before: impl Fn(&[u8])) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        before(&bytes[..len]);
        if to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
