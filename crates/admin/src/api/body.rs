//! Bodies of requests.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::ApiError;

/// JSON, or a refusal like any other.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            // What was sent is not repeated: it may have a password in it. Where the mistake is, is.
            Err(rejection) if rejection.status() == StatusCode::UNPROCESSABLE_ENTITY => {
                Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "the body has a field that is missing, unknown or of the wrong form; see /api/v1/openapi.json",
                ))
            }
            Err(rejection) => Err(ApiError::new(
                rejection.status(),
                "the body is no JSON of type application/json, or too large",
            )),
        }
    }
}
