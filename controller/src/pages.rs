//! `hotmirror completions` and `hotmirror man`.
//!
//! What makes it right: both are made from the command line's own definition, so they can't disagree with it.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::low::Cli;
use crate::exit::Failure;

pub fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hotmirror", &mut script);
    // Who reads it may have gone, which is no reason to fail.
    let _ = std::io::stdout().write_all(&script);
}

/// One page for the program and one for each command.
pub fn manual(directory: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .map_err(|source| Failure::State {
            path: directory.into(),
            source,
        })?;
    say!("completed OK!");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let dir = tempfile::tempdir().unwrap();
        manual(dir.path()).unwrap();
        for command in Cli::command().get_subcommands() {
            let name = format!("hotmirror-{}.1", command.get_name());
            assert!(dir.path().join(&name).exists(), "{name}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
