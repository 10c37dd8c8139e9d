//! One request and its answer: scheme, authentication, redirects, the meaning of statuses, and retries.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use oci::ImageReference;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response};
use url::Url;

use crate::body::{Body, Flow};
use crate::client::Shared;
use crate::connection::{Diagnosis, Trouble, diagnose};
use crate::endpoint::{Endpoint, Scheme};
use crate::error::{Cause, RegistryError};
use crate::retry::{is_passing, retry_after};
use crate::transport::{Direction, authority, check_resolver};

/// The most that is read of an answer that tells of an error.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How often a mirror is tried.
const MIRROR_ATTEMPTS: u32 = 2;
/// The longest wait for the text of an error.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(10);
/// How many redirects are followed; as many as Go's client follows.
const MAX_REDIRECTS: usize = 10;
/// How often a request is repeated with other credentials: once when the registry first asks, once with a new token.
const MAX_CHALLENGES: usize = 2;

/// A request to a registry.
pub(crate) struct Call<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) reference: &'a ImageReference,
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body<'a>,
    /// What the token has to allow.
    pub(crate) scopes: Vec<String>,
    /// What is asked for, for messages: a tag or digest.
    pub(crate) what: String,
    /// What kind of thing that is, for messages: `manifest`, `blob`, `upload`.
    pub(crate) kind: &'static str,
    /// Statuses that are answers to this request although they are no successes.
    pub(crate) also: &'static [u16],
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Below the repository.
    Tail(String),
    /// Where the registry said.
    Url(Url),
    /// At a server that is no registry of ours: without credentials.
    Foreign(Url),
}

/// A failed exchange.
pub(crate) struct Failure {
    pub(crate) error: RegistryError,
    pub(crate) retry: Retry,
}

/// Whether a failed exchange may have more luck later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    Never,
    /// Perhaps; the registry may have said after how long.
    Later(Option<Duration>),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, retry: Retry::Never }
    }
}

/// Counts failures and pauses between them.
pub(crate) struct Retries<'a> {
    shared: &'a Shared,
    failures: u32,
    most: u32,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self { shared, failures: 0, most: u32::MAX }
    }

    /// For requests to `endpoint`: a mirror that fails is not waited for long, as there is another host to ask.
    fn with(shared: &'a Shared, endpoint: &Endpoint) -> Self {
        let most = if endpoint.mirror_of.is_some() { MIRROR_ATTEMPTS } else { u32::MAX };
        Self { most, ..Self::new(shared) }
    }

    /// Waits before the next attempt; gives the error back where there should be none.
    pub(crate) async fn pause(&mut self, failure: Failure) -> Result<(), RegistryError> {
        self.failures += 1;
        let Retry::Later(asked) = failure.retry else { return Err(failure.error) };
        if self.failures >= self.most {
            return Err(failure.error);
        }
        let Some(delay) = self.shared.options.retry.pause(self.failures, asked) else {
            return Err(failure.error);
        };
        tracing::debug!(error = %failure.error, ?delay, "repeating a request");
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Counts anew: something has moved since.
    pub(crate) fn forget(&mut self) {
        self.failures = 0;
    }
}

impl<'a> Call<'a> {
    /// A request below the repository without headers and body.
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        reference: &'a ImageReference,
        method: Method,
        tail: &str,
    ) -> Self {
        let (kind, what) = tail.split_once('/').unwrap_or((tail, ""));
        let kind = match kind {
            "manifests" => "manifest",
            _ => "blob",
        };
        let actions = if matches!(method, Method::GET | Method::HEAD) { "pull" } else { "pull,push" };
        Self {
            endpoint,
            reference,
            method,
            target: Target::Tail(tail.to_owned()),
            headers: HeaderMap::new(),
            body: Body::Empty,
            scopes: vec![scope(endpoint, reference, actions)],
            what: what.to_owned(),
            kind,
            also: &[],
        }
    }

    pub(crate) fn header(mut self, name: reqwest::header::HeaderName, value: &str) -> Self {
        // Values are digests, numbers and media types; what cannot be a header is left out and the registry complains.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    /// The reference, for messages.
    pub(crate) fn name(&self) -> String {
        self.reference.to_string()
    }

    pub(crate) fn host(&self) -> String {
        self.endpoint.host.clone()
    }

    pub(crate) fn protocol(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { reference: self.name(), host: self.host(), problem: problem.into() }
    }

    /// What is asked, for messages: `GET manifest`.
    pub(crate) fn request(&self) -> String {
        format!("{} {}", self.method, self.kind)
    }

    /// The failure of a connection to `host`.
    pub(crate) fn disconnected(&self, host: String, error: &reqwest::Error) -> Failure {
        let Diagnosis { trouble, reason, may_pass } = diagnose(error);
        let reference = self.name();
        let error = match trouble {
            Trouble::Certificate(problem) => RegistryError::BadCertificate { reference, host, problem },
            Trouble::Authority(problem) => RegistryError::Untrusted { reference, host, problem },
            Trouble::PlainHttp => RegistryError::PlainHttp { reference, host },
            Trouble::ClientCertificate => RegistryError::ClientCertificate { reference, host },
            Trouble::Unreachable => RegistryError::Unavailable { reference, host, source: reason.into() },
            Trouble::Broken => {
                RegistryError::Broken { reference, host, request: self.request(), source: reason.into() }
            }
        };
        Failure { error, retry: if may_pass { Retry::Later(None) } else { Retry::Never } }
    }
}

/// `repository:name:actions` (distribution's token scope).
pub(crate) fn scope(endpoint: &Endpoint, reference: &ImageReference, actions: &str) -> String {
    format!("repository:{}:{actions}", endpoint.repository(reference))
}

impl Shared {
    /// Sends `call`, again where that may help.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Response, RegistryError> {
        let mut retries = Retries::with(self, call.endpoint);
        loop {
            match self.send_once(call).await {
                Ok(response) => return Ok(response),
                Err(failure) => retries.pause(failure).await?,
            }
        }
    }

    /// Sends `call` and reads the whole answer of at most `limit` bytes, again where that may help.
    pub(crate) async fn send_and_read(
        &self,
        call: &Call<'_>,
        limit: u64,
    ) -> Result<(HeaderMap, Bytes), RegistryError> {
        let mut retries = Retries::with(self, call.endpoint);
        loop {
            let failure = match self.send_once(call).await {
                Ok(response) => {
                    let headers = response.headers().clone();
                    match read_body(call, response, limit).await {
                        Ok(bytes) => return Ok((headers, bytes)),
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            retries.pause(failure).await?;
        }
    }

    /// One attempt: whatever redirects and challenges it takes to get an answer.
    pub(crate) async fn send_once(&self, call: &Call<'_>) -> Result<Response, Failure> {
        // It is part of the futures of all that is done with registries, and would make all of them large.
        Box::pin(self.exchange(call)).await
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let scheme = self.scheme(call.endpoint).await;
        let base = call.endpoint.base_url(scheme)?;
        let mut url = match &call.target {
            Target::Tail(tail) => call.endpoint.url(scheme, call.reference, tail)?,
            Target::Url(url) | Target::Foreign(url) => url.clone(),
        };
        let is_foreign = matches!(call.target, Target::Foreign(_));
        let (mut challenges, mut redirects) = (0, 0);
        loop {
            // Credentials go to the registry alone, not to the storage that it redirects to.
            let is_registry = !is_foreign && url.origin() == base.origin();
            let authorization =
                if is_registry { self.authenticator.authorization(self, call).await? } else { None };
            let response = self.execute(call, &url, authorization.as_ref()).await?;
            let status = response.status();
            if status.is_redirection() {
                if redirects == MAX_REDIRECTS {
                    return Err(call.protocol("it redirects again and again").into());
                }
                redirects += 1;
                url = redirected(call, &url, &response)?;
            } else if status.as_u16() == 401 && is_registry && challenges < MAX_CHALLENGES {
                challenges += 1;
                self.authenticator.challenged(call, &base, &response, authorization.as_ref()).await?;
            } else {
                return judge(call, response, authorization.is_some()).await;
            }
        }
    }

    async fn execute(
        &self,
        call: &Call<'_>,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let _permit = self.lanes(&call.endpoint.host).requests.acquire_owned().await;
        let direction = match call.method {
            Method::GET | Method::HEAD => Direction::Down,
            // What a registry is asked to do may take it long, with and without a body.
            _ => Direction::Up,
        };
        let client = self.transport.client(&self.options, url, direction)?;
        check_resolver(url).map_err(|source| RegistryError::Unavailable {
            reference: call.name(),
            host: authority(url),
            source,
        })?;
        let mut request = client.request(call.method.clone(), url.clone()).headers(call.headers.clone());
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let body = call.body.open().await.map_err(|error| unreadable(call, error))?;
        if body.is_none() && direction == Direction::Down {
            let sent = request.send().await;
            return sent.map_err(|error| call.disconnected(authority(url), &error));
        }
        // Some servers refuse a POST that does not say how long it is.
        let (body, flow) = body.unwrap_or_else(|| (reqwest::Body::default(), Flow::new(0)));
        let request = request.header(CONTENT_LENGTH, flow.length).body(body);
        self.carry((call, url), request, &flow).await
    }

    /// Sends a request with a body, for as long as something of it moves.
    async fn carry(
        &self,
        (call, url): (&Call<'_>, &Url),
        request: reqwest::RequestBuilder,
        flow: &Flow,
    ) -> Result<Response, Failure> {
        let idle = self.options.idle_timeout;
        let result = flow.watch(request.send(), idle).await;
        // A body that could not be read shows as a broken connection; what broke it is the better reason.
        if let Some(error) = flow.failure() {
            return Err(unreadable(call, error).into());
        }
        if let Some(result) = result {
            return result.map_err(|error| call.disconnected(authority(url), &error));
        }
        let source: Cause = format!("nothing moved for {idle:?}").into();
        let (reference, host, request) = (call.name(), authority(url), call.request());
        let error = RegistryError::Broken { reference, host, request, source };
        Err(Failure { error, retry: Retry::Later(None) })
    }

    /// The scheme that `endpoint` speaks; found out once where there are several.
    async fn scheme(&self, endpoint: &Endpoint) -> Scheme {
        let first = endpoint.schemes[0];
        let Some(&second) = endpoint.schemes.get(1) else { return first };
        let cell = {
            let mut known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(endpoint.host.clone()).or_default())
        };
        *cell.get_or_init(|| self.probe(endpoint, first, second)).await
    }

    /// Asks for `/v2/` by `first`, then by `second`. An answer of any kind settles it, save the one that servers of
    /// HTTPS give to plain HTTP. Where neither answers, the first one's error is what people should see.
    async fn probe(&self, endpoint: &Endpoint, first: Scheme, second: Scheme) -> Scheme {
        for scheme in [first, second] {
            let Ok(url) = endpoint.base_url(scheme) else { continue };
            let Ok(client) = self.transport.client(&self.options, &url, Direction::Down) else { continue };
            match client.get(url).send().await {
                Ok(answer) if scheme == Scheme::Http && answer.status().as_u16() == 400 => {}
                Ok(_) => return scheme,
                Err(error) if io_kind(&error) == Some(std::io::ErrorKind::ConnectionRefused) => return first,
                Err(_) => {}
            }
        }
        first
    }
}

/// The error of a body that cannot be read.
fn unreadable(call: &Call<'_>, source: std::io::Error) -> RegistryError {
    match &call.body {
        Body::Source(part) => {
            let blob = part.digest.map_or_else(|| "a layer".to_owned(), |digest| format!("`{digest}`"));
            RegistryError::Source { reference: call.name(), blob, source }
        }
        Body::Empty | Body::Bytes(_) => {
            RegistryError::Unavailable { reference: call.name(), host: call.host(), source: source.into() }
        }
    }
}

/// Where the answer leads.
fn redirected(call: &Call<'_>, from: &Url, response: &Response) -> Result<Url, RegistryError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let to = location
        .and_then(|text| from.join(text).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| call.protocol("a redirect without an address"))?;
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(call.protocol(format!("a redirect from HTTPS to HTTP, to `{}`", authority(&to))));
    }
    Ok(to)
}

/// Turns a status into an answer or an error.
async fn judge(call: &Call<'_>, response: Response, had_credentials: bool) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() || call.also.contains(&status.as_u16()) {
        return Ok(response);
    }
    let asked_pause = retry_after(response.headers());
    // What it says is worth little waiting.
    let message = tokio::time::timeout(MESSAGE_PATIENCE, read_message(response)).await.unwrap_or_default();
    let (reference, host) = (call.name(), call.host());
    let error = match status.as_u16() {
        401 => RegistryError::Unauthorized { reference, host, had_credentials, message },
        403 => RegistryError::Denied { reference, host, message },
        404 => RegistryError::NotFound { reference, what: call.what.clone(), host, message },
        429 => RegistryError::RateLimited {
            reference,
            host,
            retry_after_seconds: asked_pause.map(|pause| pause.as_secs()),
            message,
        },
        status => RegistryError::Status { reference, host, request: call.request(), status, message },
    };
    let retry = if is_passing(status.as_u16()) { Retry::Later(asked_pause) } else { Retry::Never };
    Err(Failure { error, retry })
}

async fn read_body(call: &Call<'_>, mut response: Response, limit: u64) -> Result<Bytes, Failure> {
    let too_large = || RegistryError::TooLarge {
        reference: call.name(),
        host: call.host(),
        what: call.what.clone(),
        limit,
    };
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| call.disconnected(call.host(), &error))? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            return Err(too_large().into());
        }
    }
    Ok(body.freeze())
}

/// What an answer with an error says for people: the messages of distribution's JSON, else the text's first line.
pub(crate) async fn read_message(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ERROR_BYTES {
            break;
        }
    }
    message_of(&body)
}

pub(crate) fn message_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(found) = serde_json::from_slice::<Errors>(body) {
        let texts: Vec<_> = found
            .errors
            .into_iter()
            .map(|Item { code, message }| match (code.as_str(), message.as_str()) {
                ("", _) => message,
                (_, "") => code,
                _ => format!("{code}: {message}"),
            })
            .collect();
        return texts.join(", ");
    }
    // Token services have several forms of their own.
    if let Ok(serde_json::Value::Object(members)) = serde_json::from_slice(body) {
        let keys = ["error_description", "details", "detail", "message", "error"];
        let text = keys.iter().find_map(|key| members.get(*key)?.as_str());
        return text.unwrap_or_default().to_owned();
    }
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default().trim();
    // A page of HTML helps nobody.
    if line.starts_with('<') { String::new() } else { line.chars().take(200).collect() }
}

/// The kind of the I/O error below `error`, where there is one.
pub(crate) fn io_kind(error: &reqwest::Error) -> Option<std::io::ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found() {
        let cases: [(&str, &str); 7] = [
            (r#"{"errors":[{"code":"A","message":"not here"},{"code":"B"}]}"#, "A: not here, B"),
            (r#"{"errors":[]}"#, ""),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (r#"{"error":"invalid_grant","error_description":"it has expired"}"#, "it has expired"),
            ("<html>no</html>", ""),
            ("plain\nsecond", "plain"),
            ("", ""),
        ];
        for (body, message) in cases {
            assert_eq!(message_of(body.as_bytes()), message);
        }
    }
}
