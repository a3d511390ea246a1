//! Addresses and a user agent as somebody made them up, through every step of enrichment. Whatever they are,
//!
//! * an event is accepted, and what is stored of its addresses, sent again, is stored the same;
//! * no email address is left, and no parameter that is not on the list;
//! * nothing of it changes the event's key.

use millrace_collector::{
    chain::collect_body,
    decode::{Form, Scratch},
    validate::Request,
};
use serde_json::{Value, json};

use crate::decode::{ENRICHER, request};

/// Stands in a parameter that no list has.
const SECRET: &str = "millrace_secret";

/// Of an address; far below what is refused.
const LETTERS_MAX: usize = 1000;

/// See the module. The first byte chooses the key; then the address of the page, a newline, that of the one before, a
/// newline, the user agent.
pub fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let mut parts = text.splitn(3, '\n');
    let mut part = || parts.next().unwrap_or_default();
    // An address that is too long, or has blanks, is refused before any step.
    let is_taken = |letter: &char| *letter > ' ' && *letter != '\x7f';
    let path: String = part().chars().filter(is_taken).take(LETTERS_MAX).collect();
    let url = format!("https://a.example/{path}?{SECRET}=1");
    let referrer: String = part().chars().take(LETTERS_MAX).collect();
    let referrer = format!("{referrer}?{SECRET}=1");
    let user_agent: String = part().chars().take(LETTERS_MAX).collect();
    let (_, request) = request(*choice & 4);
    let row = row(&request, &url, &referrer, &user_agent);
    let field = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();

    let (clean_url, clean_referrer) = (field("url"), field("referrer"));
    for clean in [clean_url, clean_referrer] {
        assert!(!clean.contains(SECRET), "{clean}");
        assert!(!has_plain_email(clean), "{clean}");
    }
    let again = self::row(&request, clean_url, clean_referrer, &user_agent);
    assert_eq!(again.get("url"), row.get("url"), "done again, it changes");
    assert_eq!(again.get("referrer"), row.get("referrer"), "done again, it changes");
    for name in ["store_id", "key_date", "name", "visitor_hash", "event_id"] {
        assert_eq!(again.get(name), row.get(name), "{name} depends on what was learned");
    }
    for name in ["utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "utm_id", "click_id"]
    {
        assert!(!has_plain_email(field(name)), "{name}: {}", field(name));
    }
}

fn row(request: &Request<'_>, url: &str, referrer: &str, user_agent: &str) -> Value {
    let event = json!({
        "type": "page_view", "event_id": "018f3a5e-0000-7000-8000-000000000001", "visitor_id": "v", "url": url,
        "referrer": referrer, "user_agent": user_agent,
    });
    let outcome =
        collect_body(event.to_string().as_bytes(), Form::Json, request, &ENRICHER, &mut Scratch::default());
    let outcome = outcome.unwrap_or_else(|refusal| panic!("refused: {}", refusal.detail));
    assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
    serde_json::from_slice(&outcome.messages[0].value).unwrap_or_default()
}

/// Whether `letter@letters.letters` stands in a text: no address with an `@` is simpler.
fn has_plain_email(text: &str) -> bool {
    text.match_indices('@').any(|(at, _)| {
        let is_named = text[..at].ends_with(|letter: char| letter.is_ascii_alphanumeric());
        let domain =
            text[at + 1..].split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.').next();
        let mut labels = domain.unwrap_or_default().split('.').skip(1);
        is_named
            && labels.any(|label| label.len() >= 2 && label.bytes().all(|byte| byte.is_ascii_alphabetic()))
    })
}
