//! Records: what one change looks like in the log.
//!
//! ```text
//!  0  commit   u32 total length (multiple of 16, header included) | u8 kind | u8 flags | u16 0      0 = not yet published
//!  8  device   24  a       40  c
//! 16  inode    32  b       48  body: payload or paths
//! ```

/// Device and inode: what a file is, whatever it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// Records start at multiples of this.
pub const ALIGN: usize = 16;
pub const HEADER_LEN: usize = 48;

/// Owner and mode of what a Create or Mkdir made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// One change. Paths are absolute, with every directory resolved (as /proc/self/fd shows them), and name the directory entry itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// `len` bytes at `offset` were written; `payload` holds them in Payload mode.
    Write {
        file: FileId,
        offset: u64,
        len: u64,
        payload: Option<&'a [u8]>,
    },
    /// The size was set to `len`.
    Truncate {
        file: FileId,
        len: u64,
    },
    /// Space was allocated; grows the file to `offset + len` unless `keep_size`.
    Allocate {
        file: FileId,
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    /// A hole was made; the size stays.
    Punch {
        file: FileId,
        offset: u64,
        len: u64,
    },
    /// The range reads as zeros; grows the file unless `keep_size`.
    Zero {
        file: FileId,
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    /// `path` names `file`. `fresh`: this call made the file, and it is empty; otherwise its content is unknown to the log.
    Create {
        file: FileId,
        path: &'a [u8],
        attributes: Attributes,
        fresh: bool,
    },
    /// `exchange`: the two names were swapped, `replaced` is now at `from`.
    Rename {
        file: FileId,
        from: &'a [u8],
        to: &'a [u8],
        replaced: Option<FileId>,
        exchange: bool,
        directory: bool,
    },
    Unlink {
        file: FileId,
        path: &'a [u8],
    },
    /// `path` is one more name of `file`.
    Link {
        file: FileId,
        path: &'a [u8],
    },
    Symlink {
        file: FileId,
        path: &'a [u8],
        target: &'a [u8],
    },
    Mkdir {
        file: FileId,
        path: &'a [u8],
        attributes: Attributes,
    },
    Rmdir {
        file: FileId,
        path: &'a [u8],
    },
    /// The file was changed in a way whose bytes the hook can't give. `mapped`: and will be again, by a writable shared mapping.
    Opaque {
        file: FileId,
        mapped: bool,
    },
    /// Names were changed in a way that the hook can't give: the roots must be scanned again.
    Rescan,
    /// Appended by the controller.
    Cut {
        id: u64,
    },
}

/// Kind numbers on the wire; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Write = 1,
    Truncate = 2,
    Allocate = 3,
    Punch = 4,
    Zero = 5,
    Create = 6,
    Rename = 7,
    Unlink = 8,
    Link = 9,
    Symlink = 10,
    Mkdir = 11,
    Rmdir = 12,
    Opaque = 13,
    Rescan = 14,
    Cut = 15,
}

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 15] = [
            Write, Truncate, Allocate, Punch, Zero, Create, Rename, Unlink, Link, Symlink, Mkdir,
            Rmdir, Opaque, Rescan, Cut,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Write carries its payload; Create is fresh; Rename replaced something.
const FLAG_FULL: u8 = 1;
/// Allocate and Zero keep the size; Rename exchanges; Opaque is mapped.
const FLAG_ALTERED: u8 = 2;
/// Rename moves a directory.
const FLAG_DIRECTORY: u8 = 4;

/// A record's fixed part, as words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub flags: u8,
    pub file: FileId,
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

/// Up to two stretches of bytes behind the header.
pub type Body<'a> = [&'a [u8]; 2];

/// Bytes that a record with this body takes in the ring; None if it can't be expressed.
pub fn record_len(body_len: u64) -> Option<u32> {
    let len = body_len.checked_add((HEADER_LEN + ALIGN - 1) as u64)? / ALIGN as u64 * ALIGN as u64;
    u32::try_from(len).ok()
}

/// Header of a Write whose payload follows in pieces (see [`super::ring::Reservation::put`]).
pub fn write_header(file: FileId, offset: u64, len: u64) -> Header {
    Header {
        kind: Kind::Write as u8,
        flags: FLAG_FULL,
        file,
        a: offset,
        b: len,
        c: 0,
    }
}

impl<'a> Record<'a> {
    pub fn encode(&self) -> (Header, Body<'a>) {
        let none: &[u8] = &[];
        let header = |kind: Kind, file: FileId, a: u64, b: u64, c: u64, flags: u8| Header {
            kind: kind as u8,
            flags,
            file,
            a,
            b,
            c,
        };
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let owner = |attributes: Attributes| (attributes.uid as u64) << 32 | attributes.gid as u64;
        match *self {
            Record::Write {
                file,
                offset,
                len,
                payload,
            } => (
                header(
                    Kind::Write,
                    file,
                    offset,
                    len,
                    0,
                    flag(payload.is_some(), FLAG_FULL),
                ),
                [payload.unwrap_or(none), none],
            ),
            Record::Truncate { file, len } => {
                (header(Kind::Truncate, file, 0, len, 0, 0), [none, none])
            }
            Record::Allocate {
                file,
                offset,
                len,
                keep_size,
            } => (
                header(
                    Kind::Allocate,
                    file,
                    offset,
                    len,
                    0,
                    flag(keep_size, FLAG_ALTERED),
                ),
                [none, none],
            ),
            Record::Punch { file, offset, len } => {
                (header(Kind::Punch, file, offset, len, 0, 0), [none, none])
            }
            Record::Zero {
                file,
                offset,
                len,
                keep_size,
            } => (
                header(
                    Kind::Zero,
                    file,
                    offset,
                    len,
                    0,
                    flag(keep_size, FLAG_ALTERED),
                ),
                [none, none],
            ),
            Record::Create {
                file,
                path,
                attributes,
                fresh,
            } => (
                header(
                    Kind::Create,
                    file,
                    attributes.mode as u64,
                    owner(attributes),
                    path.len() as u64,
                    flag(fresh, FLAG_FULL),
                ),
                [path, none],
            ),
            Record::Rename {
                file,
                from,
                to,
                replaced,
                exchange,
                directory,
            } => {
                let flags = flag(replaced.is_some(), FLAG_FULL)
                    | flag(exchange, FLAG_ALTERED)
                    | flag(directory, FLAG_DIRECTORY);
                let replaced = replaced.unwrap_or_default();
                let lens = (from.len() as u64) << 32 | to.len() as u64;
                (
                    header(
                        Kind::Rename,
                        file,
                        replaced.device,
                        replaced.inode,
                        lens,
                        flags,
                    ),
                    [from, to],
                )
            }
            Record::Unlink { file, path } => (
                header(Kind::Unlink, file, 0, 0, path.len() as u64, 0),
                [path, none],
            ),
            Record::Link { file, path } => (
                header(Kind::Link, file, 0, 0, path.len() as u64, 0),
                [path, none],
            ),
            Record::Symlink { file, path, target } => {
                let lens = (path.len() as u64) << 32 | target.len() as u64;
                (header(Kind::Symlink, file, 0, 0, lens, 0), [path, target])
            }
            Record::Mkdir {
                file,
                path,
                attributes,
            } => (
                header(
                    Kind::Mkdir,
                    file,
                    attributes.mode as u64,
                    owner(attributes),
                    path.len() as u64,
                    0,
                ),
                [path, none],
            ),
            Record::Rmdir { file, path } => (
                header(Kind::Rmdir, file, 0, 0, path.len() as u64, 0),
                [path, none],
            ),
            Record::Opaque { file, mapped } => (
                header(Kind::Opaque, file, 0, 0, 0, flag(mapped, FLAG_ALTERED)),
                [none, none],
            ),
            Record::Rescan => (
                header(Kind::Rescan, FileId::default(), 0, 0, 0, 0),
                [none, none],
            ),
            Record::Cut { id } => (
                header(Kind::Cut, FileId::default(), id, 0, 0, 0),
                [none, none],
            ),
        }
    }

    /// What was changed, without the bytes.
    pub fn without_payload(self) -> Record<'a> {
        match self {
            Record::Write {
                file, offset, len, ..
            } => Record::Write {
                file,
                offset,
                len,
                payload: None,
            },
            record => record,
        }
    }

    /// None if header and body don't make a record: the log is damaged.
    pub fn decode(header: Header, body: &'a [u8]) -> Option<Record<'a>> {
        let Header {
            flags,
            file,
            a,
            b,
            c,
            ..
        } = header;
        let has = |flag: u8| flags & flag != 0;
        let path = || body.get(..usize::try_from(c).ok()?);
        let two_paths = || {
            let (first, second) = ((c >> 32) as usize, (c & 0xffff_ffff) as usize);
            let rest = body.get(first..)?;
            Some((body.get(..first)?, rest.get(..second)?))
        };
        let attributes = Attributes {
            mode: a as u32,
            uid: (b >> 32) as u32,
            gid: b as u32,
        };
        b.checked_add(a).or(match Kind::from_number(header.kind)? {
            Kind::Write | Kind::Allocate | Kind::Punch | Kind::Zero => None,
            _ => Some(0),
        })?;
        Some(match Kind::from_number(header.kind)? {
            Kind::Write => {
                let payload = if has(FLAG_FULL) {
                    Some(body.get(..usize::try_from(b).ok()?)?)
                } else {
                    None
                };
                Record::Write {
                    file,
                    offset: a,
                    len: b,
                    payload,
                }
            }
            Kind::Truncate => Record::Truncate { file, len: b },
            Kind::Allocate => Record::Allocate {
                file,
                offset: a,
                len: b,
                keep_size: has(FLAG_ALTERED),
            },
            Kind::Punch => Record::Punch {
                file,
                offset: a,
                len: b,
            },
            Kind::Zero => Record::Zero {
                file,
                offset: a,
                len: b,
                keep_size: has(FLAG_ALTERED),
            },
            Kind::Create => Record::Create {
                file,
                path: path()?,
                attributes,
                fresh: has(FLAG_FULL),
            },
            Kind::Rename => {
                let (from, to) = two_paths()?;
                let replaced = has(FLAG_FULL).then_some(FileId {
                    device: a,
                    inode: b,
                });
                let (exchange, directory) = (has(FLAG_ALTERED), has(FLAG_DIRECTORY));
                Record::Rename {
                    file,
                    from,
                    to,
                    replaced,
                    exchange,
                    directory,
                }
            }
            Kind::Unlink => Record::Unlink {
                file,
                path: path()?,
            },
            Kind::Link => Record::Link {
                file,
                path: path()?,
            },
            Kind::Symlink => {
                let (path, target) = two_paths()?;
                Record::Symlink { file, path, target }
            }
            Kind::Mkdir => Record::Mkdir {
                file,
                path: path()?,
                attributes,
            },
            Kind::Rmdir => Record::Rmdir {
                file,
                path: path()?,
            },
            Kind::Opaque => Record::Opaque {
                file,
                mapped: has(FLAG_ALTERED),
            },
            Kind::Rescan => Record::Rescan,
            Kind::Cut => Record::Cut { id: a },
        })
    }
}
