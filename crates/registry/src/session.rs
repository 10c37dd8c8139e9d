//! Upload sessions, as registries keep them: beginning one, asking where it stands, ending it.

use oci::{Descriptor, ImageReference};
use reqwest::header::{LOCATION, RANGE};
use reqwest::{Method, Response};
use url::Url;

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::send::{Call, Failure, Target};

pub(crate) const OCTETS: &str = "application/octet-stream";

/// What a request for a session led to.
pub(crate) enum Begun {
    /// The blob was mounted from another repository.
    Mounted,
    /// The registry wants the bytes, here.
    Session(Url),
}

/// Where a session stands.
pub(crate) struct Standing {
    /// Where it goes on.
    pub(crate) url: Url,
    /// How many bytes the registry has.
    pub(crate) arrived: u64,
}

impl Client {
    /// Begins a session, or mounts.
    pub(crate) async fn begin(
        &self,
        endpoint: &Endpoint,
        target: &ImageReference,
        mount: Option<(&Descriptor, &str)>,
    ) -> Result<Begun, Failure> {
        let mut call = Call::new(endpoint, target, Method::POST, "blobs/uploads/");
        (call.kind, call.what) = ("upload", endpoint.repository(target));
        if let Some((descriptor, from)) = mount {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("mount", descriptor.digest.as_str()).append_pair("from", from);
            call.target = Target::Tail(format!("blobs/uploads/?{}", query.finish()));
            call.what = descriptor.digest.to_string();
            call.scopes.push(format!("repository:{from}:pull"));
        }
        let response = self.shared.send_once(&call).await?;
        if mount.is_some() && response.status().as_u16() == 201 {
            return Ok(Begun::Mounted);
        }
        Ok(Begun::Session(session_url(&call, &response)?))
    }

    /// Begins a session that is not a mount: its address, and the least size of a chunk in bytes.
    pub(crate) async fn begin_upload(
        &self,
        endpoint: &Endpoint,
        target: &ImageReference,
    ) -> Result<(Url, Option<u64>), RegistryError> {
        let mut call = Call::new(endpoint, target, Method::POST, "blobs/uploads/");
        (call.kind, call.what) = ("upload", endpoint.repository(target));
        let response = self.shared.send(&call).await?;
        let least = response.headers().get("oci-chunk-min-length");
        let least = least.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        Ok((session_url(&call, &response)?, least))
    }

    /// Asks where a session stands. A failure without [`Failure::retry`] means that it cannot go on.
    pub(crate) async fn standing(
        &self,
        endpoint: &Endpoint,
        target: &ImageReference,
        url: &Url,
    ) -> Result<Standing, Failure> {
        let mut call = session_call(endpoint, target, Method::GET, url.clone());
        call.scopes = vec![crate::send::scope(endpoint, target, "pull,push")];
        let response = self.shared.send_once(&call).await?;
        let arrived = arrived(&response);
        // Some registries answer without an address: it stays as it was.
        let url = session_url(&call, &response).unwrap_or_else(|_| url.clone());
        Ok(Standing { url, arrived })
    }

    /// Ends a session that nobody wants. Registries end it themselves after a while, so a failure does not matter.
    pub(crate) async fn cancel(&self, endpoint: &Endpoint, target: &ImageReference, url: Url) {
        let call = session_call(endpoint, target, Method::DELETE, url);
        if let Err(failure) = self.shared.send_once(&call).await {
            tracing::debug!(error = %failure.error, "an upload could not be cancelled");
        }
    }
}

/// A request to a session.
pub(crate) fn session_call<'a>(
    endpoint: &'a Endpoint,
    target: &'a ImageReference,
    method: Method,
    url: Url,
) -> Call<'a> {
    let mut call = Call::new(endpoint, target, method, "blobs/uploads/");
    call.kind = "upload";
    call.target = Target::Url(url);
    call
}

/// Where a session goes on; a path is relative to the address that was asked.
pub(crate) fn session_url(call: &Call<'_>, response: &Response) -> Result<Url, RegistryError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    location
        .and_then(|text| response.url().join(text).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| call.protocol("an upload without an address"))
}

pub(crate) fn with_digest(mut url: Url, descriptor: &Descriptor) -> Url {
    url.query_pairs_mut().append_pair("digest", descriptor.digest.as_str());
    url
}

/// How many bytes `Range: 0-last` stands for. Nothing at all is `0-0` too, which a chunk of one byte would be as well:
/// one byte more or less is then found out by the digest.
fn arrived(response: &Response) -> u64 {
    let last = response
        .headers()
        .get(RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.rsplit('-').next())
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    if last == 0 { 0 } else { last + 1 }
}
