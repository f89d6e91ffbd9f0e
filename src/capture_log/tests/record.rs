//! Records: what was encoded is what is decoded, and no bytes whatever make the decoder panic.

use proptest::prelude::*;

use crate::capture_log::record::{
    ALIGN, Attributes, FileId, HEADER_LEN, Header, Record, record_len,
};

/// A record that owns its bytes: a kind and everything that any kind needs.
#[derive(Clone, Debug)]
struct Parts {
    kind: u8,
    file: FileId,
    other: Option<FileId>,
    numbers: (u64, u64),
    attributes: Attributes,
    bytes: (Vec<u8>, Vec<u8>),
    flags: (bool, bool),
}

impl Parts {
    fn record(&self) -> Record<'_> {
        let file = self.file;
        let (offset, len) = self.numbers;
        let (path, second) = (&self.bytes.0[..], &self.bytes.1[..]);
        let (flag, other_flag) = self.flags;
        let attributes = self.attributes;
        match self.kind {
            0 => Record::Write {
                file,
                offset,
                len,
                payload: None,
            },
            1 => Record::Write {
                file,
                offset,
                len: path.len() as u64,
                payload: Some(path),
            },
            2 => Record::Truncate { file, len },
            3 => Record::Allocate {
                file,
                offset,
                len,
                keep_size: flag,
            },
            4 => Record::Punch { file, offset, len },
            5 => Record::Zero {
                file,
                offset,
                len,
                keep_size: flag,
            },
            6 => Record::Create {
                file,
                path,
                attributes,
                fresh: flag,
            },
            7 => Record::Rename {
                file,
                from: path,
                to: second,
                replaced: self.other,
                exchange: flag,
                directory: other_flag,
            },
            8 => Record::Unlink { file, path },
            9 => Record::Link { file, path },
            10 => Record::Symlink {
                file,
                path,
                target: second,
            },
            11 => Record::Mkdir {
                file,
                path,
                attributes,
            },
            12 => Record::Rmdir { file, path },
            13 => Record::Opaque { file, mapped: flag },
            14 => Record::Rescan,
            _ => Record::Cut { id: len },
        }
    }
}

fn file_id() -> impl Strategy<Value = FileId> {
    (any::<u64>(), any::<u64>()).prop_map(|(device, inode)| FileId { device, inode })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

fn parts() -> impl Strategy<Value = Parts> {
    let attributes = (any::<u32>(), any::<u32>(), any::<u32>())
        .prop_map(|(mode, uid, gid)| Attributes { mode, uid, gid });
    (
        0u8..16,
        file_id(),
        proptest::option::of(file_id()),
        // A range of a file ends below 2^64.
        (0..u64::MAX / 2, 0..u64::MAX / 2),
        attributes,
        (bytes(), bytes()),
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(kind, file, other, numbers, attributes, bytes, flags)| Parts {
                kind,
                file,
                other,
                numbers,
                attributes,
                bytes,
                flags,
            },
        )
}

/// The body as the consumer sees it: both stretches, then the padding.
fn padded(body: [&[u8]; 2]) -> Vec<u8> {
    let mut joined = body.concat();
    let len = record_len(joined.len() as u64).unwrap() as usize;
    joined.resize(len - HEADER_LEN, 0);
    joined
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn decoding_gives_what_was_encoded(parts in parts()) {
        let record = parts.record();
        let (header, body) = record.encode();
        let padded = padded(body);
        prop_assert_eq!(Record::decode(header, &padded), Some(record));
    }

    #[test]
    fn any_bytes_decode_to_a_record_within_them_or_to_none(
        kind in 0u8..20, flags: u8, file in file_id(),
        words in proptest::array::uniform3(prop_oneof![any::<u64>(), 0u64..300, any::<u32>().prop_map(|lens| (lens as u64 % 99) << 32 | lens as u64 >> 24)]),
        body in bytes(),
    ) {
        let header = Header { kind, flags, file, a: words[0], b: words[1], c: words[2] };
        match Record::decode(header, &body) {
            Some(Record::Write { offset, len, payload, .. }) => {
                prop_assert!(offset.checked_add(len).is_some());
                prop_assert!(payload.is_none_or(|bytes| bytes.len() as u64 == len));
            }
            Some(Record::Allocate { offset, len, .. } | Record::Punch { offset, len, .. } | Record::Zero { offset, len, .. }) => {
                prop_assert!(offset.checked_add(len).is_some());
            }
            _ => {}
        }
    }

    #[test]
    fn a_body_that_is_cut_short_never_decodes_to_another_record(parts in parts(), share in 0.0..1.0f64) {
        let record = parts.record();
        let (header, body) = record.encode();
        let joined = body.concat();
        let keep = (joined.len() as f64 * share) as usize;
        if keep < joined.len() {
            prop_assert_eq!(Record::decode(header, &joined[..keep]), None);
        }
    }

    #[test]
    fn a_record_takes_a_multiple_of_the_alignment_and_holds_its_body(body_len in 0u64..1 << 33) {
        match record_len(body_len) {
            Some(len) => {
                prop_assert!((len as usize).is_multiple_of(ALIGN));
                prop_assert!(u64::from(len) >= body_len + HEADER_LEN as u64);
                prop_assert!(u64::from(len) < body_len + (HEADER_LEN + ALIGN) as u64);
            }
            None => prop_assert!(body_len + (HEADER_LEN as u64) > u64::from(u32::MAX) - ALIGN as u64),
        }
    }
}

#[test]
fn unknown_kinds_do_not_decode() {
    for kind in (16..=255).chain([0]) {
        let header = Header {
            kind,
            ..Header::default()
        };
        assert_eq!(Record::decode(header, &[]), None, "kind {kind}");
    }
}

#[test]
fn a_body_longer_than_a_record_can_say_has_no_length() {
    assert_eq!(record_len(u64::MAX), None);
    assert_eq!(record_len(u64::from(u32::MAX)), None);
    assert_eq!(record_len(0), Some(HEADER_LEN as u32));
}
