//! The events of a binlog file, one after the other, by their headers.
//!
//! ```text
//! fe 'b' 'i' 'n'   then events:   0 timestamp u32 | 4 type u8 | 5 server u32 | 9 length u32 | 13 end u32 | 17 flags u16 | body
//! ```
//!
//! What makes it right: only headers are trusted to find the next event, and each is checked against the file's end and against where it says that it ends.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::BinlogError;

pub const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
const MAGIC_ENCRYPTED: [u8; 4] = [0xfd, b'b', b'i', b'n'];
pub const HEADER_LEN: usize = 19;

/// An event that the file holds whole.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u8,
    pub start: u64,
    /// This header included.
    pub len: u64,
    bytes: [u8; HEADER_LEN],
}

impl Header {
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// What is found where an event is expected.
#[derive(Clone, Copy, Debug)]
pub enum Next {
    Event(Header),
    /// The file ends here, or inside of what begins here.
    End,
    /// An event says of itself that it is this long, and that it ends there.
    Damaged {
        len: u64,
        end: u32,
    },
}

/// A binlog that is read.
pub struct Events {
    reader: BufReader<File>,
    pub size: u64,
    /// Where the next event begins: the end of the last one that was read or passed.
    pub offset: u64,
}

impl Events {
    pub fn open(path: &Path) -> Result<Events, BinlogError> {
        let failed = BinlogError::io(path);
        let file = File::open(path).map_err(&failed)?;
        let size = file.metadata().map_err(&failed)?.len();
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let mut magic = [0; MAGIC.len()];
        if size >= magic.len() as u64 {
            reader.read_exact(&mut magic).map_err(&failed)?;
        }
        match magic {
            MAGIC => {}
            MAGIC_ENCRYPTED => return Err(BinlogError::Encrypted(path.into())),
            _ => return Err(BinlogError::NoBinlog(path.into())),
        }
        let offset = magic.len() as u64;
        Ok(Events {
            reader,
            size,
            offset,
        })
    }

    /// The next event, which is then to be read or passed.
    pub fn next(&mut self) -> std::io::Result<Next> {
        let start = self.offset;
        if start + HEADER_LEN as u64 > self.size {
            return Ok(Next::End);
        }
        let mut bytes = [0; HEADER_LEN];
        self.reader.read_exact(&mut bytes)?;
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let (kind, len, end) = (bytes[4], u64::from(number(9)), number(13));
        if len < HEADER_LEN as u64 {
            return Ok(Next::Damaged { len, end });
        }
        if start + len > self.size {
            return Ok(Next::End);
        }
        // Offsets in events have 32 bits, in files more.
        if end != 0 && end != (start + len) as u32 {
            return Ok(Next::Damaged { len, end });
        }
        Ok(Next::Event(Header {
            kind,
            start,
            len,
            bytes,
        }))
    }

    pub fn pass(&mut self, event: &Header) -> std::io::Result<()> {
        self.reader
            .seek_relative(event.len as i64 - HEADER_LEN as i64)?;
        self.offset = event.end();
        Ok(())
    }

    /// All bytes of an event, its header first.
    pub fn read(&mut self, event: &Header) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; event.len as usize];
        bytes[..HEADER_LEN].copy_from_slice(&event.bytes);
        self.reader.read_exact(&mut bytes[HEADER_LEN..])?;
        self.offset = event.end();
        Ok(bytes)
    }

    /// Goes on at `offset`, the end of an event, if that lies ahead. False if not.
    pub fn skip_to(&mut self, offset: u64) -> std::io::Result<bool> {
        let is_ahead = (self.offset..=self.size).contains(&offset);
        if is_ahead {
            self.reader.seek_relative((offset - self.offset) as i64)?;
            self.offset = offset;
        }
        Ok(is_ahead)
    }
}
