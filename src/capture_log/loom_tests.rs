//! The protocol under loom: every interleaving, and every value that a weakly ordered load may see, within the models' bounds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p hotmirror --release --target-dir target/loom loom`
//!
//! A ring's bytes are loom cells, so that a producer and the consumer that touch the same bytes without an order between them
//! fail the model, whatever the values are.

use std::sync::Arc as StdArc;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::control::LostReason;
use super::current::{Current, Published};
use super::grace::{FlightTables, enter_crowd, leave_crowd};
use super::layout::{AioSlot, FlightSlot, SegmentHeader};
use super::memory::RingMemory;
use super::record::{FileId, Header, Record};
use super::ring::{LogReader, LogWriter, Next};
use super::sync::{AtomicU32, AtomicU64, Ordering};

/// Eight bytes of the ring. `value` is what they hold, `access` who touches them; where a record may start, the commit
/// word overlays them, and it is the one that holds the value.
struct Word {
    commit: Option<AtomicU64>,
    value: std::sync::atomic::AtomicU64,
    access: UnsafeCell<()>,
}

impl Word {
    fn set(&self, bytes: u64) {
        self.access.with_mut(|_| match &self.commit {
            Some(commit) => commit.store(bytes, Ordering::Relaxed),
            None => self.value.store(bytes, Ordering::Relaxed),
        });
    }

    fn get(&self) -> u64 {
        self.access.with(|_| match &self.commit {
            Some(commit) => commit.load(Ordering::Relaxed),
            None => self.value.load(Ordering::Relaxed),
        })
    }
}

#[derive(Clone)]
struct LoomRing(StdArc<Vec<Word>>);

// SAFETY: the cells are shared on purpose: loom reports unordered access to them.
unsafe impl Send for LoomRing {}
// SAFETY: as above.
unsafe impl Sync for LoomRing {}

impl LoomRing {
    /// `starts`: where this model's records begin, as only those words need to be loom atomics.
    fn new(capacity: usize, starts: &[usize]) -> LoomRing {
        let word = |index: usize| Word {
            commit: starts
                .iter()
                .any(|start| start % capacity == index * 8)
                .then(|| AtomicU64::new(0)),
            value: std::sync::atomic::AtomicU64::new(0),
            access: UnsafeCell::new(()),
        };
        LoomRing(StdArc::new((0..capacity / 8).map(word).collect()))
    }

    fn words(&self, at: usize, len: usize) -> &[Word] {
        assert!(
            at % 8 == 0 && len % 8 == 0,
            "A model's payloads are whole words"
        );
        &self.0[at / 8..(at + len) / 8]
    }
}

// SAFETY: nothing moves; whether the words are used as they may be is what loom checks.
unsafe impl RingMemory for LoomRing {
    fn capacity(&self) -> usize {
        self.0.len() * 8
    }

    fn commit_word(&self, at: usize) -> &AtomicU64 {
        let word = &self.0[at / 8];
        word.commit
            .as_ref()
            .expect("A record's start that the model did not name")
    }

    unsafe fn put(&self, at: usize, source: *const u8, len: usize) {
        for (index, word) in self.words(at, len).iter().enumerate() {
            // SAFETY: the caller's source is readable for `len` bytes.
            let source = unsafe { source.add(index * 8) }.cast::<u64>();
            // SAFETY: as above.
            word.set(unsafe { source.read_unaligned() });
        }
    }

    unsafe fn get(&self, at: usize, target: &mut [u8]) {
        for (word, bytes) in self
            .words(at, target.len())
            .iter()
            .zip(target.chunks_mut(8))
        {
            bytes.copy_from_slice(&word.get().to_ne_bytes());
        }
    }

    unsafe fn zero(&self, at: usize, len: usize) {
        self.words(at, len).iter().for_each(|word| word.set(0));
    }
}

/// A header and a ring that threads of a model share.
struct Log {
    header: SegmentHeader,
    ring: LoomRing,
}

impl Log {
    fn new(capacity: usize, starts: &[usize]) -> Arc<Log> {
        Arc::new(Log {
            header: SegmentHeader::default(),
            ring: LoomRing::new(capacity, starts),
        })
    }

    fn writer(&self) -> LogWriter<'_, LoomRing> {
        LogWriter::new(&self.header, self.ring.clone())
    }

    fn reader(&self) -> LogReader<'_, LoomRing> {
        LogReader::new(&self.header, self.ring.clone())
    }
}

/// Preemptions per execution: enough for each thread to be interrupted at its two critical places.
fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

fn file(inode: u64) -> FileId {
    FileId { device: 1, inode }
}

/// A record whose every word is derived from `id`, so that a torn one shows.
fn mark(id: u64) -> Record<'static> {
    let (offset, len) = (id << 8, id << 16);
    Record::Punch {
        file: file(id),
        offset,
        len,
    }
}

fn id_of(header: Header, body: &[u8]) -> u64 {
    let id = header.file.inode;
    assert_eq!(Record::decode(header, body), Some(mark(id)), "torn");
    id
}

/// Takes what is there; the ids of the records and what stopped it.
fn drain(reader: &mut LogReader<'_, LoomRing>) -> (Vec<u64>, Next) {
    let (mut ids, mut body) = (Vec::new(), Vec::new());
    loop {
        match reader.next(&mut body) {
            (Next::Taken(_), header) => ids.push(id_of(header, &body)),
            (next, _) => return (ids, next),
        }
    }
}

#[test]
fn loom_records_of_two_producers_arrive_whole_once_and_in_their_order() {
    model(3, || {
        let log = Log::new(4 * 48, &[0, 48, 96, 144]);
        let producer = |first: u64| {
            let log = log.clone();
            thread::spawn(move || {
                log.writer().append(&mark(first)).unwrap();
                log.writer().append(&mark(first + 1)).unwrap();
            })
        };
        let producers = [producer(10), producer(20)];
        let mut reader = log.reader();
        let (mut ids, _) = drain(&mut reader);
        for producer in producers {
            producer.join().unwrap();
        }
        let (rest, end) = drain(&mut reader);
        ids.extend(rest);
        assert_eq!(end, Next::Empty);
        assert_eq!(reader.lost(), None);
        let of = |base: u64| {
            ids.iter()
                .copied()
                .filter(|id| id / 10 * 10 == base)
                .collect::<Vec<_>>()
        };
        assert_eq!((of(10), of(20), ids.len()), (vec![10, 11], vec![20, 21], 4));
    });
}

#[test]
fn loom_room_that_was_given_back_is_used_without_a_race_and_reads_as_unpublished_until_it_is_published()
 {
    model(3, || {
        // The write at 48..112 ends in bytes that look like a commit word; the producer's third record starts on them.
        let log = Log::new(112, &[0, 48, 96]);
        let looks_like_a_record = 48u64 | 4 << 32;
        let bytes = [looks_like_a_record.to_ne_bytes(); 2].concat();
        let write = Record::Write {
            file: file(9),
            offset: 0,
            len: 16,
            payload: Some(&bytes),
        };
        let mut reader = log.reader();
        log.writer().append(&mark(1)).unwrap();
        assert_eq!(drain(&mut reader), (vec![1], Next::Empty));
        log.writer().append(&write).unwrap();
        let producer = {
            let log = log.clone();
            thread::spawn(move || [2, 3, 4].map(|id| log.writer().append(&mark(id)).is_ok()))
        };
        let mut body = Vec::new();
        let (next, header) = reader.next(&mut body);
        assert_eq!(next, Next::Taken(48));
        assert_eq!(Record::decode(header, &body), Some(write));
        let (mut ids, _) = drain(&mut reader);
        let kept = producer.join().unwrap().map(usize::from).iter().sum();
        let (rest, end) = drain(&mut reader);
        ids.extend(rest);
        assert_eq!(ids, &[2, 3, 4][..kept]);
        if kept == 3 {
            assert_eq!((end, reader.lost()), (Next::Empty, None));
        } else {
            assert_eq!(end, Next::Unpublished(112 + 48 * kept as u64));
            assert_eq!(reader.lost(), Some((LostReason::LogFull as u32, 48)));
        }
    });
}

#[test]
fn loom_a_record_that_found_no_room_is_known_to_be_missing() {
    model(3, || {
        let log = Log::new(96, &[0, 48]);
        let producer = |id: u64| {
            let log = log.clone();
            thread::spawn(move || {
                let first = log.writer().append(&mark(id)).is_ok();
                first as usize + log.writer().append(&mark(id + 1)).is_ok() as usize
            })
        };
        let producers = [producer(10), producer(20)];
        let mut reader = log.reader();
        let (early, _) = drain(&mut reader);
        let kept: usize = producers
            .into_iter()
            .map(|producer| producer.join().unwrap())
            .sum();
        let (late, end) = drain(&mut reader);
        let found = early.len() + late.len();
        if reader.lost().is_none() {
            assert_eq!((kept, found, end), (4, 4, Next::Empty));
        } else {
            // What came behind the missing one may be kept and is never reached.
            assert!(kept < 4 && found <= kept);
        }
        let mut ids = [early, late].concat();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), found);
    });
}

#[test]
fn loom_nothing_behind_a_producer_that_stopped_half_way_is_taken() {
    model(3, || {
        let log = Log::new(4 * 48, &[0, 48, 96, 144]);
        let stopped = {
            let log = log.clone();
            thread::spawn(move || {
                log.writer()
                    .reserve_write(file(1), 0, 0)
                    .map(|gap| drop(gap))
                    .unwrap()
            })
        };
        let other = {
            let log = log.clone();
            thread::spawn(move || log.writer().append(&mark(2)).unwrap())
        };
        let mut reader = log.reader();
        let (early, _) = drain(&mut reader);
        stopped.join().unwrap();
        let position = other.join().unwrap();
        let (late, end) = drain(&mut reader);
        let before_the_gap = position == 0;
        assert_eq!(
            [early, late].concat(),
            if before_the_gap { vec![2] } else { vec![] }
        );
        assert_eq!(end, Next::Unpublished(if before_the_gap { 48 } else { 0 }));
    });
}

#[test]
fn loom_a_call_issued_after_another_returned_is_behind_it() {
    model(3, || {
        let log = Log::new(2 * 48, &[0, 48]);
        let returned = Arc::new(AtomicU32::new(0));
        let first = {
            let (log, returned) = (log.clone(), returned.clone());
            thread::spawn(move || {
                let position = log.writer().append(&mark(1)).unwrap();
                // Relaxed: the server may pass the word on in any way it likes.
                returned.store(1, Ordering::Relaxed);
                position
            })
        };
        let saw = returned.load(Ordering::Relaxed) == 1;
        let second = log.writer().append(&mark(2)).unwrap();
        let first = first.join().unwrap();
        assert!(!saw || first < second);
    });
}

/// What the threads of a grace model share. `data` is what a call in the old mode uses and the controller takes back.
struct Calls {
    mode: AtomicU32,
    slots: [FlightSlot; 2],
    aio_slots: [AioSlot; 1],
    crowd: AtomicU32,
    data: UnsafeCell<u32>,
}

// SAFETY: the cell is shared on purpose: loom reports unordered access to it.
unsafe impl Send for Calls {}
// SAFETY: as above.
unsafe impl Sync for Calls {}

impl Calls {
    fn new() -> Arc<Calls> {
        let slots: [FlightSlot; 2] = Default::default();
        slots[0].owner_tid.store(1, Ordering::Relaxed);
        Arc::new(Calls {
            slots,
            mode: AtomicU32::new(1),
            aio_slots: Default::default(),
            crowd: AtomicU32::new(0),
            data: UnsafeCell::new(0),
        })
    }

    /// What a hooked call does, whoever registered it.
    fn act(&self) {
        if self.mode.load(Ordering::Relaxed) == 1 {
            // SAFETY: nobody writes it before the grace period is over; loom checks just that.
            self.data.with(|data| unsafe { *data });
        }
    }

    fn call(&self, slot: usize) {
        let entered = self.slots[slot].enter(true);
        self.act();
        self.slots[slot].leave(entered);
    }

    /// The controller's side: change the mode, wait, use the data alone.
    fn switch(&self, aio: bool) {
        self.mode.store(2, Ordering::SeqCst);
        self.grace(aio);
        // SAFETY: as above.
        self.data.with_mut(|data| unsafe { *data = 1 });
    }

    fn grace(&self, aio: bool) {
        super::sync::fence(Ordering::SeqCst);
        let tables = FlightTables {
            slots: &self.slots,
            aio_slots: &self.aio_slots,
            crowd: &self.crowd,
        };
        let pause = || {
            thread::yield_now();
            true
        };
        tables.wait_with(aio, pause).unwrap();
    }
}

/// Each of `threads` runs beside the controller.
fn grace_model(aio: bool, threads: &'static [fn(&Calls)]) {
    model(3, move || {
        let calls = Calls::new();
        let running: Vec<_> = threads
            .iter()
            .map(|thread| {
                let calls = calls.clone();
                thread::spawn(move || thread(&calls))
            })
            .collect();
        calls.switch(aio);
        running
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

/// Two writes to the same bytes while the mode becomes Payload. Only those that know it take a lock and record the bytes.
#[test]
fn loom_the_copy_is_the_file_though_the_mode_changed_between_two_writes_of_the_same_bytes() {
    struct Written {
        file: AtomicU32,
        lock: Mutex<()>,
        log: Mutex<Vec<Option<u32>>>,
    }
    fn write(calls: &Calls, written: &Written, slot: usize) {
        let entered = calls.slots[slot].enter(true);
        let payload = calls.mode.load(Ordering::Relaxed) == 2;
        let held = payload.then(|| written.lock.lock().unwrap());
        let value = slot as u32 + 1;
        written.file.store(value, Ordering::SeqCst);
        let record = payload.then_some(value);
        written.log.lock().unwrap().push(record);
        drop(held);
        calls.slots[slot].leave(entered);
    }
    model(3, || {
        let calls = Calls::new();
        calls.slots[1].owner_tid.store(2, Ordering::Relaxed);
        let written = Arc::new(Written {
            file: AtomicU32::new(0),
            lock: Mutex::new(()),
            log: Mutex::new(Vec::new()),
        });
        let writers = [0, 1].map(|slot| {
            let (calls, written) = (calls.clone(), written.clone());
            thread::spawn(move || write(&calls, &written, slot))
        });
        calls.mode.store(2, Ordering::SeqCst);
        calls.grace(false);
        calls.grace(false);
        let position = written.log.lock().unwrap().len();
        let mut copy = written.file.load(Ordering::SeqCst);
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        for record in &written.log.lock().unwrap()[position..] {
            copy = record.expect("Calls behind the grace periods know the mode");
        }
        assert_eq!(copy, written.file.load(Ordering::SeqCst));
    });
}

#[test]
fn loom_a_call_that_saw_the_old_mode_is_waited_for() {
    grace_model(false, &[|calls| calls.call(0), |calls| calls.call(1)]);
}

#[test]
fn loom_a_thread_that_calls_again_and_again_is_waited_for_each_time() {
    grace_model(false, &[|calls| (0..3).for_each(|_| calls.call(0))]);
}

#[test]
fn loom_a_nested_call_is_covered_by_the_outer_one() {
    grace_model(
        false,
        &[|calls| {
            let outer = calls.slots[0].enter(true);
            calls.call(0);
            calls.act();
            calls.slots[0].leave(outer);
        }],
    );
}

#[test]
fn loom_a_slot_that_passes_to_another_thread_keeps_its_meaning() {
    grace_model(
        false,
        &[
            |calls| {
                calls.call(0);
                calls.slots[0].owner_tid.store(0, Ordering::Release);
            },
            |calls| {
                if calls.slots[0]
                    .owner_tid
                    .compare_exchange(0, 2, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
                {
                    calls.call(0);
                }
            },
        ],
    );
}

#[test]
fn loom_a_call_without_a_slot_is_waited_for() {
    fn crowded(calls: &Calls) {
        enter_crowd(&calls.crowd);
        calls.act();
        leave_crowd(&calls.crowd);
    }
    grace_model(false, &[crowded, crowded]);
}

#[test]
fn loom_an_asynchronous_write_is_waited_for_until_it_is_recorded() {
    grace_model(
        true,
        &[|calls| {
            let entered = calls.slots[0].enter(true);
            assert!(calls.aio_slots[0].claim(0x1000));
            let capturing = calls.mode.load(Ordering::Relaxed) == 1;
            calls.slots[0].leave(entered);
            if capturing {
                // SAFETY: as in `act`: the claim holds the grace period up.
                calls.data.with(|data| unsafe { *data });
            }
            assert!(calls.aio_slots[0].release(0x1000));
        }],
    );
}

#[test]
fn loom_one_slot_is_claimed_by_one_and_released_by_its_holder() {
    model(3, || {
        let slot = Arc::new(AioSlot::default());
        let holder = Arc::new(AtomicU32::new(0));
        let contend = |iocb: u64| {
            let (slot, holder) = (slot.clone(), holder.clone());
            thread::spawn(move || {
                if slot.claim(iocb) {
                    assert_eq!(holder.fetch_add(1, Ordering::Relaxed), 0, "two holders");
                    holder.fetch_sub(1, Ordering::Relaxed);
                    assert!(slot.release(iocb));
                } else {
                    assert!(!slot.release(iocb));
                }
            })
        };
        let threads = [contend(0x1000), contend(0x2000)];
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(slot.word.load(Ordering::Relaxed) >> 16, 0);
    });
}

/// A session as a call describes it. The cells say who looks at the description, and who uses what it describes.
struct Described {
    session: u64,
    itself: UnsafeCell<()>,
    mapping: UnsafeCell<()>,
}

/// A call of `session`: finds its description, or makes one.
fn meet(current: &Current<Described>, session: u64) {
    let found = current.get();
    let look = |described: *mut Described| {
        // SAFETY: never freed in the model; the cell tells if it would have been.
        let described = unsafe { &*described };
        described.itself.with(|_| ());
        described
    };
    let mut used = found;
    if found.is_null() || look(found).session != session {
        let new = Box::into_raw(Box::new(Described {
            session,
            itself: UnsafeCell::new(()),
            mapping: UnsafeCell::new(()),
        }));
        used = match current.publish(found, new) {
            Published::Ours { before, earlier } => {
                if !before.is_null() {
                    look(before).mapping.with_mut(|_| ());
                }
                if !earlier.is_null() {
                    // SAFETY: as above.
                    unsafe { &*earlier }.itself.with_mut(|_| ());
                }
                new
            }
            Published::Theirs(theirs) => theirs,
        };
    }
    let used = look(used);
    assert_eq!(used.session, session);
    used.mapping.with(|_| ());
}

/// Two calls of each session at once, and a grace period between the sessions: whoever takes something away is the last who knows of it.
#[test]
fn loom_a_session_that_is_gone_is_used_by_nobody() {
    loom::model(|| {
        let current = Arc::new(Current::new());
        for session in 1..=3 {
            let theirs = current.clone();
            let other = thread::spawn(move || meet(&theirs, session));
            meet(&current, session);
            other.join().unwrap();
        }
    });
}
