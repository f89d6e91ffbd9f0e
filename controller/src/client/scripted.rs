//! A server that knows its lines: expects statements in order and answers as written.

use std::collections::VecDeque;

use super::{ClientError, Row, ServerClient};

pub struct ScriptedClient {
    lines: VecDeque<(String, Result<Vec<Row>, ClientError>)>,
}

impl ScriptedClient {
    pub fn new() -> ScriptedClient {
        ScriptedClient {
            lines: VecDeque::new(),
        }
    }

    /// Expects `statement` and answers with nothing.
    pub fn done(mut self, statement: &str) -> Self {
        self.lines.push_back((statement.into(), Ok(Vec::new())));
        self
    }

    /// Expects `statement` and answers with rows under these columns.
    pub fn rows(mut self, statement: &str, columns: &[&str], rows: &[&[&str]]) -> Self {
        let row = |values: &&[&str]| {
            let values = values.iter().map(|value| Some(value.to_string()));
            Row(columns
                .iter()
                .map(|name| name.to_string())
                .zip(values)
                .collect())
        };
        let rows = rows.iter().map(row).collect();
        self.lines.push_back((statement.into(), Ok(rows)));
        self
    }

    /// Expects `statement` and answers with an error of the server's.
    pub fn error(mut self, statement: &str, code: u16, message: &str) -> Self {
        let error = ClientError::from_server(statement, code, message.into());
        self.lines.push_back((statement.into(), Err(error)));
        self
    }

    /// Expects `statement` and hangs up.
    pub fn hang_up(mut self, statement: &str) -> Self {
        let error = ClientError::ConnectionLost {
            statement: statement.into(),
            message: "end of file".into(),
        };
        self.lines.push_back((statement.into(), Err(error)));
        self
    }

    pub fn finish(self) {
        let left: Vec<_> = self.lines.iter().map(|(statement, _)| statement).collect();
        assert!(left.is_empty(), "never asked: {left:#?}");
    }
}

impl ServerClient for ScriptedClient {
    fn query(&mut self, statement: &str) -> Result<Vec<Row>, ClientError> {
        let (expected, answer) = self
            .lines
            .pop_front()
            .unwrap_or_else(|| panic!("not in the script: {statement}"));
        assert_eq!(statement, expected);
        answer
    }

    fn connection_id(&self) -> u64 {
        42
    }
}
