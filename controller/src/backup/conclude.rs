//! The conclusion: what is written beside the data once it is all there.
//!
//! What makes it right: the position comes out only if the backup's own binlog ends there, and nothing is published whose links lead to data
//! that was not copied.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hotmirror::manifest::{Entry, Kind, MANIFEST_VERSION};
use hotmirror::session::{GoldenReport, Settled};
use hotmirror::target::Stage;

use super::binlog_end::GtidsOf;
use super::cut::Readings;
use super::roots::Roots;
use super::server::Server;
use super::settings::Settings;
use super::spellings::Spellings;
use super::survey::Ground;
use super::{BackupError, binlog_end, info_files};
use crate::args;
use crate::args::low::Binlogs;
use crate::exit::Failure;
use crate::manifest::{BinlogEntry, Manifest, ServerEntry};
use crate::server::{Channel, Coordinates, Position, PositionFrom, Variables};
use crate::system;

const SETTINGS_NAME: &str = "my.cnf";

/// What the session brought, beside the stage.
pub struct Outcome {
    pub readings: Readings,
    /// Names of tablespaces behind the cut.
    pub spellings: Spellings,
    pub cut_at: String,
    pub golden: Option<GoldenReport>,
    pub warnings: Vec<String>,
}

pub fn conclude(
    args: &args::Backup,
    ground: &Ground,
    server: &mut Server,
    settled: Settled,
    outcome: Outcome,
) -> Result<(Stage, Manifest), Failure> {
    let Settled {
        stage,
        mut entries,
        stats,
    } = settled;
    let mut spellings = outcome.spellings;
    learn_spellings(&mut spellings, &server.variables, stage.path(), ground);
    let links = links(stage.path(), &ground.roots, &entries);
    ground.roots.check_links(links, &mut spellings)?;
    let position = position(
        args,
        ground,
        server,
        stage.path(),
        &mut entries,
        &outcome.readings,
    )?;
    let libraries = server.dialect.plugin_libraries(server.client.as_mut())?;
    let early = server
        .dialect
        .early_plugin_libraries(server.client.as_mut())?;
    let settings = Settings::of(&server.variables, libraries, early);
    let mut readings = outcome.readings;
    if server.plan.position == PositionFrom::Nowhere {
        keep_what_stood_still(&mut readings.channels);
    }
    if let (PositionFrom::Binlog, Some(position)) = (server.plan.position, &position) {
        // The server told these behind the cut.
        for channel in &mut readings.channels {
            channel.gtid_set = position.gtid_set.clone();
        }
    }
    let mut files = info_files::files(
        &server.version,
        position.as_ref(),
        &readings.channels,
        args.compat_info,
    );
    files.push((
        SETTINGS_NAME.into(),
        settings.option_file(ground.binlogs.is_some()),
    ));
    let written = info_files::write(stage.path(), &files).and_then(|()| {
        // The key of `file_key_management` may be in it.
        let path = stage.path().join(SETTINGS_NAME);
        std::fs::set_permissions(path, Permissions::from_mode(0o600))
    });
    written.map_err(|source| BackupError::Info {
        path: stage.path().into(),
        source,
    })?;
    let manifest = Manifest {
        format_version: MANIFEST_VERSION,
        program_version: env!("CARGO_PKG_VERSION").into(),
        session: format!("{:014x}", ground.session),
        started: ground.started.clone(),
        cut_at: outcome.cut_at,
        finished: system::now(),
        server: server_entry(ground, server, settings),
        position,
        channels: readings.channels,
        times: readings.times,
        binlogs: binlog_entry(args, ground),
        roots: ground.roots.entries.clone(),
        spellings,
        exclude: args.exclude.clone(),
        warnings: outcome.warnings,
        stats,
        golden: outcome.golden,
        prepare_begun: None,
        prepared: None,
        entries,
    };
    Ok((stage, manifest))
}

/// Of what was read beside the cut. What a running applier had done by then is not what the backup has, and GTIDs have what the server itself has committed since. Where a
/// stopped applier is in its source's binlog stays right.
fn keep_what_stood_still(channels: &mut Vec<Channel>) {
    channels.retain(|channel| !channel.applier_running);
    for channel in channels {
        channel.gtid_set.clear();
        channel.auto_position = false;
    }
}

fn position(
    args: &args::Backup,
    ground: &Ground,
    server: &Server,
    stage: &Path,
    entries: &mut [Entry],
    readings: &Readings,
) -> Result<Option<Position>, Failure> {
    let Some(location) = &ground.binlogs else {
        return Ok(None);
    };
    location.settle_index(stage, &ground.roots, entries)?;
    // What this server's own binlog holds is what a replica of it starts from.
    let gtid_variable = server.dialect.gtid_variable();
    let gtid_set = || {
        let found = readings
            .gtids
            .iter()
            .find(|(name, _)| name == gtid_variable);
        found
            .map(|(_, set)| set.replace('\n', ""))
            .unwrap_or_default()
    };
    let coordinates = match (server.plan.position, args.binlogs) {
        (PositionFrom::Nowhere, _) => None,
        (PositionFrom::Binlog, _) => {
            let roots = &ground.roots;
            let gtids = GtidsOf {
                variable: gtid_variable,
                off: server.variables.get("gtid_mode") == Some("OFF"),
            };
            let (at, gtid_set) = binlog_end::position(location, stage, roots, readings, gtids)?;
            return Ok(Some(position_of(at, gtid_set, server, readings)));
        }
        // Nothing committed between the readings, so either is right.
        (PositionFrom::Lock, Binlogs::None) => Some(readings.ends()?.1.clone()),
        _ => Some(location.position(stage, &ground.roots, entries, readings)?),
    };
    Ok(coordinates.map(|at| position_of(at, gtid_set(), server, readings)))
}

fn position_of(
    coordinates: Coordinates,
    gtid_set: String,
    server: &Server,
    readings: &Readings,
) -> Position {
    Position {
        coordinates,
        gtid_set,
        // MariaDB has no such switch: every transaction has a GTID.
        gtid_mode: server.variables.get("gtid_mode").unwrap_or("ON").into(),
        gtid_variables: readings.gtids.clone(),
    }
}

fn server_entry(ground: &Ground, server: &Server, settings: Settings) -> ServerEntry {
    let text = |name: &str| server.variables.get(name).unwrap_or_default().to_string();
    let uuid = server
        .variables
        .get("server_uuid")
        .or(server.variables.get("server_uid"));
    ServerEntry {
        version: server.version.clone(),
        uuid: uuid.unwrap_or_default().into(),
        server_id: server.variables.server_id(),
        hostname: text("hostname"),
        port: text("port").parse().unwrap_or(0),
        executable: ground.process.executable.clone(),
        arguments: ground.process.arguments.clone(),
        library_version: ground.library_version.clone(),
        settings,
    }
}

fn binlog_entry(args: &args::Backup, ground: &Ground) -> BinlogEntry {
    let location = ground
        .binlogs
        .as_ref()
        .filter(|_| args.binlogs != Binlogs::None);
    BinlogEntry {
        choice: args.binlogs,
        base: location.and_then(|location| location.place(&ground.roots)),
        index: location.and_then(|location| location.index_place(&ground.roots)),
    }
}

/// Other names of places in the roots, as the variables and the binlogs' index have them.
fn learn_spellings(
    spellings: &mut Spellings,
    variables: &Variables,
    stage: &Path,
    ground: &Ground,
) {
    let names = ["log_bin_basename", "relay_log_basename"];
    let bases = names.into_iter().filter_map(|name| variables.path(name));
    let directories = bases.filter_map(|base| Some(base.parent()?.to_path_buf()));
    for directory in directories.chain([variables.datadir()]) {
        spellings.learn(&directory);
    }
    let place = ground
        .binlogs
        .as_ref()
        .and_then(|binlogs| binlogs.index_place(&ground.roots));
    let index = place.and_then(|place| std::fs::read_to_string(stage.join(place)).ok());
    for line in index.unwrap_or_default().lines().map(Path::new) {
        if let Some(directory) = line.parent().filter(|_| line.is_absolute()) {
            spellings.learn(directory);
        }
    }
}

/// Symbolic links and tablespace link files in the stage, with where they lead in the source.
fn links<'e>(
    stage: &Path,
    roots: &Roots,
    entries: &'e [Entry],
) -> impl Iterator<Item = (&'e Path, PathBuf)> {
    entries.iter().filter_map(move |entry| {
        let target = match &entry.kind {
            Kind::Symlink { target } => target.clone(),
            Kind::File { .. } if entry.path.extension().is_some_and(|e| e == "isl") => {
                std::fs::read_to_string(stage.join(&entry.path))
                    .ok()?
                    .trim()
                    .into()
            }
            _ => return None,
        };
        let directory = roots.source(entry.path.parent()?)?;
        Some((entry.path.as_path(), directory.join(target)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_the_cut_only_a_stopped_applier_s_place_in_the_source_s_binlog_counts() {
        let stopped = Channel {
            name: "stopped".into(),
            source_log_file: "bin.000007".into(),
            exec_source_log_pos: 700,
            // With what this server has committed behind the cut.
            gtid_set: "1-1-5,2-2-101".into(),
            auto_position: true,
            ..Channel::default()
        };
        let running = Channel {
            applier_running: true,
            ..stopped.clone()
        };
        let mut channels = vec![running, stopped.clone()];
        keep_what_stood_still(&mut channels);
        let expected = Channel {
            gtid_set: String::new(),
            auto_position: false,
            ..stopped
        };
        assert_eq!(channels, [expected]);
    }
}
