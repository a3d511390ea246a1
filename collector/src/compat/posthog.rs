//! PostHog's capture API.

use axum::{http::StatusCode, response::Response};
use serde::Serialize;

use super::{Call, Does, Route, Translation};
use crate::{
    decode::Refusal,
    http::answer::{self, Refused},
};

/// Addresses.
pub(crate) const ROUTES: &[Route] = &[Route { path: "/batch", does: Does::Post }];

/// The events of a request.
pub(crate) fn decode(call: &Call<'_>) -> Result<Translation, Refusal> {
    super::json(call.body)?;
    Ok(Translation::default())
}

/// `{"success": true}`; a refusal has the status that Millrace's own answer has.
pub(crate) fn answer(result: Result<usize, &Refused>) -> Response {
    #[derive(Serialize)]
    struct Success {
        success: bool,
    }
    match result {
        Ok(_) => answer::json(StatusCode::OK, &Success { success: true }),
        Err(refused) => answer::refused(refused),
    }
}
