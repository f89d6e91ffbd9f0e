//! Every error as a number of errno, a result code of hotmirror.h and a sentence; and the boundary that panics don't pass.

use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::capture_log::LinkError;
use engine::session::SessionError;
use engine::target::TargetError;

use crate::api::hotmirror_result;

/// Why there is no backup.
#[derive(Clone, Debug)]
pub struct Failure {
    pub errno: i32,
    pub code: hotmirror_result,
    pub message: String,
}

impl Failure {
    pub fn new(errno: i32, code: hotmirror_result, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure {
            errno,
            code,
            message,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(
            libc::EINVAL,
            hotmirror_result::HOTMIRROR_INVALID_ARGUMENT,
            message,
        )
    }

    pub fn cancelled() -> Failure {
        let code = hotmirror_result::HOTMIRROR_CANCELLED;
        Failure::new(libc::ECANCELED, code, "The backup was stopped")
    }

    pub fn is_overflow(&self) -> bool {
        self.code == hotmirror_result::HOTMIRROR_OVERFLOW
    }

    pub fn io(message: String, error: &io::Error) -> Failure {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Failure::new(
            errno,
            hotmirror_result::HOTMIRROR_IO,
            format!("{message}: {error}"),
        )
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        use hotmirror_result::*;
        let (errno, code) = match &error {
            SessionError::Cancelled => return Failure::cancelled(),
            SessionError::LogFull { .. } => (libc::ENOBUFS, HOTMIRROR_OVERFLOW),
            SessionError::NotConverging { .. } => (libc::EAGAIN, HOTMIRROR_UNSETTLED),
            SessionError::Unsettled { .. } => (libc::EAGAIN, HOTMIRROR_UNSETTLED),
            SessionError::Unexplained { .. } | SessionError::Unwatched { .. } => {
                (libc::EAGAIN, HOTMIRROR_UNSETTLED)
            }
            SessionError::Link(LinkError::Busy { .. }) => (libc::EBUSY, HOTMIRROR_BUSY),
            SessionError::Link(LinkError::Grace { .. }) => (libc::ETIMEDOUT, HOTMIRROR_TIMEOUT),
            SessionError::Target(error) => return Failure::from_target(error),
            other => (errno_of(other), HOTMIRROR_IO),
        };
        Failure::new(errno, code, error.to_string())
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        Failure::from_target(&error)
    }
}

impl Failure {
    fn from_target(error: &TargetError) -> Failure {
        match error {
            TargetError::NotEmpty(_) | TargetError::NotDirectory(_) | TargetError::NoName(_) => {
                Failure::invalid(error.to_string())
            }
            other => Failure::new(
                errno_of(other),
                hotmirror_result::HOTMIRROR_IO,
                other.to_string(),
            ),
        }
    }
}

/// The number of the system's error at the bottom of `error`, or EIO.
fn errno_of(error: &(dyn Error + 'static)) -> i32 {
    let mut next = Some(error);
    while let Some(error) = next {
        let errno = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        if let Some(errno) = errno {
            return errno;
        }
        next = error.source();
    }
    libc::EIO
}

/// Runs what an entry point does; a panic is a failure.
pub fn guarded<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(Failure::new(
            libc::EIO,
            hotmirror_result::HOTMIRROR_INTERNAL,
            format!("Internal error: {text}"),
        ))
    })
}
