//! The control word: session id and mode in one, so that a hooked call learns both with one load.

/// What hooked calls do with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Nothing is recorded.
    Idle = 0,
    /// Records say where a change was made.
    Extents = 1,
    /// Records carry the bytes.
    Payload = 2,
}

/// (session id << 8) | mode. A value that is no known mode reads as idle: the library then does nothing, and the controller,
/// which compares the whole word, sees that its session is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control(pub u64);

impl Control {
    pub const IDLE: Control = Control(0);

    /// `session` has 56 bits and is never 0.
    pub const fn new(session: u64, mode: Mode) -> Control {
        Control(session << 8 | mode as u64)
    }

    pub const fn mode(self) -> Mode {
        match self.0 & 0xff {
            1 => Mode::Extents,
            2 => Mode::Payload,
            _ => Mode::Idle,
        }
    }

    pub const fn session(self) -> u64 {
        self.0 >> 8
    }
}

/// Why a session is lost (invariant I3: a lost session never becomes a backup).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LostReason {
    /// The ring had no room; detail: bytes that were wanted.
    LogFull = 1,
    /// The library could not map the session; detail: errno.
    NotMapped = 2,
    /// A change was made whose file the hook could not identify; detail: errno.
    Unidentified = 3,
    /// More asynchronous writes in flight than the table holds; detail: size of the table.
    AioTableFull = 4,
    /// The context of asynchronous writes was destroyed, as a server does when it ends, and nobody knows what was in flight; no detail.
    AioContextDestroyed = 5,
    /// A control block was submitted once more, with the same data in it, before its first write had completed: no event tells of which of the two it is; no detail.
    AioReused = 6,
}

impl LostReason {
    pub const fn from_number(number: u32) -> Option<LostReason> {
        match number {
            1 => Some(LostReason::LogFull),
            2 => Some(LostReason::NotMapped),
            3 => Some(LostReason::Unidentified),
            4 => Some(LostReason::AioTableFull),
            5 => Some(LostReason::AioContextDestroyed),
            6 => Some(LostReason::AioReused),
            _ => None,
        }
    }
}
