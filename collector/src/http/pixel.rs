//! `GET /v1/pixel.gif`: one event from an address, for places without JavaScript.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderValue, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::Response,
};
use millrace_service::serve::Peer;

use super::{
    App, answer,
    answer::Refused,
    collect::{self, Head},
    cors,
};
use crate::field::Field;

/// A transparent pixel.
pub(crate) const GIF: &[u8; 43] =
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff\x21\xf9\x04\x01\x00\x00\x00\x00\
    \x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b";

/// The handler.
pub(crate) async fn get(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let result = async {
        let client = collect::take_client_rate(&app, &parts)?;
        let key = collect::query_key(&parts.uri);
        let origin = cors::page_origin(&parts);
        let head = Head { headers: &parts.headers, client, key: key.as_deref(), origin: origin.as_deref() };
        if let Some(peer) = parts.extensions.get::<Peer>() {
            peer.connection.work();
        }
        let event = event(&parts.uri);
        let accept = async || collect::accept_one(&app, &event, &head);
        let accepted = collect::again_if_known_by_now(&app, accept().await, accept).await;
        collect::append(&app, accepted?).await
    };
    let result: Result<_, Refused> = result.await;
    if let Err(refused) = result {
        collect::count_refused(&app, &refused);
        return answer::refused(&refused);
    }
    let mut response = Response::new(Body::from(GIF.as_slice()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The query as the JSON of an event: in an address everything is text, so what reads as a number, `true` or `false`
/// is one where the field wants it.
fn event(uri: &Uri) -> Vec<u8> {
    let mut json = b"{".to_vec();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let Some(field) = Field::parse(&name) else { continue };
        if json.len() > 1 {
            json.push(b',');
        }
        json.push(b'"');
        json.extend_from_slice(name.as_bytes());
        json.extend_from_slice(b"\":");
        let is_literal = match field {
            Field::Interactive | Field::Webdriver => matches!(&*value, "true" | "false"),
            Field::X
            | Field::Y
            | Field::PageWidth
            | Field::PageHeight
            | Field::ViewportWidth
            | Field::ViewportHeight
            | Field::ScreenWidth
            | Field::ScreenHeight
            | Field::DurationMs
            | Field::ScrollDepth => serde_json::from_str::<serde_json::Number>(&value).is_ok(),
            Field::Properties | Field::Items => serde_json::from_str::<serde_json::Value>(&value).is_ok(),
            _ => false,
        };
        if is_literal {
            json.extend_from_slice(value.as_bytes());
        } else {
            json.extend_from_slice(serde_json::Value::from(&*value).to_string().as_bytes());
        }
    }
    json.push(b'}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_events() {
        let uri = "/v1/pixel.gif?key=k&type=page_view&url=https%3A%2F%2Fa.example%2F%3Fb%3D1&scroll_depth=50&title=%22&x=a"
            .parse()
            .unwrap();
        assert_eq!(
            String::from_utf8(event(&uri)).unwrap(),
            r#"{"type":"page_view","url":"https://a.example/?b=1","scroll_depth":50,"title":"\"","x":"a"}"#
        );
    }
}
