//! Whether the program's calls come to the hooks. They go past them where another library has a name in front of this one: libc, if this one was opened while the
//! program ran, libaio if it was linked first, libpthread if it has functions of its own (before glibc 2.34).

use std::ffi::{CStr, CString, c_void};

use crate::api::hotmirror_result;
use crate::failure::Failure;

/// Each hook's name, and the function that calls of that name go to: a reference like the program's own, since the name is not this library's alone. It also makes
/// the linker take all hooks from the archive, also those that only a library of the program's calls.
macro_rules! hooks {
    ($($name:ident)+) => {
        unsafe extern "C" {
            $(fn $name();)+
        }
        static HOOKS: &[(&str, unsafe extern "C" fn())] = &[$((stringify!($name), $name)),+];
    };
}
include!(concat!(env!("OUT_DIR"), "/hooks.rs"));

pub fn check() -> Result<(), Failure> {
    let ours = Home::of(check as *const c_void);
    for (name, function) in HOOKS {
        let home = Home::of(*function as *const c_void);
        if home.is_past(&ours) && !is_passed_on(name, *function as *const c_void, &home) {
            return Err(Failure::new(
                libc::ENOSYS,
                hotmirror_result::HOTMIRROR_INTERNAL,
                format!(
                    "The program's calls of {name} go to {}, past this library: link it before all others (-lHotBackup first), or preload it",
                    home.file()
                ),
            ));
        }
    }
    Ok(())
}

/// The program or library that an address is in.
struct Home {
    info: libc::Dl_info,
    /// The address stands for another one's function: a program that is linked to fixed addresses has such for functions whose address it takes.
    stands_in: bool,
}

/// dladdr1 is to give the entry of the symbol table.
const RTLD_DL_SYMENT: libc::c_int = 1;
const SHN_UNDEF: u16 = 0;

impl Home {
    fn of(address: *const c_void) -> Home {
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        let mut symbol = std::ptr::null_mut();
        // SAFETY: both are there to be filled in.
        let found = unsafe { libc::dladdr1(address, &mut info, &mut symbol, RTLD_DL_SYMENT) };
        // SAFETY: null, or an entry of a table that stays as long as its library.
        let symbol = unsafe { symbol.cast::<libc::Elf64_Sym>().as_ref() };
        let stands_in = symbol.is_some_and(|symbol| symbol.st_shndx == SHN_UNDEF);
        Home {
            info,
            stands_in: found != 0 && stands_in,
        }
    }

    fn is_past(&self, ours: &Home) -> bool {
        match self.info.dli_fbase == ours.info.dli_fbase {
            // In an archive's program.
            true => self.stands_in,
            // Whose function it stands for can't be told; the other names of a library in front can.
            false => !self.stands_in,
        }
    }

    fn file(&self) -> String {
        if self.info.dli_fname.is_null() {
            return "code that no file holds".into();
        }
        // SAFETY: the name of a file that is loaded, NUL-terminated.
        let name = unsafe { CStr::from_ptr(self.info.dli_fname) };
        name.to_string_lossy().into_owned()
    }
}

/// True if the function in front calls the next one of its name.
fn is_passed_on(name: &str, function: *const c_void, home: &Home) -> bool {
    name.starts_with("mmap") && comes_to_ours(function) || is_intercepted(name, home)
}

/// An allocator's mmap makes the system call by libc's `syscall`, which is hooked, too. Only this library answers this before the descriptor is looked at.
fn comes_to_ours(mmap: *const c_void) -> bool {
    type Mmap = unsafe extern "C" fn(
        *mut c_void,
        usize,
        libc::c_int,
        libc::c_int,
        libc::c_int,
        libc::off_t,
    ) -> *mut c_void;
    // SAFETY: whoever has the name has libc's signature.
    let mmap: Mmap = unsafe { std::mem::transmute(mmap) };
    let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
    // SAFETY: no descriptor is -1, so nothing is mapped.
    let mapped = unsafe { mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    mapped == libc::MAP_FAILED && errno == Some(libc::EOPNOTSUPP)
}

/// A sanitizer's functions have a second name, and call the next ones.
fn is_intercepted(name: &str, home: &Home) -> bool {
    let Ok(second) = CString::new(format!("__interceptor_{name}")) else {
        return false;
    };
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, second.as_ptr()) };
    !found.is_null() && Home::of(found).info.dli_fbase == home.info.dli_fbase
}
