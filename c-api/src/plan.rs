//! What a backup is asked to do, checked before anything is touched: which directory goes where, and what is left out.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::session::{Exclude, Root};
use parking_lot::Mutex;
use rustix::fs::Access;

use crate::api::hotmirror_result;
use crate::failure::Failure;
use crate::listing;

/// Bytes of the capture log unless asked otherwise: the next one's, doubled by each that overflows.
static LOG_LEN: AtomicU64 = AtomicU64::new(64 << 20);
const LOG_LEN_MAX: u64 = 1 << 30;
const PARALLEL_MAX: usize = 4;

pub type ExcludeFunction = unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int;

pub struct Plan {
    pub roots: Vec<Root>,
    pub targets: Vec<PathBuf>,
    pub exclude: Exclude,
    pub parallel: usize,
    pub log_len: u64,
    log_len_asked: bool,
}

/// What a caller passed, unchecked.
pub struct Asked {
    pub source_dirs: *const *const c_char,
    pub dest_dirs: *const *const c_char,
    pub count: usize,
    pub exclude: Option<ExcludeFunction>,
    pub exclude_extra: *mut c_void,
    /// 0: ours to choose.
    pub parallel: usize,
    /// 0: ours to choose.
    pub log_len: u64,
}

impl Plan {
    /// # Safety
    /// The two arrays hold `count` pointers each, all of them null or NUL-terminated strings.
    pub unsafe fn check(asked: &Asked) -> Result<Plan, Failure> {
        if asked.count == 0 || asked.source_dirs.is_null() || asked.dest_dirs.is_null() {
            return Err(Failure::invalid("No directories are given"));
        }
        let (mut roots, mut targets) = (Vec::new(), Vec::new());
        for index in 0..asked.count {
            // SAFETY: the caller's word.
            let source = unsafe { path_at(asked.source_dirs, index, "source") }?;
            // SAFETY: the caller's word.
            let target = unsafe { path_at(asked.dest_dirs, index, "destination") }?;
            let place = index.to_string().into();
            let source = real_directory(&source, "source")?;
            roots.push(Root { source, place });
            targets.push(check_target(&target)?);
        }
        check_apart(&roots, &targets)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Plan {
            roots,
            targets,
            exclude: exclude(asked.exclude, asked.exclude_extra),
            parallel: match asked.parallel {
                0 => processors.min(PARALLEL_MAX),
                parallel => parallel,
            },
            log_len: match asked.log_len {
                0 => LOG_LEN.load(Ordering::Relaxed),
                len => len,
            },
            log_len_asked: asked.log_len != 0,
        })
    }

    /// After an overflow: a larger capture log for this backup and those that follow. False if it is as large as it may be.
    pub fn grow_log(&mut self) -> bool {
        if self.log_len_asked || self.log_len >= LOG_LEN_MAX {
            return false;
        }
        self.log_len *= 2;
        LOG_LEN.store(self.log_len, Ordering::Relaxed);
        true
    }
}

/// # Safety
/// As [`Plan::check`].
unsafe fn path_at(
    array: *const *const c_char,
    index: usize,
    which: &str,
) -> Result<PathBuf, Failure> {
    // SAFETY: the array is long enough, by the caller's word.
    let path = unsafe { *array.add(index) };
    if path.is_null() {
        let message = format!("The {which} directory {index} is NULL");
        return Err(Failure::invalid(message));
    }
    // SAFETY: not null, hence NUL-terminated, by the caller's word.
    let path = unsafe { CStr::from_ptr(path) };
    Ok(Path::new(OsStr::from_bytes(path.to_bytes())).into())
}

fn real_directory(path: &Path, which: &str) -> Result<PathBuf, Failure> {
    let real = path.canonicalize().map_err(|error| {
        Failure::io(
            format!("Cannot use the {which} directory {}", path.display()),
            &error,
        )
    })?;
    if !real.is_dir() {
        let message = format!("The {which} {} is not a directory", path.display());
        return Err(Failure::invalid(message));
    }
    Ok(real)
}

fn check_target(path: &Path) -> Result<PathBuf, Failure> {
    let real = real_directory(path, "destination")?;
    let failed = |error| {
        Failure::io(
            format!("Cannot use the destination directory {}", path.display()),
            &error,
        )
    };
    let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let flags = rustix::fs::AtFlags::EACCESS;
    rustix::fs::accessat(rustix::fs::CWD, &real, wanted, flags)
        .map_err(|errno| failed(errno.into()))?;
    let names = std::fs::File::open(&real).and_then(|directory| {
        let names = listing::list(&real, &directory.into())?;
        Ok(names)
    });
    let mut names = names.map_err(failed)?.into_iter();
    match names.find(|name| name != "." && name != "..") {
        None => Ok(real),
        Some(_) => Err(Failure::invalid(format!(
            "The destination directory {} is not empty",
            path.display()
        ))),
    }
}

/// No directory twice; no source inside another one, since its files would have two destinations; and no destination inside a source: the backup would copy itself.
fn check_apart(roots: &[Root], targets: &[PathBuf]) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    let all = roots.iter().map(|root| &root.source).chain(targets);
    for path in all {
        if !seen.insert(path) {
            let message = format!("The directory {} is given twice", path.display());
            return Err(Failure::invalid(message));
        }
    }
    for inner in roots {
        let is_around =
            |root: &&Root| root.source != inner.source && inner.source.starts_with(&root.source);
        if let Some(outer) = roots.iter().find(is_around) {
            return Err(Failure::invalid(format!(
                "The source directory {} is inside the source directory {}: give only the outer one",
                inner.source.display(),
                outer.source.display()
            )));
        }
    }
    for target in targets {
        if let Some(root) = roots.iter().find(|root| target.starts_with(&root.source)) {
            return Err(Failure::invalid(format!(
                "The destination directory {} is inside the source directory {}",
                target.display(),
                root.source.display()
            )));
        }
    }
    Ok(())
}

/// The caller's function and its argument.
struct Asks {
    function: ExcludeFunction,
    extra: *mut c_void,
    /// Answers so far: every path is asked for once, so that all who ask get the same answer.
    answers: Mutex<HashMap<PathBuf, bool>>,
}
// SAFETY: the function is called under the lock of the answers, by one thread at a time; that it may be another thread than the caller's is part of the interface.
unsafe impl Send for Asks {}
// SAFETY: as above.
unsafe impl Sync for Asks {}

impl Asks {
    fn ask(&self, path: &Path) -> bool {
        let mut answers = self.answers.lock();
        if let Some(answer) = answers.get(path) {
            return *answer;
        }
        let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else {
            return false;
        };
        let answer = hotmirror_hooks::embed::watched(|| {
            // SAFETY: a NUL-terminated path and the argument that the caller wants passed.
            unsafe { (self.function)(c_path.as_ptr(), self.extra) }
        });
        answers.insert(path.into(), answer != 0);
        answer != 0
    }
}

fn exclude(function: Option<ExcludeFunction>, extra: *mut c_void) -> Exclude {
    let Some(function) = function else {
        return Arc::new(|_| false);
    };
    let asks = Asks {
        function,
        extra,
        answers: Mutex::default(),
    };
    Arc::new(move |path| asks.ask(path))
}

/// A backup runs already.
pub fn busy() -> Failure {
    let code = hotmirror_result::HOTMIRROR_BUSY;
    let message = "Another backup of this process is under way";
    Failure::new(libc::EBUSY, code, message)
}
