//! How much is measured: the run whose figures are published, a quick one that shows that everything works, and one with every load.

use std::time::Duration;

/// sysbench's tables have about this many rows in a GB.
const ROWS_PER_GB: u32 = 4_200_000;

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub script: &'static str,
    pub threads: u32,
}

const LOADS: [Load; 4] = [
    Load::new("oltp_write_only", 4),
    Load::new("oltp_read_write", 16),
    Load::new("oltp_write_only", 16),
    Load::new("oltp_read_write", 4),
];

impl Load {
    const fn new(script: &'static str, threads: u32) -> Load {
        Load { script, threads }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub servers: Vec<&'static str>,
    pub loads: Vec<Load>,
    pub tables: u32,
    pub rows: u32,
    /// Each way of backing up is measured this many times.
    pub rounds: u32,
    pub warm_up: Duration,
    /// Undisturbed time before each backup, and after it.
    pub calm: Duration,
    /// Time after a backup in which its traces (write-back, cold caches) still count as its cost.
    pub recovery: Duration,
    /// Backups in a row of a small server, for the time that commits are held.
    pub cuts: u32,
    /// Backups in a row of a server whose calls are metered.
    pub metered_backups: u32,
    /// In each mode, at each rate of small writes.
    pub rate_time: Duration,
    /// Writes per second.
    pub first_rate: u32,
    /// Processes of the pwrite loop for each way, and rounds within one.
    pub pwrite_processes: u32,
    pub pwrite_rounds: u32,
    /// Most tables of the server whose backups show how the cost grows with them.
    pub many_tables: u32,
    /// Files of the server whose backup shares their blocks.
    pub reflink_mb: u64,
}

impl Plan {
    pub fn standard() -> Plan {
        let mut plan = Plan {
            servers: vec!["mariadb-10.11", "mysql-9.7"],
            loads: LOADS[..1].to_vec(),
            tables: 8,
            rows: 0,
            rounds: 5,
            warm_up: Duration::from_secs(20),
            calm: Duration::from_secs(8),
            recovery: Duration::from_secs(4),
            cuts: 100,
            metered_backups: 30,
            rate_time: Duration::from_secs(5),
            first_rate: 100_000,
            pwrite_processes: 9,
            pwrite_rounds: 25,
            many_tables: 20_000,
            reflink_mb: 4000,
        };
        plan.set_data_gb(2);
        plan
    }

    pub fn full() -> Plan {
        Plan {
            loads: LOADS.to_vec(),
            ..Plan::standard()
        }
    }

    pub fn quick() -> Plan {
        Plan {
            tables: 4,
            rows: 50_000,
            rounds: 1,
            warm_up: Duration::from_secs(4),
            calm: Duration::from_secs(2),
            recovery: Duration::from_secs(1),
            cuts: 5,
            metered_backups: 3,
            rate_time: Duration::from_secs(1),
            pwrite_processes: 3,
            pwrite_rounds: 9,
            many_tables: 400,
            reflink_mb: 256,
            ..Plan::standard()
        }
    }

    pub fn set_data_gb(&mut self, gb: u32) {
        self.rows = gb * (ROWS_PER_GB / self.tables);
    }
}
