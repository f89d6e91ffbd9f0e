//! A conversation with a server, one statement at a time: the seam between what we ask and who answers.
//!
//! What makes it right: everything above this trait sees statements and rows only, so a scripted client can check the whole dialogue to
//! the letter, and every failure of a statement arrives with the statement in it.

pub mod endpoint;
pub mod mysql_client;
#[cfg(test)]
pub mod scripted;
#[cfg(test)]
pub mod wire;

pub use endpoint::{Credentials, Endpoint};
pub use mysql_client::MysqlClient;

/// `ER_LOCK_WAIT_TIMEOUT`.
const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// `ER_LOCK_DEADLOCK`.
const DEADLOCK: u16 = 1213;
/// `ER_ACCESS_DENIED_ERROR`, `ER_DBACCESS_DENIED_ERROR`, `ER_ACCESS_DENIED_NO_PASSWORD_ERROR`; then the account is locked (MySQL's and MariaDB's
/// `ER_ACCOUNT_HAS_BEEN_LOCKED`), or its password has expired (`ER_MUST_CHANGE_PASSWORD_LOGIN`).
const ACCESS_DENIED: [u16; 6] = [1045, 1044, 1698, 3118, 4151, 1862];
/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`, `ER_KILL_DENIED_ERROR`, `ER_TABLEACCESS_DENIED_ERROR`.
const PRIVILEGE_MISSING: [u16; 3] = [1227, 1095, 1142];
/// `ER_CONNECTION_KILLED`, `ER_SERVER_SHUTDOWN`, `ER_NORMAL_SHUTDOWN`.
const CONNECTION_ENDED: [u16; 3] = [1927, 1053, 1077];
/// `ER_QUERY_INTERRUPTED`.
const INTERRUPTED: u16 = 1317;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("Cannot connect to {endpoint}: {message}")]
    Unreachable { endpoint: String, message: String },
    #[error("{endpoint} refuses user {user}: {message}")]
    Denied {
        endpoint: String,
        user: String,
        message: String,
    },
    #[error("The server refuses {statement:?} for lack of a privilege: {message}")]
    Privilege { statement: String, message: String },
    #[error("{statement:?} got no lock within the time allowed: {message}")]
    LockTimeout { statement: String, message: String },
    #[error("{statement:?} was chosen to end a deadlock: {message}")]
    Deadlock { statement: String, message: String },
    #[error("{statement:?} was interrupted: {message}")]
    Interrupted { statement: String, message: String },
    #[error("{statement:?} failed with error {code}: {message}")]
    Statement {
        statement: String,
        code: u16,
        message: String,
    },
    #[error("The connection to the server was lost during {statement:?}: {message}")]
    ConnectionLost { statement: String, message: String },
    #[error("{statement:?} gave no {what}")]
    Unexpected { statement: String, what: String },
}

impl ClientError {
    /// What an error number of the server's means to us.
    pub fn from_server(statement: &str, code: u16, message: String) -> ClientError {
        let statement = statement.to_string();
        match code {
            LOCK_WAIT_TIMEOUT => ClientError::LockTimeout { statement, message },
            DEADLOCK => ClientError::Deadlock { statement, message },
            INTERRUPTED => ClientError::Interrupted { statement, message },
            code if CONNECTION_ENDED.contains(&code) => {
                ClientError::ConnectionLost { statement, message }
            }
            code if PRIVILEGE_MISSING.contains(&code) => {
                ClientError::Privilege { statement, message }
            }
            code => ClientError::Statement {
                statement,
                code,
                message,
            },
        }
    }
}

/// Column names and text values, NULL as None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(pub Vec<(String, Option<String>)>);

impl Row {
    /// The value of a column; None if it is NULL or not there. Names compare without case, as servers differ in it.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(column))
            .and_then(|(_, value)| value.as_deref())
    }

    /// The value of the first column.
    pub fn first(&self) -> Option<&str> {
        self.0.first().and_then(|(_, value)| value.as_deref())
    }
}

pub trait ServerClient {
    fn query(&mut self, statement: &str) -> Result<Vec<Row>, ClientError>;

    /// The server's id of this connection.
    fn connection_id(&self) -> u64;

    /// A statement whose rows don't matter.
    fn run(&mut self, statement: &str) -> Result<(), ClientError> {
        self.query(statement).map(drop)
    }

    /// The only value of a statement that gives one.
    fn value(&mut self, statement: &str) -> Result<String, ClientError> {
        self.query(statement)?
            .first()
            .and_then(|row| row.first().map(str::to_string))
            .ok_or_else(|| ClientError::Unexpected {
                statement: statement.into(),
                what: "value".into(),
            })
    }
}

/// `text` as an SQL string.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_cannot_end_its_string() {
        assert_eq!(quoted("it's \\"), "'it''s \\\\'");
    }

    #[test]
    fn columns_are_found_whatever_their_case() {
        let row = Row(vec![("File".into(), Some("bin.1".into()))]);
        assert_eq!(row.get("FILE"), Some("bin.1"));
        assert_eq!(row.get("Position"), None);
    }
}
