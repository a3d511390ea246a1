//! The only unsafe code of the package: `libchdb.so`'s C API, loaded at run time, behind safe owners.
//!
//! What the API asks of its caller, and how it is kept here:
//! * one statement per connection at a time: a [`Connection`] is not `Sync`, and a [`ResultStream`] or
//!   [`InsertStream`] borrows it mutably for as long as it lives;
//! * every handle is destroyed exactly once: each has one owner with a `Drop`;
//! * the library is never unloaded: its threads and exit handlers outlive every connection.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    mem::ManuallyDrop,
    path::Path,
    ptr::NonNull,
    sync::Arc,
};

use bytes::Bytes;
use libloading::Library;

use super::error::Exception;

/// `chdb_connection *`: what `chdb_connect` returns and `chdb_close_conn` takes.
type ConnectionSlot = *mut ConnectionHandle;
/// `chdb_connection`: what statements take.
type ConnectionHandle = *mut c_void;
/// `chdb_result *`.
type ResultHandle = *mut c_void;
/// `chdb_insert_stream`.
type InsertHandle = *mut c_void;

type QueryWithParams = unsafe extern "C" fn(
    ConnectionHandle,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> *mut c_void;
type Counter = unsafe extern "C" fn(ResultHandle) -> u64;

/// The functions of the library this server uses.
pub struct Api {
    set_signal_handlers_enabled: unsafe extern "C" fn(c_int),
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> ConnectionSlot,
    close_conn: unsafe extern "C" fn(ConnectionSlot),
    shutdown: unsafe extern "C" fn() -> c_int,
    query: QueryWithParams,
    stream_query: QueryWithParams,
    stream_fetch_result: unsafe extern "C" fn(ConnectionHandle, ResultHandle) -> ResultHandle,
    stream_cancel_query: unsafe extern "C" fn(ConnectionHandle, ResultHandle),
    stream_insert: QueryWithParams,
    stream_append: unsafe extern "C" fn(InsertHandle, *const c_void, usize) -> c_int,
    stream_done: unsafe extern "C" fn(InsertHandle) -> ResultHandle,
    stream_cancel_insert: unsafe extern "C" fn(InsertHandle),
    stream_insert_error: unsafe extern "C" fn(InsertHandle) -> *const c_char,
    destroy_insert_stream: unsafe extern "C" fn(InsertHandle),
    destroy_query_result: unsafe extern "C" fn(ResultHandle),
    result_buffer: unsafe extern "C" fn(ResultHandle) -> *const c_char,
    result_length: unsafe extern "C" fn(ResultHandle) -> usize,
    result_error: unsafe extern "C" fn(ResultHandle) -> *const c_char,
    result_storage_rows_read: Counter,
    result_storage_bytes_read: Counter,
    result_rows_written: Counter,
    result_bytes_written: Counter,
    _library: ManuallyDrop<Library>,
}

impl Api {
    /// Loads the library and turns its signal handlers off: signals belong to the server.
    pub fn load(path: &Path) -> Result<Arc<Self>, libloading::Error> {
        // SAFETY: loading runs the library's initialisers; it is the engine's published binary, whose
        // initialisers only prepare its own state.
        let library = unsafe { Library::new(path)? };
        /// A function of the library by its C name, at the type of the place it is stored in.
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field's type is the C header's declaration of this name, and the library is
                // never unloaded, so the pointer stays valid.
                unsafe { *library.get(concat!($name, "\0").as_bytes())? }
            };
        }
        let api = Self {
            set_signal_handlers_enabled: function!("chdb_set_signal_handlers_enabled"),
            connect: function!("chdb_connect"),
            close_conn: function!("chdb_close_conn"),
            shutdown: function!("chdb_shutdown"),
            query: function!("chdb_query_with_params_n"),
            stream_query: function!("chdb_stream_query_with_params_n"),
            stream_fetch_result: function!("chdb_stream_fetch_result"),
            stream_cancel_query: function!("chdb_stream_cancel_query"),
            stream_insert: function!("chdb_stream_insert_with_params_n"),
            stream_append: function!("chdb_stream_append"),
            stream_done: function!("chdb_stream_done"),
            stream_cancel_insert: function!("chdb_stream_cancel_insert"),
            stream_insert_error: function!("chdb_stream_insert_error"),
            destroy_insert_stream: function!("chdb_destroy_insert_stream"),
            destroy_query_result: function!("chdb_destroy_query_result"),
            result_buffer: function!("chdb_result_buffer"),
            result_length: function!("chdb_result_length"),
            result_error: function!("chdb_result_error"),
            result_storage_rows_read: function!("chdb_result_storage_rows_read"),
            result_storage_bytes_read: function!("chdb_result_storage_bytes_read"),
            result_rows_written: function!("chdb_result_rows_written"),
            result_bytes_written: function!("chdb_result_bytes_written"),
            _library: ManuallyDrop::new(library),
        };
        // SAFETY: called before the first connection, as the header asks.
        unsafe { (api.set_signal_handlers_enabled)(0) };
        Ok(Arc::new(api))
    }

    /// Opens a connection; the first one starts the engine with the server options among `arguments`.
    /// `None` when the engine refuses: it prints why on standard error.
    pub fn connect(self: &Arc<Self>, arguments: &[CString]) -> Option<Connection> {
        let mut argv: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(argv.len()).ok()?;
        // SAFETY: `argv` holds `count` NUL-terminated strings that live past the call, which copies them.
        let slot = unsafe { (self.connect)(count, argv.as_mut_ptr()) };
        NonNull::new(slot).map(|slot| Connection { api: Arc::clone(self), slot })
    }

    /// Stops every thread of the engine, for good. `false` while a connection is open.
    pub fn shutdown(&self) -> bool {
        // SAFETY: callable from any thread at any time.
        unsafe { (self.shutdown)() == 0 }
    }

    fn error_text(pointer: *const c_char) -> Option<Exception> {
        if pointer.is_null() {
            return None;
        }
        // SAFETY: the API returns NUL-terminated text owned by the handle, which outlives this copy.
        let text = unsafe { CStr::from_ptr(pointer) };
        Some(Exception::from_engine(&text.to_string_lossy()))
    }
}

/// A session of the engine. Its settings, current database and temporary tables end with it.
pub struct Connection {
    api: Arc<Api>,
    slot: NonNull<ConnectionHandle>,
}

// SAFETY: the API lets a connection be used from any thread, one call at a time; without `Sync` and with
// streams borrowing it mutably there is only ever one caller.
unsafe impl Send for Connection {}

/// The named values of a statement's `{name:Type}` placeholders, in the engine's escaped text form.
pub type Params = [(String, String)];

impl Connection {
    /// Runs a statement to its end and keeps the whole result in memory.
    pub fn query(&mut self, sql: &str, format: &str, params: &Params) -> Result<QueryResult, Exception> {
        let handle = self.call(self.api.query, sql, format, params);
        QueryResult::checked(&self.api, handle)
    }

    /// Starts a `SELECT` whose result is fetched block by block.
    pub fn stream(
        &mut self,
        sql: &str,
        format: &str,
        params: &Params,
    ) -> Result<ResultStream<'_>, Exception> {
        let handle = self.call(self.api.stream_query, sql, format, params);
        let start = QueryResult::checked(&self.api, handle)?;
        Ok(ResultStream { connection: self, start, finished: false })
    }

    /// Starts an `INSERT` (without its `FORMAT` clause) whose data is appended piece by piece.
    pub fn insert(
        &mut self,
        sql: &str,
        format: &str,
        params: &Params,
    ) -> Result<InsertStream<'_>, Exception> {
        let handle = self.call(self.api.stream_insert, sql, format, params);
        let stream = InsertStream { connection: self, handle };
        // SAFETY: the handle is live; it is never null by the header's word.
        match Api::error_text(unsafe { (stream.connection.api.stream_insert_error)(handle) }) {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    fn call(&self, function: QueryWithParams, sql: &str, format: &str, params: &Params) -> *mut c_void {
        let names: Vec<*const c_char> = params.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = params.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = params.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = params.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: every pointer comes with its length and outlives the call, which copies what it keeps;
        // the connection is live and, being borrowed mutably by the callers, idle.
        unsafe {
            function(
                *self.slot.as_ptr(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                params.len(),
            )
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the slot came from `chdb_connect` and is closed only here.
        unsafe { (self.api.close_conn)(self.slot.as_ptr()) };
    }
}

/// Rows and bytes a statement has read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows read from tables.
    pub read_rows: u64,
    /// Bytes read from tables, uncompressed.
    pub read_bytes: u64,
    /// Rows written, those of materialized views included.
    pub written_rows: u64,
    /// Bytes written, uncompressed.
    pub written_bytes: u64,
}

/// A result, or one block of a streamed one, in its output format.
pub struct QueryResult {
    api: Arc<Api>,
    handle: ResultHandle,
}

// SAFETY: a result is a plain buffer of its own; the API ties it to no thread.
unsafe impl Send for QueryResult {}

impl QueryResult {
    fn checked(api: &Arc<Api>, handle: ResultHandle) -> Result<Self, Exception> {
        let result = Self { api: Arc::clone(api), handle };
        if handle.is_null() {
            return Err(Exception::from_engine("the engine returned no result"));
        }
        // SAFETY: the handle is live.
        match Api::error_text(unsafe { (api.result_error)(handle) }) {
            Some(error) => Err(error),
            None => Ok(result),
        }
    }

    /// What the statement, or this block of it, has read and written.
    pub fn progress(&self) -> Progress {
        // SAFETY: the handle is live; the counters only read it.
        unsafe {
            Progress {
                read_rows: (self.api.result_storage_rows_read)(self.handle),
                read_bytes: (self.api.result_storage_bytes_read)(self.handle),
                written_rows: (self.api.result_rows_written)(self.handle),
                written_bytes: (self.api.result_bytes_written)(self.handle),
            }
        }
    }

    /// The formatted bytes, without a copy: the result lives as long as they do.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for QueryResult {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: buffer and length describe memory the result owns and does not change.
        unsafe {
            let buffer: *const u8 = (self.api.result_buffer)(self.handle).cast();
            let length = (self.api.result_length)(self.handle);
            if buffer.is_null() || length == 0 { &[] } else { std::slice::from_raw_parts(buffer, length) }
        }
    }
}

impl Drop for QueryResult {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: destroyed only here.
            unsafe { (self.api.destroy_query_result)(self.handle) };
        }
    }
}

/// A running `SELECT`. Dropped before its end, it cancels the statement.
pub struct ResultStream<'c> {
    connection: &'c mut Connection,
    start: QueryResult,
    finished: bool,
}

impl ResultStream<'_> {
    /// The next block, or `None` at the end. Blocks until the engine has one.
    pub fn fetch(&mut self) -> Result<Option<QueryResult>, Exception> {
        if self.finished {
            return Ok(None);
        }
        let api = &self.connection.api;
        // SAFETY: connection and stream are live, and this is the stream's only caller.
        let handle = unsafe { (api.stream_fetch_result)(*self.connection.slot.as_ptr(), self.start.handle) };
        match QueryResult::checked(api, handle) {
            Ok(block) if block.as_ref().is_empty() => {
                self.finished = true;
                Ok(None)
            }
            Ok(block) => Ok(Some(block)),
            Err(error) => {
                self.finished = true;
                Err(error)
            }
        }
    }
}

impl Drop for ResultStream<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // SAFETY: connection and stream are live and no fetch is under way.
            unsafe {
                (self.connection.api.stream_cancel_query)(*self.connection.slot.as_ptr(), self.start.handle);
            }
        }
    }
}

/// A running `INSERT`. Dropped before [`InsertStream::finish`], it cancels the statement.
pub struct InsertStream<'c> {
    connection: &'c mut Connection,
    handle: InsertHandle,
}

impl InsertStream<'_> {
    /// Hands over a piece of the data; blocks while the engine is behind. `false` once the insert has
    /// failed: [`InsertStream::finish`] says why.
    pub fn append(&mut self, data: &[u8]) -> bool {
        // SAFETY: the stream is live and `data` is copied during the call.
        unsafe { (self.connection.api.stream_append)(self.handle, data.as_ptr().cast(), data.len()) == 0 }
    }

    /// Ends the data and waits until it is stored.
    pub fn finish(self) -> Result<QueryResult, Exception> {
        // SAFETY: the stream is live; destroying it after this is the owner's drop.
        let handle = unsafe { (self.connection.api.stream_done)(self.handle) };
        QueryResult::checked(&self.connection.api, handle)
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        // SAFETY: cancelling a finished stream does nothing; the handle is destroyed only here.
        unsafe {
            (self.connection.api.stream_cancel_insert)(self.handle);
            (self.connection.api.destroy_insert_stream)(self.handle);
        }
    }
}
