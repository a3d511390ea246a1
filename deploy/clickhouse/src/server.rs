//! The HTTP side: from a request to a [`Job`], its data in, its result out.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request as HttpRequest, State},
    http::StatusCode,
    middleware::{self, Next},
    response::Response,
    routing::any,
};
use bytes::{Bytes, BytesMut};
use millrace_service::{host::Hosts, serve::Hooks};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    access::Passwords,
    body::{PIECE_BYTES, RequestBody},
    config::Config,
    error::{Exception, code},
    forbidden,
    pool::{Engine, shutting_down, too_many},
    request::Request,
    response::{KillOnDrop, Reply},
    session::{self, Input, Job, Output},
    statement::{self, Statement},
};

/// Pieces of a result between the engine's thread and the network: the engine waits for a slow client.
const OUTPUT_PIECES: usize = 2;
/// Pieces of an insert between the network and the engine's thread, which has a queue of its own.
const INPUT_PIECES: usize = 2;
/// Of a body nobody wants any more, how much is still read so that the client can read the error: a client
/// that is cut off while sending does not look for an answer.
pub(super) const DRAIN_BYTES_MAX: usize = 64 << 20;
/// How much of a result `wait_end_of_query` holds back; a larger one is streamed.
const HELD_BYTES_MAX: usize = 16 << 20;

const DEFAULT_FORMAT: &str = "TabSeparated";

/// What every request needs.
#[derive(Clone)]
pub struct App {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The settings.
    pub config: Arc<Config>,
    /// Who may ask.
    pub passwords: Arc<Passwords>,
    /// Under which names.
    pub hosts: Hosts,
    /// One for each request that runs or waits: what each may hold in memory is bounded, so this bounds all.
    pub requests: Arc<Semaphore>,
    /// Cancelled when bodies still being received must be given up.
    pub give_up: CancellationToken,
}

/// The routes of ClickHouse's HTTP interface.
pub fn router(app: App) -> Router {
    let known_hosts = middleware::from_fn_with_state(app.clone(), known_hosts_only);
    Router::new().route("/", any(root)).route("/ping", any(ok)).layer(known_hosts).with_state(app)
}

/// Refuses a name that is not ours: a web page can have its own name lead here (DNS rebinding), and then nothing but this
/// tells its requests from others.
async fn known_hosts_only(State(app): State<App>, http: HttpRequest, next: Next) -> Response {
    let Some((status, message)) = app.hosts.refusal(http.uri(), http.headers()) else {
        return next.run(http).await;
    };
    refusal(status, message, app.engine.version())
}

/// A request that is no statement, in ClickHouse's words.
fn refusal(status: StatusCode, message: &str, version: &str) -> Response {
    let error = Exception::new(code::ACCESS_DENIED, "ACCESS_DENIED", message);
    let reply = Reply { query_id: String::new(), format: DEFAULT_FORMAT.to_owned(), compress: false };
    let mut response = reply.failure(&error.with_version(version));
    *response.status_mut() = status;
    response
}

/// What the listener itself answers.
pub struct Refusals {
    /// The engine's version.
    pub version: String,
}

impl Hooks for Refusals {
    type Request = ();

    fn began(&self, _: &hyper::Request<hyper::body::Incoming>) {}

    fn bad_request(&self, message: &'static str) -> Response {
        refusal(StatusCode::BAD_REQUEST, message, &self.version)
    }
}

async fn ok() -> &'static str {
    "Ok.\n"
}

async fn root(State(app): State<App>, http: HttpRequest) -> Response {
    let (parts, body) = http.into_parts();
    let query_string = parts.uri.query().unwrap_or_default();
    if query_string.is_empty() && (parts.method == "GET" || parts.method == "HEAD") {
        return Response::new(Body::from("Ok.\n"));
    }
    let mut reply = Reply { query_id: String::new(), format: DEFAULT_FORMAT.to_owned(), compress: false };
    let request = Request::parse(&parts.method, query_string, &parts.headers)
        .and_then(|mut request| request.authenticate(&app.passwords).map(|_| request));
    let request = match request {
        Ok(request) => request,
        Err(error) => return reply.failure(&error.with_version(app.engine.version())),
    };
    reply.compress = request.compress;
    reply.query_id = request.query_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let Ok(_request) = app.requests.try_acquire() else {
        return reply.failure(&too_many().with_version(app.engine.version()));
    };
    let mut body = RequestBody::new(body, request.decompress, app.config.receive_timeout());
    match answer(&app, request, &mut body, &mut reply).await {
        Ok(response) => response,
        Err(error) => {
            drain(&mut body).await;
            reply.failure(&error.with_version(app.engine.version()))
        }
    }
}

async fn answer(
    app: &App,
    mut request: Request,
    body: &mut RequestBody,
    reply: &mut Reply,
) -> Result<Response, Exception> {
    let (statement, data) = read_statement(app, &mut request, body).await?;
    forbidden::refuse_values(statement.text(), &request.params)?;
    if request.reads_only {
        statement.refuse_changes()?;
    }
    let default_format = request.default_format.take().unwrap_or_else(|| DEFAULT_FORMAT.to_owned());
    let is_insert = matches!(statement, Statement::Insert { .. });
    reply.format = match &statement {
        Statement::Select { format: Some(format), .. } | Statement::Plain { format: Some(format), .. } => {
            format.clone()
        }
        _ => default_format.clone(),
    };
    // An insert's first piece is here before it takes a place, so that a slow client holds none for a body
    // that is small; a broken one never gets as far.
    let first = if is_insert { gather_first(body, data).await? } else { Bytes::new() };

    let place = app.engine.place().await?;
    let mut kill = KillOnDrop::new(Arc::clone(&app.engine), place.number());
    let (output_to, output) = mpsc::channel(OUTPUT_PIECES);
    let (input_to, input) = mpsc::channel(INPUT_PIECES);
    let job = Job {
        statement,
        database: request.database,
        settings: request.settings,
        params: request.params,
        default_format,
        compress: request.compress,
        reads_only: request.reads_only,
        spill_bytes_max: app.config.spill_bytes_max(),
        whole_result_bytes_max: app.config.whole_result_bytes_max,
    };
    tokio::task::spawn_blocking(move || {
        session::run(place, &job, is_insert.then_some(input), &output_to);
    });
    if is_insert {
        send_data(app, body, first, input_to).await?;
        // All of it is here and will be stored, whether or not the client waits for the answer.
        kill.disarm();
    }
    respond(reply, request.wait_end_of_query, output, kill).await
}

/// The statement from URL and body, and the beginning of an insert's data.
async fn read_statement(
    app: &App,
    request: &mut Request,
    body: &mut RequestBody,
) -> Result<(Statement, Bytes), Exception> {
    let bytes_max = app.config.query_bytes_max;
    let in_url = !request.query.is_empty();
    let mut text: Bytes = if let Some(boundary) = request.boundary.take() {
        let form = gather_query(body, bytes_max).await?;
        read_form(request, form, boundary).await?;
        std::mem::take(&mut request.query).into()
    } else if in_url && statement::begins_insert(&request.query) {
        // The body is data, unless the statement only ends there; then the two are read as one text.
        if let Statement::Insert { sql, format, data_offset } = Statement::parse(&request.query)? {
            let data = request.query.split_off(data_offset);
            let statement = Statement::Insert { sql, format, data_offset };
            return Ok((statement, with_line_end(data)));
        }
        with_line_end(std::mem::take(&mut request.query))
    } else if in_url {
        with_line_end(std::mem::take(&mut request.query))
    } else {
        Bytes::new()
    };
    // A form or a statement may be longer than a piece; an insert's head is not.
    let from_body = body.gather(PIECE_BYTES).await?;
    text = join(text, from_body);
    if statement::begins_insert(valid_text(&text)) {
        let statement = Statement::parse(valid_text(&text))?;
        if let Statement::Insert { data_offset, .. } = statement {
            return Ok((statement, text.slice(data_offset..)));
        }
    }
    let room = bytes_max.saturating_sub(text.len());
    text = join(text, gather_query(body, room).await?);
    if text.len() > bytes_max {
        return Err(query_too_large(bytes_max));
    }
    let text = std::str::from_utf8(&text).map_err(|_| {
        Exception::new(code::SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error: the statement is not valid UTF-8")
    })?;
    Ok((Statement::parse(text.trim())?, Bytes::new()))
}

/// All that is left of a body that is statement text.
async fn gather_query(body: &mut RequestBody, bytes_max: usize) -> Result<Bytes, Exception> {
    let text = body.gather(bytes_max.saturating_add(1)).await?;
    if text.len() > bytes_max { Err(query_too_large(bytes_max)) } else { Ok(text) }
}

fn query_too_large(bytes_max: usize) -> Exception {
    Exception::new(
        code::QUERY_IS_TOO_LARGE,
        "QUERY_IS_TOO_LARGE",
        format_args!("Query is too large: more than {bytes_max} bytes of text"),
    )
}

/// The fields of a multipart body stand for URL parameters.
async fn read_form(request: &mut Request, form: Bytes, boundary: String) -> Result<(), Exception> {
    let unreadable = |error: multer::Error| {
        Exception::new(code::BAD_ARGUMENTS, "BAD_ARGUMENTS", format_args!("Cannot read the form: {error}"))
    };
    let once = futures::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>(form)));
    let mut form = multer::Multipart::new(once, boundary);
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        let name = field.name().unwrap_or_default().to_owned();
        let value = field.bytes().await.map_err(unreadable)?;
        let value = String::from_utf8(value.into()).map_err(|_| {
            Exception::new(
                code::BAD_ARGUMENTS,
                "BAD_ARGUMENTS",
                format_args!("The field `{}` is not UTF-8", name.escape_debug()),
            )
        })?;
        request.parameter(&name, value)?;
    }
    Ok(())
}

/// An insert's first piece: what stood in its text, and what the body brings up to a piece's size.
async fn gather_first(body: &mut RequestBody, in_text: Bytes) -> Result<Bytes, Exception> {
    let room = PIECE_BYTES.saturating_sub(in_text.len());
    let more = if room > 0 { body.gather(room).await? } else { Bytes::new() };
    Ok(join(in_text, more))
}

/// Hands an insert's data to its thread. Left early, by an error or by the client hanging up, it drops the
/// sender without [`Input::End`], which cancels the insert.
async fn send_data(
    app: &App,
    body: &mut RequestBody,
    first: Bytes,
    input: mpsc::Sender<Input>,
) -> Result<(), Exception> {
    let mut piece = first;
    while !piece.is_empty() {
        if input.send(Input::Data(piece)).await.is_err() {
            // The insert has failed; its thread says why.
            drain(body).await;
            return Ok(());
        }
        piece = tokio::select! {
            piece = body.gather(PIECE_BYTES) => piece?,
            () = app.give_up.cancelled() => return Err(shutting_down()),
        };
    }
    // Nobody taking it is an insert that has failed, as above.
    let _ = input.send(Input::End).await;
    Ok(())
}

async fn respond(
    reply: &Reply,
    hold: bool,
    mut output: mpsc::Receiver<Output>,
    mut kill: KillOnDrop,
) -> Result<Response, Exception> {
    let mut held = BytesMut::new();
    loop {
        match output.recv().await {
            Some(Output::Data(data, _)) if hold && held.len() + data.len() <= HELD_BYTES_MAX => {
                held.extend_from_slice(&data);
            }
            Some(Output::Data(data, progress)) => {
                let first = join(held.freeze(), data);
                return Ok(reply.streamed(first, progress, output, kill));
            }
            Some(Output::Done(progress)) => {
                kill.disarm();
                return Ok(reply.whole(held.freeze(), progress));
            }
            Some(Output::Failed(error)) => {
                kill.disarm();
                return Err(error);
            }
            None => {
                let message = "The statement ended without an answer";
                return Err(Exception::new(code::ABORTED, "ABORTED", message));
            }
        }
    }
}

/// Reads on in a body that is no longer wanted, within bounds.
async fn drain(body: &mut RequestBody) {
    let mut left = DRAIN_BYTES_MAX;
    while left > 0 {
        match body.gather(PIECE_BYTES).await {
            Ok(piece) if !piece.is_empty() => left = left.saturating_sub(piece.len()),
            _ => return,
        }
    }
}

fn join(left: Bytes, right: Bytes) -> Bytes {
    if left.is_empty() {
        return right;
    }
    if right.is_empty() {
        return left;
    }
    let mut both = BytesMut::with_capacity(left.len() + right.len());
    both.extend_from_slice(&left);
    both.extend_from_slice(&right);
    both.freeze()
}

/// ClickHouse reads URL and body as one text with a line end between them.
fn with_line_end(mut text: String) -> Bytes {
    if !text.is_empty() {
        text.push('\n');
    }
    text.into()
}

/// The text up to where an insert's binary data begins.
fn valid_text(bytes: &[u8]) -> &str {
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}
