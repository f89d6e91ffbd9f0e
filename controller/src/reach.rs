//! How undo gets at the world: the engine's own clean-up, and a connection to the server that the undo file is about.
//!
//! What makes it right: before anything is taken back on a server, it is checked to be the very process that the file names.

use std::path::Path;
use std::time::Duration;

use crate::args::Connection;
use crate::backup::process;
use crate::client::{MysqlClient, ServerClient};
use crate::server::Variables;
use crate::undo::{Header, Reach};

const ANSWER_BOUND: Duration = Duration::from_secs(60);

pub struct ServerReach {
    connection: Connection,
}

impl ServerReach {
    pub fn new(connection: Connection) -> ServerReach {
        ServerReach { connection }
    }
}

impl Reach for ServerReach {
    fn client(&mut self, header: &Header) -> Result<Box<dyn ServerClient>, String> {
        let connect = || {
            let credentials = &self.connection.credentials;
            let mut client = MysqlClient::connect(&header.endpoint, credentials, ANSWER_BOUND)?;
            let variables = Variables::read(&mut client)?;
            Ok::<_, crate::client::ClientError>((client, variables))
        };
        let (client, variables) = connect().map_err(|error| error.to_string())?;
        let process =
            process::find(&header.endpoint, &variables).map_err(|error| error.to_string())?;
        if (process.pid, process.start_ticks) != (header.server_pid, header.server_start_ticks) {
            let (found, meant) = (process.pid, header.server_pid);
            return Err(format!(
                "process {found} answers at {}, not {meant}",
                header.endpoint
            ));
        }
        Ok(Box::new(client))
    }

    fn abandon(&mut self, header: &Header, runtime_dir: &Path) -> Result<String, String> {
        let (pid, start) = (header.server_pid, header.server_start_ticks);
        hotmirror::session::abandon(runtime_dir, pid, start, header.session)
            .map_err(|error| error.to_string())
    }

    fn remove_stage(&mut self, header: &Header) -> Result<String, String> {
        let target = header.target.display();
        match hotmirror::target::remove_stage(&header.target) {
            Ok(true) => Ok(format!("the unfinished backup for {target} was removed")),
            Ok(false) => Ok(format!("there was no unfinished backup for {target}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
