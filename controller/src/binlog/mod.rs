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

pub mod events;
mod gtid_set;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mysql::binlog::events::{
    Event, FormatDescriptionEvent, GtidEvent, PreviousGtidsEvent, QueryEvent,
};
use mysql::binlog::{BinlogVersion, EventType};

use self::events::{Events, Header, Next};
pub use gtid_set::{Gtid, GtidSet};

/// Bytes at either end of what is known, by which a binlog is told from another of its name.
const COMPARED_LEN: usize = 64 << 10;

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

impl BinlogError {
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> BinlogError + '_ {
        |source| BinlogError::Io {
            path: path.into(),
            source,
        }
    }
}

/// What is known of the begin of a binlog that is a copy.
#[derive(Clone, Copy, Debug)]
pub struct Known<'k> {
    /// The end of a transaction. All before it is whole.
    pub end: u64,
    /// Nothing before that has a GTID.
    pub without_gtids: bool,
    /// The server's own file. What it wrote a while ago is in the page cache there, and in the copy it is not.
    pub source: &'k Path,
}

impl Known<'_> {
    /// The GTIDs before `end`; None if only the copy can tell.
    fn gtids(&self, copy: &Path) -> Option<GtidSet> {
        if self.without_gtids {
            return Some(GtidSet::default());
        }
        // The server may have begun a new series of binlogs meanwhile.
        if !self.is_that_of(copy).unwrap_or(false) {
            return None;
        }
        let mut walk = Walk::open(self.source).ok()?;
        walk.whole_to = self.end;
        walk.events.size = self.end;
        while let Some(event) = walk.next().ok()? {
            walk.take(&event).ok()?;
        }
        (walk.end.offset == self.end).then_some(walk.end.gtids)
    }

    /// True if the source begins as the copy does, and has the same before the known end. Binlogs only grow.
    fn is_that_of(&self, copy: &Path) -> std::io::Result<bool> {
        let (source, copy) = (File::open(self.source)?, File::open(copy)?);
        let len = self.end.min(COMPARED_LEN as u64) as usize;
        for at in [0, self.end - len as u64] {
            let (mut left, mut right) = (vec![0; len], vec![0; len]);
            source.read_exact_at(&mut left, at)?;
            copy.read_exact_at(&mut right, at)?;
            if left != right {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reads the binlog `path` to its end; what is known of its begin, if anything is, only as far as its GTIDs ask for it.
pub fn end(path: &Path, known: Option<Known<'_>>) -> Result<End, BinlogError> {
    let mut earlier = known.and_then(|known| known.gtids(path));
    let mut walk = Walk::open(path)?;
    walk.whole_to = known.map_or(0, |known| known.end);
    while let Some(event) = walk.next()? {
        walk.take(&event)?;
        if event.header.kind == EventType::PREVIOUS_GTIDS_EVENT as u8
            && let Some(gtids) = earlier.take()
        {
            walk.step_to(walk.whole_to)?;
            walk.end.gtids.merge(&gtids);
        }
    }
    Ok(walk.end)
}

/// An event's header, and its whole bytes if they matter.
struct Found {
    header: Header,
    bytes: Vec<u8>,
}

struct Walk<'p> {
    path: &'p Path,
    events: Events,
    /// Transactions before this are whole.
    whole_to: u64,
    format: FormatDescriptionEvent<'static>,
    in_transaction: bool,
    /// Of the transaction that is under way.
    gtid: Option<Gtid>,
    end: End,
}

impl<'p> Walk<'p> {
    fn open(path: &'p Path) -> Result<Walk<'p>, BinlogError> {
        let events = Events::open(path)?;
        let end = End {
            offset: events.offset,
            size: events.size,
            gtids: GtidSet::default(),
        };
        Ok(Walk {
            path,
            events,
            whole_to: 0,
            format: FormatDescriptionEvent::new(BinlogVersion::Version4),
            in_transaction: false,
            gtid: None,
            end,
        })
    }

    /// Goes on at the end of a transaction, if that lies ahead.
    fn step_to(&mut self, offset: u64) -> Result<(), BinlogError> {
        let stepped = self.events.skip_to(offset);
        if stepped.map_err(BinlogError::io(self.path))? {
            self.end.offset = offset;
        }
        Ok(())
    }

    /// None at the file's end, and where the file ends inside an event.
    fn next(&mut self) -> Result<Option<Found>, BinlogError> {
        let failed = BinlogError::io(self.path);
        let header = match self.events.next().map_err(&failed)? {
            Next::Event(header) => header,
            Next::End => return Ok(None),
            Next::Damaged { len, end } => {
                let what = format!("an event of {len} bytes says that the next is at {end}");
                return Err(self.damaged(self.events.offset, what));
            }
        };
        let mut bytes = Vec::new();
        if is_read(header.kind) {
            bytes = self.events.read(&header).map_err(&failed)?;
        } else {
            self.events.pass(&header).map_err(&failed)?;
        }
        Ok(Some(Found { header, bytes }))
    }

    fn take(&mut self, found: &Found) -> Result<(), BinlogError> {
        use EventType::*;
        let Ok(kind) = EventType::try_from(found.header.kind) else {
            self.pass(found);
            return Ok(());
        };
        match kind {
            FORMAT_DESCRIPTION_EVENT => {
                let event = self.parse(found)?;
                let format = event.read_event::<FormatDescriptionEvent>();
                let format =
                    format.map_err(|error| self.damaged(found.header.start, error.to_string()))?;
                self.format = format.into_owned().with_footer(event.footer());
                self.pass(found);
            }
            PREVIOUS_GTIDS_EVENT => {
                self.end.gtids = self.previous_gtids(found)?;
                self.pass(found);
            }
            GTID_EVENT | GTID_TAGGED_LOG_EVENT => {
                let (gtid, len) = self.gtid(found)?;
                let next = found.header.start + len;
                // MySQL tells the length since 8.0.2.
                if next > found.header.start && next <= self.whole_to {
                    self.end.gtids.add(&gtid);
                    self.step_to(next)?;
                } else {
                    self.gtid = Some(gtid);
                }
            }
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
            self.end.offset = found.header.end();
            if let Some(gtid) = self.gtid.take() {
                self.end.gtids.add(&gtid);
            }
        }
    }

    fn statement(&mut self, found: &Found) -> Result<(), BinlogError> {
        let event = self.parse(found)?;
        let query = event.read_event::<QueryEvent>();
        let query = query.map_err(|error| self.damaged(found.header.start, error.to_string()))?;
        match query.query_raw() {
            b"BEGIN" => self.in_transaction = true,
            b"COMMIT" | b"ROLLBACK" => self.in_transaction = false,
            text if text.starts_with(b"XA START") => self.in_transaction = true,
            _ => {}
        }
        Ok(())
    }

    /// A transaction's GTID, and its bytes with this event, or 0 where that is not told.
    fn gtid(&self, found: &Found) -> Result<(Gtid, u64), BinlogError> {
        let event = self.parse(found)?;
        let gtid = event.read_event::<GtidEvent>();
        let gtid = gtid.map_err(|error| self.damaged(found.header.start, error.to_string()))?;
        let len = gtid.tx_length();
        let gtid = Gtid {
            uuid: gtid.sid(),
            tag: gtid.tag().map_or(String::new(), |tag| tag.as_str().into()),
            number: gtid.gno(),
        };
        Ok((gtid, len))
    }

    fn previous_gtids(&self, found: &Found) -> Result<GtidSet, BinlogError> {
        let event = self.parse(found)?;
        let previous = event.read_event::<PreviousGtidsEvent>();
        let previous =
            previous.map_err(|error| self.damaged(found.header.start, error.to_string()))?;
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
        let event = event.map_err(|error| self.damaged(found.header.start, error.to_string()))?;
        let algorithm = event.footer().get_checksum_alg().ok().flatten();
        if let (Some(algorithm), Some(stored)) = (algorithm, event.checksum()) {
            let computed = event.calc_checksum(algorithm);
            if computed != u32::from_le_bytes(stored) {
                return Err(self.damaged(found.header.start, "its checksum is wrong".into()));
            }
        }
        Ok(event)
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
