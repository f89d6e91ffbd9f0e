//! The interposed calls, one file per family. `symbols.txt` in this crate lists every exported name.
//!
//! A family is a few implementations that take the real call as a closure, and a table that binds names to them. The table is one macro, so that all spellings
//! of a call get the same body, and a spelling can't be given a signature that is not libc's.

/// Defines and exports hooks: `NAME = libc::NAME, …: (arguments) -> result, |real| { body }`.
///
/// The body is expanded once per name, with `real` bound to the function behind that name. The path behind `=` proves the signature; it is left out
/// where libc's crate does not declare the function. What stands behind `=>` is called instead where libc is too old to have the name, and until it is looked
/// up: what an allocator calls when it begins needs one (see `real`).
macro_rules! hooks {
    ($($($name:ident $(= $proof:path $(=> $instead:path)?)?),+ : $arguments:tt -> $result:ty, |$real:ident| $body:block)+) => {
        $($(hook! { $name [$($proof $(=> $instead)?)?] $arguments -> $result, $real $body })+)+

        /// Looks up the real functions, in the constructor: a look-up may allocate.
        pub fn resolve() {
            $($($name::resolve();)+)+
        }
    };
}

macro_rules! hook {
    ($name:ident [$($proof:path $(=> $instead:path)?)?] ($($argument:ident : $type:ty),*) -> $result:ty, $real:ident $body:block) => {
        #[allow(clippy::module_inception, clippy::missing_safety_doc, clippy::multiple_unsafe_ops_per_block)]
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            type Signature = unsafe extern "C" fn($($type),*) -> $result;
            real_function! { $name: Signature [$($proof $(=> $instead)?)?] }

            redhook::hook! {
                unsafe fn $name($($argument: $type),*) -> $result => hooked {
                    // SAFETY: libc's function of this name has this type, and so has what stands in for it.
                    let $real: Signature = unsafe { std::mem::transmute(REAL.address()) };
                    $body
                }
            }
        }
    };
}

/// The function behind a hook, of `$type`, with the proof of its signature and what stands in for it.
macro_rules! real_function {
    ($name:ident : $type:ident [$($proof:path $(=> $instead:path)?)?]) => {
        $(const _: Signature = $proof;)?

        static REAL: crate::real::Next = crate::real::Next::named(concat!(stringify!($name), "\0"))
            $($(.or({
                const INSTEAD: $type = $instead;
                INSTEAD as *mut std::ffi::c_void
            }))?)?;

        pub fn resolve() {
            REAL.look_up();
        }
    };
}

/// As [`hooks`], for cancellation points: a thread may be cancelled inside them, and then unwinds through the hook.
///
/// redhook's hooks catch what unwinds, which for a cancelled thread means abort. These let it pass. See `cancellation`.
macro_rules! cancellation_points {
    ($($($name:ident $(= $proof:path $(=> $instead:path)?)?),+ : $arguments:tt -> $result:ty, |$real:ident| $body:block)+) => {
        $($(cancellation_point! { $name [$($proof $(=> $instead)?)?] $arguments -> $result, $real $body, None::<()>, always })+)+

        /// As [`resolve`].
        pub fn resolve_cancellation_points() {
            $($($name::resolve();)+)+
        }
    };
}

/// As [`cancellation_points`], for calls that never block and are registered whatever the mode. The body is for what is not idle (or not sure to be): it
/// lies apart, so that the idle call keeps what it needs in registers and touches as little memory as may be.
macro_rules! registered_cancellation_points {
    ($($($name:ident $(= $proof:path)?),+ : $arguments:tt -> $result:ty, |$real:ident| $body:block)+) => {
        $($(cancellation_point! { $name [$($proof)?] $arguments -> $result, $real $body, crate::inflight::Idle::enter(), never })+)+

        /// As [`resolve_cancellation_points`].
        pub fn resolve_registered() {
            $($($name::resolve();)+)+
        }
    };
}

macro_rules! cancellation_point {
    ($name:ident [$($proof:path $(=> $instead:path)?)?] ($($argument:ident : $type:ty),*) -> $result:ty, $real:ident $body:block, $idle:expr, $inlining:ident) => {
        #[allow(clippy::missing_safety_doc, clippy::multiple_unsafe_ops_per_block)]
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[allow(dead_code)]
            type Signature = unsafe extern "C" fn($($type),*) -> $result;
            type Real = unsafe extern "C-unwind" fn($($type),*) -> $result;
            real_function! { $name: Real [$($proof $(=> $instead)?)?] }

            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
                // No look-up here: the registers that it needs would be saved in each call.
                if let Some(address) = REAL.known() && let Some(_idle) = $idle {
                    // SAFETY: libc's function of this name has this type, and so has what stands in for it.
                    let $real: Real = unsafe { std::mem::transmute(address) };
                    // SAFETY: the caller's arguments, unchanged.
                    return unsafe { $real($($argument),*) };
                }
                // SAFETY: as above.
                unsafe { hooked($($argument),*) }
            }

            #[inline($inlining)]
            unsafe extern "C-unwind" fn hooked($($argument: $type),*) -> $result {
                crate::cancellation::point();
                // SAFETY: as above.
                let $real: Real = unsafe { std::mem::transmute(REAL.address()) };
                $body
            }
        }
    };
}

/// As [`hooks`], for functions of libraries that the process need not have: `real` is their address, or null.
macro_rules! optional_hooks {
    ($($name:ident = $symbol:literal: ($($argument:ident : $type:ty),*) -> $result:ty, |$real:ident| $body:block)+) => {
        $(
            #[allow(clippy::missing_safety_doc)]
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                redhook::hook! {
                    unsafe fn $name($($argument: $type),*) -> $result => hooked {
                        static REAL: crate::real::Next = crate::real::Next::new($symbol);
                        let $real = &REAL;
                        $body
                    }
                }
            }
        )+
    };
}

use crate::real;

mod aio;
mod mmap;
mod namespace;
mod open;
mod position;
mod stdio;
mod syscall;
mod truncate;
mod uring;
mod variadic;
mod write;

/// Looks up all names that every libc has.
pub fn resolve() {
    mmap::resolve();
    namespace::resolve();
    position::resolve();
    stdio::resolve();
    truncate::resolve();
    variadic::resolve();
    write::resolve_cancellation_points();
    write::resolve_registered();
    position::resolve_cancellation_points();
    open::resolve_cancellation_points();
    stdio::resolve_cancellation_points();
    truncate::resolve_cancellation_points();
    mmap::resolve_cancellation_points();
    real::resolve();
}

/// Before the process gets a rendezvous: what it did when no hook could see it.
pub fn look_around() {
    mmap::look_for_shared_files();
}

/// In a forked child.
pub fn forget() {
    aio::forget();
}
