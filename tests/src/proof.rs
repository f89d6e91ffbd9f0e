//! The two proofs that every server has to pass: replicas from the recorded position equal their source, and a cut is the source byte by byte.
//!
//! Rule: where a cut is made without a lock, the copy itself says whether the position is right: after its recovery it must have executed
//! exactly the GTIDs that the backup recorded.

use std::path::Path;

use serde_json::Value;

use crate::flavor::Flavor;
use crate::load::Load;
use crate::program::Program;
use crate::replica::{self, By, Position};
use crate::server::{Server, ServerOptions};
use crate::{checksums, scratch};

/// A server with the library in it.
pub fn hooked(name: &str, options: &[String]) -> Server {
    let start = ServerOptions::hooked().flavor(&Flavor::named(name));
    options
        .iter()
        .fold(start, |start, option| start.option(option))
        .start()
}

/// What `hotmirror_binlog_info` of the backup says.
pub fn position_of(target: &Path) -> Position {
    let path = target.join("hotmirror_binlog_info");
    let line = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Position::parse(&line).unwrap_or_else(|| panic!("{} reads {line:?}", path.display()))
}

/// A server on `data`, with its own identity.
pub fn start_copy(source: &Server, data: &Path, id: u32, options: &[String]) -> Server {
    let start = ServerOptions::plain()
        .flavor(source.flavor())
        .data_dir(data)
        .server_id(id);
    options
        .iter()
        .fold(start, |start, option| start.option(option))
        .start()
}

/// A server, how it is set, and what is to be seen of it.
pub struct Plan {
    /// Name given to scripts/servers.
    pub server: &'static str,
    pub options: Vec<String>,
    /// How replicas are told where to start.
    pub ways: &'static [By],
    /// None for the flavor's usual ones.
    pub engines: Option<&'static [&'static str]>,
    /// The lock that the manifest is to name.
    pub lock: &'static str,
}

impl Plan {
    pub fn mysql() -> Plan {
        Plan {
            server: "mysql-9.7",
            options: Vec::new(),
            ways: &[By::Gtid, By::FileAndOffset],
            engines: None,
            lock: "none",
        }
    }

    /// Debian's own server.
    pub fn mariadb() -> Plan {
        Plan {
            server: "mariadb-10.11",
            lock: "backup-stage",
            ..Plan::mysql()
        }
    }

    pub fn with(mut self, options: &[&str]) -> Plan {
        self.options
            .extend(options.iter().map(|option| option.to_string()));
        self
    }
}

fn load(server: &Server, plan: &Plan, seed: u64) -> Load {
    let engines = plan.engines.unwrap_or(server.flavor().engines());
    Load::mixed_on(server, engines, seed)
}

/// Backs up under mixed load; replicas from the recorded position end up equal to the source.
pub fn replicas_equal_their_source(plan: &Plan, backups: u64) {
    replicas_equal(&hooked(plan.server, &plan.options), plan, backups);
}

/// The same with a server that runs already.
pub fn replicas_equal(source: &Server, plan: &Plan, backups: u64) {
    let program = Program::for_server(source);
    let mut held_ms = Vec::new();
    for number in 1..=backups {
        let home = scratch::dir();
        let target = home.path().join("backup");
        let load = load(source, plan, number);
        // Every second backup has only what the binlog got meanwhile.
        let binlogs = ["rotate", "needed"][number as usize % 2];
        let run = program.backup(&target).arg(format!("--binlogs={binlogs}"));
        let manifest = run.success().manifest();
        assert_eq!(manifest["lock"], plan.lock, "{manifest:#}");
        let lock_ms = manifest["lock_ms"].as_f64().expect("A time");
        assert_eq!(plan.lock == "none", lock_ms == 0.0, "{manifest:#}");
        held_ms.push(lock_ms);
        load.wait_for_statements(200);
        let position = position_of(&target);
        let replicas: Vec<(By, Server)> = plan
            .ways
            .iter()
            .zip(2..)
            .map(|(by, id)| {
                let data = home.path().join(format!("copy-{id}"));
                scratch::copy(&target.join("data"), &data);
                let replica = start_copy(source, &data, id, &plan.options);
                assert_copy_is_at(&replica, &position);
                replica::follow(&replica, source, &position, *by);
                (*by, replica)
            })
            .collect();
        let report = load.stop_cleanly();
        for (by, replica) in &replicas {
            let what = format!("Backup {number}, replica by {by:?} from {position:?}");
            replica::catch_up(replica, source, *by).unwrap_or_else(|e| panic!("{what}: {e}"));
            checksums::assert_equal(source, replica, &what);
            checksums::assert_tables_in_order(replica, &what);
        }
        println!("Backup {number} at {position:?}: {report:?}");
    }
    held_ms.sort_by(f64::total_cmp);
    let (median, most) = (held_ms[held_ms.len() / 2], held_ms[held_ms.len() - 1]);
    let (server, lock) = (plan.server, plan.lock);
    println!(
        "{server}, {lock}: commits were held for {median:.1} ms in the median of {backups}, {most:.1} ms at most"
    );
}

/// MySQL's copy knows by itself what it has executed.
fn assert_copy_is_at(copy: &Server, position: &Position) {
    if copy.flavor().is_mysql_since(8, 0) {
        let executed = copy.value("SELECT @@gtid_executed").replace('\n', "");
        assert_eq!(
            executed, position.gtid,
            "The copy and its recorded position"
        );
    }
}

/// Freezes the server at each cut and compares source and stage.
pub fn cuts_are_golden(plan: &Plan, cuts: u64) {
    let server = hooked(plan.server, &plan.options);
    let program = Program::for_server(&server);
    let load = load(&server, plan, cuts);
    let mut changes = 0;
    for cut in 1..=cuts {
        load.wait_for_statements(100);
        let home = scratch::dir();
        let target = home.path().join("backup");
        let manifest = program
            .backup(&target)
            .arg("--test-freeze-at-cut")
            .success()
            .manifest();
        let golden = &manifest["golden"];
        assert_eq!(golden["differences"], Value::Array(Vec::new()), "Cut {cut}");
        assert!(
            golden["bytes"].as_u64() > Some(1 << 20),
            "Cut {cut}: {golden}"
        );
        let stats = &manifest["stats"];
        changes += stats["changes_after_copy"].as_u64().expect("A number");
        if cut % 2 == 0 {
            let copy = start_copy(&server, &target.join("data"), 9, &plan.options);
            checksums::assert_tables_in_order(&copy, &format!("The copy of cut {cut}"));
        }
    }
    println!(
        "{cuts} cuts, {changes} changes after their copy, {:?}",
        load.stop_cleanly()
    );
    assert!(changes > 0, "Nothing was captured after its copy");
    checksums::assert_tables_in_order(&server, "The source");
}
