//! A replica: a server on a restored backup that follows the source from a position.
//!
//! Rule: "caught up" is the replica's own word for the source's last position, never the passing of time.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::flavor::Flavor;
use crate::server::{REPLICATION_PASSWORD, REPLICATION_USER, Server};

const CATCH_UP_BOUND: Duration = Duration::from_secs(120);

/// Longest wait after which a broken replica is noticed.
const ROUND: Duration = Duration::from_secs(3);

/// Where a replica starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub file: String,
    pub offset: u64,
    pub gtid: String,
}

impl Position {
    /// Reads the line of `hotmirror_binlog_info`:
    /// `filename: F, position: N, gtid_mode: M, GTID of last change: SET`.
    pub fn parse(line: &str) -> Option<Position> {
        let rest = line.trim_end_matches('\n').strip_prefix("filename: ")?;
        let (file, rest) = rest.split_once(", position: ")?;
        let (offset, rest) = rest.split_once(", gtid_mode: ")?;
        let (_, gtid) = rest.split_once(", GTID of last change: ")?;
        Some(Position {
            file: file.into(),
            offset: offset.parse().ok()?,
            gtid: gtid.into(),
        })
    }

    /// The end of the source's binlog.
    pub fn of(source: &Server) -> Position {
        let words = Words::of(source.flavor());
        let row: mysql::Row = source
            .conn()
            .query_first(words.status)
            .unwrap_or_else(|e| panic!("{}: {e}", words.status))
            .expect("A binlog on the source");
        Position {
            file: row.get("File").expect("A file"),
            offset: row.get("Position").expect("An offset"),
            gtid: source.value(words.gtids).replace('\n', ""),
        }
    }
}

/// How a replica is told where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Gtid,
    FileAndOffset,
}

/// What replication is called by a flavor.
struct Words {
    /// MASTER or SOURCE, as in MASTER_HOST.
    source: &'static str,
    /// SLAVE or REPLICA.
    replica: &'static str,
    status: &'static str,
    gtids: &'static str,
    reset: &'static str,
    change: &'static str,
    /// Variable that takes the GTID set that a replica starts from.
    start_gtids: &'static str,
    by_gtid: &'static str,
    by_offset: &'static str,
}

impl Words {
    fn of(flavor: &Flavor) -> Words {
        let old = Words {
            source: "MASTER",
            replica: "SLAVE",
            status: "SHOW MASTER STATUS",
            gtids: "SELECT @@gtid_binlog_pos",
            reset: "RESET MASTER",
            change: "CHANGE MASTER",
            start_gtids: "gtid_slave_pos",
            by_gtid: "MASTER_USE_GTID=slave_pos",
            by_offset: "MASTER_USE_GTID=no,",
        };
        match flavor.is_mariadb() {
            true => old,
            false if flavor.is_mysql_since(8, 4) => Words {
                source: "SOURCE",
                replica: "REPLICA",
                status: "SHOW BINARY LOG STATUS",
                gtids: "SELECT @@gtid_executed",
                reset: "RESET BINARY LOGS AND GTIDS",
                change: "CHANGE REPLICATION SOURCE",
                start_gtids: "gtid_purged",
                by_gtid: "GET_SOURCE_PUBLIC_KEY=1, SOURCE_AUTO_POSITION=1",
                by_offset: "GET_SOURCE_PUBLIC_KEY=1, SOURCE_AUTO_POSITION=0,",
            },
            false => Words {
                gtids: "SELECT @@gtid_executed",
                start_gtids: "gtid_purged",
                by_gtid: "MASTER_AUTO_POSITION=1",
                by_offset: "MASTER_AUTO_POSITION=0,",
                ..old
            },
        }
    }
}

impl Words {
    /// Where a channel's name goes: behind the verb's object, or at the end.
    fn named(&self, channel: &str) -> (String, String) {
        match (channel, self.start_gtids) {
            ("", _) => (String::new(), String::new()),
            (name, "gtid_slave_pos") => (format!(" '{name}'"), String::new()),
            (name, _) => (String::new(), format!(" FOR CHANNEL '{name}'")),
        }
    }
}

/// Lets `replica` follow `source` from `position` on.
pub fn follow(replica: &Server, source: &Server, position: &Position, by: By) {
    let words = Words::of(replica.flavor());
    if by == By::Gtid {
        // The backup brings the source's own binlog, whose end would stand against any other start.
        replica.execute(&[
            words.reset,
            &format!("SET GLOBAL {} = '{}'", words.start_gtids, position.gtid),
        ]);
    }
    follow_channel(replica, source, position, by, "");
}

/// The same over a channel of this name. By GTID, it starts from what the replica has.
pub fn follow_channel(
    replica: &Server,
    source: &Server,
    position: &Position,
    by: By,
    channel: &str,
) {
    let words = Words::of(replica.flavor());
    let (before, after) = words.named(channel);
    let noun = words.source;
    let source_address = format!(
        "{noun}_HOST='127.0.0.1', {noun}_PORT={}, {noun}_USER='{REPLICATION_USER}', \
         {noun}_PASSWORD='{REPLICATION_PASSWORD}'",
        source.port()
    );
    let start = match by {
        By::Gtid => words.by_gtid.to_string(),
        By::FileAndOffset => format!(
            "{} {noun}_LOG_FILE='{}', {noun}_LOG_POS={}",
            words.by_offset, position.file, position.offset
        ),
    };
    replica.execute(&[
        &format!(
            "{}{before} TO {source_address}, {start}{after}",
            words.change
        ),
        &format!("START {}{before}{after}", words.replica),
    ]);
}

/// Waits until the replica has everything that the source has now. The text says why it never will.
pub fn catch_up(replica: &Server, source: &Server, by: By) -> Result<(), String> {
    catch_up_channel(replica, source, by, "")
}

pub fn catch_up_channel(
    replica: &Server,
    source: &Server,
    by: By,
    channel: &str,
) -> Result<(), String> {
    let end = Position::of(source);
    let bound = ROUND.as_secs();
    let words = Words::of(replica.flavor());
    // Servers without channels don't take an argument for one.
    let named = match channel {
        "" => String::new(),
        name => format!(", '{name}'"),
    };
    let query = match by {
        By::Gtid if replica.flavor().is_mariadb() => {
            format!("SELECT MASTER_GTID_WAIT('{}', {bound})", end.gtid)
        }
        // 0 in time, 1 if not: shifted to what the other functions give.
        By::Gtid => format!(
            "SELECT -CAST(WAIT_FOR_EXECUTED_GTID_SET('{}', {bound}) AS SIGNED)",
            end.gtid
        ),
        By::FileAndOffset => format!(
            "SELECT {}_POS_WAIT('{}', {}, {bound}{named})",
            words.source, end.file, end.offset
        ),
    };
    // A wait for a GTID doesn't end when the applier stops, so it is made of short ones.
    let start = Instant::now();
    while start.elapsed() < CATCH_UP_BOUND {
        let events: Option<Option<i64>> = replica
            .conn()
            .query_first(&query)
            .map_err(|e| format!("{query}: {e}"))?;
        if let Some(error) = broken(replica) {
            return Err(error);
        }
        if events.flatten().is_some_and(|events| events >= 0) {
            return Ok(());
        }
    }
    Err(format!("{query}: not within {CATCH_UP_BOUND:?}"))
}

/// The last error of a replica's threads, on any of its channels.
pub fn broken(replica: &Server) -> Option<String> {
    let words = Words::of(replica.flavor());
    let statement = match replica.flavor().is_mariadb() {
        true => "SHOW ALL SLAVES STATUS".into(),
        false => format!("SHOW {} STATUS", words.replica),
    };
    let rows: Vec<mysql::Row> = replica
        .conn()
        .query(&statement)
        .unwrap_or_else(|e| panic!("{statement}: {e}"));
    assert!(!rows.is_empty(), "No replica");
    rows.iter().find_map(|row| broken_channel(row, &words))
}

fn broken_channel(row: &mysql::Row, words: &Words) -> Option<String> {
    let text = |column: &str| -> String {
        row.get_opt::<Option<String>, _>(column)
            .and_then(Result::ok)
            .flatten()
            .unwrap_or_default()
    };
    let thread = |name: &str| text(&format!("{}_{name}_Running", proper(words.replica)));
    let running = thread("IO") != "No" && thread("SQL") != "No";
    let error = text("Last_SQL_Error") + &text("Last_IO_Error");
    (!running || !error.is_empty()).then(|| {
        format!(
            "I/O thread runs: {}, applier runs: {}, at {}:{}: {error}",
            thread("IO"),
            thread("SQL"),
            text(&format!("Relay_{}_Log_File", proper(words.source))),
            text(&format!("Exec_{}_Log_Pos", proper(words.source))),
        )
    })
}

/// As in names of columns: Replica.
fn proper(word: &str) -> String {
    word[..1].to_string() + &word[1..].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_from_the_info_line() {
        let line = "filename: bin.000001, position: 17320462, gtid_mode: ON, GTID of last change: 0-1-42\n";
        let position = Position::parse(line).expect("A position");
        assert_eq!(position.file, "bin.000001");
        assert_eq!(position.offset, 17_320_462);
        assert_eq!(position.gtid, "0-1-42");
        let without = line.replace("0-1-42", "");
        assert_eq!(Position::parse(&without).expect("A position").gtid, "");
    }
}
