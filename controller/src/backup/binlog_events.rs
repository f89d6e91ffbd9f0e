//! The events of one binlog file, as far as a backup must know them: where the last whole one ends, and which binlog recovery starts from.
//!
//! What makes it right: a file that ends inside an event, or in what is none, is reported with the end of the last whole one.

use std::borrow::Cow;
use std::path::Path;

use crate::binlog::BinlogError;
use crate::binlog::events::{Events, HEADER_LEN, Header, Next};

/// MySQL: what was executed before; near the begin of each.
const PREVIOUS_GTIDS: u8 = 35;
/// MariaDB: names the binlog that recovery must begin with.
const BINLOG_CHECKPOINT: u8 = 161;
/// MariaDB: what follows is encrypted.
const START_ENCRYPTION: u8 = 164;

/// A binlog's own checkpoint follows when the transactions of the one before it are through, which is soon.
const CHECKPOINT_WITHIN: u64 = 16 << 20;

/// The header of a binlog that MySQL encrypts: `HEADER_SIZE` in its sql/rpl_log_encryption.h.
const ENCRYPTION_HEADER_LEN: u64 = 512;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Size of the file, as positions in it are counted.
    pub size: u64,
    /// End of the last whole event.
    pub end: u64,
    /// The file of the last Binlog_checkpoint that was looked at. Later ones name the same or a later file.
    pub checkpoint: Option<String>,
    /// Nothing behind the first events could be read.
    pub encrypted: bool,
}

/// Reads the binlog at `path` to its end. What lies between its head and `skip_to`, which is the end of an event, is not looked at: of a gigabyte, only the
/// last few events are of interest. MariaDB's head ends with the first checkpoint that names the binlog that it is in.
pub fn scan(path: &Path, skip_to: u64) -> Result<Scan, BinlogError> {
    let failed = BinlogError::io(path);
    let own_name = name_of(path);
    let mut events = match Events::open(path) {
        Err(BinlogError::Encrypted(_)) => return scan_of_encrypted(path),
        events => events?,
    };
    let mut checkpoint = None;
    let mut encrypted = false;
    let mut is_head = true;
    while let Next::Event(event) = events.next().map_err(&failed)? {
        let ends_head = match event.kind {
            BINLOG_CHECKPOINT => {
                let name = named_by(&mut events, &event).map_err(&failed)?;
                let ends_head = name == own_name;
                checkpoint = Some(name);
                ends_head
            }
            START_ENCRYPTION => {
                encrypted = true;
                events.offset = events.size;
                break;
            }
            kind => {
                events.pass(&event).map_err(&failed)?;
                kind == PREVIOUS_GTIDS
            }
        };
        if is_head && ends_head {
            is_head = false;
            events.skip_to(skip_to).map_err(&failed)?;
        }
    }
    Ok(Scan {
        size: events.size,
        end: events.offset,
        checkpoint,
        encrypted,
    })
}

/// MySQL encrypts whole files, behind a header of their own that positions don't count.
fn scan_of_encrypted(path: &Path) -> Result<Scan, BinlogError> {
    let len = std::fs::metadata(path)
        .map_err(BinlogError::io(path))?
        .len();
    let size = len.saturating_sub(ENCRYPTION_HEADER_LEN);
    Ok(Scan {
        size,
        end: size,
        checkpoint: None,
        encrypted: true,
    })
}

/// With which binlog recovery begins where a certain one is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryBegin {
    /// With that one.
    Here,
    /// With one before it, so far.
    Earlier,
    /// That can't be read from it: it is encrypted, or of a MySQL without GTIDs.
    Untold,
}

/// Looked for in the first few MB of the binlog at `path`. MySQL's recovery begins with the last binlog, MariaDB's with the one that its last checkpoint names.
pub fn recovery_begin(path: &Path) -> Result<RecoveryBegin, BinlogError> {
    let failed = BinlogError::io(path);
    let own_name = name_of(path);
    let mut events = Events::open(path)?;
    let mut begin = RecoveryBegin::Untold;
    while let Next::Event(event) = events.next().map_err(&failed)? {
        match event.kind {
            PREVIOUS_GTIDS => return Ok(RecoveryBegin::Here),
            BINLOG_CHECKPOINT => {
                if named_by(&mut events, &event).map_err(&failed)? == own_name {
                    return Ok(RecoveryBegin::Here);
                }
                begin = RecoveryBegin::Earlier;
            }
            START_ENCRYPTION => break,
            _ if events.offset > CHECKPOINT_WITHIN => break,
            _ => events.pass(&event).map_err(&failed)?,
        }
    }
    Ok(begin)
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// The file that a Binlog_checkpoint names: u32 length, name, perhaps a checksum.
fn named_by(events: &mut Events, event: &Header) -> std::io::Result<String> {
    let bytes = events.read(event)?;
    let body = &bytes[HEADER_LEN..];
    let len = body
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
    let name = body.get(4..4 + len).unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::events::MAGIC;

    /// An event that does not say where the next is.
    fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4] = kind;
        bytes[9..13].copy_from_slice(&((HEADER_LEN + body.len()) as u32).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn checkpoint_event(name: &str) -> Vec<u8> {
        let mut body = (name.len() as u32).to_le_bytes().to_vec();
        body.extend(name.as_bytes());
        body.extend([1, 2, 3, 4]);
        event(BINLOG_CHECKPOINT, &body)
    }

    #[test]
    fn a_binlog_of_mysqls_is_skipped_behind_its_previous_gtids() {
        let head = event(PREVIOUS_GTIDS, &[0; 8]);
        let skip_to = 4 + (head.len() + 999) as u64;
        let file = write(&[&head, &[7; 999], &event(16, &[0; 8])]);
        let found = scan(file.path(), skip_to).unwrap();
        assert_eq!((found.end, found.checkpoint), (found.size, None));
        assert_eq!(begin(&file), RecoveryBegin::Here);
    }

    #[test]
    fn recovery_needs_an_earlier_binlog_until_a_checkpoint_names_its_own() {
        let earlier = checkpoint_event("bin.000001");
        let file = write(&[&event(15, &[0; 40]), &earlier, &event(16, &[0; 8])]);
        assert_eq!(begin(&file), RecoveryBegin::Earlier);
        let name = file.path().file_name().unwrap().to_str().unwrap();
        let own = checkpoint_event(name);
        let content = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), [content, own].concat()).unwrap();
        assert_eq!(begin(&file), RecoveryBegin::Here);
        let encrypted = write(&[&event(START_ENCRYPTION, &[0; 21]), &[9; 300]]);
        assert_eq!(begin(&encrypted), RecoveryBegin::Untold);
    }

    #[test]
    fn of_mysqls_encrypted_binlog_only_the_size_is_known() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"\xfdbin").unwrap();
        file.as_file().set_len(512 + 1234).unwrap();
        let found = scan(file.path(), 99).unwrap();
        assert_eq!((found.size, found.end, found.encrypted), (1234, 1234, true));
    }

    fn begin(file: &tempfile::NamedTempFile) -> RecoveryBegin {
        recovery_begin(file.path()).unwrap()
    }

    fn scanned(parts: &[&[u8]]) -> Scan {
        scan(write(parts).path(), 0).unwrap()
    }

    fn write(parts: &[&[u8]]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [&[&MAGIC[..]], parts].concat().concat()).unwrap();
        file
    }

    #[test]
    fn the_last_checkpoint_counts() {
        let (first, second) = (
            checkpoint_event("bin.000001"),
            checkpoint_event("bin.000002"),
        );
        let scan = scanned(&[&event(15, &[0; 40]), &first, &event(16, &[0; 8]), &second]);
        assert_eq!(scan.checkpoint.as_deref(), Some("bin.000002"));
        assert_eq!(scan.end, scan.size);
    }

    #[test]
    fn what_is_skipped_is_not_looked_at_and_what_follows_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bin.000002");
        let head = [event(15, &[0; 40]), checkpoint_event("bin.000001")].concat();
        let (rows, own) = (event(16, &[0; 8]), checkpoint_event("bin.000002"));
        let (unread, last) = ([7; 999], checkpoint_event("bin.000003"));
        let skip_to = 4 + (head.len() + rows.len() + own.len() + unread.len()) as u64;
        let torn = &event(16, &[0; 8])[..20];
        let content = [&MAGIC[..], &head, &rows, &own, &unread, &last, torn].concat();
        std::fs::write(&path, content).unwrap();
        let found = scan(&path, skip_to).unwrap();
        assert_eq!(found.checkpoint.as_deref(), Some("bin.000003"));
        assert_eq!(found.end, skip_to + last.len() as u64);
        assert_eq!(found.size, found.end + 20);
        // Behind the end, and inside an event: nothing that could pass for the end of the file.
        for wrong in [found.size + 1, skip_to - 5] {
            let found = scan(&path, wrong).unwrap();
            assert_ne!(found.end, found.size, "{wrong}");
        }
    }

    #[test]
    fn without_a_checkpoint_everything_is_looked_at() {
        let (head, unread) = (event(15, &[0; 40]), [7; 999]);
        let skip_to = 4 + (head.len() + unread.len()) as u64;
        let file = write(&[&head, &unread, &event(16, &[0; 8])]);
        assert_eq!(
            scan(file.path(), skip_to).unwrap().end,
            4 + head.len() as u64
        );
    }

    #[test]
    fn an_event_that_contradicts_its_place_ends_the_scan() {
        let head = event(15, &[0; 40]);
        let mut strange = event(16, &[0; 8]);
        strange[13] = 99;
        let found = scanned(&[&head, &strange]);
        assert_eq!(found.end, 4 + head.len() as u64);
    }

    #[test]
    fn a_torn_event_does_not_count() {
        let whole = event(15, &[0; 40]);
        let scan = scanned(&[&whole, &event(16, &[0; 8])[..20]]);
        assert_eq!(scan.end, 4 + whole.len() as u64);
        assert_eq!(scan.size, scan.end + 20);
    }

    #[test]
    fn an_encrypted_binlog_is_taken_as_it_is() {
        let scan = scanned(&[
            &event(15, &[0; 40]),
            &event(START_ENCRYPTION, &[0; 21]),
            &[9; 300],
        ]);
        assert!(scan.encrypted);
        assert_eq!(scan.end, scan.size);
    }

    #[test]
    fn another_file_is_no_binlog() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello there").unwrap();
        assert!(scan(file.path(), 0).is_err());
    }
}
