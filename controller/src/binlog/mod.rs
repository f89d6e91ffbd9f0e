//! The end of a MySQL binlog that was cut wherever its server was: the last whole transaction, and the GTIDs up to there.
//!
//! What makes it right: it decides as the server's own crash recovery does, which commits what the binlog holds whole, rolls back the rest, and
//! cuts the file off behind the last whole transaction. So the end found here is where the copy will be when it has started.
//!
//! ```text
//! GTID  BEGIN  …rows…  XID           XID, XA PREPARE, COMMIT or ROLLBACK ends what BEGIN or XA START began
//! GTID  CREATE TABLE …               outside of that, a statement is a transaction of its own
//! GTID  compressed transaction       always whole
//! ```

mod gtid_set;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use mysql::binlog::events::{
    Event, FormatDescriptionEvent, GtidEvent, PreviousGtidsEvent, QueryEvent,
};
use mysql::binlog::{BinlogVersion, EventType};

pub use gtid_set::{Gtid, GtidSet};

const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
const MAGIC_ENCRYPTED: [u8; 4] = [0xfd, b'b', b'i', b'n'];
const HEADER_LEN: u64 = 19;

/// Where a binlog ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Behind the last whole transaction.
    pub offset: u64,
    /// Size of the file: more than `offset` if it was cut inside a transaction.
    pub size: u64,
    /// What was executed up to `offset`.
    pub gtids: GtidSet,
}

#[derive(Debug, thiserror::Error)]
pub enum BinlogError {
    #[error("Cannot read binlog {path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("Binlog {0} is encrypted")]
    Encrypted(PathBuf),
    #[error("{0} is no binlog")]
    NoBinlog(PathBuf),
    #[error("Binlog {path} is damaged at offset {offset}: {what}")]
    Damaged {
        path: PathBuf,
        offset: u64,
        what: String,
    },
}

/// Reads the binlog `path` to its end. What lies between its head and `skip_to`, which is the end of a transaction, is not looked at: nothing there may
/// have a GTID.
pub fn end(path: &Path, skip_to: u64) -> Result<End, BinlogError> {
    let mut walk = Walk::open(path)?;
    while let Some(event) = walk.next()? {
        walk.take(&event)?;
        if event.kind == EventType::PREVIOUS_GTIDS_EVENT as u8 {
            walk.skip_to(skip_to)?;
        }
    }
    Ok(walk.end)
}

/// An event's header, and its whole bytes if they matter.
struct Found {
    kind: u8,
    start: u64,
    next: u64,
    bytes: Vec<u8>,
}

struct Walk<'p> {
    path: &'p Path,
    reader: BufReader<File>,
    offset: u64,
    format: FormatDescriptionEvent<'static>,
    in_transaction: bool,
    /// Of the transaction that is under way.
    gtid: Option<Gtid>,
    end: End,
}

impl<'p> Walk<'p> {
    fn open(path: &'p Path) -> Result<Walk<'p>, BinlogError> {
        let failed = |source| BinlogError::Io {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let mut magic = [0; MAGIC.len()];
        if size >= magic.len() as u64 {
            reader.read_exact(&mut magic).map_err(failed)?;
        }
        match magic {
            MAGIC => {}
            MAGIC_ENCRYPTED => return Err(BinlogError::Encrypted(path.into())),
            _ => return Err(BinlogError::NoBinlog(path.into())),
        }
        let offset = magic.len() as u64;
        Ok(Walk {
            path,
            reader,
            offset,
            format: FormatDescriptionEvent::new(BinlogVersion::Version4),
            in_transaction: false,
            gtid: None,
            end: End {
                offset,
                size,
                gtids: GtidSet::default(),
            },
        })
    }

    /// Goes on at `offset`, if that lies ahead.
    fn skip_to(&mut self, offset: u64) -> Result<(), BinlogError> {
        if (self.offset..=self.end.size).contains(&offset) {
            let sought = self.reader.seek(SeekFrom::Start(offset));
            sought.map_err(|source| self.failed(source))?;
            self.offset = offset;
            self.end.offset = offset;
        }
        Ok(())
    }

    /// None at the file's end, and where the file ends inside an event.
    fn next(&mut self) -> Result<Option<Found>, BinlogError> {
        if self.offset + HEADER_LEN > self.end.size {
            return Ok(None);
        }
        let mut header = [0; HEADER_LEN as usize];
        self.read(&mut header)?;
        let number =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (kind, len, next) = (header[4], u64::from(number(9)), number(13));
        let start = self.offset;
        if len < HEADER_LEN {
            return Err(self.damaged(start, format!("an event of {len} bytes")));
        }
        if start + len > self.end.size {
            return Ok(None);
        }
        // Offsets in events have 32 bits, in files more.
        if next != 0 && next != (start + len) as u32 {
            return Err(self.damaged(start, format!("its event says that the next is at {next}")));
        }
        let mut bytes = Vec::new();
        if is_read(kind) {
            bytes = vec![0; len as usize];
            bytes[..header.len()].copy_from_slice(&header);
            self.read(&mut bytes[header.len()..])?;
        } else {
            let skipped = self.reader.seek_relative((len - HEADER_LEN) as i64);
            skipped.map_err(|source| self.failed(source))?;
        }
        self.offset = start + len;
        Ok(Some(Found {
            kind,
            start,
            next: self.offset,
            bytes,
        }))
    }

    fn take(&mut self, found: &Found) -> Result<(), BinlogError> {
        use EventType::*;
        let Ok(kind) = EventType::try_from(found.kind) else {
            self.pass(found);
            return Ok(());
        };
        match kind {
            FORMAT_DESCRIPTION_EVENT => {
                let event = self.parse(found)?;
                let format = event.read_event::<FormatDescriptionEvent>();
                let format =
                    format.map_err(|error| self.damaged(found.start, error.to_string()))?;
                self.format = format.into_owned().with_footer(event.footer());
                self.pass(found);
            }
            PREVIOUS_GTIDS_EVENT => {
                self.end.gtids = self.previous_gtids(found)?;
                self.pass(found);
            }
            GTID_EVENT | GTID_TAGGED_LOG_EVENT => self.gtid = Some(self.gtid(found)?),
            ANONYMOUS_GTID_EVENT => self.gtid = None,
            QUERY_EVENT => {
                self.statement(found)?;
                self.pass(found);
            }
            XID_EVENT | XA_PREPARE_LOG_EVENT | TRANSACTION_PAYLOAD_EVENT => {
                self.in_transaction = false;
                self.pass(found);
            }
            // They belong to the statement that follows.
            INTVAR_EVENT | RAND_EVENT | USER_VAR_EVENT | ROWS_QUERY_EVENT => {}
            _ => self.pass(found),
        }
        Ok(())
    }

    /// An event is behind us: outside of a transaction, whatever was under way is whole.
    fn pass(&mut self, found: &Found) {
        if !self.in_transaction {
            self.end.offset = found.next;
            if let Some(gtid) = self.gtid.take() {
                self.end.gtids.add(&gtid);
            }
        }
    }

    fn statement(&mut self, found: &Found) -> Result<(), BinlogError> {
        let event = self.parse(found)?;
        let query = event.read_event::<QueryEvent>();
        let query = query.map_err(|error| self.damaged(found.start, error.to_string()))?;
        match query.query_raw() {
            b"BEGIN" => self.in_transaction = true,
            b"COMMIT" | b"ROLLBACK" => self.in_transaction = false,
            text if text.starts_with(b"XA START") => self.in_transaction = true,
            _ => {}
        }
        Ok(())
    }

    fn gtid(&self, found: &Found) -> Result<Gtid, BinlogError> {
        let event = self.parse(found)?;
        let gtid = event.read_event::<GtidEvent>();
        let gtid = gtid.map_err(|error| self.damaged(found.start, error.to_string()))?;
        Ok(Gtid {
            uuid: gtid.sid(),
            tag: gtid.tag().map_or(String::new(), |tag| tag.as_str().into()),
            number: gtid.gno(),
        })
    }

    fn previous_gtids(&self, found: &Found) -> Result<GtidSet, BinlogError> {
        let event = self.parse(found)?;
        let previous = event.read_event::<PreviousGtidsEvent>();
        let previous = previous.map_err(|error| self.damaged(found.start, error.to_string()))?;
        let mut set = GtidSet::default();
        for source in previous.sids() {
            let tag = source.tag().map_or("", |tag| tag.as_str());
            for interval in source.intervals() {
                // The end is that of a half-open interval.
                set.add_interval(source.uuid(), tag, (interval.start(), interval.end() - 1));
            }
        }
        Ok(set)
    }

    fn parse(&self, found: &Found) -> Result<Event, BinlogError> {
        let event = Event::read(&self.format, &found.bytes[..]);
        let event = event.map_err(|error| self.damaged(found.start, error.to_string()))?;
        let algorithm = event.footer().get_checksum_alg().ok().flatten();
        if let (Some(algorithm), Some(stored)) = (algorithm, event.checksum()) {
            let computed = event.calc_checksum(algorithm);
            if computed != u32::from_le_bytes(stored) {
                return Err(self.damaged(found.start, "its checksum is wrong".into()));
            }
        }
        Ok(event)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), BinlogError> {
        self.reader
            .read_exact(into)
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> BinlogError {
        BinlogError::Io {
            path: self.path.into(),
            source,
        }
    }

    fn damaged(&self, offset: u64, what: String) -> BinlogError {
        BinlogError::Damaged {
            path: self.path.into(),
            offset,
            what,
        }
    }
}

/// Events whose content decides; rows, which are most of a binlog, are stepped over.
fn is_read(kind: u8) -> bool {
    use EventType::*;
    let read = [
        FORMAT_DESCRIPTION_EVENT,
        PREVIOUS_GTIDS_EVENT,
        GTID_EVENT,
        GTID_TAGGED_LOG_EVENT,
        QUERY_EVENT,
    ];
    read.iter().any(|known| *known as u8 == kind)
}

#[cfg(test)]
mod tests;
