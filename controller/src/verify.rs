//! `hotmirror verify`: compares a backup with the checksums in its manifest.
//!
//! What makes it right: every entry is looked at, and all differences are told, not only the first.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hotmirror::manifest::{Entry, Kind};

use crate::exit::Failure;
use crate::files;
use crate::manifest::{Manifest, Use};

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(
        "{count} of {total} files and directories are not what the manifest says, among them {first}"
    )]
    Damaged {
        count: usize,
        total: usize,
        first: String,
    },
    #[error(
        "A prepare of {0} was begun and did not end, so its files are not what the manifest says"
    )]
    HalfPrepared(PathBuf),
}

pub fn run(backup: &Path) -> Result<(), Failure> {
    let _use = Use::shared(backup)?;
    let manifest = Manifest::read(backup)?;
    let differences = differences(backup, &manifest)?;
    for difference in &differences {
        say!("{difference}");
    }
    conclude(&manifest, differences)?;
    say!(
        "{} files and directories are as the manifest says",
        manifest.entries.len()
    );
    say!("completed OK!");
    Ok(())
}

/// An error if anything differs.
pub fn check(backup: &Path, manifest: &Manifest) -> Result<(), VerifyError> {
    conclude(manifest, differences(backup, manifest)?)
}

fn conclude(manifest: &Manifest, differences: Vec<String>) -> Result<(), VerifyError> {
    match differences.first() {
        None => Ok(()),
        Some(first) => Err(VerifyError::Damaged {
            count: differences.len(),
            total: manifest.entries.len(),
            first: first.clone(),
        }),
    }
}

fn differences(backup: &Path, manifest: &Manifest) -> Result<Vec<String>, VerifyError> {
    if manifest.prepare_begun.is_some() {
        return Err(VerifyError::HalfPrepared(backup.into()));
    }
    let found = Mutex::new(Vec::new());
    let _ = files::in_parallel(&manifest.entries, |entry| {
        if let Some(difference) = difference(backup, entry) {
            found.lock().expect("nothing panics here").push(difference);
        }
        Ok::<(), ()>(())
    });
    let mut found = found.into_inner().expect("nothing panics here");
    found.sort();
    Ok(found)
}

fn difference(backup: &Path, entry: &Entry) -> Option<String> {
    let path = backup.join(&entry.path);
    let shown = entry.path.display();
    let metadata = match std::fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("{shown}: {error}")),
    };
    match &entry.kind {
        Kind::Directory => (!metadata.is_dir()).then(|| format!("{shown}: no directory")),
        Kind::Symlink { target } => match std::fs::read_link(&path) {
            Ok(found) if found == *target => None,
            _ => Some(format!("{shown}: does not lead to {}", target.display())),
        },
        Kind::File { .. } if !metadata.is_file() => Some(format!("{shown}: no file")),
        Kind::File { size, crc32c, .. } => match files::checksum(&path) {
            Ok(found) => mismatch(entry, found, (*size, *crc32c)),
            Err(error) => Some(error.to_string()),
        },
    }
}

/// Says how size and checksum that were found differ from what the manifest says.
pub fn mismatch(entry: &Entry, found: (u64, u32), expected: (u64, u32)) -> Option<String> {
    let shown = entry.path.display();
    if found.0 != expected.0 {
        return Some(format!(
            "{shown}: {} bytes instead of {}",
            found.0, expected.0
        ));
    }
    (found.1 != expected.1).then(|| {
        format!(
            "{shown}: checksum {:08x} instead of {:08x}",
            found.1, expected.1
        )
    })
}
