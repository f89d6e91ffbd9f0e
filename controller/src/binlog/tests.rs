//! Binlogs that end everywhere: the end that is found is that of the last whole transaction, with its GTIDs.

use super::events::{HEADER_LEN, MAGIC};
use super::*;

const SERVER: [u8; 16] = [0x11; 16];
const FORMAT: u8 = 15;
const QUERY: u8 = 2;
const ROTATE: u8 = 4;
const USER_VAR: u8 = 14;
const XID: u8 = 16;
const WRITE_ROWS: u8 = 30;
const GTID: u8 = 33;
const ANONYMOUS: u8 = 34;
const PREVIOUS_GTIDS: u8 = 35;
const XA_PREPARE: u8 = 38;
const PAYLOAD: u8 = 40;

/// A binlog in the making; notes where each event ends.
struct Script {
    bytes: Vec<u8>,
    checksums: bool,
}

impl Script {
    fn new(checksums: bool) -> Script {
        let mut script = Script {
            bytes: MAGIC.to_vec(),
            checksums: true,
        };
        let mut format = 4_u16.to_le_bytes().to_vec();
        let mut version = b"9.7.4".to_vec();
        version.resize(50, 0);
        format.extend(version);
        format.extend([0; 4]);
        format.push(HEADER_LEN as u8);
        // Length of each type's fixed part; the reader asks for QUERY's and the rows' only.
        let mut lens = [0_u8; 42];
        lens[usize::from(QUERY) - 1] = 13;
        lens[usize::from(GTID) - 1] = 42;
        lens[usize::from(ANONYMOUS) - 1] = 42;
        format.extend(lens);
        format.push(u8::from(checksums));
        script.event(FORMAT, &format);
        script.checksums = checksums;
        script
    }

    fn event(&mut self, kind: u8, body: &[u8]) -> &mut Script {
        let len = HEADER_LEN + body.len() + if self.checksums { 4 } else { 0 };
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.push(kind);
        self.bytes.extend([1, 0, 0, 0]);
        self.bytes.extend((len as u32).to_le_bytes());
        self.bytes.extend(((start + len) as u32).to_le_bytes());
        self.bytes.extend([0; 2]);
        self.bytes.extend(body);
        if self.checksums {
            let checksum = crc32(&self.bytes[start..]);
            self.bytes.extend(checksum.to_le_bytes());
        }
        self
    }

    fn query(&mut self, text: &str) -> &mut Script {
        let mut body = vec![0; 13];
        body.push(0);
        body.extend(text.as_bytes());
        self.event(QUERY, &body)
    }

    fn gtid(&mut self, number: u64) -> &mut Script {
        let mut body = vec![1];
        body.extend(SERVER);
        body.extend(number.to_le_bytes());
        body.push(2);
        body.extend([0; 16]);
        self.event(GTID, &body)
    }

    fn previous(&mut self, first: u64, last: u64) -> &mut Script {
        let mut body = 1_u64.to_le_bytes().to_vec();
        body.extend(SERVER);
        for number in [1, first, last + 1] {
            body.extend(number.to_le_bytes());
        }
        self.event(PREVIOUS_GTIDS, &body)
    }

    fn transaction(&mut self, number: u64) -> &mut Script {
        self.gtid(number).rest_of_transaction()
    }

    /// As MySQL writes it since 8.0.2: the GTID's event tells the length of all.
    fn measured_transaction(&mut self, number: u64) -> &mut Script {
        // Times since the epoch in 7 bytes each, then the length as one that does not fit into one byte.
        let gtid_len = HEADER_LEN as u64 + 1 + 16 + 8 + 1 + 16 + 7 + 3 + self.footer_len();
        let rest = Script::new(self.checksums).rest_of_transaction().len()
            - Script::new(self.checksums).len();
        let mut body = vec![1];
        body.extend(SERVER);
        body.extend(number.to_le_bytes());
        body.push(2);
        body.extend([0; 16]);
        body.extend([0; 7]);
        body.push(0xfc);
        body.extend(((gtid_len + rest) as u16).to_le_bytes());
        self.event(GTID, &body).rest_of_transaction()
    }

    fn rest_of_transaction(&mut self) -> &mut Script {
        self.query("BEGIN")
            .event(WRITE_ROWS, &[7; 300])
            .event(XID, &[9; 8])
    }

    fn footer_len(&self) -> u64 {
        if self.checksums { 4 } else { 0 }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn end(&self) -> End {
        end_of(&self.bytes).unwrap()
    }
}

/// CRC-32 as binlogs have it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn end_of(bytes: &[u8]) -> Result<End, BinlogError> {
    end(file_of(bytes).path(), None)
}

/// Of a binlog that has no GTIDs up to there.
fn end_behind(bytes: &[u8], known_end: u64) -> Result<End, BinlogError> {
    let known = Known {
        end: known_end,
        without_gtids: true,
        source: Path::new("/nowhere"),
    };
    end(file_of(bytes).path(), Some(known))
}

/// Of a copy, with the server's own file beside it.
fn end_beside(copy: &[u8], source: &[u8], known_end: u64) -> Result<End, BinlogError> {
    let source = file_of(source);
    let known = Known {
        end: known_end,
        without_gtids: false,
        source: source.path(),
    };
    end(file_of(copy).path(), Some(known))
}

fn numbers(end: &End) -> String {
    end.gtids
        .to_string()
        .split_once(':')
        .map_or(String::new(), |(_, numbers)| numbers.into())
}

#[test]
fn a_whole_binlog_ends_at_its_end() {
    for checksums in [true, false] {
        let mut script = Script::new(checksums);
        script.previous(1, 4).transaction(5).transaction(6);
        let end = script.end();
        assert_eq!((end.offset, end.size), (script.len(), script.len()));
        assert_eq!(numbers(&end), "1-6");
    }
}

#[test]
fn wherever_a_transaction_is_cut_it_does_not_count() {
    let mut script = Script::new(true);
    script.previous(1, 4).transaction(5);
    let whole = script.len();
    script.transaction(6);
    for len in whole..script.len() {
        let end = end_of(&script.bytes[..len as usize]).unwrap();
        assert_eq!((end.offset, end.size), (whole, len));
        assert_eq!(numbers(&end), "1-5", "at {len}");
    }
    assert_eq!(numbers(&script.end()), "1-6");
}

#[test]
fn a_statement_outside_of_a_transaction_is_whole_by_itself() {
    let mut script = Script::new(true);
    script
        .previous(1, 1)
        .gtid(2)
        .query("CREATE TABLE t (a INT)");
    assert_eq!(
        (script.end().offset, numbers(&script.end())),
        (script.len(), "1-2".into())
    );
    let whole = script.len();
    script.gtid(3).event(USER_VAR, &[0; 20]);
    assert_eq!(script.end().offset, whole);
    script.query("DO 1");
    assert_eq!(
        (script.end().offset, numbers(&script.end())),
        (script.len(), "1-3".into())
    );
}

#[test]
fn a_rollback_to_a_savepoint_does_not_end_a_transaction() {
    let mut script = Script::new(true);
    script.previous(1, 1);
    let whole = script.len();
    script
        .gtid(2)
        .query("BEGIN")
        .query("SAVEPOINT a")
        .query("ROLLBACK TO `a`");
    assert_eq!(script.end().offset, whole);
    script.query("COMMIT");
    assert_eq!(
        (script.end().offset, numbers(&script.end())),
        (script.len(), "1-2".into())
    );
}

#[test]
fn a_prepared_xa_transaction_is_whole() {
    let mut script = Script::new(true);
    script.previous(1, 1);
    let whole = script.len();
    script
        .gtid(2)
        .query("XA START X'61',X'',1")
        .event(WRITE_ROWS, &[7; 30]);
    script.query("XA END X'61',X'',1");
    assert_eq!(script.end().offset, whole);
    script.event(XA_PREPARE, &[0; 14]);
    assert_eq!(script.end().offset, script.len());
    script.gtid(3).query("XA COMMIT X'61',X'',1");
    assert_eq!(
        (script.end().offset, numbers(&script.end())),
        (script.len(), "1-3".into())
    );
}

#[test]
fn a_compressed_transaction_is_whole() {
    let mut script = Script::new(true);
    script.previous(1, 1).gtid(2).event(PAYLOAD, &[3; 90]);
    assert_eq!(
        (script.end().offset, numbers(&script.end())),
        (script.len(), "1-2".into())
    );
}

#[test]
fn without_gtids_the_set_is_empty() {
    let mut script = Script::new(true);
    script.event(PREVIOUS_GTIDS, &0_u64.to_le_bytes());
    script
        .event(ANONYMOUS, &[0; 42])
        .query("BEGIN")
        .event(XID, &[0; 8]);
    let whole = script.len();
    script.event(ANONYMOUS, &[0; 42]).query("BEGIN");
    assert_eq!(
        (script.end().offset, numbers(&script.end())),
        (whole, String::new())
    );
}

#[test]
fn what_is_skipped_is_not_looked_at_and_what_follows_is() {
    let mut script = Script::new(true);
    script.previous(1, 1).transaction(2);
    let unread = script.len() as usize - 40;
    let skip_to = script.len();
    script.transaction(3);
    let whole = script.len();
    script.gtid(4).query("BEGIN");
    script.bytes[unread..skip_to as usize].fill(0xff);
    let end = end_behind(&script.bytes, skip_to).unwrap();
    assert_eq!((end.offset, numbers(&end)), (whole, "1:3".into()));
    // What lies behind the end of the file is not skipped to.
    let not_skipped = end_behind(&script.bytes, script.len() + 1).unwrap();
    assert!(not_skipped.offset < skip_to);
    let nothing_follows = end_behind(&script.bytes[..skip_to as usize], skip_to).unwrap();
    assert_eq!(nothing_follows.offset, skip_to);
}

/// More transactions than are compared at both ends, with their lengths told, and the end of each.
fn many_transactions() -> (Script, Vec<u64>) {
    let mut script = Script::new(true);
    script.previous(1, 1);
    let ends = (2..900).map(|number| script.measured_transaction(number).len());
    let ends = ends.collect();
    (script, ends)
}

#[test]
fn gtids_of_a_known_begin_are_those_of_the_servers_own_file() {
    let (mut source, ends) = many_transactions();
    let known_end = *ends.last().unwrap();
    let middle = ends[440] as usize;
    source.measured_transaction(900);
    let mut copy = source.bytes.clone();
    copy[middle - 900..middle + 900].fill(0xff);
    // Rows of the source are stepped over.
    source.bytes[middle - 100..middle - 60].fill(0xff);
    let end = end_beside(&copy, &source.bytes, known_end).unwrap();
    assert_eq!((end.offset, numbers(&end)), (source.len(), "1-900".into()));
}

#[test]
fn another_binlog_of_that_name_tells_nothing_of_the_copy() {
    let (copy, ends) = many_transactions();
    let known_end = ends[600];
    for at in [40, known_end as usize - 40] {
        let mut other = copy.bytes.clone();
        other[at] ^= 1;
        other[ends[300] as usize..ends[301] as usize].fill(0xff);
        let end = end_beside(&copy.bytes, &other, known_end).unwrap();
        assert_eq!((end.offset, numbers(&end)), (copy.len(), "1-899".into()));
    }
    let shorter = &copy.bytes[..ends[599] as usize];
    let end = end_beside(&copy.bytes, shorter, known_end).unwrap();
    assert_eq!(numbers(&end), "1-899");
}

#[test]
fn a_source_that_is_damaged_leaves_it_to_the_copy() {
    let (copy, ends) = many_transactions();
    let mut source = copy.bytes.clone();
    source[ends[300] as usize..ends[301] as usize].fill(0xff);
    let end = end_beside(&copy.bytes, &source, ends[600]).unwrap();
    assert_eq!((end.offset, numbers(&end)), (copy.len(), "1-899".into()));
}

#[test]
fn a_binlog_that_was_closed_ends_behind_its_last_event() {
    let mut script = Script::new(true);
    script.previous(1, 1).transaction(2).event(ROTATE, &[4; 20]);
    assert_eq!(script.end().offset, script.len());
}

#[test]
fn damage_is_told_from_a_cut() {
    let mut script = Script::new(true);
    script.previous(1, 1);
    let start = script.bytes.len();
    script.gtid(2);
    let mut bytes = script.bytes.clone();
    bytes[start + 25] ^= 1;
    assert!(
        matches!(end_of(&bytes), Err(BinlogError::Damaged { offset, .. }) if offset == start as u64)
    );
    let mut bytes = script.bytes.clone();
    bytes[start + 13] ^= 1;
    assert!(matches!(end_of(&bytes), Err(BinlogError::Damaged { .. })));
}

#[test]
fn an_encrypted_binlog_and_another_file_are_named() {
    assert!(matches!(
        end_of(b"\xfdbin and more"),
        Err(BinlogError::Encrypted(_))
    ));
    assert!(matches!(end_of(b"hello"), Err(BinlogError::NoBinlog(_))));
    assert!(matches!(end_of(b""), Err(BinlogError::NoBinlog(_))));
}
