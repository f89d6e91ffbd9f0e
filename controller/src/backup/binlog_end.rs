//! The position of a cut that no lock held: the end of the last binlog in the backup.
//!
//! What makes it right: what crash recovery will find is asked of the very bytes that it will read. The server's own positions, read shortly before and shortly after the
//! cut, must be on either side of it: an end before the first would be a change that was missed (I3).

use std::path::Path;

use super::binlogs::{BinlogError, Location};
use super::cut::Readings;
use super::roots::Roots;
use crate::binlog::{self, GtidSet, Known};
use crate::server::Coordinates;

/// What the server does with GTIDs.
#[derive(Clone, Copy, Debug)]
pub struct GtidsOf<'s> {
    /// The variable that has those that were executed.
    pub variable: &'s str,
    /// No transaction gets one. Each time that changes, a new binlog is begun.
    pub off: bool,
}

/// Coordinates, and what was executed up to there.
pub fn position(
    location: &Location,
    stage: &Path,
    roots: &Roots,
    readings: &Readings,
    gtids: GtidsOf<'_>,
) -> Result<(Coordinates, String), BinlogError> {
    let (before, after) = readings.ends()?;
    let missing = || BinlogError::Missing(after.file.clone());
    let index = stage.join(location.index_place(roots).ok_or_else(missing)?);
    let file = last_listed(&index)?.ok_or_else(missing)?;
    let directory = location.place(roots).ok_or_else(missing)?;
    let path = stage.join(directory.with_file_name(&file));
    let source = location.path(&file);
    // All before the first reading was whole then: only GTIDs are of interest there.
    let known = (file == before.file).then_some(Known {
        end: before.offset,
        without_gtids: gtids.off,
        source: &source,
    });
    let end = binlog::end(&path, known)?;
    let found = Coordinates {
        file,
        offset: end.offset,
    };
    if key(&found) < key(before) || key(after) < key(&found) {
        return Err(BinlogError::OtherEnd {
            file: found.file,
            end: found.offset,
            before: before.clone(),
            after: after.clone(),
        });
    }
    let mut executed = end.gtids;
    // A server that does not log what its appliers do knows more than its binlog; it was read with the appliers stopped.
    let known = readings
        .gtids
        .iter()
        .find(|(name, _)| name == gtids.variable);
    let known = known.map_or("", |(_, set)| set);
    let known = GtidSet::parse(known).map_err(|error| BinlogError::Gtids(error.to_string()))?;
    executed.merge(&known);
    Ok((found, executed.to_string()))
}

/// Binlogs are numbered; the numbers grow in length, too.
fn key(coordinates: &Coordinates) -> (u64, u64) {
    let number = coordinates.file.rsplit('.').next().unwrap_or_default();
    (number.parse().unwrap_or(0), coordinates.offset)
}

fn last_listed(index: &Path) -> Result<Option<String>, BinlogError> {
    let text = std::fs::read_to_string(index).map_err(|source| BinlogError::Io {
        path: index.into(),
        source,
    })?;
    let last = text.lines().rfind(|line| !line.is_empty());
    let name = last.and_then(|line| Path::new(line).file_name());
    Ok(name.map(|name| name.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::sight::Sight;
    use crate::server::Variables;

    const SERVER: &str = "34469105-e4d8-11f1-b941-02fc00000001";

    fn coordinates(text: &str) -> Option<Coordinates> {
        let (file, offset) = text.split_once(':').unwrap();
        Some(Coordinates {
            file: file.into(),
            offset: offset.parse().unwrap(),
        })
    }

    /// A stage whose last binlog, bin.1000000, has no event at all: it ends at 4.
    fn position_between(before: &str, after: &str) -> Result<(Coordinates, String), String> {
        let (data, stage) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let datadir = data.path().display().to_string();
        let base = data.path().join("bin").display().to_string();
        let variables = Variables::from([
            ("datadir", datadir.as_str()),
            ("log_bin", "ON"),
            ("log_bin_basename", base.as_str()),
        ]);
        let roots = super::super::roots::find(&variables, &[], &Sight::default()).unwrap();
        let location = Location::of(&variables).unwrap();
        let place = stage.path().join("data");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("bin.index"), "./bin.999999\n./bin.1000000\n").unwrap();
        std::fs::write(place.join("bin.1000000"), b"\xfebin").unwrap();
        let readings = Readings {
            before: coordinates(before),
            after: coordinates(after),
            gtids: vec![("gtid_executed".into(), format!("{SERVER}:1-4"))],
            ..Readings::default()
        };
        let gtids = GtidsOf {
            variable: "gtid_executed",
            off: false,
        };
        position(&location, stage.path(), &roots, &readings, gtids)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_end_of_the_last_listed_binlog_is_the_position() {
        let (found, gtids) = position_between("bin.999999:900", "bin.1000000:80").unwrap();
        assert_eq!(found.to_string(), "bin.1000000:4");
        assert_eq!(gtids, format!("{SERVER}:1-4"));
    }

    #[test]
    fn an_end_outside_of_the_readings_is_refused() {
        assert!(position_between("bin.1000000:5", "bin.1000000:80").is_err());
        assert!(position_between("bin.999998:5", "bin.999999:80").is_err());
    }
}
