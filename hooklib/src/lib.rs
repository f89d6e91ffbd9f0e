//! libhotmirror.so, preloaded into a server: notes in the capture log what the server changes in its files.
//!
//! It is a guest in another process: it never waits for a backup, never changes what a call returns, and allocates nothing in a hooked call.
//! To follow one write: `hooks/write.rs` → `inflight` (registers) → `capture` (is the file watched?) → `locks` (order) → `session` (the log).
//! `lifecycle` starts and ends it all.
//!
//! The same files are a part of libHotBackup.so, by the feature `embedded`: there the program that is captured makes the backup itself (`embed`), so every process
//! is live, and its rendezvous has no name.

mod bounce;
mod caller_memory;
mod cancellation;
mod capture;
#[cfg(feature = "embedded")]
pub mod embed;
mod hooks;
mod inflight;
mod lifecycle;
mod locks;
mod maps;
mod path;
mod real;
mod rendezvous;
mod session;

/// The backup is made in this process, by threads of its own.
const EMBEDDED: bool = cfg!(feature = "embedded");
