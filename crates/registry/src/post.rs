//! What is sent to any HTTP server and wants no more of an answer than that it was taken: spans of a build.

use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use crate::client::Client;
use crate::connection::{cause_of, diagnose};
use crate::error::{Cause, RegistryError, colon};
use crate::fetch::{FetchError, parse, shown};
use crate::send::read_message;
use crate::transport::{Direction, check_resolver};

/// Something to be sent.
#[derive(Clone)]
pub struct PostRequest {
    /// Where to; `http` or `https`.
    pub url: String,
    /// Further header fields, by name.
    pub headers: Vec<(String, String)>,
    /// The type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
    /// How long all of it may take.
    pub time_limit: Duration,
}

/// Why something was not taken. URLs are shown without passwords.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The URL is none, or not one of HTTP.
    #[error(transparent)]
    Url(FetchError),
    /// A header field that cannot be one.
    #[error("the header field `{name}` cannot be sent")]
    Header {
        /// Its name.
        name: String,
    },
    /// An answer that is not a success.
    #[error("`{url}` answers with status {status}{}", colon(message))]
    Status {
        /// The URL.
        url: String,
        /// The status code.
        status: u16,
        /// What the server says about it; may be empty.
        message: String,
    },
    /// No connection, or it broke.
    #[error("cannot send to `{url}`")]
    Unavailable {
        /// The URL.
        url: String,
        /// What went wrong with the connection.
        #[source]
        source: Cause,
    },
    /// The client could not be set up for the host.
    #[error(transparent)]
    Setup(#[from] RegistryError),
}

impl Client {
    /// Sends something, once. Redirects are not followed; proxies and certificates are those of registries.
    pub async fn post(&self, request: &PostRequest) -> Result<(), PostError> {
        let url = parse(&request.url).map_err(PostError::Url)?;
        let name = shown(&url);
        let unavailable = |source| PostError::Unavailable { url: name.clone(), source };
        let client = self.shared.transport.client(&self.shared.options, &url, Direction::Up)?;
        check_resolver(&url).map_err(unavailable)?;
        let call = client.post(url).header(CONTENT_TYPE, request.content_type).body(request.body.clone());
        let call = with_headers(call, &request.headers)?.timeout(request.time_limit);
        let response = call.send().await.map_err(|error| unavailable(cause_of(diagnose(&error))))?;
        let status = response.status().as_u16();
        if response.status().is_success() {
            return Ok(());
        }
        Err(PostError::Status { url: name, status, message: read_message(response).await })
    }
}

fn with_headers(mut call: RequestBuilder, headers: &[(String, String)]) -> Result<RequestBuilder, PostError> {
    for (name, value) in headers {
        let wrong = || PostError::Header { name: name.clone() };
        let field = HeaderName::try_from(name.as_str()).map_err(|_| wrong())?;
        // It may be a credential.
        let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        call = call.header(field, value);
    }
    Ok(call)
}
