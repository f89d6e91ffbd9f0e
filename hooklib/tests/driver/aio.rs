//! The victim's asynchronous writes: submitted by one action, fetched by another.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

use libc::{c_int, c_long, c_void};

use super::victim::Words;

/// `struct iocb` of the kernel (linux/aio_abi.h).
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

const PWRITE: u16 = 1;
const PWRITEV: u16 = 8;
const DEPTH: usize = 16;

/// The kernel keeps the addresses of what is in flight, so it is boxed.
#[allow(clippy::vec_box)]
#[derive(Default)]
struct Aio {
    context: u64,
    iocbs: Vec<Box<Iocb>>,
    buffers: Vec<Vec<u8>>,
    vectors: Vec<Box<libc::iovec>>,
    submitted: c_long,
}

thread_local! {
    static AIO: RefCell<Aio> = RefCell::default();
}

/// A function of the preloaded library, which this program is not linked with.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: the name is NUL-terminated.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!address.is_null(), "{name:?}");
    address
}

/// aio_submit FILE OFFSET LEN FILL, aio_submitv, sys_aio_submit, aio_submit_append, aio_submit_rwf_append, aio_submit_bad, aio_submit_unnamed, aio_submit_reused, aio_submitv_reused, aio_submit_again, aio_submit_same; aio_close; aio_fetch, aio_pfetch, sys_aio_fetch; aio_destroy, aio_release,
/// sys_aio_destroy.
pub fn act(call: &str, args: &Words<'_>) -> Option<i64> {
    match call {
        "aio_submit"
        | "aio_submitv"
        | "sys_aio_submit"
        | "aio_submit_append"
        | "aio_submit_bad"
        | "aio_submit_unnamed"
        | "aio_submit_rwf_append" => Some(AIO.with_borrow_mut(|aio| aio.submit(call, args))),
        "aio_submit_reused" | "aio_submitv_reused" => Some(AIO.with_borrow_mut(|aio| {
            let taken = aio.submit(call.trim_end_matches("_reused"), args);
            // The kernel has copied them: what they hold from here on is the program's affair.
            if let (Some(iocb), Some(vector)) = (aio.iocbs.last_mut(), aio.vectors.last_mut()) {
                (iocb.opcode, iocb.fd, iocb.offset, iocb.len) = (0, u32::MAX, 7777, 1);
                (vector.iov_base, vector.iov_len) = (std::ptr::null_mut(), 1);
            }
            taken
        })),
        "aio_close" => Some(AIO.with_borrow_mut(|aio| {
            let iocb = aio.iocbs.last().expect("One was submitted");
            // SAFETY: opened for it, and closed nowhere else.
            unsafe { libc::close(iocb.fd as c_int) }.into()
        })),
        // The control block of the last one, while that may be under way.
        "aio_submit_again" | "aio_submit_same" => Some(AIO.with_borrow_mut(|aio| {
            let bytes = args.bytes(3, 4);
            let iocb = aio.iocbs.last_mut().expect("One was submitted");
            (iocb.offset, iocb.len) = (args.number(2), bytes.len() as u64);
            iocb.buffer = bytes.as_ptr() as u64;
            iocb.data += u64::from(call == "aio_submit_again");
            aio.buffers.push(bytes);
            aio.submit_last("aio_submit")
        })),
        "aio_fetch" | "aio_pfetch" | "sys_aio_fetch" => {
            Some(AIO.with_borrow_mut(|aio| aio.fetch(call)))
        }
        "aio_destroy" | "aio_release" | "sys_aio_destroy" => {
            Some(AIO.with_borrow_mut(|aio| aio.destroy(call)))
        }
        _ => None,
    }
}

impl Aio {
    fn submit(&mut self, call: &str, args: &Words<'_>) -> i64 {
        if self.context == 0 {
            // SAFETY: the context is writable.
            let made = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut self.context) };
            assert_eq!(made, 0);
        }
        let path: CString = args.path(1);
        let flags = libc::O_RDWR
            | if call == "aio_submit_append" {
                libc::O_APPEND
            } else {
                0
            };
        // SAFETY: the path is NUL-terminated. Closed when the process ends.
        let fd = unsafe { libc::open64(path.as_ptr(), flags) };
        if call == "aio_submit_unnamed" {
            // SAFETY: as above.
            unsafe { libc::unlink(path.as_ptr()) };
        }
        let bytes = args.bytes(3, 4);
        let piece = Box::new(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
        let vector = call == "aio_submitv";
        self.iocbs.push(Box::new(Iocb {
            opcode: if vector { PWRITEV } else { PWRITE },
            fd: if call == "aio_submit_bad" {
                u32::MAX
            } else {
                fd as u32
            },
            buffer: if vector {
                &raw const *piece as u64
            } else {
                bytes.as_ptr() as u64
            },
            len: if vector { 1 } else { bytes.len() as u64 },
            offset: args.number(2),
            rw_flags: match call {
                "aio_submit_rwf_append" => libc::RWF_APPEND as u32,
                _ => 0,
            },
            ..Iocb::default()
        }));
        self.buffers.push(bytes);
        self.vectors.push(piece);
        self.submit_last(call)
    }

    fn submit_last(&mut self, call: &str) -> i64 {
        let iocb: *const Iocb = &raw const **self.iocbs.last().expect("It was pushed");
        // SAFETY: the iocb and what it points to stay until they are fetched.
        let taken = unsafe {
            if call == "sys_aio_submit" {
                libc::syscall(libc::SYS_io_submit, self.context, 1, &raw const iocb)
            } else {
                let submit: unsafe extern "C" fn(u64, c_long, *const *const Iocb) -> c_int =
                    std::mem::transmute(symbol(c"io_submit"));
                submit(self.context, 1, &raw const iocb).into()
            }
        };
        self.submitted += taken.max(0);
        taken
    }

    fn destroy(&mut self, call: &str) -> i64 {
        let context = self.context;
        let destroy = |name| {
            // SAFETY: libaio's function of this name has this type.
            let destroy: unsafe extern "C" fn(u64) -> c_int =
                unsafe { std::mem::transmute(symbol(name)) };
            // SAFETY: a context that `submit` made.
            unsafe { destroy(context) }.into()
        };
        let result = match call {
            "aio_destroy" => destroy(c"io_destroy"),
            "aio_release" => destroy(c"io_queue_release"),
            // SAFETY: as above.
            _ => unsafe { libc::syscall(libc::SYS_io_destroy, context) },
        };
        *self = Aio::default();
        result
    }

    fn fetch(&mut self, call: &str) -> i64 {
        type Fetch = unsafe extern "C" fn(
            u64,
            c_long,
            c_long,
            *mut [u64; 4],
            *const libc::timespec,
            *const c_void,
        ) -> c_int;
        let mut events = [[0u64; 4]; DEPTH];
        let (wanted, null) = (
            std::mem::take(&mut self.submitted),
            std::ptr::null::<c_void>(),
        );
        // SAFETY: there is room for as many events as were submitted.
        let fetched = unsafe {
            if call == "sys_aio_fetch" {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    wanted,
                    wanted,
                    events.as_mut_ptr(),
                    null,
                )
            } else {
                let name = if call == "aio_fetch" {
                    c"io_getevents"
                } else {
                    c"io_pgetevents"
                };
                let fetch: Fetch = std::mem::transmute(symbol(name));
                fetch(
                    self.context,
                    wanted,
                    wanted,
                    events.as_mut_ptr(),
                    null.cast(),
                    null,
                )
                .into()
            }
        };
        assert_eq!(fetched, wanted);
        self.iocbs.clear();
        self.buffers.clear();
        self.vectors.clear();
        events[0][2] as i64
    }
}
