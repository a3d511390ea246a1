//! Against the snippet: somebody else at the device, the page it stands in, a collector that does not know its key.

use super::node;

/// Two people at one device, for every call of the snippet: what one did is never told as the other's.
#[tokio::test]
async fn what_one_did_is_never_told_as_anothers() {
    node("tests/browser", &["people.mjs"]).await;
}

/// Markup, storage and scripts against the snippet, and collectors that do not know its key.
#[tokio::test]
async fn the_snippet_withstands_its_page() {
    node("tests/browser", &["attacks.mjs"]).await;
}
