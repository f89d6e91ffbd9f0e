//! Finding the roots.
//!
//! What makes it right: every path that the server may keep data under is asked for or followed (its variables, tablespaces elsewhere, symbolic
//! links in the data directory), made canonical, and found to be for us what it is for the server.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::collection::Collection;
use super::keep::{Keep, Name};
use super::roots::{Role, RootError, Roots};
use super::sight::Sight;
use crate::server::Variables;

/// `tablespace_files`: as the server names them.
pub fn find(
    variables: &Variables,
    tablespace_files: &[String],
    sight: &Sight,
) -> Result<Roots, RootError> {
    let datadir =
        std::fs::canonicalize(variables.datadir()).map_err(RootError::io(&variables.datadir()))?;
    let mut found = Collection::new(sight);
    found.add(&datadir, Role::Data, Keep::All)?;
    add_settings(&mut found, variables)?;
    add_system_tablespace(&mut found, variables)?;
    add_tablespaces(&mut found, variables, &datadir, tablespace_files)?;
    add_links(&mut found, &datadir)?;
    Ok(found.into_roots(variables, &datadir))
}

fn add_settings(found: &mut Collection, variables: &Variables) -> Result<(), RootError> {
    let starts = |names: &[&str]| Keep::only(names.iter().map(|n| Name::StartsWith(n.to_string())));
    let directories = [
        (
            "innodb_log_group_home_dir",
            Role::Redo,
            // The last are of MySQL: undo_N_trunc.log tells recovery of an undo tablespace that is being truncated.
            starts(&["ib_logfile", "#innodb_redo", "ib_redo", "undo_"]),
        ),
        ("innodb_undo_directory", Role::Undo, starts(&["undo"])),
        (
            "innodb_doublewrite_dir",
            Role::Doublewrite,
            starts(&["#ib_"]),
        ),
        ("aria_log_dir_path", Role::AriaLog, starts(&["aria_log"])),
        ("rocksdb_datadir", Role::RocksDb, Keep::All),
        ("rocksdb_wal_dir", Role::RocksDb, Keep::All),
        ("tokudb_data_dir", Role::RocksDb, Keep::All),
        ("tokudb_log_dir", Role::RocksDb, Keep::All),
    ];
    for (name, role, keep) in directories {
        if let Some(path) = variables.path(name) {
            found.add(&path, role, keep)?;
        }
    }
    let logs = [
        ("log_bin_basename", "log_bin_index", Role::Binlog),
        ("relay_log_basename", "relay_log_index", Role::RelayLog),
    ];
    for (base, index, role) in logs {
        let Some(base) = variables.path(base) else {
            continue;
        };
        let name = base.file_name().unwrap_or_default().to_string_lossy();
        let keep = starts(&[&format!("{name}."), &format!("{name}-")]);
        found.add(base.parent().unwrap_or(Path::new("/")), role, keep)?;
        if let Some(index) = variables.path(index) {
            let name = index.file_name().unwrap_or_default().into();
            let keep = Keep::only([Name::Exactly(name)]);
            found.add(index.parent().unwrap_or(Path::new("/")), role, keep)?;
        }
    }
    add_relay_log_info(found, variables)
}

/// The files that tell where the appliers are: one for the channel without a name, and one for each other with the channel's behind a dash.
fn add_relay_log_info(found: &mut Collection, variables: &Variables) -> Result<(), RootError> {
    let Some(path) = variables.path("relay_log_info_file") else {
        return Ok(());
    };
    if let (Some(directory), Some(name), Some(stem)) =
        (path.parent(), path.file_name(), path.file_stem())
    {
        let others = format!("{}-", stem.to_string_lossy());
        let keep = Keep::only([Name::Exactly(name.into()), Name::StartsWith(others)]);
        found.add(directory, Role::RelayLog, keep)?;
    }
    Ok(())
}

/// The files of the system tablespace, which may be spread over directories.
fn add_system_tablespace(found: &mut Collection, variables: &Variables) -> Result<(), RootError> {
    let home = match variables.get("innodb_data_home_dir") {
        Some("") | None => variables.datadir(),
        Some(home) => variables.datadir().join(home),
    };
    let files = variables.get("innodb_data_file_path").unwrap_or_default();
    for file in files.split(';').filter_map(file_of_spec) {
        let path = home.join(file);
        // The writes to a device can't be captured.
        if let Some(path) = found.resolve(&path)?
            && !path.is_file()
        {
            return Err(RootError::NoFile { path });
        }
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            let keep = Keep::only([Name::Exactly(name.into())]);
            found.add(directory, Role::SystemTablespace, keep)?;
        }
    }
    Ok(())
}

/// The file of `file:size:attributes`.
pub fn file_of_spec(spec: &str) -> Option<&str> {
    spec.split(':').next().filter(|file| !file.is_empty())
}

fn table_files() -> Keep {
    let suffixes = [
        ".ibd", ".ibu", ".cfg", ".cfp", ".isl", ".MYD", ".MYI", ".MAD", ".MAI",
    ];
    Keep::only(suffixes.map(|suffix| Name::EndsWith(suffix.into())))
}

/// `root`: the data directory with links resolved.
fn add_tablespaces(
    found: &mut Collection,
    variables: &Variables,
    root: &Path,
    files: &[String],
) -> Result<(), RootError> {
    let datadir = variables.datadir();
    let is_inside = |path: &Path| {
        let mut components = path.components();
        path.starts_with(&datadir) && !components.any(|part| part == Component::ParentDir)
    };
    let mut directories: BTreeMap<PathBuf, Keep> = BTreeMap::new();
    for path in files.iter().map(|file| datadir.join(file)) {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let keep = directories
            .entry(directory.into())
            .or_insert_with(table_files);
        if !is_inside(directory) {
            keep.merge(Keep::only([Name::Exactly(name.into())]));
        }
    }
    for (named, keep) in directories {
        let Some(directory) = found.resolve(&named)? else {
            continue;
        };
        // Of the data directory's own, one that is elsewhere is so by a link.
        if is_inside(&named) || directory.starts_with(root) {
            found.name(directory);
            continue;
        }
        // DATA DIRECTORY holds a directory for each database, whose name has to stay when the root moves.
        match (directory.parent(), directory.file_name()) {
            (Some(around), Some(database)) if datadir.join(database).is_dir() => {
                let keep = Keep::only([Name::Exactly(database.into())]);
                found.add(around, Role::Tablespaces, keep)?;
            }
            _ => found.add(&directory, Role::Tablespaces, keep)?,
        }
    }
    Ok(())
}

/// Follows symbolic links in the data directory and in its databases.
fn add_links(found: &mut Collection, datadir: &Path) -> Result<(), RootError> {
    for (path, kind) in entries_of(datadir)? {
        if kind.is_symlink() {
            add_link(found, datadir, &path)?;
        }
        let has_content = kind.is_dir() || kind.is_symlink() && path.is_dir();
        let inside = if has_content {
            entries_of(&path)?
        } else {
            Vec::new()
        };
        for (inner, _) in inside.iter().filter(|(_, kind)| kind.is_symlink()) {
            add_link(found, datadir, inner)?;
        }
    }
    Ok(())
}

fn add_link(found: &mut Collection, datadir: &Path, link: &Path) -> Result<(), RootError> {
    let target = match found.resolve(link) {
        Ok(Some(target)) => target,
        // A link that the server can't follow either.
        Ok(None) | Err(RootError::Io { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    if datadir.starts_with(&target) {
        let path = link.to_path_buf();
        return Err(RootError::Around { path, target });
    }
    if target.is_dir() {
        found.insert(target, Role::Linked, Keep::All);
        return Ok(());
    }
    match target.parent() {
        Some(directory) => {
            let mut keep = table_files();
            let name = target.file_name().unwrap_or_default();
            keep.merge(Keep::only([Name::Exactly(name.into())]));
            found.add(directory, Role::Linked, keep)
        }
        None => Ok(()),
    }
}

/// By what the directory tells of each: a look at every file takes long where there are many.
fn entries_of(directory: &Path) -> Result<Vec<(PathBuf, FileType)>, RootError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RootError::io(directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RootError::io(directory))?;
        match entry.file_type() {
            Ok(kind) => found.push((entry.path(), kind)),
            // Removed meanwhile; only where the directory doesn't tell.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(RootError::io(&entry.path())(error)),
        }
    }
    Ok(found)
}
