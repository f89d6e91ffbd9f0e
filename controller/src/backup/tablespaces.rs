//! The tablespaces behind the cut: whether the backup has the file of each.
//!
//! What makes it right: MySQL keeps the places of tablespaces elsewhere in its dictionary, where no link in the stage tells of them, so the server is asked. It is asked, and
//! the files are looked for, as soon as the server goes on behind the cut: hours later, when the copy is complete, one that the cut has may be dropped, and another made
//! that the backup does not need.

use std::path::PathBuf;

use super::roots::Roots;
use super::server::Server;
use super::spellings::Spellings;
use crate::client::ServerClient;
use crate::exit::Failure;
use crate::server::{Dialect, Variables};

/// Fails if one lies where the roots don't take it. Gives the names by which the server knows them.
pub fn check(roots: &Roots, server: &mut Server) -> Result<Spellings, Failure> {
    let Server {
        client,
        dialect,
        variables,
        ..
    } = server;
    check_all(roots, dialect.as_ref(), client.as_mut(), variables)
}

fn check_all(
    roots: &Roots,
    dialect: &dyn Dialect,
    client: &mut dyn ServerClient,
    variables: &Variables,
) -> Result<Spellings, Failure> {
    let datadir = variables.datadir();
    let files = dialect.tablespace_files(client)?;
    let paths: Vec<PathBuf> = files.iter().map(|file| datadir.join(file)).collect();
    let links = paths.iter().map(|path| (path.as_path(), path.clone()));
    let mut spellings = Spellings::default();
    roots.check_links(links, &mut spellings)?;
    Ok(spellings)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::backup::roots::{self, RootError};
    use crate::backup::sight::Sight;
    use crate::client::scripted::ScriptedClient;
    use crate::server::mariadb::MariaDb;
    use crate::server::mysql5::DATAFILES;
    use crate::server::{Flavor, Version};

    fn check(datadir: &Path, roots: &Roots, file: &Path) -> Result<Spellings, Failure> {
        let dialect = MariaDb::new(Version::plain(Flavor::MariaDb, (10, 5, 1)));
        let file = file.display().to_string();
        let mut client = ScriptedClient::new().rows(DATAFILES, &["PATH"], &[&[&file]]);
        let variables = variables(datadir);
        let checked = check_all(roots, &dialect, &mut client, &variables);
        client.finish();
        checked
    }

    fn variables(datadir: &Path) -> Variables {
        Variables::from([("datadir", datadir.to_str().unwrap())])
    }

    #[test]
    fn a_tablespace_that_goes_behind_the_cut_is_checked_and_one_that_comes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (datadir, far) = (base.join("data"), base.join("far"));
        for path in ["data/db", "far"] {
            std::fs::create_dir_all(base.join(path)).unwrap();
        }
        symlink("data", base.join("link")).unwrap();
        std::fs::write(datadir.join("db/t.ibd"), "").unwrap();
        let roots = roots::find(&variables(&datadir), &[], &Sight::default()).unwrap();

        let spellings = check(&datadir, &roots, &base.join("link/db/t.ibd")).unwrap();
        // What comes and goes from here on changes nothing.
        std::fs::remove_file(base.join("link")).unwrap();
        std::fs::write(far.join("new.ibd"), "").unwrap();
        let path = spellings.resolve(&base.join("link/db/t.ibd"));
        assert_eq!(path, datadir.join("db/t.ibd"));

        let failure = check(&datadir, &roots, &far.join("new.ibd")).unwrap_err();
        assert!(matches!(
            failure,
            Failure::Root(RootError::Escaped { target, .. }) if target == far.join("new.ibd")
        ));
    }
}
