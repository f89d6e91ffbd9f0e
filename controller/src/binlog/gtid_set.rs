//! A set of MySQL GTIDs, as its binlogs and variables hold it.
//!
//! What makes it right: intervals of one source and tag are sorted, apart and never adjacent, so equal sets have equal texts, and the text is
//! the one that the server itself prints.

use std::collections::BTreeMap;
use std::fmt;

/// Numbers of both ends included.
type Intervals = Vec<(u64, u64)>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidSet(BTreeMap<[u8; 16], BTreeMap<String, Intervals>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gtid {
    pub uuid: [u8; 16],
    /// Empty if there is none.
    pub tag: String,
    pub number: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no set of GTIDs")]
pub struct GtidSetError {
    text: String,
}

impl GtidSet {
    pub fn add(&mut self, gtid: &Gtid) {
        self.add_interval(gtid.uuid, &gtid.tag, (gtid.number, gtid.number));
    }

    pub fn add_interval(&mut self, uuid: [u8; 16], tag: &str, (first, last): (u64, u64)) {
        let intervals = self
            .0
            .entry(uuid)
            .or_default()
            .entry(tag.into())
            .or_default();
        // All that touch the new one become one with it.
        let from = intervals.partition_point(|(_, end)| *end < first.saturating_sub(1));
        let to = intervals.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let touched = intervals.get(from..to).unwrap_or_default();
        let start = touched
            .first()
            .map_or(first, |(start, _)| first.min(*start));
        let end = touched.last().map_or(last, |(_, end)| last.max(*end));
        intervals.splice(from..to.max(from), [(start, end)]);
    }

    pub fn merge(&mut self, other: &GtidSet) {
        for (uuid, tags) in &other.0 {
            for (tag, intervals) in tags {
                for interval in intervals {
                    self.add_interval(*uuid, tag, *interval);
                }
            }
        }
    }

    /// The server breaks long sets into lines.
    pub fn parse(text: &str) -> Result<GtidSet, GtidSetError> {
        let mut set = GtidSet::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            parse_source(&mut set, part).ok_or_else(|| GtidSetError { text: text.into() })?;
        }
        Ok(set)
    }
}

/// `uuid:1-3:5:tag:1-2`
fn parse_source(set: &mut GtidSet, part: &str) -> Option<()> {
    let mut fields = part.split(':').map(str::trim);
    let uuid = parse_uuid(fields.next()?)?;
    let mut tag = "";
    for field in fields {
        if field.starts_with(|first: char| first.is_ascii_digit()) {
            let (first, last) = field.split_once('-').unwrap_or((field, field));
            set.add_interval(uuid, tag, (first.parse().ok()?, last.parse().ok()?));
        } else {
            tag = field;
        }
    }
    Some(())
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(uuid)
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (uuid, tags)) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            for (position, byte) in uuid.iter().enumerate() {
                let dash = if matches!(position, 4 | 6 | 8 | 10) {
                    "-"
                } else {
                    ""
                };
                write!(f, "{dash}{byte:02x}")?;
            }
            for (tag, intervals) in tags {
                if !tag.is_empty() {
                    write!(f, ":{tag}")?;
                }
                for (first, last) in intervals {
                    match first == last {
                        true => write!(f, ":{first}")?,
                        false => write!(f, ":{first}-{last}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "34469105-e4d8-11f1-b941-02fc00000001";
    const B: &str = "44469105-e4d8-11f1-b941-02fc00000001";

    fn text(set: &str) -> String {
        GtidSet::parse(set).unwrap().to_string()
    }

    #[test]
    fn touching_intervals_become_one() {
        assert_eq!(text(&format!("{A}:1-3:5:4")), format!("{A}:1-5"));
        assert_eq!(text(&format!("{A}:7-9:1-3,\n{A}:2-8")), format!("{A}:1-9"));
        assert_eq!(text(&format!("{A}:7:1:4")), format!("{A}:1:4:7"));
    }

    #[test]
    fn sources_and_tags_are_apart() {
        let set = format!("{B}:1-2:new:3:1-2,{A}:5");
        assert_eq!(text(&set), format!("{A}:5,{B}:1-2:new:1-3"));
    }

    #[test]
    fn a_merged_set_has_what_either_has() {
        let mut set = GtidSet::parse(&format!("{A}:1-3,{B}:9")).unwrap();
        set.merge(&GtidSet::parse(&format!("{A}:4-6,{B}:1")).unwrap());
        assert_eq!(set.to_string(), format!("{A}:1-6,{B}:1:9"));
    }

    #[test]
    fn the_empty_set_has_an_empty_text() {
        assert_eq!(text(""), "");
    }

    #[test]
    fn a_text_that_is_no_set_is_an_error() {
        assert!(GtidSet::parse("0-1-42").is_err());
        assert!(GtidSet::parse(&format!("{A}:1-x")).is_err());
    }
}
