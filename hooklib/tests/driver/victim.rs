//! The process under the library: reads one action per line, makes the call that it names, says what came of it.

use std::ffi::CString;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use libc::{c_char, c_int, c_void, off_t};

/// Marks our lines among those of the test harness.
pub const MARK: &str = "victim: ";

unsafe extern "C" {
    fn mkstemp64(template: *mut c_char) -> c_int;
    fn mkostemp64(template: *mut c_char, flags: c_int) -> c_int;
    fn mkstemps64(template: *mut c_char, suffix_len: c_int) -> c_int;
    fn mkostemps64(template: *mut c_char, suffix_len: c_int, flags: c_int) -> c_int;
}

fn say(word: &str) {
    // The harness may have left an unfinished line.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{MARK}{word}")
        .and_then(|()| stdout.flush())
        .expect("The driver listens");
}

/// Not a test of its own: the driver starts it.
#[test]
#[ignore = "started by the driver"]
fn victim() {
    say("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("The driver writes text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = act(&words);
        let result = if result < 0 {
            -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
        } else {
            result
        };
        say(&format!("did {result}"));
    }
}

/// Arguments of an action.
pub struct Words<'w>(&'w [&'w str]);

impl Words<'_> {
    pub fn path(&self, index: usize) -> CString {
        CString::new(self.0[index]).expect("No NUL")
    }

    pub fn number(&self, index: usize) -> i64 {
        self.0[index]
            .parse()
            .unwrap_or_else(|_| panic!("{:?}", self.0))
    }

    /// Bytes filled with the number at `index`: as many as the number before it says.
    pub fn bytes(&self, len: usize, fill: usize) -> Vec<u8> {
        vec![self.number(fill) as u8; self.number(len) as usize]
    }
}

/// Opens without creating, calls, closes; with the result's errno.
fn with_fd(words: &Words<'_>, flags: c_int, call: impl FnOnce(c_int) -> i64) -> i64 {
    let path = words.path(1);
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open64(path.as_ptr(), flags) };
    if fd < 0 {
        return -1;
    }
    let result = call(fd);
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
    // SAFETY: the calling thread's errno.
    unsafe { *libc::__errno_location() = errno };
    result
}

fn act(words: &[&str]) -> i64 {
    let args = Words(words);
    let call = words[0];
    data(call, &args)
        .or_else(|| sizes(call, &args))
        .or_else(|| names(call, &args))
        .or_else(|| opens(call, &args))
        .or_else(|| others(call, &args))
        .or_else(|| super::aio::act(call, &args))
        .or_else(|| raw(call, &args))
        .unwrap_or_else(|| panic!("No action {call}"))
}

/// CALL FILE OFFSET LEN FILL
fn data(call: &str, args: &Words<'_>) -> Option<i64> {
    let calls = [
        "pwrite",
        "pwrite64",
        "pwritev",
        "pwritev64",
        "pwritev2",
        "pwritev64v2",
        "write",
        "writev",
        "append",
        "pwrite_append",
        "pwritev2_position",
        "pwritev2_append",
        "sys_write",
        "sys_pwrite64",
        "sys_pwritev",
        "sys_pwritev2",
        "sys_writev",
    ];
    if !calls.contains(&call) {
        return None;
    }
    let (offset, bytes) = (args.number(2), args.bytes(3, 4));
    let (data, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len());
    let half = len / 2;
    let pieces = [
        libc::iovec {
            iov_base: data.cast_mut(),
            iov_len: half,
        },
        libc::iovec {
            iov_base: data.wrapping_byte_add(half).cast_mut(),
            iov_len: len - half,
        },
    ];
    let vector = pieces.as_ptr();
    let flags = libc::O_RDWR
        | if matches!(call, "append" | "pwrite_append") {
            libc::O_APPEND
        } else {
            0
        };
    Some(with_fd(args, flags, |fd| {
        // SAFETY: the buffers live in the caller's frame.
        unsafe {
            libc::lseek64(fd, offset, libc::SEEK_SET);
            match call {
                "pwrite" | "pwrite_append" => libc::pwrite(fd, data, len, offset) as i64,
                "pwrite64" => libc::pwrite64(fd, data, len, offset) as i64,
                "pwritev" => libc::pwritev(fd, vector, 2, offset) as i64,
                "pwritev64" => libc::pwritev64(fd, vector, 2, offset) as i64,
                "pwritev2" => libc::pwritev2(fd, vector, 2, offset, 0) as i64,
                "pwritev64v2" => libc::pwritev64v2(fd, vector, 2, offset, 0) as i64,
                "pwritev2_position" => libc::pwritev2(fd, vector, 2, -1, 0) as i64,
                "pwritev2_append" => libc::pwritev2(fd, vector, 2, offset, libc::RWF_APPEND) as i64,
                "writev" => libc::writev(fd, vector, 2) as i64,
                "sys_write" => libc::syscall(libc::SYS_write, fd, data, len),
                "sys_writev" => libc::syscall(libc::SYS_writev, fd, vector, 2),
                "sys_pwrite64" => libc::syscall(libc::SYS_pwrite64, fd, data, len, offset),
                "sys_pwritev" => libc::syscall(libc::SYS_pwritev, fd, vector, 2, offset, 0),
                "sys_pwritev2" => libc::syscall(libc::SYS_pwritev2, fd, vector, 2, offset, 0, 0),
                _ => libc::write(fd, data, len) as i64,
            }
        }
    }))
}

/// CALL FILE …
fn sizes(call: &str, args: &Words<'_>) -> Option<i64> {
    let path = args
        .0
        .get(1)
        .map_or_else(CString::default, |_| args.path(1));
    let number = |index: usize| args.number(index);
    // SAFETY: the path is NUL-terminated and lives to the end of the function.
    let by_path = |len| unsafe {
        Some(match call {
            "truncate" => libc::truncate(path.as_ptr(), len).into(),
            "truncate64" => libc::truncate64(path.as_ptr(), len).into(),
            "sys_truncate" => libc::syscall(libc::SYS_truncate, path.as_ptr(), len),
            _ => return None,
        })
    };
    if call.contains("truncate") && !call.contains("ftruncate") {
        return by_path(number(2));
    }
    if !call.contains("ftruncate") && !call.contains("fallocate") {
        return None;
    }
    // SAFETY: these calls take no pointers.
    Some(with_fd(args, libc::O_RDWR, |fd| unsafe {
        match call {
            "ftruncate" => libc::ftruncate(fd, number(2)).into(),
            "ftruncate64" => libc::ftruncate64(fd, number(2)).into(),
            "sys_ftruncate" => libc::syscall(libc::SYS_ftruncate, fd, number(2)),
            "fallocate" => libc::fallocate(fd, number(2) as c_int, number(3), number(4)).into(),
            "fallocate64" => libc::fallocate64(fd, number(2) as c_int, number(3), number(4)).into(),
            "sys_fallocate" => {
                libc::syscall(libc::SYS_fallocate, fd, number(2), number(3), number(4))
            }
            "posix_fallocate" => libc::posix_fallocate(fd, number(2), number(3)).into(),
            "posix_fallocate64" => libc::posix_fallocate64(fd, number(2), number(3)).into(),
            _ => panic!("No action {call}"),
        }
    }))
}

/// CALL PATH [PATH]
fn names(call: &str, args: &Words<'_>) -> Option<i64> {
    let here = libc::AT_FDCWD;
    let first = args
        .0
        .get(1)
        .map_or_else(CString::default, |_| args.path(1));
    let second = args
        .0
        .get(2)
        .map_or_else(CString::default, |_| args.path(2));
    let (a, b) = (first.as_ptr(), second.as_ptr());
    // SAFETY: the paths are NUL-terminated and live to the end of the function.
    let result = unsafe {
        match call {
            "rename" => libc::rename(a, b),
            "renameat" => libc::renameat(here, a, here, b),
            "renameat2" => libc::renameat2(here, a, here, b, 0),
            "exchange" => libc::renameat2(here, a, here, b, libc::RENAME_EXCHANGE),
            "noreplace" => libc::renameat2(here, a, here, b, libc::RENAME_NOREPLACE),
            "unlink" => libc::unlink(a),
            "unlinkat" => libc::unlinkat(here, a, 0),
            "removedir" => libc::unlinkat(here, a, libc::AT_REMOVEDIR),
            "remove" => libc::remove(a),
            "rmdir" => libc::rmdir(a),
            "link" => libc::link(a, b),
            "linkat" => libc::linkat(here, a, here, b, 0),
            "symlink" => libc::symlink(a, b),
            "symlinkat" => libc::symlinkat(a, here, b),
            "mkdir" => libc::mkdir(a, 0o751),
            "mkdirat" => libc::mkdirat(here, a, 0o751),
            "mkdtemp" => libc::mkdtemp(first.as_ptr().cast_mut()).is_null() as c_int,
            "chdir" => libc::chdir(a),
            "mkfifo" => libc::mkfifo(a, 0o600),
            _ => return None,
        }
    };
    Some(result.into())
}

/// CALL PATH
fn opens(call: &str, args: &Words<'_>) -> Option<i64> {
    let path = args
        .0
        .get(1)
        .map_or_else(CString::default, |_| args.path(1));
    let (name, template, here) = (path.as_ptr(), path.as_ptr().cast_mut(), libc::AT_FDCWD);
    let (creates, empties) = (libc::O_CREAT | libc::O_RDWR, libc::O_TRUNC | libc::O_WRONLY);
    // SAFETY: the path is NUL-terminated and lives to the end of the function.
    let fd = unsafe {
        match call {
            "open" => libc::open(name, creates, 0o640),
            "open64" => libc::open64(name, creates, 0o640),
            "openat" => libc::openat(here, name, creates, 0o640),
            "openat64" => libc::openat64(here, name, creates, 0o640),
            "open_excl" => libc::open(name, creates | libc::O_EXCL, 0o640),
            "open_trunc" => libc::open(name, empties),
            "open_fifo" => libc::open(name, empties | libc::O_CREAT, 0o600),
            "open_tmpfile" => return Some(tmpfile(name)),
            "creat" => libc::creat(name, 0o640),
            "creat64" => libc::creat64(name, 0o640),
            "mkstemp" => libc::mkstemp(template),
            "mkstemp64" => mkstemp64(template),
            "mkostemp" => libc::mkostemp(template, libc::O_CLOEXEC),
            "mkostemp64" => mkostemp64(template, libc::O_CLOEXEC),
            "mkstemps" => libc::mkstemps(template, 2),
            "mkstemps64" => mkstemps64(template, 2),
            "mkostemps" => libc::mkostemps(template, 2, libc::O_CLOEXEC),
            "mkostemps64" => mkostemps64(template, 2, libc::O_CLOEXEC),
            "sys_open" => libc::syscall(libc::SYS_open, name, creates, 0o640) as c_int,
            "sys_openat" => libc::syscall(libc::SYS_openat, here, name, creates, 0o640) as c_int,
            "sys_creat" => libc::syscall(libc::SYS_creat, name, 0o640) as c_int,
            _ => return None,
        }
    };
    if fd < 0 {
        return Some(-1);
    }
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
    Some(0)
}

/// A file that gets its name from linkat.
fn tmpfile(name: *const c_char) -> i64 {
    // SAFETY: paths are NUL-terminated; the descriptor is closed once.
    unsafe {
        let fd = libc::open(c".".as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o640);
        if fd < 0 {
            return -1;
        }
        let link = CString::new(format!("/proc/self/fd/{fd}")).expect("No NUL");
        let result = libc::linkat(
            libc::AT_FDCWD,
            link.as_ptr(),
            libc::AT_FDCWD,
            name,
            libc::AT_SYMLINK_FOLLOW,
        );
        libc::close(fd);
        result.into()
    }
}

fn others(call: &str, args: &Words<'_>) -> Option<i64> {
    let path = args
        .0
        .get(1)
        .map_or_else(CString::default, |_| args.path(1));
    // SAFETY: paths are NUL-terminated, streams and descriptors are closed once, mappings are as long as is accessed.
    unsafe {
        let stream = |stream: *mut libc::FILE| {
            if stream.is_null() {
                return -1;
            }
            libc::fputs(c"text".as_ptr(), stream);
            libc::fflush(stream);
            i64::from(libc::fclose(stream))
        };
        Some(match call {
            "no_more_space" => {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                libc::setrlimit(libc::RLIMIT_FSIZE, &raw const NONE).into()
            }
            "no_more_files" => libc::setrlimit(libc::RLIMIT_NOFILE, &raw const NONE).into(),
            "no_stat" => no_stat(args.number(1) as u32),
            "pwrite_closed" => libc::pwrite(1000, path.as_ptr().cast(), 1, 0) as i64,
            "fopen" => stream(libc::fopen(path.as_ptr(), c"w".as_ptr())),
            "fopen64" => stream(libc::fopen64(path.as_ptr(), c"a".as_ptr())),
            "freopen" => {
                let first = libc::fopen(c"/dev/null".as_ptr(), c"r".as_ptr());
                stream(libc::freopen(path.as_ptr(), c"w".as_ptr(), first))
            }
            "freopen64" => {
                let first = libc::fopen(c"/dev/null".as_ptr(), c"r".as_ptr());
                stream(libc::freopen64(path.as_ptr(), c"w".as_ptr(), first))
            }
            "freopen_read" => {
                let first = libc::fopen(path.as_ptr(), c"r".as_ptr());
                stream(libc::freopen(std::ptr::null(), c"w".as_ptr(), first))
            }
            "fdopen" => stream(libc::fdopen(
                libc::open(path.as_ptr(), libc::O_RDWR),
                c"r+".as_ptr(),
            )),
            "fopen_read" => i64::from(libc::fclose(libc::fopen(path.as_ptr(), c"r".as_ptr()))),
            "mmap" | "mmap64" | "sys_mmap" | "mprotect" | "pkey_mprotect" | "sys_mprotect" => {
                with_fd(args, libc::O_RDWR, |fd| store(call, fd))
            }
            "mprotect_anonymous" => {
                let null = std::ptr::null_mut();
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let address = libc::mmap(null, 4096, libc::PROT_READ, flags, -1, 0);
                libc::mprotect(address, 4096, libc::PROT_READ | libc::PROT_WRITE).into()
            }
            "mmap_private" => with_fd(args, libc::O_RDWR, |fd| {
                let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
                let address = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, fd, 0);
                libc::munmap(address, 4096).into()
            }),
            "mprotect_private" => with_fd(args, libc::O_RDWR, |fd| {
                let null = std::ptr::null_mut();
                let address = libc::mmap(null, 4096, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0);
                libc::mprotect(address, 4096, libc::PROT_READ | libc::PROT_WRITE);
                libc::munmap(address, 4096).into()
            }),
            "mmap_sync" => with_fd(args, libc::O_RDWR, |fd| {
                let (prot, flags) = (libc::PROT_WRITE, libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC);
                let address = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, fd, 0);
                if address == libc::MAP_FAILED { -1 } else { 0 }
            }),
            "sendfile" | "sendfile64" | "copy_file_range" | "splice" => copy(call, args),
            "sys_io_uring_setup" => {
                libc::syscall(libc::SYS_io_uring_setup, 4, std::ptr::null::<c_void>())
            }
            "fork_write" => fork_write(args),
            "fork_exit" => fork_exit(),
            "fork_exec" => fork_exec(),
            "threads" => threads(args),
            "shuffle" => shuffle(args),
            "interrupted" => interrupted(args),
            "write_stdout" => i64::from(libc::write(1, c"\n".as_ptr().cast(), 1) as i32),
            "setuid" => libc::setuid(args.number(1) as u32).into(),
            _ => return None,
        })
    }
}

static NONE: libc::rlimit = libc::rlimit {
    rlim_cur: 0,
    rlim_max: 0,
};

/// From now on the kernel fails with `errno` where this thread asks what a path or a descriptor stands for, except for those that it began with.
fn no_stat(errno: u32) -> i64 {
    let step = |code: u32, operand: u32, jump_true, jump_false| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k: operand,
    };
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let compare = |kind, operand, jump_true, jump_false| {
        let code = libc::BPF_JMP | kind | libc::BPF_K;
        step(code, operand, jump_true, jump_false)
    };
    let give = |result| step(libc::BPF_RET | libc::BPF_K, result, 0, 0);
    // Number and first argument of the system call.
    let mut steps = [
        load(0),
        compare(libc::BPF_JEQ, libc::SYS_fstat as u32, 2, 0),
        compare(libc::BPF_JEQ, libc::SYS_newfstatat as u32, 1, 0),
        compare(libc::BPF_JEQ, libc::SYS_statx as u32, 0, 3),
        load(16),
        compare(libc::BPF_JGT, libc::STDERR_FILENO as u32, 0, 1),
        give(libc::SECCOMP_RET_ERRNO | errno),
        give(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program.
    unsafe {
        match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
            .into(),
            failed => failed.into(),
        }
    }
}

/// Maps, for writing at once or later; stores, syncs.
unsafe fn store(call: &str, fd: c_int) -> i64 {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: the file is at least 4096 bytes long.
    unsafe {
        let null = std::ptr::null_mut();
        let address = match call {
            "mmap" => libc::mmap(null, 4096, prot, flags, fd, 0),
            "mmap64" => libc::mmap64(null, 4096, prot, flags, fd, 0),
            "sys_mmap" => {
                libc::syscall(libc::SYS_mmap, null, 4096, prot, flags, fd, 0) as *mut c_void
            }
            _ => libc::mmap(null, 4096, libc::PROT_READ, flags, fd, 0),
        };
        if address == libc::MAP_FAILED {
            return -1;
        }
        let allowed = match call {
            "mprotect" => libc::mprotect(address, 4096, prot),
            "pkey_mprotect" => pkey_mprotect(address, 4096, prot, -1),
            "sys_mprotect" => libc::syscall(libc::SYS_mprotect, address, 4096, prot) as c_int,
            _ => 0,
        };
        if allowed != 0 {
            return -1;
        }
        address.cast::<u8>().write(7);
        let result = libc::msync(address, 4096, libc::MS_SYNC);
        libc::munmap(address, 4096);
        result.into()
    }
}

unsafe extern "C" {
    fn pkey_mprotect(address: *mut c_void, len: usize, prot: c_int, key: c_int) -> c_int;
}

/// CALL FROM TO OFFSET LEN
unsafe fn copy(call: &str, args: &Words<'_>) -> i64 {
    let (from, to) = (args.path(1), args.path(2));
    let (mut offset, len) = (args.number(3), args.number(4) as usize);
    // SAFETY: paths are NUL-terminated; descriptors are closed once.
    unsafe {
        let from = libc::open(from.as_ptr(), libc::O_RDONLY);
        let to = libc::open(to.as_ptr(), libc::O_WRONLY);
        libc::lseek(to, offset as off_t, libc::SEEK_SET);
        let null = std::ptr::null_mut();
        let result = match call {
            "sendfile" => libc::sendfile(to, from, null, len) as i64,
            "sendfile64" => libc::sendfile64(to, from, null, len) as i64,
            "copy_file_range" => libc::copy_file_range(from, null, to, &mut offset, len, 0) as i64,
            _ => {
                let mut pipe = [0; 2];
                libc::pipe(pipe.as_mut_ptr());
                libc::splice(from, null, pipe[1], null, len, 0);
                let moved = libc::splice(pipe[0], null, to, &mut offset, len, 0);
                libc::close(pipe[0]);
                libc::close(pipe[1]);
                moved as i64
            }
        };
        libc::close(from);
        libc::close(to);
        result
    }
}

/// The child writes to FILE, sets its length to 77, and stays until its parent is gone.
unsafe fn fork_write(args: &Words<'_>) -> i64 {
    let path = args.path(1);
    // SAFETY: the child calls only system calls.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let fd = libc::open(path.as_ptr(), libc::O_RDWR);
            libc::pwrite(fd, c"child".as_ptr().cast(), 5, 0);
            libc::ftruncate(fd, 77);
            libc::pause();
            libc::_exit(0);
        }
        child.into()
    }
}

/// The child leaves through exit(), as a daemonizing parent would.
unsafe fn fork_exit() -> i64 {
    // SAFETY: the child runs exit handlers only.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        status.into()
    }
}

unsafe fn fork_exec() -> i64 {
    // SAFETY: the child calls exec at once.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::execl(
                c"/bin/true".as_ptr(),
                c"true".as_ptr(),
                std::ptr::null::<c_char>(),
            );
            libc::_exit(1);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        status.into()
    }
}

/// threads FILE COUNT ROUNDS: random overlapping writes, truncations and appends on one file.
fn threads(args: &Words<'_>) -> i64 {
    let (count, rounds) = (args.number(2), args.number(3));
    let path = args.path(1);
    std::thread::scope(|scope| {
        for thread in 0..count {
            let path = &path;
            // SAFETY: the path is NUL-terminated, the buffer as long as is written.
            scope.spawn(move || unsafe {
                let flags = if thread == 1 { libc::O_APPEND } else { 0 };
                let fd = libc::open64(path.as_ptr(), libc::O_RDWR | flags);
                let mut seed = thread as u64 + 1;
                for round in 0..rounds {
                    seed = seed
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    let (offset, len) = ((seed >> 33) % (3 << 20), (seed >> 20) % 20_000 + 1);
                    let bytes = vec![(seed >> 50) as u8; len as usize];
                    let data = bytes.as_ptr().cast();
                    match (thread, round % 50) {
                        (1, 0..40) => libc::write(fd, data, len as usize) as i64,
                        (2, 7) => libc::ftruncate(fd, offset as i64).into(),
                        (2, 8) => libc::fallocate(fd, 3, offset as i64, len as i64).into(),
                        (3, _) => {
                            libc::lseek(fd, offset as i64, libc::SEEK_SET);
                            libc::write(fd, data, len as usize) as i64
                        }
                        _ => libc::pwrite(fd, data, len as usize, offset as i64) as i64,
                    };
                }
                libc::close(fd);
            });
        }
    });
    0
}

static INTERRUPTS: AtomicI64 = AtomicI64::new(0);
static INTERRUPTED_FD: AtomicI32 = AtomicI32::new(-1);

/// Makes the same calls as the code that it interrupts.
extern "C" fn interrupt(_: c_int) {
    let fd = INTERRUPTED_FD.load(Ordering::Relaxed);
    // SAFETY: the text is longer than is written; the calls are safe in a signal handler.
    unsafe {
        let errno = *libc::__errno_location();
        libc::pwrite(fd, c"signal".as_ptr().cast(), 6, 0);
        libc::write(fd, c"signal".as_ptr().cast(), 6);
        libc::unlink(c"none".as_ptr());
        *libc::__errno_location() = errno;
    }
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// interrupted FILE COUNT: writes, truncates and renames until a signal has come COUNT times; how many of its own calls failed.
fn interrupted(args: &Words<'_>) -> i64 {
    let path = args.path(1);
    let (mut failed, mut round) = (0, 0i64);
    // SAFETY: paths are NUL-terminated, the text is longer than is written, the handler has the right type.
    unsafe {
        let fd = libc::open64(path.as_ptr(), libc::O_RDWR);
        INTERRUPTED_FD.store(fd, Ordering::Relaxed);
        libc::signal(
            libc::SIGALRM,
            interrupt as extern "C" fn(c_int) as libc::sighandler_t,
        );
        let often = libc::timeval {
            tv_sec: 0,
            tv_usec: 300,
        };
        let timer = libc::itimerval {
            it_interval: often,
            it_value: often,
        };
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
        while INTERRUPTS.load(Ordering::Relaxed) < args.number(2) {
            round += 1;
            failed +=
                i64::from(libc::pwrite(fd, c"mainline".as_ptr().cast(), 8, round % 100_000) != 8);
            failed += i64::from(libc::write(fd, c"mainline".as_ptr().cast(), 8) != 8);
            failed += i64::from(libc::rename(path.as_ptr(), c"other".as_ptr()) != 0);
            failed += i64::from(libc::rename(c"other".as_ptr(), path.as_ptr()) != 0);
            if round % 100 == 0 {
                failed += i64::from(libc::ftruncate(fd, 1000) != 0);
            }
        }
        let never = libc::itimerval {
            it_interval: libc::timeval {
                tv_sec: 0,
                tv_usec: 0,
            },
            it_value: libc::timeval {
                tv_sec: 0,
                tv_usec: 0,
            },
        };
        libc::setitimer(libc::ITIMER_REAL, &never, std::ptr::null_mut());
    }
    failed
}

/// shuffle PREFIX THREADS ROUNDS: each thread makes, writes, renames and removes files of its own and files that others use.
fn shuffle(args: &Words<'_>) -> i64 {
    let (prefix, count, rounds) = (args.0[1], args.number(2), args.number(3));
    let name =
        |kind: &str, number: u64| CString::new(format!("{prefix}{kind}{number}")).expect("No NUL");
    std::thread::scope(|scope| {
        for thread in 0..count as u64 {
            let name = &name;
            // SAFETY: paths are NUL-terminated, the buffer is as long as is written.
            scope.spawn(move || unsafe {
                for round in 0..rounds as u64 {
                    let (own, shared) = (name("own", thread), name("shared", round % 5));
                    let fd = libc::open64(
                        own.as_ptr(),
                        libc::O_CREAT | libc::O_RDWR | libc::O_TRUNC,
                        0o600,
                    );
                    libc::write(fd, own.as_ptr().cast(), own.count_bytes());
                    libc::pwrite(
                        fd,
                        shared.as_ptr().cast(),
                        shared.count_bytes(),
                        (round * 7) as off_t,
                    );
                    libc::close(fd);
                    match round % 3 {
                        0 => libc::rename(own.as_ptr(), shared.as_ptr()),
                        1 => libc::unlink(own.as_ptr()),
                        _ => libc::unlink(shared.as_ptr()),
                    };
                }
            });
        }
    });
    0
}

/// Namespace calls by number: sys_CALL PATH [PATH]
fn raw(call: &str, args: &Words<'_>) -> Option<i64> {
    let here = libc::AT_FDCWD;
    let first = args.path(1);
    let second = args
        .0
        .get(2)
        .map_or_else(CString::default, |_| args.path(2));
    let (a, b) = (first.as_ptr(), second.as_ptr());
    // SAFETY: the paths are NUL-terminated and live to the end of the function.
    Some(unsafe {
        match call {
            "sys_rename" => libc::syscall(libc::SYS_rename, a, b),
            "sys_renameat" => libc::syscall(libc::SYS_renameat, here, a, here, b),
            "sys_renameat2" => libc::syscall(libc::SYS_renameat2, here, a, here, b, 0),
            "sys_unlink" => libc::syscall(libc::SYS_unlink, a),
            "sys_unlinkat" => libc::syscall(libc::SYS_unlinkat, here, a, 0),
            "sys_rmdir" => libc::syscall(libc::SYS_rmdir, a),
            "sys_link" => libc::syscall(libc::SYS_link, a, b),
            "sys_linkat" => libc::syscall(libc::SYS_linkat, here, a, here, b, 0),
            "sys_symlink" => libc::syscall(libc::SYS_symlink, a, b),
            "sys_symlinkat" => libc::syscall(libc::SYS_symlinkat, a, here, b),
            "sys_mkdir" => libc::syscall(libc::SYS_mkdir, a, 0o751),
            "sys_mkdirat" => libc::syscall(libc::SYS_mkdirat, here, a, 0o751),
            _ => return None,
        }
    })
}
