//! Mirroring: applying recorded changes, bytes included, to the copies in the stage.
//!
//! Records are applied in log order, which for one file is the order of the calls. So a copy that was right at some log position, or that holds a fuzzy mixture
//! of earlier and later bytes of ranges that later records cover, is right at every position behind those records.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::capture_log::{FileId, Record};
use crate::catalog::Catalog;
use crate::copy;
use crate::digest::Digests;
use crate::extents::WHOLE;
use crate::target::Stage;

/// Copies kept open.
const OPEN_COUNT_MAX: usize = 256;

/// Applies records to the stage.
pub struct Mirror {
    stage: Arc<Stage>,
    digests: Arc<Digests>,
    open: HashMap<u64, File>,
    pub payload_bytes: u64,
}

impl Mirror {
    pub fn new(stage: Arc<Stage>, digests: Arc<Digests>) -> Mirror {
        Mirror {
            stage,
            digests,
            open: HashMap::new(),
            payload_bytes: 0,
        }
    }

    /// Applies one record. What only the source could give is noted as dirty in the catalog.
    pub fn apply(&mut self, catalog: &mut Catalog, record: &Record<'_>) -> io::Result<()> {
        match *record {
            Record::Write {
                file,
                offset,
                len,
                payload: None,
            } => {
                catalog.note_data(file, offset..offset.saturating_add(len));
                Ok(())
            }
            Record::Opaque { file, mapped } => {
                catalog.note_data(file, WHOLE);
                catalog.note_mapped(mapped.then_some(file));
                Ok(())
            }
            Record::Write { file, .. }
            | Record::Truncate { file, .. }
            | Record::Allocate { file, .. }
            | Record::Punch { file, .. }
            | Record::Zero { file, .. } => match catalog.count_data(file) {
                Some(state) => {
                    let slot = state.slot;
                    self.change(slot, record)
                }
                // Not in the backup: excluded, or without a name.
                None => Ok(()),
            },
            _ => match catalog.note_name(record) {
                Some(fresh) => self.make_empty(catalog, fresh),
                None => Ok(()),
            },
        }
    }

    fn make_empty(&mut self, catalog: &mut Catalog, file: FileId) -> io::Result<()> {
        let Some(slot) = catalog.note_empty(file) else {
            return Ok(());
        };
        self.digests.forget(slot, WHOLE);
        self.file(slot)?.set_len(0)
    }

    /// The copy is no more.
    pub fn close(&mut self, slot: u64) {
        self.open.remove(&slot);
    }

    fn file(&mut self, slot: u64) -> io::Result<&File> {
        if self.open.len() >= OPEN_COUNT_MAX && !self.open.contains_key(&slot) {
            self.open.clear();
        }
        match self.open.entry(slot) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(self.stage.open_slot(slot)?)),
        }
    }

    fn change(&mut self, slot: u64, record: &Record<'_>) -> io::Result<()> {
        if let Some(range) = touched(record) {
            self.digests.forget(slot, range);
        }
        let copy = self.file(slot)?;
        match *record {
            Record::Write {
                offset,
                payload: Some(payload),
                ..
            } => {
                copy.write_all_at(payload, offset)?;
                self.digests.note(slot, offset, payload);
                self.payload_bytes += payload.len() as u64;
                Ok(())
            }
            Record::Truncate { len, .. } => copy.set_len(len),
            Record::Allocate {
                offset,
                len,
                keep_size,
                ..
            } => allocate(copy, offset, len, keep_size),
            Record::Punch { offset, len, .. } => copy::make_hole(copy, offset..offset + len),
            Record::Zero {
                offset,
                len,
                keep_size,
                ..
            } => zero(copy, offset, len, keep_size),
            _ => Ok(()),
        }
    }
}

/// Which bytes of its file a record may change.
fn touched(record: &Record<'_>) -> Option<Range<u64>> {
    match *record {
        Record::Truncate { len, .. } => Some(len..WHOLE.end),
        Record::Write { offset, len, .. }
        | Record::Allocate { offset, len, .. }
        | Record::Punch { offset, len, .. }
        | Record::Zero { offset, len, .. } => Some(offset..offset.saturating_add(len)),
        _ => None,
    }
}

fn grow(copy: &File, end: u64) -> io::Result<()> {
    if copy.metadata()?.len() < end {
        copy.set_len(end)
    } else {
        Ok(())
    }
}

fn allocate(copy: &File, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
    let flags = if keep_size {
        FallocateFlags::KEEP_SIZE
    } else {
        FallocateFlags::empty()
    };
    match rustix::fs::fallocate(copy, flags, offset, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) if keep_size => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => grow(copy, offset + len),
        Err(errno) => Err(errno.into()),
    }
}

fn zero(copy: &File, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
    let end = offset + len;
    if !keep_size {
        grow(copy, end)?;
    }
    copy::make_hole(copy, offset..end)
}
