//! A server that knows its lines, behind a real socket: the same script as a scripted client's, and the protocol besides.
//!
//! What makes it right: a statement that is not the next one of the script is answered with an error that says so, and what was never asked for is found at the end.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use opensrv_mysql::{
    AsyncMysqlIntermediary, AsyncMysqlShim, Column, ColumnFlags, ColumnType, ErrorKind, InitWriter,
    OkResponse, ParamParser, QueryResultWriter, StatementMetaWriter,
};
use tokio::io::AsyncWrite;
use tokio::net::UnixListener;

/// How a statement is answered.
#[derive(Clone, Debug)]
enum Answer {
    Done,
    Rows(Vec<String>, Vec<Vec<String>>),
    Error(u16, String),
    HangUp,
    Silence,
}

/// Statements in order, with their answers.
#[derive(Clone, Debug, Default)]
pub struct Script(VecDeque<(String, Answer)>);

impl Script {
    fn line(mut self, statement: &str, answer: Answer) -> Script {
        self.0.push_back((statement.into(), answer));
        self
    }

    pub fn done(self, statement: &str) -> Script {
        self.line(statement, Answer::Done)
    }

    pub fn rows(self, statement: &str, columns: &[&str], rows: &[&[&str]]) -> Script {
        let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        let rows = rows.iter().map(|row| owned(row)).collect();
        self.line(statement, Answer::Rows(owned(columns), rows))
    }

    pub fn error(self, statement: &str, code: u16, message: &str) -> Script {
        self.line(statement, Answer::Error(code, message.into()))
    }

    /// Closes the connection instead of an answer.
    pub fn hang_up(self, statement: &str) -> Script {
        self.line(statement, Answer::HangUp)
    }

    /// Never answers.
    pub fn silence(self, statement: &str) -> Script {
        self.line(statement, Answer::Silence)
    }
}

type Lines = Arc<Mutex<VecDeque<(String, Answer)>>>;

/// Serves connections, one script for all of them, until it is dropped.
pub struct WireServer {
    lines: Lines,
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl WireServer {
    pub fn start(script: Script) -> WireServer {
        let lines: Lines = Arc::new(Mutex::new(script.0));
        let dir = tempfile::tempdir().expect("a directory for the socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(dir.path().join("s")).expect("a socket")
        };
        let shared = lines.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reader, writer) = stream.into_split();
                let backend = Backend(shared.clone());
                tokio::spawn(AsyncMysqlIntermediary::run_on(backend, reader, writer));
            }
        });
        WireServer {
            lines,
            dir,
            _runtime: runtime,
        }
    }

    pub fn socket(&self) -> PathBuf {
        Path::join(self.dir.path(), "s")
    }

    pub fn finish(self) {
        let lines = self.lines.lock().expect("the script");
        let left: Vec<_> = lines.iter().map(|(statement, _)| statement).collect();
        assert!(left.is_empty(), "never asked: {left:#?}");
    }
}

struct Backend(Lines);

impl Backend {
    /// The answer to the next line, if it is this one.
    fn answer(&self, statement: &str) -> Answer {
        // The client's own, at the start of every connection.
        if statement.starts_with("SELECT @@max_allowed_packet") {
            let columns = ["@@max_allowed_packet", "@@wait_timeout", "@@socket"];
            let values = ["67108864", "28800", ""];
            return Answer::Rows(
                columns.map(String::from).into(),
                vec![values.map(String::from).into()],
            );
        }
        let mut lines = self.0.lock().expect("the script");
        match lines.front() {
            Some((expected, _)) if expected == statement => lines.pop_front().expect("a line").1,
            Some((expected, _)) => {
                Answer::Error(1064, format!("{statement:?} instead of {expected:?}"))
            }
            None => Answer::Error(1064, format!("{statement:?} at the end of the script")),
        }
    }
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> AsyncMysqlShim<W> for Backend {
    type Error = io::Error;

    fn version(&self) -> String {
        "5.7.22-22-log".into()
    }

    async fn on_query<'a>(
        &'a mut self,
        statement: &'a str,
        results: QueryResultWriter<'a, W>,
    ) -> io::Result<()> {
        match self.answer(statement) {
            Answer::Done => results.completed(OkResponse::default()).await,
            Answer::Error(code, message) => {
                results
                    .error(ErrorKind::from(code), message.as_bytes())
                    .await
            }
            Answer::HangUp => Err(io::ErrorKind::ConnectionAborted.into()),
            Answer::Silence => std::future::pending().await,
            Answer::Rows(columns, rows) => {
                let columns: Vec<Column> = columns.iter().map(|name| column(name)).collect();
                let mut writer = results.start(&columns).await?;
                for row in rows {
                    writer.write_row(row).await?;
                }
                writer.finish().await
            }
        }
    }

    async fn on_init<'a>(&'a mut self, _: &'a str, writer: InitWriter<'a, W>) -> io::Result<()> {
        writer.ok().await
    }

    async fn on_prepare<'a>(
        &'a mut self,
        _: &'a str,
        writer: StatementMetaWriter<'a, W>,
    ) -> io::Result<()> {
        let message = b"nothing is prepared here";
        writer.error(ErrorKind::ER_UNKNOWN_ERROR, message).await
    }

    async fn on_execute<'a>(
        &'a mut self,
        _: u32,
        _: ParamParser<'a>,
        results: QueryResultWriter<'a, W>,
    ) -> io::Result<()> {
        results.completed(OkResponse::default()).await
    }

    async fn on_close(&mut self, _: u32) {}
}

fn column(name: &str) -> Column {
    Column {
        table: String::new(),
        column: name.into(),
        coltype: ColumnType::MYSQL_TYPE_VAR_STRING,
        colflags: ColumnFlags::empty(),
    }
}
