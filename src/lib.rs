//! The engine: copies files that are being written to, and makes the copy what the files were at one moment.
//!
//! It knows files; it knows neither libc hooks nor MySQL. Modules stand in the order in which a change flows through them.

pub mod capture_log;
#[cfg(not(loom))]
pub mod catalog;
#[cfg(not(loom))]
pub mod copy;
#[cfg(not(loom))]
pub mod digest;
#[cfg(not(loom))]
pub mod extents;
#[cfg(not(loom))]
pub mod file_system;
#[cfg(not(loom))]
pub mod human;
#[cfg(not(loom))]
pub mod live;
#[cfg(not(loom))]
pub mod manifest;
#[cfg(not(loom))]
pub mod monitor;
#[cfg(not(loom))]
pub mod pass;
#[cfg(not(loom))]
pub mod session;
#[cfg(not(loom))]
pub mod source;
#[cfg(not(loom))]
pub mod target;
#[cfg(not(loom))]
pub mod threads;
#[cfg(not(loom))]
pub mod throttle;

/// Version of the workspace, and the commit it was built from.
pub const VERSION: &str = env!("HOTMIRROR_VERSION");
pub const REVISION: &str = env!("HOTMIRROR_REVISION");
