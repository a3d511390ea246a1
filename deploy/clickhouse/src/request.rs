//! One HTTP request of ClickHouse's protocol, taken apart: what is the statement's, what are its settings,
//! what are the values of its placeholders, who asks.
//!
//! URL parameters that this server does not know are settings of the statement, as ClickHouse has it, so a
//! misspelt one is answered `UNKNOWN_SETTING` rather than passed over.

use axum::http::{HeaderMap, Method, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    access::{Passwords, User},
    config::is_setting_name,
    error::{Exception, code},
};

/// URL parameters that are neither settings nor used here: sessions, roles and buffering do not change what
/// one statement on its own answers.
const IGNORED: [&str; 10] = [
    "quota_key",
    "session_id",
    "session_timeout",
    "session_check",
    "close_session",
    "role",
    "stacktrace",
    "buffer_size",
    "client_protocol_version",
    "add_http_cors_header",
];

/// The request without its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The statement's text, or its beginning.
    pub query: String,
    /// Current database.
    pub database: Option<String>,
    /// Output format where the statement names none.
    pub default_format: Option<String>,
    /// The client's name for the statement.
    pub query_id: Option<String>,
    /// The response goes into compressed blocks.
    pub compress: bool,
    /// The body is in compressed blocks.
    pub decompress: bool,
    /// The response is wanted only when the statement has ended.
    pub wait_end_of_query: bool,
    /// Settings of the statement, in the order given.
    pub settings: Vec<(String, String)>,
    /// Values of `{name:Type}` placeholders.
    pub params: Vec<(String, String)>,
    /// Boundary of a multipart body.
    pub boundary: Option<String>,
    /// The statement may change nothing: whatever its method, but for POST, a link could have sent it.
    pub reads_only: bool,
    credentials: Credentials,
    from_web_page: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Credentials {
    user: Option<String>,
    password: Option<String>,
}

impl Request {
    /// Takes method, query string and headers apart.
    pub fn parse(method: &Method, query_string: &str, headers: &HeaderMap) -> Result<Self, Exception> {
        let mut request = Self { credentials: header_credentials(headers), ..Self::default() };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(encoding) = header(header::CONTENT_ENCODING.as_str()).filter(|name| *name != "identity") {
            return Err(Exception::new(
                code::UNSUPPORTED_MEDIA_TYPE,
                "UNSUPPORTED_MEDIA_TYPE",
                format_args!("Content-Encoding `{}` is not read here", encoding.escape_debug()),
            ));
        }
        request.from_web_page = header(header::ORIGIN.as_str()).is_some()
            || header("Sec-Fetch-Site").is_some_and(|site| site != "none");
        request.database = header("X-ClickHouse-Database").map(str::to_owned);
        request.default_format = header("X-ClickHouse-Format").map(str::to_owned);
        request.boundary = header(header::CONTENT_TYPE.as_str())
            .filter(|content_type| content_type.starts_with("multipart/form-data"))
            .and_then(|content_type| multer::parse_boundary(content_type).ok());
        for (name, value) in form_urlencoded::parse(query_string.as_bytes()) {
            request.parameter(&name, value.into_owned())?;
        }
        request.reads_only = method != Method::POST;
        Ok(request)
    }

    /// A parameter of the URL, or a field of a multipart body.
    pub fn parameter(&mut self, name: &str, value: String) -> Result<(), Exception> {
        match name {
            "query" => self.query.push_str(&value),
            "database" => self.database = Some(value).filter(|database| !database.is_empty()),
            "default_format" => self.default_format = Some(value),
            "query_id" => self.query_id = Some(value),
            "user" => self.credentials.user = Some(value),
            "password" => self.credentials.password = Some(value),
            "compress" => self.compress = flag(&value),
            "decompress" => self.decompress = flag(&value),
            "wait_end_of_query" => self.wait_end_of_query = flag(&value),
            name if IGNORED.contains(&name) => {}
            name => match name.strip_prefix("param_") {
                Some(name) => self.params.push((name.to_owned(), value)),
                None if is_setting_name(name) => self.settings.push((name.to_owned(), value)),
                None => {
                    let name: String = name.chars().take(64).collect();
                    return Err(Exception::new(
                        code::BAD_ARGUMENTS,
                        "BAD_ARGUMENTS",
                        format_args!("The parameter `{}` is not the name of a setting", name.escape_debug()),
                    ));
                }
            },
        }
        Ok(())
    }

    /// Who asks, if anybody may. People only read.
    pub fn authenticate(&mut self, passwords: &Passwords) -> Result<User, Exception> {
        // Nothing here is for web pages: a page that the machine's user visits can send to the machine's ports, with what
        // the browser knows of passwords.
        if self.from_web_page {
            return Err(Exception::new(
                code::ACCESS_DENIED,
                "ACCESS_DENIED",
                "Requests of web pages are refused",
            ));
        }
        let name = self.credentials.user.as_deref().filter(|user| !user.is_empty()).unwrap_or("default");
        match passwords.user(name, self.credentials.password.as_deref().unwrap_or_default()) {
            Some(user) => {
                self.reads_only |= user == User::Reader;
                Ok(user)
            }
            None => {
                let name: String = name.chars().take(64).collect();
                Err(Exception::new(
                    code::AUTHENTICATION_FAILED,
                    "AUTHENTICATION_FAILED",
                    format_args!(
                        "{}: Authentication failed: password is incorrect, or there is no user with such name",
                        name.escape_debug()
                    ),
                ))
            }
        }
    }
}

fn header_credentials(headers: &HeaderMap) -> Credentials {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut credentials = Credentials { user: text("X-ClickHouse-User"), password: text("X-ClickHouse-Key") };
    let basic = text(header::AUTHORIZATION.as_str())
        .and_then(|value| BASE64_STANDARD.decode(value.strip_prefix("Basic ")?.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((user, password)) = basic.as_deref().and_then(|pair| pair.split_once(':')) {
        credentials = Credentials { user: Some(user.to_owned()), password: Some(password.to_owned()) };
    }
    credentials
}

fn flag(value: &str) -> bool {
    matches!(value, "1" | "true")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use clap::Parser;

    use super::{super::config::Config, *};

    fn parse(query_string: &str) -> Request {
        Request::parse(&Method::POST, query_string, &HeaderMap::new()).expect("parses")
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn parameters_go_where_they_belong() {
        let request = parse(
            "query=SELECT%20{a:UInt8}&database=d&default_format=JSON&param_a=1&max_threads=2&compress=1\
             &session_id=x&wait_end_of_query=1&query_id=q",
        );
        assert_eq!(request.query, "SELECT {a:UInt8}");
        assert_eq!(request.database.as_deref(), Some("d"));
        assert_eq!(request.default_format.as_deref(), Some("JSON"));
        assert_eq!(request.params, [pair("a", "1")]);
        assert_eq!(request.settings, [pair("max_threads", "2")]);
        assert!(request.compress && request.wait_end_of_query && !request.decompress);
    }

    #[test]
    fn what_is_no_post_is_read_only() {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let request = Request::parse(&method, "readonly=0", &HeaderMap::new()).expect("parses");
            assert!(request.reads_only, "{method}");
        }
        assert!(!parse("").reads_only);
    }

    #[test]
    fn a_name_that_could_not_stand_in_a_statement_is_refused() {
        let error = Request::parse(&Method::POST, "a%3D1%2Cb=2", &HeaderMap::new()).expect_err("refused");
        assert_eq!(error.code(), code::BAD_ARGUMENTS);
    }

    #[test]
    fn web_pages_are_refused() {
        for (name, value) in
            [("origin", "https://shop.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
        {
            let headers =
                [(name.parse().expect("name"), HeaderValue::from_static(value))].into_iter().collect();
            let mut request = Request::parse(&Method::POST, "", &headers).expect("parses");
            let error = request.authenticate(&open()).expect_err("refused");
            assert_eq!(error.code(), code::ACCESS_DENIED);
        }
        let typed = [("sec-fetch-site".parse().expect("name"), HeaderValue::from_static("none"))];
        let mut request = Request::parse(&Method::GET, "", &typed.into_iter().collect()).expect("parses");
        request.authenticate(&open()).expect("typed into the address bar");
    }

    #[test]
    fn an_encoded_body_is_not_taken_for_data() {
        let headers = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))].into_iter().collect();
        let error = Request::parse(&Method::POST, "", &headers).expect_err("refused");
        assert_eq!(error.code(), code::UNSUPPORTED_MEDIA_TYPE);
    }

    fn open() -> Passwords {
        Passwords::read(&Config::parse_from(["x", "--no-password"])).expect("wanted")
    }

    #[test]
    fn credentials_come_in_three_ways() {
        let dir = tempfile::tempdir().expect("directory");
        let [services, reader] = ["services", "reader"].map(|name| dir.path().join(name));
        std::fs::write(&services, "password-of-millrace").expect("written");
        std::fs::write(&reader, "password-of-reader").expect("written");
        let config = Config::parse_from([
            "x".to_owned(),
            format!("--password-file={}", services.display()),
            format!("--reader-password-file={}", reader.display()),
        ]);
        let passwords = Passwords::read(&config).expect("read");
        let check = |mut request: Request| {
            let user = request.authenticate(&passwords).map_err(|error| error.code())?;
            Ok((user, request.reads_only))
        };
        let services = Ok((User::Services, false));
        assert_eq!(check(parse("")), Err(code::AUTHENTICATION_FAILED));
        assert_eq!(check(parse("user=millrace&password=wrong")), Err(code::AUTHENTICATION_FAILED));
        assert_eq!(check(parse("user=millrace&password=password-of-millrace")), services);
        assert_eq!(check(parse("user=reader&password=password-of-reader")), Ok((User::Reader, true)));

        let with = |headers: &[(&'static str, &str)]| {
            let headers = headers
                .iter()
                .map(|(n, v)| (n.parse().expect("name"), HeaderValue::from_str(v).expect("value")))
                .collect();
            check(Request::parse(&Method::POST, "", &headers).expect("parses"))
        };
        assert_eq!(
            with(&[("x-clickhouse-user", "millrace"), ("x-clickhouse-key", "password-of-millrace")]),
            services
        );
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        assert_eq!(with(&[("authorization", &basic("millrace:password-of-millrace"))]), services);
        assert_eq!(
            with(&[("authorization", &basic("millrace:password-of-reader"))]),
            Err(code::AUTHENTICATION_FAILED)
        );
    }
}
