//! The client that speaks the servers' protocol.
//!
//! What makes it right: a connection says who it is (program name and session id as attributes), so that `recover` can tell a connection of
//! ours from a later one with its id; and no read waits for ever, so that a server that hangs can't hang the backup.

use std::collections::HashMap;
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{BinlogDumpFlags, BinlogRequest, Conn, DriverError, OptsBuilder, Value};

use super::{ACCESS_DENIED, ClientError, Credentials, Endpoint, Row, ServerClient};
use crate::server::Coordinates;

pub const PROGRAM_NAME: &str = "hotmirror";

pub struct MysqlClient {
    conn: Conn,
}

impl MysqlClient {
    /// `answer_bound`: how long a single answer may take before the connection counts as lost.
    pub fn connect(
        endpoint: &Endpoint,
        credentials: &Credentials,
        answer_bound: Duration,
    ) -> Result<MysqlClient, ClientError> {
        if let Endpoint::Socket(path) = endpoint
            && path.to_str().is_none()
        {
            // The driver would go to a port of its own choice instead.
            return Err(ClientError::Unreachable {
                endpoint: endpoint.to_string(),
                message: "the socket's name is not UTF-8".into(),
            });
        }
        let attributes = HashMap::from([("program_name".to_string(), PROGRAM_NAME.to_string())]);
        let options = OptsBuilder::new()
            .user(Some(&credentials.user))
            .pass(credentials.password.as_ref())
            .prefer_socket(false)
            .read_timeout(Some(answer_bound))
            .tcp_connect_timeout(Some(Duration::from_secs(10)))
            .tcp_keepalive_time_ms(Some(30_000))
            .connect_attrs(Some(attributes));
        let options = match endpoint {
            Endpoint::Socket(path) => options.socket(path.to_str()),
            Endpoint::Tcp { host, port } => options
                .ip_or_hostname(Some(host))
                .tcp_port(*port)
                .tcp_nodelay(true),
        };
        let conn =
            Conn::new(options).map_err(|error| connect_error(endpoint, credentials, error))?;
        Ok(MysqlClient { conn })
    }

    /// Runs `statement`, which nobody is to see: in messages and in the log it is `shown`.
    pub fn run_secret(&mut self, statement: &str, shown: &str) -> Result<(), ClientError> {
        self.query_shown(statement, shown).map(drop)
    }

    fn query_shown(&mut self, statement: &str, shown: &str) -> Result<Vec<Row>, ClientError> {
        tracing::debug!(statement = shown, "query");
        let failed = |error| match error {
            mysql::Error::MySqlError(error) => {
                ClientError::from_server(shown, error.code, error.message)
            }
            error => ClientError::ConnectionLost {
                statement: shown.into(),
                message: error.to_string(),
            },
        };
        let rows = self.conn.query_iter(statement).map_err(failed)?;
        rows.map(|row| row.map(text_row).map_err(failed)).collect()
    }

    /// True if this server's binlog holds anything behind `at`. Asked in the way of a replica, of this id, which takes no more than a replica's privilege.
    pub fn has_events_behind(self, at: &Coordinates, server_id: u32) -> Result<bool, ClientError> {
        let failed = |error: mysql::Error| ClientError::ConnectionLost {
            statement: format!("binlog dump from {at}"),
            message: error.to_string(),
        };
        let request = BinlogRequest::new(server_id)
            .with_filename(at.file.as_bytes())
            .with_pos(at.offset)
            .with_flags(BinlogDumpFlags::BINLOG_DUMP_NON_BLOCK);
        for event in self.conn.get_binlog_stream(request).map_err(failed)? {
            // What the server makes up to begin a dump stands at no place of the file.
            if event.map_err(failed)?.header().log_pos() != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn connect_error(
    endpoint: &Endpoint,
    credentials: &Credentials,
    error: mysql::Error,
) -> ClientError {
    let endpoint = endpoint.to_string();
    let denied = |message| ClientError::Denied {
        endpoint: endpoint.clone(),
        user: credentials.user.clone(),
        message,
    };
    match error {
        mysql::Error::MySqlError(error) if ACCESS_DENIED.contains(&error.code) => {
            denied(error.message)
        }
        mysql::Error::DriverError(
            error @ (DriverError::UnknownAuthPlugin(_)
            | DriverError::OldMysqlPasswordDisabled
            | DriverError::CleartextPluginDisabled),
        ) => denied(error.to_string()),
        error => ClientError::Unreachable {
            endpoint,
            message: error.to_string(),
        },
    }
}

impl ServerClient for MysqlClient {
    fn query(&mut self, statement: &str) -> Result<Vec<Row>, ClientError> {
        self.query_shown(statement, statement)
    }

    fn connection_id(&self) -> u64 {
        self.conn.connection_id().into()
    }
}

fn text_row(row: mysql::Row) -> Row {
    let columns = row.columns();
    let values = row.unwrap_raw();
    let names = columns.iter().map(|column| column.name_str().into_owned());
    Row(names
        .zip(values)
        .map(|(name, value)| (name, value.and_then(text)))
        .collect())
}

/// The text protocol gives every value as bytes.
fn text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    }
}
