//! libHotBackup.so: a program that is linked with it, or has it preloaded, backs up its own directories while it writes to them.
//!
//! The hooks capture what the program does; the engine copies, in threads of its own that the hooks pass by. Two interfaces lie over one backup:
//! `tokubackup` is the ancestor's, `api` is ours, the one in hotmirror.h. From an entry point inwards: `plan` checks what is asked for, `backup` runs the session in a thread
//! and is waited for, `in_front` sees that the program's calls come to the hooks, `failure` gives every error its number.
//!
//! Rule: no panic, no signal and no error of the backup gets into the program other than by a result.

// The file name is the ancestor's.
#![allow(non_snake_case)]

mod api;
mod backup;
mod failure;
mod in_front;
mod listing;
mod plan;
mod tokubackup;
