//! `syscall()`: the numbers of calls that change files go the way of their libc names; everything else goes straight to the kernel.
//!
//! Servers call it for what libc has no name for (MariaDB: io_getevents). std's locks use it for futexes, so the way of an unknown number must take none.

use libc::{c_char, c_int, c_long, c_uint, c_void};

use super::namespace::{self, Entry};
use super::{aio, mmap, open, position, truncate, uring, write};
use crate::caller_memory::peek;
use crate::capture::Buffers;
use crate::real::syscall;

type Args = [c_long; 6];

fn path(argument: c_long) -> *const c_char {
    argument as *const c_char
}

/// # Safety
/// As the system call asks.
#[inline]
pub unsafe fn routed(number: c_long, args: Args) -> c_long {
    // SAFETY: the caller's word.
    let real = || unsafe { syscall(number, args) };
    let [a, b, c, d, e, f] = args;
    match number {
        libc::SYS_futex => real(),
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_sendfile
        | libc::SYS_copy_file_range
        | libc::SYS_splice => data(number, args) as c_long,
        libc::SYS_ftruncate | libc::SYS_fallocate | libc::SYS_truncate => {
            size(number, args, || real() as c_int).into()
        }
        libc::SYS_openat => {
            // SAFETY: a path is null or NUL-terminated.
            unsafe { open::opened(a as c_int, path(b), c as c_int, || real() as c_int).into() }
        }
        libc::SYS_openat2 => {
            // SAFETY: an open_how is numbers. What the kernel can't read it refuses.
            let how = unsafe { peek(c as *const libc::open_how) };
            let (flags, resolve) = how.map_or((0, 0), |how| (how.flags as c_int, how.resolve));
            if resolve & libc::RESOLVE_IN_ROOT != 0 {
                return open::opened_below(flags, || real() as c_int).into();
            }
            // SAFETY: a path is null or NUL-terminated.
            unsafe { open::opened(a as c_int, path(b), flags, || real() as c_int).into() }
        }
        libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_unlinkat
        | libc::SYS_linkat
        | libc::SYS_symlinkat
        | libc::SYS_mkdirat => names(number, args, || real() as c_int).into(),
        libc::SYS_mmap => {
            mmap::mapped(c as c_int, d as c_int, e as c_int, || real() as *mut c_void) as c_long
        }
        libc::SYS_msync => mmap::stored(a as *mut c_void, b as usize, || real() as c_int).into(),
        libc::SYS_mprotect | libc::SYS_pkey_mprotect => {
            mmap::protected(a as *mut c_void, b as usize, c as c_int, || real() as c_int).into()
        }
        libc::SYS_io_submit => aio::submitted(a, b, c as *const *const _, real),
        libc::SYS_io_destroy => aio::destroyed(a, real),
        // SAFETY: the caller's arguments.
        libc::SYS_io_getevents | aio::SYS_IO_PGETEVENTS => unsafe {
            aio::completed(d as *const _, real)
        },
        libc::SYS_io_uring_setup => uring::set_up(real),
        _ => {
            let _ = f;
            older(number, args, real)
        }
    }
}

fn data(number: c_long, args: Args) -> isize {
    let [a, b, c, d, e, f] = args;
    let (fd, buffer, count) = (
        a as c_int,
        Buffers::One(b as *const u8, c as usize),
        c as c_int,
    );
    // SAFETY: the caller's arguments, or a copy of its bytes.
    let from = |buffer: c_long, len: c_long| unsafe {
        syscall(number, [a, buffer, len, d, e, f]) as isize
    };
    let one =
        |buffers: Buffers| buffers.with_one(|buffer, len| from(buffer as c_long, len as c_long));
    let array =
        |buffers: Buffers| buffers.with_array(|array, count| from(array as c_long, count.into()));
    let real = || from(b, c);
    match number {
        libc::SYS_write => position::advancing(fd, buffer, false, true, one),
        libc::SYS_writev => {
            position::advancing(fd, write::many(b as *const _, count), false, true, array)
        }
        libc::SYS_pwrite64 => write::at(fd, buffer, d, one),
        libc::SYS_pwritev => write::at(fd, write::many(b as *const _, count), d, array),
        libc::SYS_pwritev2 => write::vector_at(fd, b as *const _, count, d, f as c_int, array),
        libc::SYS_sendfile => position::copied(b as c_int, fd, std::ptr::null(), real),
        // copy_file_range and splice: source, its offset, target, its offset.
        _ => {
            let _ = e;
            position::copied(fd, c as c_int, d as *const i64, real)
        }
    }
}

fn size(number: c_long, args: Args, real: impl FnOnce() -> c_int) -> c_int {
    let [a, b, c, d, ..] = args;
    match number {
        libc::SYS_ftruncate => truncate::to_len(a as c_int, b, real),
        libc::SYS_fallocate => truncate::allocated(a as c_int, b as c_int, c, d, real),
        // SAFETY: a path is null or NUL-terminated.
        _ => unsafe { truncate::by_path(path(a), b, real) },
    }
}

fn names(number: c_long, args: Args, real: impl FnOnce() -> c_int) -> c_int {
    let [a, b, c, d, e, _] = args;
    match number {
        libc::SYS_renameat | libc::SYS_renameat2 => {
            let (from, to) = (
                Entry::at(a as c_int, path(b)),
                Entry::at(c as c_int, path(d)),
            );
            // The older one has no flags: there the argument is whatever was in the register.
            let flags = if number == libc::SYS_renameat2 {
                e as c_uint
            } else {
                0
            };
            namespace::rename_entry(from, to, flags, real)
        }
        libc::SYS_unlinkat => namespace::remove_entry(Entry::at(a as c_int, path(b)), real),
        libc::SYS_linkat => namespace::link_entry(Entry::at(c as c_int, path(d)), real),
        libc::SYS_symlinkat => {
            namespace::make_symlink(path(a), Entry::at(b as c_int, path(c)), real)
        }
        _ => namespace::make_directory(Entry::at(a as c_int, path(b)), real),
    }
}

/// Calls that newer architectures have only in their `…at` form.
#[cfg(target_arch = "x86_64")]
fn older(number: c_long, args: Args, real: impl FnOnce() -> c_long + Copy) -> c_long {
    let [a, b, ..] = args;
    let named = move || real() as c_int;
    let here = |argument| Entry::here(path(argument));
    let result = match number {
        // SAFETY: a path is null or NUL-terminated.
        libc::SYS_open => unsafe { open::opened(libc::AT_FDCWD, path(a), b as c_int, named) },
        libc::SYS_creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            // SAFETY: as above.
            unsafe { open::opened(libc::AT_FDCWD, path(a), flags, named) }
        }
        libc::SYS_rename => namespace::rename_entry(here(a), here(b), 0, named),
        libc::SYS_unlink | libc::SYS_rmdir => namespace::remove_entry(here(a), named),
        libc::SYS_link => namespace::link_entry(here(b), named),
        libc::SYS_symlink => namespace::make_symlink(path(a), here(b), named),
        libc::SYS_mkdir => namespace::make_directory(here(a), named),
        _ => return real(),
    };
    result.into()
}

#[cfg(not(target_arch = "x86_64"))]
fn older(_number: c_long, _args: Args, real: impl FnOnce() -> c_long + Copy) -> c_long {
    real()
}
