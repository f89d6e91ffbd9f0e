//! The events of one binlog file, as far as a backup must know them: where the last whole one ends, and which binlog recovery starts from.
//!
//! ```text
//! fe 'b' 'i' 'n'   then events:   0 timestamp u32 | 4 type u8 | 5 server u32 | 9 length u32 | 13 end u32 | 17 flags u16 | body
//! ```
//!
//! What makes it right: only headers are trusted to find the next event, each is checked against the file's end, and a file that ends inside an event is
//! reported with the end of the last whole one.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
const HEADER_LEN: usize = 19;
/// MariaDB: names the binlog that recovery must begin with.
const BINLOG_CHECKPOINT: u8 = 161;
/// MariaDB: what follows is encrypted.
const START_ENCRYPTION: u8 = 164;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Size of the file.
    pub size: u64,
    /// End of the last whole event.
    pub end: u64,
    /// The file of the last Binlog_checkpoint that was looked at. Later ones name the same or a later file.
    pub checkpoint: Option<String>,
    /// Nothing behind the first events could be read.
    pub encrypted: bool,
}

/// Reads the binlog at `path` to its end. Where it names a checkpoint, what lies between the first of them and `skip_to`, which is the end of an
/// event, is not looked at: of a gigabyte, only the last few events are of interest.
pub fn scan(path: &Path, skip_to: u64) -> std::io::Result<Scan> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut magic = [0; 4];
    reader.read_exact(&mut magic)?;
    if magic != MAGIC {
        let message = "is no binlog that can be read (encrypted or damaged)";
        return Err(std::io::Error::new(ErrorKind::InvalidData, message));
    }
    let mut scan = Scan {
        size,
        end: 4,
        ..Scan::default()
    };
    while scan.end + HEADER_LEN as u64 <= size {
        let mut header = [0; HEADER_LEN];
        reader.read_exact(&mut header)?;
        let number =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (len, next) = (u64::from(number(9)), number(13));
        let fits = len >= HEADER_LEN as u64 && scan.end + len <= size;
        // Offsets in events have 32 bits, in files more.
        if !fits || (next != 0 && next != (scan.end + len) as u32) {
            break;
        }
        let body_len = len as usize - HEADER_LEN;
        match header[4] {
            BINLOG_CHECKPOINT => {
                let is_first = scan.checkpoint.is_none();
                scan.checkpoint = Some(checkpoint(&mut reader, body_len)?);
                if is_first && (scan.end + len..=size).contains(&skip_to) {
                    reader.seek(SeekFrom::Start(skip_to))?;
                    scan.end = skip_to;
                    continue;
                }
            }
            START_ENCRYPTION => {
                scan.encrypted = true;
                scan.end = size;
                break;
            }
            _ => reader.seek_relative(body_len as i64)?,
        }
        scan.end += len;
    }
    Ok(scan)
}

/// u32 length, name, perhaps a checksum.
fn checkpoint(reader: &mut impl Read, body_len: usize) -> std::io::Result<String> {
    let mut body = vec![0; body_len];
    reader.read_exact(&mut body)?;
    let len = body
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
    let name = body.get(4..4 + len).unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (head, first) = (event(15, &[0; 40]), checkpoint_event("bin.000001"));
        let (unread, last) = ([7; 999], checkpoint_event("bin.000002"));
        let skip_to = 4 + (head.len() + first.len() + unread.len()) as u64;
        let file = write(&[&head, &first, &unread, &last, &event(16, &[0; 8])[..20]]);
        let found = scan(file.path(), skip_to).unwrap();
        assert_eq!(found.checkpoint.as_deref(), Some("bin.000002"));
        assert_eq!(found.end, skip_to + last.len() as u64);
        assert_eq!(found.size, found.end + 20);
        // Behind the end, and inside an event: nothing that could pass for the end of the file.
        for wrong in [found.size + 1, skip_to - 5] {
            let found = scan(file.path(), wrong).unwrap();
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
