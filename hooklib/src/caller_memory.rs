//! Reading what a call's arguments point to, before the kernel does. A bad address has to stay what it is, an EFAULT of the real call (I2), and not become
//! a SIGSEGV of ours.
//!
//! So each page is shown to the kernel before it is copied, by a system call that reads eight bytes of it and then refuses to do anything: `rt_sigprocmask` with a `how` that
//! there is none of (kernel/signal.c reads the set, then looks at `how`). It takes 0.2 µs for a page and no lock of the address space, which `process_vm_readv` takes: that one waits,
//! for milliseconds among busy threads, where the server maps memory at that moment. valgrind, which answers for the kernel, tells the same;
//! its memcheck may also report the up to seven bytes beside a buffer that are looked at with it.
//!
//! What is left: a page that another thread takes away between the look and its copy, which takes some hundred nanoseconds, is a SIGSEGV, where the real call would have ended with EFAULT or
//! have written less.

use std::ffi::c_long;
use std::mem::MaybeUninit;

use libc::iovec;

use crate::real::{errno, set_errno, syscall};

/// Copied behind one look: the smallest page that there is. Where pages are larger, each is looked at more than once.
const PAGE_LEN: usize = 4096;
/// What the kernel calls a signal set. An aligned one never lies in two pages.
const LOOK_LEN: usize = size_of::<u64>();
const NO_HOW: c_long = -1;
/// IOV_MAX.
const ARRAY_LEN_MAX: usize = 1024;

/// Copies `len` bytes. False if not all of them can be read; errno is the caller's to keep.
///
/// # Safety
/// `to` has room for them.
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> bool {
    if from.addr().checked_add(len).is_none() {
        return false;
    }
    let mut done = 0;
    while done < len {
        let from = from.wrapping_add(done);
        if !can_look_at(from.addr() & !(LOOK_LEN - 1)) {
            return false;
        }
        let in_page = PAGE_LEN - from.addr() % PAGE_LEN;
        let part = in_page.min(len - done);
        // SAFETY: readable a moment ago; `to` is the caller's word. The bytes may change under the copy, as they may under the real call: any of their states will do.
        unsafe { from.copy_to_nonoverlapping(to.wrapping_add(done), part) };
        done += part;
    }
    true
}

/// What is at an address that the program gave, for the kernel to read; None if it can't be read. errno stays.
///
/// # Safety
/// A `T` is valid whatever its bytes.
pub unsafe fn peek<T: Copy>(address: *const T) -> Option<T> {
    let before = errno();
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is as long as a T.
    let read = unsafe { copy(address.cast(), value.as_mut_ptr().cast(), size_of::<T>()) };
    set_errno(before);
    // SAFETY: every byte of it has been read, and the caller's word.
    read.then(|| unsafe { value.assume_init() })
}

/// Gives the elements of a caller's array. None if one of them can't be read, or `visit` gives it. errno stays, but for what `visit` does.
pub fn each_part(
    array: *const iovec,
    count: usize,
    mut visit: impl FnMut(&iovec) -> Option<()>,
) -> Option<()> {
    const SHARE: usize = 32;
    if count > ARRAY_LEN_MAX {
        return None;
    }
    let mut parts = [const { MaybeUninit::<iovec>::uninit() }; SHARE];
    for first in (0..count).step_by(SHARE) {
        let room = parts.get_mut(..SHARE.min(count - first))?;
        let from = array.wrapping_add(first).cast();
        let before = errno();
        // SAFETY: `room` is as long as that.
        let read = unsafe { copy(from, room.as_mut_ptr().cast(), size_of_val(room)) };
        set_errno(before);
        if !read {
            return None;
        }
        for part in room {
            // SAFETY: it has just been filled, and an iovec is valid whatever its bytes.
            visit(unsafe { part.assume_init_ref() })?;
        }
    }
    Some(())
}

/// False if the kernel says that an aligned address can't be read. Where it refuses the call itself, all are taken to be readable: a bad one is then a SIGSEGV, in a server that is
/// about to write from a bad address.
fn can_look_at(address: usize) -> bool {
    // Null is no set at all to the kernel, and it then refuses nothing.
    if address == 0 {
        return false;
    }
    let args = [NO_HOW, address as c_long, 0, LOOK_LEN as c_long, 0, 0];
    // SAFETY: it reads, through the kernel, and changes nothing since there is no such `how`.
    let result = unsafe { syscall(libc::SYS_rt_sigprocmask, args) };
    result == 0 || errno() != libc::EFAULT
}

#[cfg(test)]
mod tests {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::*;

    fn can_copy(from: *const u8, len: usize) -> bool {
        let mut room = vec![0; len];
        // SAFETY: there is room.
        unsafe { copy(from, room.as_mut_ptr(), len) }
    }

    fn page_size() -> usize {
        // SAFETY: only asks.
        unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
    }

    /// Three pages, of which the one in the middle can't be read.
    struct Pages(*mut u8);

    impl Pages {
        fn new() -> Pages {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let null = std::ptr::null_mut();
            // SAFETY: a new mapping.
            let base = unsafe { mmap_anonymous(null, 3 * page_size(), prot, MapFlags::PRIVATE) };
            let base = base.unwrap().cast::<u8>();
            let middle = base.wrapping_add(page_size()).cast();
            // SAFETY: inside of it; nobody reads it.
            unsafe { mprotect(middle, page_size(), MprotectFlags::empty()) }.unwrap();
            Pages(base)
        }

        fn at(&self, offset: usize) -> *const u8 {
            self.0.wrapping_add(offset)
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: mapped by `new`.
            unsafe { munmap(self.0.cast(), 3 * page_size()) }.unwrap();
        }
    }

    #[test]
    fn what_can_be_read_is_told_to_the_byte() {
        let pages = Pages::new();
        let end = page_size();
        for len in [1, 3, 8, 9, 100, page_size()] {
            assert!(can_copy(pages.at(end - len), len), "{len} before the end");
            assert!(!can_copy(pages.at(end - len), len + 1), "{len} and one");
            assert!(can_copy(pages.at(2 * end), len), "{len} behind the gap");
            assert!(!can_copy(pages.at(2 * end - 1), len), "{len} from the gap");
        }
        assert!(!can_copy(pages.at(0), 3 * page_size()), "across the gap");
    }

    #[test]
    fn no_address_is_too_strange() {
        let highest = std::ptr::without_provenance::<u8>(usize::MAX);
        for address in [std::ptr::null(), std::ptr::without_provenance(8), highest] {
            // SAFETY: a byte has no invalid state.
            assert_eq!(unsafe { peek(address) }, None, "{address:?}");
        }
        // SAFETY: never gets to use the room.
        assert!(!unsafe { copy(highest, std::ptr::null_mut(), 2) });
    }

    #[test]
    fn looking_leaves_the_signal_mask_alone() {
        let mask = || {
            let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
            // SAFETY: only read, into a set of our own.
            unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr());
                let is_member = |signal| libc::sigismember(set.as_ptr(), signal);
                (0..64).map(is_member).collect::<Vec<_>>()
            }
        };
        let before = mask();
        let all = [u64::MAX; 1024];
        assert!(can_copy(all.as_ptr().cast(), size_of_val(&all)));
        assert_eq!(mask(), before);
    }
}
