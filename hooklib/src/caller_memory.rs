//! Reading what a call's arguments point to, before the kernel does. A bad address has to stay what it is, an EFAULT of the real call (I2), and not become
//! a SIGSEGV of ours.
//!
//! So each page is shown to the kernel first, by a system call that reads eight bytes of it and then refuses to do anything: `rt_sigprocmask` with a `how` that there is
//! none of (kernel/signal.c reads the set, then looks at `how`). It takes 0.2 µs for a page and no lock of the address space, which `process_vm_readv` takes: that one waits, for
//! milliseconds among busy threads, where the server maps memory at that moment. Memory that another thread unmaps between the look and the copy is a SIGSEGV after all; the real
//! call would have written from memory that is being taken away.

use std::ffi::c_long;
use std::mem::MaybeUninit;

use crate::real::{errno, set_errno, syscall};

/// The smallest page that there is; where pages are larger, each is looked at more than once.
const PAGE_LEN: usize = 4096;
/// What the kernel calls a signal set. An aligned one never lies in two pages.
const LOOK_LEN: usize = size_of::<u64>();
const NO_HOW: c_long = -1;

/// Copies `len` bytes. False if not all of them can be read; errno is the caller's to keep.
///
/// # Safety
/// `to` has room for them.
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> bool {
    let is_readable = is_readable(from, len);
    if is_readable {
        // SAFETY: readable a moment ago; `to` is the caller's word. The bytes may change under the copy, as they may under the real call: any of their states will do.
        unsafe { from.copy_to_nonoverlapping(to, len) };
    }
    is_readable
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

fn is_readable(from: *const u8, len: usize) -> bool {
    if len == 0 {
        return true;
    }
    let begin = from.addr();
    let Some(last) = begin.checked_add(len - 1) else {
        return false;
    };
    let first_page = begin & !(PAGE_LEN - 1);
    let mut looks = (first_page..=last).step_by(PAGE_LEN);
    looks.all(|page| can_look_at(page.max(begin) & !(LOOK_LEN - 1)))
}

/// Where the kernel refuses the call itself, all memory is taken to be readable: a bad address is then a SIGSEGV, in a server that is about to write from a bad address.
fn can_look_at(address: usize) -> bool {
    let args = [NO_HOW, address as c_long, 0, LOOK_LEN as c_long, 0, 0];
    // SAFETY: it reads, through the kernel, and changes nothing since there is no such `how`.
    let result = unsafe { syscall(libc::SYS_rt_sigprocmask, args) };
    // Null is no set at all to the kernel, and nothing is refused.
    address != 0 && (result == 0 || errno() != libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::*;

    /// Three pages, of which the one in the middle can't be read.
    struct Pages(*mut u8);

    impl Pages {
        fn new() -> Pages {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping.
            let base = unsafe {
                mmap_anonymous(std::ptr::null_mut(), 3 * PAGE_LEN, prot, MapFlags::PRIVATE)
            };
            let base = base.unwrap().cast::<u8>();
            // SAFETY: inside of it; nobody reads it.
            unsafe { mprotect(base.add(PAGE_LEN).cast(), PAGE_LEN, MprotectFlags::empty()) }
                .unwrap();
            Pages(base)
        }

        fn at(&self, offset: usize) -> *const u8 {
            self.0.wrapping_add(offset)
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: mapped by `new`.
            unsafe { munmap(self.0.cast(), 3 * PAGE_LEN) }.unwrap();
        }
    }

    #[test]
    fn what_can_be_read_is_told_to_the_byte() {
        let pages = Pages::new();
        let end = PAGE_LEN;
        for len in [1, 3, 8, 9, 100, PAGE_LEN] {
            assert!(
                is_readable(pages.at(end - len), len),
                "{len} before the end"
            );
            assert!(
                !is_readable(pages.at(end - len), len + 1),
                "{len} and one past the end"
            );
            assert!(is_readable(pages.at(2 * end), len), "{len} behind the gap");
            assert!(
                !is_readable(pages.at(2 * end - 1), len),
                "{len} from within the gap"
            );
        }
        assert!(!is_readable(pages.at(0), 3 * PAGE_LEN), "across the gap");
    }

    #[test]
    fn no_address_is_too_strange() {
        let highest = std::ptr::without_provenance(usize::MAX);
        for address in [std::ptr::null(), std::ptr::without_provenance(8), highest] {
            assert!(!is_readable(address, 1), "{address:?}");
            assert!(is_readable(address, 0), "{address:?}");
        }
        assert!(!is_readable(highest, 2));
    }

    #[test]
    fn looking_leaves_the_signal_mask_alone() {
        let mask = || {
            let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
            // SAFETY: only read, into a set of our own.
            unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr());
                (0..64)
                    .map(|signal| libc::sigismember(set.as_ptr(), signal))
                    .collect::<Vec<_>>()
            }
        };
        let before = mask();
        let all = [u64::MAX; 64];
        // SAFETY: an array of numbers.
        assert_eq!(unsafe { peek(&raw const all) }, Some(all));
        assert_eq!(mask(), before);
    }
}
