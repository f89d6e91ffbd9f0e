//! The ring: many producers (server threads), one consumer (the controller), never a wait.
//!
//! **Append** is reserve, copy, publish. Reserving is one `fetch_add` on the tail: it fixes the record's place in the log. The
//! bytes are then copied, and the record is published by storing its commit word (its length and kind) with release.
//!
//! Why a change can't be reordered: if call B was issued because call A had returned, A's `fetch_add` happened before B's, and a single atomic's
//! modifications have one order that respects that. So B's place is behind A's, and every prefix of the log is causally closed.
//!
//! Why a record can't be half taken: the consumer loads the commit word with acquire. Zero means "reserved, not published", and it stops there, even
//! if later records are ready. Any other value was stored after the record's bytes were.
//!
//! Why a stale word can't be taken for a record: the consumer zeroes a record before it tells a head behind it (release); a producer loads
//! the head (acquire) before it uses the bytes. So every byte that a producer gets is zero, and a commit word is non-zero only if
//! this lap's producer stored it, whatever bytes payloads of earlier laps held there.
//!
//! Why a change can't be dropped silently: a reservation that does not fit sets `lost`, which stays set. The consumer checks
//! it after it has drained up to any point that it relies on. A producer that dies between reserve and publish leaves a zero word: the
//! consumer never passes it, and the controller's bound on waiting ends the session.

use super::control::LostReason;
use super::layout::SegmentHeader;
use super::memory::RingMemory;
use super::record::{ALIGN, Body, FileId, HEADER_LEN, Header, Record, record_len, write_header};
use super::sync::Ordering;

/// The session is lost: nothing more can be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// Bytes of the header behind the commit word.
const REST_LEN: usize = HEADER_LEN - 8;

/// Producer side. Any number of threads may share one.
pub struct LogWriter<'s, M> {
    header: &'s SegmentHeader,
    memory: M,
}

impl<'s, M: RingMemory> LogWriter<'s, M> {
    pub fn new(header: &'s SegmentHeader, memory: M) -> Self {
        LogWriter { header, memory }
    }

    pub fn append(&self, record: &Record<'_>) -> Result<u64, Lost> {
        let (header, body) = record.encode();
        self.append_parts(header, body)
    }

    fn append_parts(&self, header: Header, body: Body<'_>) -> Result<u64, Lost> {
        let mut reservation = self.reserve(header, (body[0].len() + body[1].len()) as u64)?;
        for part in body {
            // SAFETY: a slice is readable for its length.
            unsafe { reservation.put(part.as_ptr(), part.len()) };
        }
        Ok(reservation.publish())
    }

    /// Reserves a Write whose payload of `len` bytes is then put piece by piece.
    pub fn reserve_write(
        &self,
        file: FileId,
        offset: u64,
        len: u64,
    ) -> Result<Reservation<'_, M>, Lost> {
        self.reserve(write_header(file, offset, len), len)
    }

    fn reserve(&self, header: Header, body_len: u64) -> Result<Reservation<'_, M>, Lost> {
        if self.header.lost.reason.load(Ordering::Relaxed) != 0 {
            return Err(Lost);
        }
        let capacity = self.memory.capacity() as u64;
        let len = match record_len(body_len) {
            Some(len) if u64::from(len) <= capacity => len,
            _ => return Err(self.lose(LostReason::LogFull, body_len)),
        };
        let position = self
            .header
            .tail
            .position
            .fetch_add(u64::from(len), Ordering::SeqCst);
        // Pairs with the release in `LogReader::next`: what lies below the head is zeroed.
        let head = self.header.head.position.load(Ordering::Acquire);
        let used = position.wrapping_add(u64::from(len)).wrapping_sub(head);
        if used > capacity {
            return Err(self.lose(LostReason::LogFull, u64::from(len)));
        }
        let mut reservation = Reservation {
            memory: &self.memory,
            position,
            commit: u64::from(len) | u64::from(header.kind) << 32 | u64::from(header.flags) << 40,
            at: ring_offset(position + 8, capacity),
            left: len as usize - 8,
        };
        let words = [
            header.file.device,
            header.file.inode,
            header.a,
            header.b,
            header.c,
        ];
        // SAFETY: five words are REST_LEN readable bytes.
        unsafe { reservation.put(words.as_ptr().cast(), REST_LEN) };
        Ok(reservation)
    }

    /// Marks the session lost; the first reason stays.
    pub fn lose(&self, reason: LostReason, detail: u64) -> Lost {
        if self.header.lost.reason.load(Ordering::Relaxed) == 0 {
            self.header.lost.detail.store(detail, Ordering::Relaxed);
        }
        // Release pairs with the acquire in `LogReader::lost`, for the detail.
        let _ = self.header.lost.reason.compare_exchange(
            0,
            reason as u32,
            Ordering::Release,
            Ordering::Relaxed,
        );
        Lost
    }
}

fn ring_offset(position: u64, capacity: u64) -> usize {
    (position % capacity) as usize
}

/// A place in the log that is not yet published. Dropping it unpublished leaves a gap that ends the session: never silently.
pub struct Reservation<'w, M> {
    memory: &'w M,
    position: u64,
    commit: u64,
    at: usize,
    left: usize,
}

impl<M: RingMemory> Reservation<'_, M> {
    /// Adds the next `len` bytes; more than was reserved are left out.
    ///
    /// # Safety
    /// `source` is readable for `len` bytes.
    pub unsafe fn put(&mut self, source: *const u8, len: usize) {
        let len = len.min(self.left);
        let capacity = self.memory.capacity();
        let first = len.min(capacity - self.at);
        // SAFETY: readable by the caller's word; the range is inside this reservation.
        unsafe { self.memory.put(self.at, source, first) };
        if first < len {
            // SAFETY: `first < len`, so the pointer stays inside the source.
            let rest = unsafe { source.add(first) };
            // SAFETY: as above; the reservation goes on at the start of the ring.
            unsafe { self.memory.put(0, rest, len - first) };
        }
        self.at = (self.at + len) % capacity;
        self.left -= len;
    }

    /// Makes the record visible to the consumer; gives its position.
    pub fn publish(self) -> u64 {
        let at = ring_offset(self.position, self.memory.capacity() as u64);
        // Pairs with the acquire in `LogReader::next`.
        self.memory
            .commit_word(at)
            .store(self.commit, Ordering::Release);
        self.position
    }
}

/// What the consumer finds at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A record was taken; its position.
    Taken(u64),
    /// Nothing was appended since.
    Empty,
    /// The record at this position is reserved but not yet published.
    Unpublished(u64),
    /// The bytes at this position are no record: the log is damaged.
    Damaged(u64),
}

/// The producers are told of room that was given back when it comes to this part of the log.
const GIVE_BACK_PART: u64 = 64;

/// Consumer side; there is one.
///
/// It looks at the tail only when it has taken all below the one that it knows, and stores the head now and then: every access to these two words
/// takes them away from the processors of those who append.
pub struct LogReader<'s, M> {
    header: &'s SegmentHeader,
    memory: M,
    head: u64,
    /// As the producers know it: what lies below was zeroed.
    told_head: u64,
    /// At most what the tail is by now.
    known_tail: u64,
}

impl<'s, M: RingMemory> LogReader<'s, M> {
    pub fn new(header: &'s SegmentHeader, memory: M) -> Self {
        let head = header.head.position.load(Ordering::Relaxed);
        LogReader {
            header,
            memory,
            head,
            told_head: head,
            known_tail: head,
        }
    }

    /// Takes the record at the head: its header, and its body into `body`.
    pub fn next(&mut self, body: &mut Vec<u8>) -> (Next, Header) {
        let none = Header::default();
        if self.head == self.known_tail {
            self.known_tail = self.tail();
        }
        if self.head == self.known_tail {
            self.tell_head();
            return (Next::Empty, none);
        }
        let capacity = self.memory.capacity();
        let at = ring_offset(self.head, capacity as u64);
        // Pairs with the release in `Reservation::publish`.
        let commit = self.memory.commit_word(at).load(Ordering::Acquire);
        if commit == 0 {
            self.tell_head();
            return (Next::Unpublished(self.head), none);
        }
        let len = (commit & 0xffff_ffff) as usize;
        if len < HEADER_LEN || len > capacity || !len.is_multiple_of(ALIGN) {
            return (Next::Damaged(self.head), none);
        }
        let mut rest = [0u8; REST_LEN];
        self.get(at + 8, &mut rest);
        body.resize(len - HEADER_LEN, 0);
        self.get(at + HEADER_LEN, body);
        let word = |index: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&rest[index * 8..index * 8 + 8]);
            u64::from_ne_bytes(bytes)
        };
        let header = Header {
            kind: (commit >> 32) as u8,
            flags: (commit >> 40) as u8,
            file: FileId {
                device: word(0),
                inode: word(1),
            },
            a: word(2),
            b: word(3),
            c: word(4),
        };
        self.give_back(at, len);
        let taken = self.head;
        self.head += len as u64;
        if self.head - self.told_head >= capacity as u64 / GIVE_BACK_PART {
            self.tell_head();
        }
        (Next::Taken(taken), header)
    }

    fn tell_head(&mut self) {
        if self.told_head != self.head {
            // Pairs with the acquire in `LogWriter::reserve`: the zeros come first.
            let told = &self.header.head.position;
            told.store(self.head, Ordering::Release);
            self.told_head = self.head;
        }
    }

    fn get(&self, at: usize, target: &mut [u8]) {
        let capacity = self.memory.capacity();
        let at = at % capacity;
        let (first, second) = target.split_at_mut(target.len().min(capacity - at));
        // SAFETY: inside the published record at the head.
        unsafe { self.memory.get(at, first) };
        // SAFETY: as above, on the far side of the ring's end.
        unsafe { self.memory.get(0, second) };
    }

    fn give_back(&self, at: usize, len: usize) {
        // The commit word is zeroed as an atomic, as it is accessed everywhere else.
        self.memory.commit_word(at).store(0, Ordering::Relaxed);
        let capacity = self.memory.capacity();
        let (rest_at, rest_len) = ((at + 8) % capacity, len - 8);
        let first = rest_len.min(capacity - rest_at);
        // SAFETY: inside the published record at the head, which only this consumer touches until the head moves on.
        unsafe { self.memory.zero(rest_at, first) };
        // SAFETY: as above, on the far side of the ring's end.
        unsafe { self.memory.zero(0, rest_len - first) };
    }

    /// Where the next record will be appended.
    pub fn tail(&self) -> u64 {
        self.header.tail.position.load(Ordering::SeqCst)
    }

    /// Everything below was taken.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Reason (as number) and detail, once the session is lost.
    pub fn lost(&self) -> Option<(u32, u64)> {
        // Pairs with the release in `LogWriter::lose`.
        match self.header.lost.reason.load(Ordering::Acquire) {
            0 => None,
            reason => Some((reason, self.header.lost.detail.load(Ordering::Relaxed))),
        }
    }
}
