//! Replication filters as an option file has them.
//!
//! What makes it right: a sibling applies what the server that was backed up applied, and nothing else; what can't be said in its option file is refused before
//! anything is done.

use super::ReplicaError;
use super::plan::Source;
use crate::server::{Flavor, Version};

/// Lines `name=value`, one for each thing that a filter names.
pub fn option_lines(version: &Version, sources: &[Source]) -> Result<Vec<String>, ReplicaError> {
    let mut lines = Vec::new();
    for source in sources {
        for (name, value) in &source.filters {
            for part in parts(name, value) {
                let part = part.ok_or_else(|| ReplicaError::Filter {
                    channel: source.channel.clone(),
                    name: name.clone(),
                    value: value.clone(),
                })?;
                let line = line(version, &source.channel, name, &part);
                // Before channels had filters of their own, all had the same.
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
    }
    Ok(lines)
}

/// Statements that take from MariaDB's channels what they got at their begin from the one without a name, and do not have on the server that was backed up: an option file
/// has no words for no filter.
pub fn cleared(sources: &[Source]) -> impl Iterator<Item = String> + '_ {
    let unnamed = sources.iter().find(|source| source.channel.is_empty());
    let spread = unnamed.into_iter().flat_map(|source| source.filters.keys());
    spread.flat_map(|name| {
        let others = sources.iter().filter(|source| !source.channel.is_empty());
        let has_none = others.filter(move |source| !source.filters.contains_key(name));
        has_none.map(move |source| {
            let channel = source.channel.replace('`', "``");
            format!("SET GLOBAL `{channel}`.{name} = ''")
        })
    })
}

/// A rule that rewrites is shown as `(from,to)` by MySQL and as `from->to` by MariaDB, and given as `from->to` to both. None is what is neither.
fn parts(name: &str, value: &str) -> Vec<Option<String>> {
    if !name.ends_with("rewrite_db") {
        return value.split(',').map(|part| Some(part.into())).collect();
    }
    if !value.starts_with('(') {
        let rule = |part: &str| part.contains("->").then(|| part.to_string());
        return value.split(',').map(rule).collect();
    }
    let rule = |pair: &str| {
        let (from, to) = pair.trim_matches(['(', ')']).split_once(',')?;
        Some(format!("{from}->{to}"))
    };
    value.split("),").map(rule).collect()
}

fn line(version: &Version, channel: &str, name: &str, part: &str) -> String {
    let has_own_filters = version.is_mysql_since((8, 0, 1));
    match version.flavor {
        Flavor::MariaDb if !channel.is_empty() => format!("{channel}.{name}={part}"),
        _ if has_own_filters => format!("{name}={channel}:{part}"),
        _ => format!("{name}={part}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::replica::plan::Start;

    #[test]
    fn what_a_channel_without_a_name_gives_to_others_is_taken_back() {
        let source = |channel: &str, filters: &[&str]| Source {
            channel: channel.into(),
            host: String::new(),
            port: 0,
            user: String::new(),
            password: None,
            start: Start::Gtid,
            filters: filters
                .iter()
                .map(|name| (name.to_string(), "a".to_string()))
                .collect(),
        };
        let sources = [
            source("", &["replicate_do_db", "replicate_do_table"]),
            source("x", &["replicate_do_table"]),
            source("y`", &["replicate_do_db", "replicate_do_table"]),
            source("z", &["replicate_do_db"]),
        ];
        let statements: Vec<_> = cleared(&sources).collect();
        assert_eq!(
            statements,
            [
                "SET GLOBAL `x`.replicate_do_db = ''",
                "SET GLOBAL `z`.replicate_do_table = ''"
            ]
        );
        assert_eq!(cleared(&sources[1..]).count(), 0);
    }

    fn lines(flavor: Flavor, major: u32, channel: &str, filters: &[(&str, &str)]) -> Vec<String> {
        let version = Version::plain(flavor, (major, 0, 1));
        let pair = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let source = Source {
            channel: channel.into(),
            host: String::new(),
            port: 0,
            user: String::new(),
            password: None,
            start: Start::Gtid,
            filters: filters.iter().map(pair).collect::<BTreeMap<_, _>>(),
        };
        option_lines(&version, &[source]).unwrap()
    }

    #[test]
    fn each_part_of_a_filter_is_a_line_of_its_channel() {
        let tables = [("replicate_ignore_table", "a.b,a.c")];
        assert_eq!(
            lines(Flavor::MySql, 9, "one", &tables),
            [
                "replicate_ignore_table=one:a.b",
                "replicate_ignore_table=one:a.c"
            ]
        );
        assert_eq!(
            lines(Flavor::MySql, 5, "", &tables)[1],
            "replicate_ignore_table=a.c"
        );
        assert_eq!(
            lines(Flavor::MariaDb, 10, "", &tables)[0],
            "replicate_ignore_table=a.b"
        );
        assert_eq!(
            lines(Flavor::MariaDb, 10, "one", &tables)[0],
            "one.replicate_ignore_table=a.b"
        );
    }

    #[test]
    fn rules_that_rewrite_are_written_as_they_are_read() {
        assert_eq!(
            lines(
                Flavor::MySql,
                9,
                "",
                &[("replicate_rewrite_db", "(a,b),(c,d)")]
            ),
            ["replicate_rewrite_db=:a->b", "replicate_rewrite_db=:c->d"]
        );
        assert_eq!(
            lines(
                Flavor::MariaDb,
                10,
                "",
                &[("replicate_rewrite_db", "a->b,c->d")]
            ),
            ["replicate_rewrite_db=a->b", "replicate_rewrite_db=c->d"]
        );
    }
}
