//! The statements that make a restored server a replica, in the words of its version.
//!
//! What makes it right: they depend on the manifest and the wishes alone, so what `--dry-run` prints is to the letter what is run, but for passwords. The
//! copy's binlogs are those of the server that was backed up; a replica begins its own, or its GTIDs could not be set.

use super::filters;
use super::plan::{Plan, Source, Start};
use crate::client::quoted;
use crate::server::{Flavor, Version};

/// A statement, and how it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    pub shown: String,
}

impl From<String> for Statement {
    fn from(text: String) -> Statement {
        Statement {
            shown: text.clone(),
            text,
        }
    }
}

/// The words of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    flavor: Flavor,
    /// REPLICA and SOURCE instead of SLAVE and MASTER; in CHANGE they came later.
    replica: bool,
    change_source: bool,
    /// RESET MASTER has a new name.
    reset_binlogs: bool,
    named_channels: bool,
    /// A replica may ask for the source's public key, which passwords need where there is no TLS.
    public_key: bool,
}

impl Words {
    pub fn of(version: &Version) -> Words {
        Words {
            flavor: version.flavor,
            replica: version.says_replica(),
            change_source: version.has_change_source(),
            reset_binlogs: version.says_binary_log(),
            named_channels: version.has_named_channels(),
            public_key: version.is_mysql_since((8, 0, 4)),
        }
    }

    pub fn status(&self) -> &'static str {
        match (self.flavor, self.replica) {
            (Flavor::MariaDb, _) => "SHOW ALL SLAVES STATUS",
            (_, true) => "SHOW REPLICA STATUS",
            (_, false) => "SHOW SLAVE STATUS",
        }
    }

    /// Where a source's binlog ends.
    pub fn coordinates(&self) -> &'static str {
        match self.reset_binlogs {
            true => "SHOW BINARY LOG STATUS",
            false => "SHOW MASTER STATUS",
        }
    }

    /// What a source's binlog holds, which every user may ask.
    pub fn gtids(&self) -> &'static str {
        match self.flavor {
            Flavor::MariaDb => "SELECT @@global.gtid_binlog_pos",
            _ => "SELECT @@global.gtid_executed",
        }
    }

    /// Gives `has_gtids_answer` once the server has applied all of `set`.
    pub fn has_gtids(&self, set: &str) -> String {
        match self.flavor {
            Flavor::MariaDb => format!("SELECT MASTER_GTID_WAIT({}, 0)", quoted(set)),
            _ => format!(
                "SELECT GTID_SUBSET({}, @@global.gtid_executed)",
                quoted(set)
            ),
        }
    }

    pub fn has_gtids_answer(&self) -> &'static str {
        match self.flavor {
            Flavor::MariaDb => "0",
            _ => "1",
        }
    }

    /// Everything up to the start of replication. `binlogs`: the copy writes binlogs of its own.
    pub fn set_up(&self, plan: &Plan, binlogs: bool) -> Vec<Statement> {
        let mut statements: Vec<Statement> = Vec::new();
        for channel in &plan.forget {
            statements.push(self.on_channel("RESET", channel, " ALL").into());
        }
        // The copy of a MySQL server without binlogs has GTIDs in a table, and takes no others on top of them.
        let has_gtids = self.flavor != Flavor::MariaDb && !plan.gtid_set.is_empty();
        if binlogs || has_gtids {
            let reset = match self.reset_binlogs {
                true => "RESET BINARY LOGS AND GTIDS",
                false => "RESET MASTER",
            };
            statements.push(reset.to_string().into());
        }
        let set = quoted(&plan.gtid_set);
        match self.flavor {
            Flavor::MariaDb => statements.push(format!("SET GLOBAL gtid_slave_pos = {set}").into()),
            _ if plan.gtid_set.is_empty() => {}
            _ => statements.push(format!("SET GLOBAL gtid_purged = {set}").into()),
        }
        statements.extend(plan.follow.iter().map(|source| self.change(source)));
        if self.flavor == Flavor::MariaDb {
            statements.extend(filters::cleared(&plan.follow).map(Statement::from));
        }
        statements.extend(
            plan.follow
                .iter()
                .map(|source| self.on_channel("START", &source.channel, "").into()),
        );
        statements
    }

    fn noun(&self) -> &'static str {
        if self.replica { "REPLICA" } else { "SLAVE" }
    }

    /// `verb` REPLICA on one channel; `rest` belongs behind the name in MariaDB, before it in MySQL.
    fn on_channel(&self, verb: &str, channel: &str, rest: &str) -> String {
        let noun = self.noun();
        match self.flavor {
            Flavor::MariaDb => format!("{verb} {noun} {}{rest}", quoted(channel)),
            _ => format!("{verb} {noun}{rest}{}", self.for_channel(channel)),
        }
    }

    fn for_channel(&self, channel: &str) -> String {
        match self.named_channels {
            true => format!(" FOR CHANNEL {}", quoted(channel)),
            false => String::new(),
        }
    }

    fn change(&self, source: &Source) -> Statement {
        let prefix = if self.change_source {
            "SOURCE"
        } else {
            "MASTER"
        };
        let head = match (self.flavor, self.change_source) {
            (Flavor::MariaDb, _) => format!("CHANGE MASTER {} TO", quoted(&source.channel)),
            (_, true) => "CHANGE REPLICATION SOURCE TO".to_string(),
            (_, false) => "CHANGE MASTER TO".to_string(),
        };
        let tail = match self.flavor {
            Flavor::MariaDb => String::new(),
            _ => self.for_channel(&source.channel),
        };
        let text = |password: &str| {
            let mut options = vec![
                format!("{prefix}_HOST = {}", quoted(&source.host)),
                format!("{prefix}_PORT = {}", source.port),
                format!("{prefix}_USER = {}", quoted(&source.user)),
            ];
            if source.password.is_some() {
                options.push(format!("{prefix}_PASSWORD = {}", quoted(password)));
            }
            options.extend(self.start(prefix, &source.start));
            if self.public_key {
                let get = if self.change_source {
                    "GET_SOURCE_PUBLIC_KEY"
                } else {
                    "GET_MASTER_PUBLIC_KEY"
                };
                options.push(format!("{get} = 1"));
            }
            format!("{head} {}{tail}", options.join(", "))
        };
        Statement {
            text: text(source.password.as_deref().unwrap_or_default()),
            shown: text("…"),
        }
    }

    fn start(&self, prefix: &str, start: &Start) -> Vec<String> {
        match (self.flavor, start) {
            (Flavor::MariaDb, Start::Gtid) => vec!["MASTER_USE_GTID = slave_pos".into()],
            (_, Start::Gtid) => vec![format!("{prefix}_AUTO_POSITION = 1")],
            (_, Start::At(at)) => {
                let by_position = match self.flavor {
                    Flavor::MariaDb => "MASTER_USE_GTID = no".to_string(),
                    _ => format!("{prefix}_AUTO_POSITION = 0"),
                };
                vec![
                    by_position,
                    format!("{prefix}_LOG_FILE = {}", quoted(&at.file)),
                    format!("{prefix}_LOG_POS = {}", at.offset),
                ]
            }
        }
    }
}
