//! The ring with real threads and awkward sizes: nothing is lost, doubled, reordered or made up, and what does not fit is known.

use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::TestLog;
use crate::capture_log::LostReason;
use crate::capture_log::memory::MappedRing;
use crate::capture_log::record::{FileId, HEADER_LEN, Record};
use crate::capture_log::ring::{LogReader, Lost, Next};

const FILE: FileId = FileId {
    device: 7,
    inode: 11,
};

fn write(offset: u64, payload: &[u8]) -> Record<'_> {
    Record::Write {
        file: FILE,
        offset,
        len: payload.len() as u64,
        payload: Some(payload),
    }
}

/// Takes one record and holds it against `expected`.
fn expect(reader: &mut LogReader<'_, MappedRing>, expected: &Record<'_>) {
    let mut body = Vec::new();
    let (next, header) = reader.next(&mut body);
    assert!(matches!(next, Next::Taken(_)), "{next:?}");
    assert_eq!(Record::decode(header, &body).as_ref(), Some(expected));
}

fn expect_nothing(reader: &mut LogReader<'_, MappedRing>, expected: Next) {
    assert_eq!(reader.next(&mut Vec::new()).0, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_log_gives_back_what_was_appended_over_many_laps(
        units in 7usize..40,
        lens in proptest::collection::vec(0usize..64, 1..120),
    ) {
        let log = TestLog::new(units * 16);
        let (writer, mut reader) = (log.writer(), log.reader());
        for (index, len) in lens.into_iter().enumerate() {
            // Bytes that are never zero, so that one which is left over can't go unseen.
            let payload = vec![index as u8 | 1; len];
            writer.append(&write(index as u64, &payload)).unwrap();
            expect(&mut reader, &write(index as u64, &payload));
            expect_nothing(&mut reader, Next::Empty);
        }
        prop_assert_eq!(reader.lost(), None);
    }

    #[test]
    fn a_payload_put_in_pieces_arrives_in_one(
        units in 10usize..30,
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..5),
        before in 0usize..200,
    ) {
        let log = TestLog::new(units * 16);
        let (writer, mut reader) = (log.writer(), log.reader());
        for _ in 0..before {
            writer.append(&Record::Rescan).unwrap();
            expect(&mut reader, &Record::Rescan);
        }
        let payload = pieces.concat();
        let mut reservation = writer.reserve_write(FILE, 5, payload.len() as u64).unwrap();
        for piece in &pieces {
            // SAFETY: a slice is readable for its length.
            unsafe { reservation.put(piece.as_ptr(), piece.len()) };
        }
        reservation.publish();
        expect(&mut reader, &write(5, &payload));
    }
}

#[test]
fn a_record_as_long_as_the_ring_fits_at_every_position() {
    let log = TestLog::new(HEADER_LEN + 32);
    let (writer, mut reader) = (log.writer(), log.reader());
    for lap in 0..20u64 {
        let payload = [0xff; 32];
        writer.append(&write(lap, &payload)).unwrap();
        expect(&mut reader, &write(lap, &payload));
        // Moves the next one's start along the ring.
        writer.append(&Record::Cut { id: lap }).unwrap();
        expect(&mut reader, &Record::Cut { id: lap });
    }
    assert_eq!(reader.lost(), None);
}

#[test]
fn records_that_fill_the_ring_exactly_are_all_kept() {
    let log = TestLog::new(4 * HEADER_LEN);
    let (writer, mut reader) = (log.writer(), log.reader());
    for lap in 0..5 {
        for id in 0..4 {
            writer.append(&Record::Cut { id: lap * 4 + id }).unwrap();
        }
        for id in 0..4 {
            expect(&mut reader, &Record::Cut { id: lap * 4 + id });
        }
    }
    expect_nothing(&mut reader, Next::Empty);
    assert_eq!(reader.lost(), None);
}

#[test]
fn a_record_without_room_loses_the_session_and_what_was_there_before_stays_readable() {
    let log = TestLog::new(4 * HEADER_LEN);
    let (writer, mut reader) = (log.writer(), log.reader());
    for id in 0..4 {
        writer.append(&Record::Cut { id }).unwrap();
    }
    assert_eq!(writer.append(&Record::Rescan), Err(Lost));
    let full = (LostReason::LogFull as u32, HEADER_LEN as u64);
    assert_eq!(reader.lost(), Some(full));
    for id in 0..4 {
        expect(&mut reader, &Record::Cut { id });
    }
    // Room was made, but a session that missed one change stays lost.
    assert_eq!(writer.append(&Record::Rescan), Err(Lost));
    let gap = reader.head();
    expect_nothing(&mut reader, Next::Unpublished(gap));
    assert_eq!(reader.lost(), Some(full));
}

#[test]
fn a_record_longer_than_the_ring_loses_the_session_without_taking_a_place() {
    let log = TestLog::new(4 * HEADER_LEN);
    let (writer, mut reader) = (log.writer(), log.reader());
    assert_eq!(writer.append(&write(0, &[1; 4 * HEADER_LEN])), Err(Lost));
    expect_nothing(&mut reader, Next::Empty);
    assert_eq!(reader.tail(), 0);
    assert_eq!(reader.lost().unwrap().0, LostReason::LogFull as u32);
}

#[test]
fn the_first_reason_for_the_loss_stays() {
    let log = TestLog::new(4096);
    let writer = log.writer();
    writer.lose(LostReason::Unidentified, 9);
    writer.lose(LostReason::AioTableFull, 10);
    let first = (LostReason::Unidentified as u32, 9);
    assert_eq!(log.reader().lost(), Some(first));
}

#[test]
fn a_record_behind_an_unpublished_one_waits_for_it() {
    let log = TestLog::new(4096);
    let (writer, mut reader) = (log.writer(), log.reader());
    let mut slow = writer.reserve_write(FILE, 1, 16).unwrap();
    writer.append(&Record::Cut { id: 2 }).unwrap();
    expect_nothing(&mut reader, Next::Unpublished(0));
    // SAFETY: an array is readable for its length.
    unsafe { slow.put([3; 16].as_ptr(), 16) };
    expect_nothing(&mut reader, Next::Unpublished(0));
    slow.publish();
    expect(&mut reader, &write(1, &[3; 16]));
    expect(&mut reader, &Record::Cut { id: 2 });
}

#[test]
fn bytes_of_earlier_laps_that_look_like_commit_words_are_no_records() {
    let log = TestLog::new(16 * HEADER_LEN);
    let (writer, mut reader) = (log.writer(), log.reader());
    let commit = (HEADER_LEN as u64 | 15 << 32).to_le_bytes();
    let payload = commit.repeat(12 * HEADER_LEN / 8);
    for lap in 0..40 {
        writer.append(&write(lap, &payload)).unwrap();
        expect(&mut reader, &write(lap, &payload));
        let gap = writer.reserve_write(FILE, lap, 0).unwrap();
        let at = reader.head();
        expect_nothing(&mut reader, Next::Unpublished(at));
        gap.publish();
        expect(&mut reader, &write(lap, &[]));
        expect_nothing(&mut reader, Next::Empty);
    }
}

#[test]
fn a_commit_word_that_cannot_be_one_is_damage() {
    for word in [8u64, 47, 50, 4096 + 16, u64::from(u32::MAX)] {
        let log = TestLog::new(4096);
        log.writer().append(&Record::Rescan).unwrap();
        let base = log.map.as_ptr().cast_mut().cast::<u64>();
        // SAFETY: the first word of the ring; no other thread is about.
        unsafe { base.write(word) };
        expect_nothing(&mut log.reader(), Next::Damaged(0));
    }
}

#[test]
fn more_bytes_than_were_reserved_are_left_out() {
    let log = TestLog::new(4096);
    let (writer, mut reader) = (log.writer(), log.reader());
    let mut reservation = writer.reserve_write(FILE, 0, 16).unwrap();
    // SAFETY: an array is readable for its length.
    unsafe { reservation.put([5; 64].as_ptr(), 64) };
    writer.append(&Record::Cut { id: 6 }).unwrap();
    reservation.publish();
    expect(&mut reader, &write(0, &[5; 16]));
    expect(&mut reader, &Record::Cut { id: 6 });
}

/// Lets producers that wait for room go, so that a failed assertion ends the test.
struct Opened<'t>(&'t AtomicI64);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.store(i64::MAX / 2, Ordering::SeqCst);
    }
}

/// Many producers on a ring of a few records; each waits for room that the test's own counter grants, as the ring itself never waits.
#[test]
fn many_threads_on_a_small_ring_keep_their_order_and_lose_nothing() {
    const PRODUCERS: u64 = 8;
    const EACH: u64 = 20_000;
    const LEN_MAX: u64 = HEADER_LEN as u64 + 64;
    let log = TestLog::new(24 * LEN_MAX as usize);
    let room = AtomicI64::new(24);
    let mut seen = [0u64; PRODUCERS as usize];
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let (log, room) = (&log, &room);
            scope.spawn(move || {
                let writer = log.writer();
                for number in 0..EACH {
                    while room.fetch_sub(1, Ordering::SeqCst) <= 0 {
                        room.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                    }
                    let payload = vec![(producer * 31 + number) as u8; (number % 65) as usize];
                    let file = FileId {
                        device: 1,
                        inode: producer,
                    };
                    let record = Record::Write {
                        file,
                        offset: number,
                        len: number % 65,
                        payload: Some(&payload),
                    };
                    writer.append(&record).unwrap();
                }
            });
        }
        let _opened = Opened(&room);
        let mut reader = log.reader();
        let mut body = Vec::new();
        while seen.iter().sum::<u64>() < PRODUCERS * EACH {
            let (next, header) = reader.next(&mut body);
            if !matches!(next, Next::Taken(_)) {
                assert!(!matches!(next, Next::Damaged(_)), "{next:?}");
                assert_eq!(reader.lost(), None);
                std::thread::yield_now();
                continue;
            }
            room.fetch_add(1, Ordering::SeqCst);
            let Some(Record::Write {
                file,
                offset,
                len,
                payload: Some(payload),
            }) = Record::decode(header, &body)
            else {
                panic!("Not a write with payload");
            };
            assert_eq!(offset, seen[file.inode as usize], "producer {}", file.inode);
            assert_eq!(len, offset % 65);
            assert!(
                payload
                    .iter()
                    .all(|byte| *byte == (file.inode * 31 + offset) as u8)
            );
            seen[file.inode as usize] += 1;
        }
    });
    expect_nothing(&mut log.reader(), Next::Empty);
}

/// Producers that take no care of room: whatever the consumer gets before the loss is a prefix of what each one appended.
#[test]
fn an_overrun_ring_holds_a_prefix_of_each_producers_records() {
    for round in 0..200u64 {
        let log = TestLog::new(16 * HEADER_LEN);
        std::thread::scope(|scope| {
            for producer in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    let file = FileId {
                        device: round,
                        inode: producer,
                    };
                    (0..100).find(|&len| {
                        log.writer()
                            .append(&Record::Truncate { file, len })
                            .is_err()
                    })
                });
            }
            let (mut reader, mut body, mut seen) = (log.reader(), Vec::new(), [0u64; 4]);
            loop {
                let (next, header) = reader.next(&mut body);
                match next {
                    Next::Taken(_) => {
                        let Some(Record::Truncate { file, len }) = Record::decode(header, &body)
                        else {
                            panic!("Not a truncation");
                        };
                        assert_eq!((file.device, len), (round, seen[file.inode as usize]));
                        seen[file.inode as usize] += 1;
                    }
                    Next::Damaged(at) => panic!("Damaged at {at}"),
                    _ if seen == [100; 4] => break,
                    Next::Unpublished(_) if reader.lost().is_some() => break,
                    _ => std::thread::yield_now(),
                }
            }
        });
    }
}
