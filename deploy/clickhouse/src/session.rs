//! One statement from its first byte to its last, on a thread of its own: the engine's calls block.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    error::{Exception, code},
    ffi::{Connection, Progress, QueryResult},
    format::{self, Header, Streaming},
    lz4,
    pool::Place,
    statement::Statement,
};

/// A statement and all that belongs to it.
#[derive(Debug)]
pub struct Job {
    /// What to run.
    pub statement: Statement,
    /// Current database of the statement.
    pub database: Option<String>,
    /// Settings of this statement only.
    pub settings: Vec<(String, String)>,
    /// Values of `{name:Type}` placeholders.
    pub params: Vec<(String, String)>,
    /// Output format, where the statement names none.
    pub default_format: String,
    /// Whether the result goes into compressed blocks.
    pub compress: bool,
    /// The statement may change nothing.
    pub reads_only: bool,
    /// What it may put into temporary files if it only reads.
    pub spill_bytes_max: u64,
    /// Largest result that is made whole.
    pub whole_result_bytes_max: u64,
}

/// A piece of an insert's data, or its end. A channel closed without [`Input::End`] means that the body broke
/// off, and cancels the insert.
#[derive(Debug)]
pub enum Input {
    /// Bytes in the insert's format.
    Data(Bytes),
    /// All of it has come.
    End,
}

/// What a statement answers, in order: pieces of its result, then how it ended.
#[derive(Debug)]
pub enum Output {
    /// Bytes of the result.
    Data(Bytes, Progress),
    /// The statement is done.
    Done(Progress),
    /// The statement failed.
    Failed(Exception),
}

/// Runs a statement. Its result goes to `output`; when nobody listens there any more, it is cancelled.
pub fn run(place: Place, job: &Job, input: Option<mpsc::Receiver<Input>>, output: &mpsc::Sender<Output>) {
    let kind = match job.statement {
        Statement::Insert { .. } => "insert",
        Statement::Select { .. } => "select",
        Statement::Plain { .. } => "other",
    };
    let version = place.engine().version().to_owned();
    let result = run_statement(&place, job, input, output);
    // The place is free before the client hears of it, so that its next statement finds one.
    drop(place);
    metrics::counter!("millrace_clickhouse_statements_total", "kind" => kind).increment(1);
    let last = match result {
        Ok(progress) => {
            metrics::counter!("millrace_clickhouse_rows_written_total").increment(progress.written_rows);
            metrics::counter!("millrace_clickhouse_rows_read_total").increment(progress.read_rows);
            Output::Done(progress)
        }
        Err(error) => {
            metrics::counter!("millrace_clickhouse_errors_total", "kind" => kind).increment(1);
            tracing::debug!(kind, %error, "statement failed");
            Output::Failed(error.with_version(&version))
        }
    };
    // Nobody listening is a client that hung up.
    let _ = output.blocking_send(last);
}

fn run_statement(
    place: &Place,
    job: &Job,
    input: Option<mpsc::Receiver<Input>>,
    output: &mpsc::Sender<Output>,
) -> Result<Progress, Exception> {
    let comment =
        job.settings.iter().find(|(name, _)| name == "log_comment").map(|(_, value)| value.as_str());
    let mut connection = place.connect(comment)?;
    if let Some(database) = &job.database {
        connection.query(&format!("USE {}", quoted(database, '`')), "Null", &[])?;
    }
    apply_settings(&mut connection, job)?;
    let mut results = Results { output, compress: job.compress, total: Progress::default() };
    match &job.statement {
        Statement::Insert { sql, format, .. } => {
            insert(&mut connection, sql, format, &job.params, input, &mut results)?;
        }
        Statement::Select { sql, format } => {
            let format = format.as_deref().unwrap_or(&job.default_format);
            if format::streaming(format) == Streaming::Whole {
                results.send(connection.query(sql, format, &job.params)?)?;
            } else {
                select(&mut connection, sql, format, &job.params, &mut results)?;
            }
        }
        Statement::Plain { sql, format } => {
            let format = format.as_deref().unwrap_or(&job.default_format);
            results.send(connection.query(sql, format, &job.params)?)?;
        }
    }
    Ok(results.total)
}

/// Sets what the request asks for, then, for one that only reads, that nothing can be changed from here on: neither rows
/// nor settings.
fn apply_settings(connection: &mut Connection, job: &Job) -> Result<(), Exception> {
    let mut assignments = Vec::new();
    let mut assign = |name: &str, value: &str| assignments.push(format!("{name} = {}", quoted(value, '\'')));
    if let Statement::Select { format, .. } = &job.statement
        && format::streaming(format.as_deref().unwrap_or(&job.default_format)) == Streaming::Whole
    {
        // A result that cannot be streamed is held in memory, so it has a bound, which the request may set otherwise.
        assign("max_result_bytes", &job.whole_result_bytes_max.to_string());
    }
    for (name, value) in &job.settings {
        if name != "log_comment" && !(job.reads_only && name == "readonly") {
            assign(name, value);
        }
    }
    if !assignments.is_empty() {
        connection.query(&format!("SET {}", assignments.join(", ")), "Null", &[])?;
    }
    if job.reads_only {
        // After what the request asks for, and out of its reach from here on.
        let spill = format!("SET max_temporary_data_on_disk_size_for_query = {}", job.spill_bytes_max);
        connection.query(&spill, "Null", &[])?;
        connection.query("SET readonly = 1", "Null", &[])?;
    }
    Ok(())
}

fn insert(
    connection: &mut Connection,
    sql: &str,
    format: &str,
    params: &[(String, String)],
    input: Option<mpsc::Receiver<Input>>,
    results: &mut Results<'_>,
) -> Result<(), Exception> {
    let mut stream = connection.insert(sql, format, params)?;
    if let Some(mut input) = input {
        loop {
            match input.blocking_recv() {
                // A failed insert takes no more data; finishing it tells why.
                Some(Input::Data(data)) if !stream.append(&data) => break,
                Some(Input::Data(_)) => {}
                Some(Input::End) => break,
                // Dropping the stream cancels the insert.
                None => return Err(body_broke_off()),
            }
        }
    }
    let result = stream.finish()?;
    results.add(result.progress());
    Ok(())
}

fn select(
    connection: &mut Connection,
    sql: &str,
    format: &str,
    params: &[(String, String)],
    results: &mut Results<'_>,
) -> Result<(), Exception> {
    let mut stream = connection.stream(sql, format, params)?;
    let mut header = match format::streaming(format) {
        Streaming::Headed(header) => RepeatedHeader::Unseen(header),
        Streaming::Plain | Streaming::Whole => RepeatedHeader::None,
    };
    while let Some(block) = stream.fetch()? {
        let progress = block.progress();
        results.send_bytes(header.strip(block.into_bytes()), progress)?;
    }
    Ok(())
}

/// Cuts the header from every block but the first.
enum RepeatedHeader {
    None,
    Unseen(Header),
    Seen(Bytes),
}

impl RepeatedHeader {
    fn strip(&mut self, mut block: Bytes) -> Bytes {
        match self {
            Self::None => {}
            Self::Unseen(header) => {
                let length = header.length(&block).unwrap_or(0);
                *self = Self::Seen(Bytes::copy_from_slice(&block[..length]));
            }
            Self::Seen(header) => {
                if block.starts_with(header) {
                    block = block.slice(header.len()..);
                }
            }
        }
        block
    }
}

/// The way out for a result's pieces.
struct Results<'o> {
    output: &'o mpsc::Sender<Output>,
    compress: bool,
    total: Progress,
}

impl Results<'_> {
    fn send(&mut self, result: QueryResult) -> Result<(), Exception> {
        let progress = result.progress();
        self.send_bytes(result.into_bytes(), progress)
    }

    fn send_bytes(&mut self, data: Bytes, progress: Progress) -> Result<(), Exception> {
        self.add(progress);
        if data.is_empty() {
            return Ok(());
        }
        let data = if self.compress { lz4::compress(&data) } else { data };
        self.output
            .blocking_send(Output::Data(data, self.total))
            .map_err(|_| Exception::new(code::ABORTED, "ABORTED", "The client hung up"))
    }

    fn add(&mut self, progress: Progress) {
        self.total.read_rows += progress.read_rows;
        self.total.read_bytes += progress.read_bytes;
        self.total.written_rows += progress.written_rows;
        self.total.written_bytes += progress.written_bytes;
    }
}

/// The error of an insert whose body ended before its data did.
pub fn body_broke_off() -> Exception {
    Exception::new(
        code::CANNOT_READ_ALL_DATA,
        "CANNOT_READ_ALL_DATA",
        "The request body ended early; the insert is cancelled",
    )
}

/// Text between quotes in ClickHouse's SQL.
fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(quoted(r"a'b\", '\''), r"'a\'b\\'");
        assert_eq!(quoted("a`b", '`'), r"`a\`b`");
    }

    #[test]
    fn a_repeated_header_is_sent_once() {
        let mut header = RepeatedHeader::Unseen(Header::Lines(1));
        let mut sent = Vec::new();
        for block in ["a\n1\n", "a\n2\n", "a\n3\n"] {
            sent.extend_from_slice(&header.strip(Bytes::from_static(block.as_bytes())));
        }
        assert_eq!(sent, b"a\n1\n2\n3\n");
    }
}
