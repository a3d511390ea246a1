//! What a client sees when a statement fails: ClickHouse's own text, number and HTTP status.
//!
//! The engine hands errors over as text that starts with `Code: 60. DB::Exception: …`. The number is read
//! back from that text, because the C API has no other place for it, and decides the HTTP status by the
//! same table that ClickHouse's server uses.

use axum::http::StatusCode;

/// Error numbers this server raises itself, by ClickHouse's names.
pub mod code {
    /// The request's parts contradict each other or cannot be read.
    pub const BAD_ARGUMENTS: u32 = 36;
    /// The body ended before the data did.
    pub const CANNOT_READ_ALL_DATA: u32 = 33;
    /// A compressed block's checksum does not fit its bytes.
    pub const CHECKSUM_DOESNT_MATCH: u32 = 40;
    /// The statement cannot be parsed, or there is more than one.
    pub const SYNTAX_ERROR: u32 = 62;
    /// A compressed block uses a method this server does not know, or claims an absurd size.
    pub const CANNOT_DECOMPRESS: u32 = 271;
    /// Every place for a statement, and every place in the queue, is taken.
    pub const TOO_MANY_SIMULTANEOUS_QUERIES: u32 = 202;
    /// Somebody who only reads wants to change something.
    pub const READONLY: u32 = 164;
    /// The client stopped sending for longer than the receive timeout.
    pub const SOCKET_TIMEOUT: u32 = 209;
    /// `SELECT … INTO OUTFILE` writes the server's disk, which HTTP clients may not.
    pub const INTO_OUTFILE_NOT_ALLOWED: u32 = 358;
    /// The statement is longer than the server reads.
    pub const QUERY_IS_TOO_LARGE: u32 = 229;
    /// The server is shutting down, or the client went away.
    pub const ABORTED: u32 = 236;
    /// The request comes from a web page, or asks for what is not allowed here.
    pub const ACCESS_DENIED: u32 = 497;
    /// The body is encoded in a way this server does not read.
    pub const UNSUPPORTED_MEDIA_TYPE: u32 = 779;
    /// Wrong user or password.
    pub const AUTHENTICATION_FAILED: u32 = 516;
    /// The engine said something that is not one of its errors.
    pub const UNKNOWN_EXCEPTION: u32 = 1002;
}

/// A ClickHouse error: its number and the whole text, without a line end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Exception {
    code: u32,
    text: String,
}

impl Exception {
    /// An error of this server, in ClickHouse's shape: `Code: n. DB::Exception: message. (NAME)`.
    pub fn new(code: u32, name: &str, message: impl std::fmt::Display) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {message}. ({name})") }
    }

    /// An error text as the engine gave it.
    pub fn from_engine(text: &str) -> Self {
        let text = text.trim_end();
        let code = text
            .strip_prefix("Code: ")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(digits, _)| digits.parse().ok());
        match code {
            Some(code) => Self { code, text: text.to_owned() },
            None => Self::new(code::UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", text),
        }
    }

    /// The number, as in `X-ClickHouse-Exception-Code`.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The text with the engine's version behind it, where ClickHouse's HTTP interface puts it.
    pub fn with_version(mut self, version: &str) -> Self {
        let suffix = format!("(version {version})");
        if !self.text.ends_with(&suffix) {
            self.text.push(' ');
            self.text.push_str(&suffix);
        }
        self
    }

    /// The HTTP status ClickHouse answers this error with.
    pub fn status(&self) -> StatusCode {
        match self.code {
            // REQUIRED_PASSWORD
            194 => StatusCode::UNAUTHORIZED,
            // UNKNOWN_USER, WRONG_PASSWORD, AUTHENTICATION_FAILED, SET_NON_GRANTED_ROLE, ACCESS_DENIED
            192 | 193 | 516 | 512 | 497 => StatusCode::FORBIDDEN,
            // BAD_ARGUMENTS, the CANNOT_PARSE_… family, columns and trees that do not fit, SYNTAX_ERROR,
            // INCORRECT_DATA, TYPE_MISMATCH, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
            36 | 427 | 6 | 25 | 26 | 27 | 38 | 41 | 72 | 376 | 441 | 675 | 676 | 15 | 44 | 8 | 37 | 123
            | 167 | 168 | 223 | 62 | 117 | 53 | 321 => StatusCode::BAD_REQUEST,
            // UNKNOWN_ TABLE, FUNCTION, IDENTIFIER, TYPE, STORAGE, DATABASE, SETTING, DIRECTION_OF_SORTING,
            // AGGREGATE_FUNCTION, FORMAT, DATABASE_ENGINE, TYPE_OF_QUERY, ROLE
            60 | 46 | 47 | 50 | 56 | 81 | 115 | 152 | 63 | 73 | 336 | 78 | 511 => StatusCode::NOT_FOUND,
            code::QUERY_IS_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            // NOT_IMPLEMENTED
            48 => StatusCode::NOT_IMPLEMENTED,
            // SOCKET_TIMEOUT, CANNOT_OPEN_FILE, CANNOT_SCHEDULE_TASK; and this server's own full queue
            code::SOCKET_TIMEOUT | 76 | 439 | code::TOO_MANY_SIMULTANEOUS_QUERIES => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // HTTP_LENGTH_REQUIRED
            381 => StatusCode::LENGTH_REQUIRED,
            code::UNSUPPORTED_MEDIA_TYPE => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            // TIMEOUT_EXCEEDED
            159 => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_text_keeps_its_number_and_gets_a_status() {
        let error =
            Exception::from_engine("Code: 60. DB::Exception: Table t does not exist. (UNKNOWN_TABLE)\n");
        assert_eq!(error.code(), 60);
        assert_eq!(error.status(), StatusCode::NOT_FOUND);
        assert_eq!(error.to_string(), "Code: 60. DB::Exception: Table t does not exist. (UNKNOWN_TABLE)");
    }

    #[test]
    fn text_without_a_number_is_still_an_error() {
        let error = Exception::from_engine("something odd");
        assert_eq!(error.code(), code::UNKNOWN_EXCEPTION);
        assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn the_version_is_said_once() {
        let error =
            Exception::from_engine("Code: 1. DB::Exception: x. (Y) (version 26.7)").with_version("26.7");
        assert_eq!(error.to_string(), "Code: 1. DB::Exception: x. (Y) (version 26.7)");
        let error = Exception::from_engine("Code: 1. DB::Exception: x. (Y)").with_version("26.7");
        assert_eq!(error.to_string(), "Code: 1. DB::Exception: x. (Y) (version 26.7)");
    }
}
