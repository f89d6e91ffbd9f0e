//! The ground on which Hotmirror is proven: real servers, load on them, the program, and what comes out of it.
//!
//! Rule: nothing here links the hooks. The library and the program are found beside the test's own executable and used as
//! their users use them, by LD_PRELOAD and on the command line. A harness function that can't do its job panics and says why,
//! since a test that can't be run must not look like one that passed.

pub mod artifacts;
pub mod channels;
pub mod checksums;
pub mod flavor;
pub mod load;
pub mod memory_group;
pub mod mount;
pub mod program;
pub mod proof;
pub mod proxy;
pub mod random;
pub mod replica;
pub mod scratch;
pub mod server;
pub mod skip;
pub mod steps;
pub mod traces;
pub mod victim;
