//! Files of any HTTP server (ADD of a URL): conditional requests, redirects, and bodies that are resumed.

use std::io;

use oci::{Digest, Hasher};
use percent_encoding::percent_decode_str;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use reqwest::{Method, Response};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use url::Url;

use crate::client::{Client, Shared};
use crate::connection::{cause_of, diagnose};
use crate::error::{Cause, RegistryError, colon};
use crate::retry::{is_passing, retry_after};
use crate::send::{Retry, read_message};
use crate::transport::{Direction, authority, check_resolver};

/// How many redirects are followed; as many as Go's client follows.
const MAX_REDIRECTS: usize = 10;
const NOT_MODIFIED: u16 = 304;

/// A file that is wanted.
#[derive(Clone)]
pub struct FetchRequest {
    /// Where it is; `http` or `https`. A user name and a password in it are sent to its host.
    pub url: String,
    /// The value of `Authorization`. It is sent to the host of the URL, and to no other that this may redirect to.
    pub authorization: Option<String>,
    /// What an earlier answer said of the content that one has.
    pub known: Validators,
    /// The largest file that is taken, in bytes.
    pub limit_bytes: u64,
}

/// What an answer says of its content, to ask later whether it has changed (RFC 9110, section 8.8). The texts are those
/// of the header fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The content is the one that the validators of the request are of. Nothing was written.
    Unchanged,
    /// All of it was written.
    File {
        /// The SHA-256 digest.
        digest: Digest,
        /// How many bytes.
        size: u64,
        /// What the answer says of it.
        validators: Validators,
    },
}

/// Why a file could not be had. URLs are shown without passwords.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The URL is none, or not one of HTTP.
    #[error("`{url}` is no URL of an HTTP server: {problem}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An answer that is not a success.
    #[error("cannot fetch `{url}`: invalid response status {status}{}", colon(message))]
    Status {
        /// The URL.
        url: String,
        /// Its host, without a port.
        host: String,
        /// The status code.
        status: u16,
        /// What the server says about it; may be empty.
        message: String,
    },
    /// No connection, or it broke every time.
    #[error("cannot fetch `{url}`")]
    Unavailable {
        /// The URL.
        url: String,
        /// What went wrong with the connection.
        #[source]
        source: Cause,
    },
    /// The file is larger than was allowed.
    #[error("`{url}` is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The bound.
        limit_bytes: u64,
    },
    /// The answer does not follow the protocol.
    #[error("the answer for `{url}` cannot be used: {problem}")]
    Protocol {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file could not be written.
    #[error("cannot write what `{url}` sends")]
    Write {
        /// The URL.
        url: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The client could not be set up for the host.
    #[error(transparent)]
    Setup(#[from] RegistryError),
}

/// A failed attempt.
struct Failed {
    error: FetchError,
    retry: Retry,
}

impl From<FetchError> for Failed {
    fn from(error: FetchError) -> Self {
        Self { error, retry: Retry::Never }
    }
}

/// Told of what has come: bytes so far, and bytes in all where they are known.
pub type OnBytes<'a> = &'a (dyn Fn(u64, Option<u64>) + Send + Sync);

impl Client {
    /// Fetches a file into `file`, which is empty. Whatever fails for a passing reason is repeated, with back-off and
    /// within bounds; a body that breaks off is continued if the server can, and if it says that it still has the same.
    ///
    /// With validators it is first asked whether the content has changed: by HEAD where there is an entity tag, as some
    /// servers send tags and ignore `If-None-Match` in a GET, then by a conditional GET.
    ///
    /// Proxies, certificates and time limits are those of registries.
    pub async fn fetch(
        &self,
        request: &FetchRequest,
        file: &mut File,
        on_bytes: OnBytes<'_>,
    ) -> Result<Fetched, FetchError> {
        let url = parse(&request.url)?;
        let shared = &*self.shared;
        let _permit = shared.lanes(&authority(&url)).downloads.acquire_owned().await.ok();
        let mut transfer = Transfer::new(shared, request, url, file, on_bytes)?;
        if transfer.is_unchanged_by_head().await {
            return Ok(Fetched::Unchanged);
        }
        let mut failures = 0;
        loop {
            let before = transfer.received;
            let failed = match transfer.attempt().await {
                Ok(fetched) => return Ok(fetched),
                Err(failed) => failed,
            };
            // Failures count only while nothing comes, so that a long transfer over a bad line gets through.
            failures = if transfer.received > before { 1 } else { failures + 1 };
            let Retry::Later(asked) = failed.retry else { return Err(failed.error) };
            let Some(delay) = shared.options.retry.pause(failures, asked) else { return Err(failed.error) };
            tracing::debug!(error = %failed.error, ?delay, "repeating a request");
            tokio::time::sleep(delay).await;
        }
    }
}

/// A file on its way.
struct Transfer<'a> {
    shared: &'a Shared,
    request: &'a FetchRequest,
    url: Url,
    /// The URL for people.
    shown: String,
    authorization: Option<HeaderValue>,
    file: &'a mut File,
    on_bytes: OnBytes<'a>,
    received: u64,
    hasher: Hasher,
    /// What the answer that `received` is from said of its content.
    validators: Validators,
}

impl<'a> Transfer<'a> {
    fn new(
        shared: &'a Shared,
        request: &'a FetchRequest,
        mut url: Url,
        file: &'a mut File,
        on_bytes: OnBytes<'a>,
    ) -> Result<Self, FetchError> {
        let shown = shown(&url);
        let text = request.authorization.clone().or_else(|| of_url(&url));
        let malformed =
            |_| FetchError::Url { url: shown.clone(), problem: "its credentials are no text".to_owned() };
        let authorization = text.map(|text| HeaderValue::from_str(&text).map_err(malformed)).transpose()?;
        // It has been made a header.
        let _ = (url.set_username(""), url.set_password(None));
        Ok(Self {
            shared,
            request,
            url,
            shown,
            authorization,
            file,
            on_bytes,
            received: 0,
            hasher: Hasher::new(),
            validators: Validators::default(),
        })
    }

    /// Whether a HEAD says that the content is the known one. Servers that cannot answer it are asked by GET.
    async fn is_unchanged_by_head(&self) -> bool {
        let Some(etag) = &self.request.known.etag else { return false };
        let mut headers = HeaderMap::new();
        put(&mut headers, IF_NONE_MATCH, etag);
        let Ok(response) = self.send(Method::HEAD, headers).await else { return false };
        let answered = header(response.headers(), &ETAG);
        match (response.status().as_u16(), answered) {
            (NOT_MODIFIED, None) => true,
            (NOT_MODIFIED | 200, Some(answered)) => strong(&answered) == strong(etag),
            _ => false,
        }
    }

    /// One GET with its body, or with what is left of it.
    async fn attempt(&mut self) -> Result<Fetched, Failed> {
        let response = self.send(Method::GET, self.get_headers()).await?;
        match response.status().as_u16() {
            NOT_MODIFIED if self.received == 0 => return Ok(Fetched::Unchanged),
            206 if self.received > 0 => {
                let is_right = range_start(response.headers()) == Some(self.received);
                let is_same = validators_of(response.headers()).continues(&self.validators);
                if !(is_right && is_same) {
                    self.restart().await?;
                    let problem = "it sent another range than it was asked for".to_owned();
                    let error = FetchError::Protocol { url: self.shown.clone(), problem };
                    return Err(Failed { error, retry: Retry::Later(None) });
                }
            }
            // Nothing is left after what came: it ended where it broke off, or has become shorter.
            416 if self.received > 0 => {
                self.restart().await?;
                return Err(self.status(response).await);
            }
            status if (200..300).contains(&status) => {
                self.restart().await?;
                self.validators = validators_of(response.headers());
            }
            _ => return Err(self.status(response).await),
        }
        self.read(response).await?;
        self.file.flush().await.map_err(|source| self.write_error(source))?;
        let digest = std::mem::take(&mut self.hasher).finish();
        Ok(Fetched::File { digest, size: self.received, validators: self.validators.clone() })
    }

    fn get_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.received > 0 {
            put(&mut headers, RANGE, &format!("bytes={}-", self.received));
            // Only what names exact bytes may continue them.
            if let Some(validator) = self.validators.for_range() {
                put(&mut headers, IF_RANGE, validator);
            }
            return headers;
        }
        if let Some(etag) = &self.request.known.etag {
            put(&mut headers, IF_NONE_MATCH, etag);
        }
        if let Some(time) = &self.request.known.last_modified {
            put(&mut headers, IF_MODIFIED_SINCE, time);
        }
        headers
    }

    /// Throws away what has come.
    async fn restart(&mut self) -> Result<(), Failed> {
        self.hasher = Hasher::new();
        self.received = 0;
        let emptied = async {
            self.file.rewind().await?;
            self.file.set_len(0).await
        };
        emptied.await.map_err(|source| self.write_error(source).into())
    }

    async fn read(&mut self, mut response: Response) -> Result<(), Failed> {
        let limit = self.request.limit_bytes;
        let too_large = |shown: &str| FetchError::TooLarge { url: shown.to_owned(), limit_bytes: limit };
        let total = response.content_length().map(|rest| self.received + rest);
        if total.is_some_and(|total| total > limit) {
            return Err(too_large(&self.shown).into());
        }
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return self.broken(error).await,
            };
            self.received += chunk.len() as u64;
            if self.received > limit {
                return Err(too_large(&self.shown).into());
            }
            self.hasher.update(&chunk);
            self.file.write_all(&chunk).await.map_err(|source| self.write_error(source))?;
            (self.on_bytes)(self.received, total);
        }
        if total.is_none() || self.received == 0 {
            (self.on_bytes)(self.received, Some(self.received));
        }
        Ok(())
    }

    /// The body broke off. Without anything that tells the same content from another, the next attempt begins anew.
    async fn broken(&mut self, error: reqwest::Error) -> Result<(), Failed> {
        if self.validators.for_range().is_none() {
            self.restart().await?;
        }
        Err(self.unavailable(&error))
    }

    /// An answer that is no redirect.
    async fn send(&self, method: Method, headers: HeaderMap) -> Result<Response, Failed> {
        let mut url = self.url.clone();
        let mut redirects = 0;
        loop {
            let response = self.execute(&method, &url, &headers).await?;
            if !response.status().is_redirection() || response.status().as_u16() == NOT_MODIFIED {
                return Ok(response);
            }
            redirects += 1;
            let problem =
                |problem: &str| FetchError::Protocol { url: self.shown.clone(), problem: problem.to_owned() };
            if redirects > MAX_REDIRECTS {
                return Err(problem("it redirects again and again").into());
            }
            let location = header(response.headers(), &LOCATION);
            let to = location.and_then(|text| url.join(&text).ok());
            url = to
                .filter(|url| matches!(url.scheme(), "http" | "https"))
                .ok_or_else(|| problem("a redirect without an address"))?;
        }
    }

    async fn execute(&self, method: &Method, url: &Url, headers: &HeaderMap) -> Result<Response, Failed> {
        let client = self
            .shared
            .transport
            .client(&self.shared.options, url, Direction::Down)
            .map_err(FetchError::from)?;
        check_resolver(url).map_err(|source| FetchError::Unavailable { url: self.shown.clone(), source })?;
        // What is packed for the way would have another digest.
        let mut request = client
            .request(method.clone(), url.clone())
            .headers(headers.clone())
            .header(ACCEPT_ENCODING, "identity");
        if let Some(authorization) = &self.authorization
            && url.origin() == self.url.origin()
        {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.send().await.map_err(|error| self.unavailable(&error))
    }

    /// The failure of a connection.
    fn unavailable(&self, error: &reqwest::Error) -> Failed {
        let diagnosis = diagnose(error);
        let retry = if diagnosis.may_pass { Retry::Later(None) } else { Retry::Never };
        let source = cause_of(diagnosis);
        Failed { error: FetchError::Unavailable { url: self.shown.clone(), source }, retry }
    }

    async fn status(&self, response: Response) -> Failed {
        let status = response.status().as_u16();
        let asked = retry_after(response.headers());
        let (url, host) = (self.shown.clone(), self.url.host_str().unwrap_or_default().to_owned());
        let error = FetchError::Status { url, host, status, message: read_message(response).await };
        let is_worth_it = is_passing(status) || status == 416;
        Failed { error, retry: if is_worth_it { Retry::Later(asked) } else { Retry::Never } }
    }

    fn write_error(&self, source: io::Error) -> FetchError {
        FetchError::Write { url: self.shown.clone(), source }
    }
}

impl FetchRequest {
    /// The host of the URL, without a port; `None` if it has none.
    pub fn host(&self) -> Option<String> {
        Some(Url::parse(&self.url).ok()?.host_str()?.to_owned())
    }
}

impl FetchError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Setup(error) => error.hint(),
            _ => None,
        }
    }
}

/// A URL for people: a password in it is not shown. A text that is no URL stays as it is.
pub fn redacted(url: &str) -> String {
    match Url::parse(url) {
        Ok(parsed) if parsed.password().is_some() => shown(&parsed),
        _ => url.to_owned(),
    }
}

impl Validators {
    /// The time of the last modification in seconds since 1970, where there is one that can be read.
    pub fn modified_seconds(&self) -> Option<i64> {
        Some(jiff::fmt::rfc2822::parse(self.last_modified.as_ref()?).ok()?.timestamp().as_second())
    }

    /// What a request for the rest of a body may name: a strong tag, else the time.
    fn for_range(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) if !etag.starts_with("W/") => Some(etag),
            Some(_) => None,
            None => self.last_modified.as_deref(),
        }
    }

    /// Whether these, of the rest of a body, can be those of its beginning. An answer need not repeat them.
    fn continues(&self, beginning: &Self) -> bool {
        let agree = |ours: &Option<String>, theirs: &Option<String>| ours.is_none() || ours == theirs;
        agree(&self.etag, &beginning.etag) && agree(&self.last_modified, &beginning.last_modified)
    }
}

impl std::fmt::Debug for FetchRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchRequest").field("known", &self.known).finish_non_exhaustive()
    }
}

pub(crate) fn parse(text: &str) -> Result<Url, FetchError> {
    let wrong = |problem: String| FetchError::Url { url: text.to_owned(), problem };
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!("its scheme is `{}`", url.scheme())));
    }
    Ok(url)
}

/// A URL for people: without its password, as Go writes such URLs.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        let _ = url.set_password(Some("xxxxx"));
    }
    url.to_string()
}

/// The value of `Authorization` for a user name and a password.
pub fn basic_authorization(user: &str, password: &str) -> String {
    basic(format!("{user}:{password}").into_bytes())
}

/// The value of `Authorization` for the user name and the password of a URL; `None` if it has none.
pub fn url_authorization(url: &str) -> Option<String> {
    of_url(&Url::parse(url).ok()?)
}

fn of_url(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    Some(basic(pair))
}

fn basic(pair: Vec<u8>) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // What cannot be a header's value never came from one.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn validators_of(headers: &HeaderMap) -> Validators {
    Validators { etag: header(headers, &ETAG), last_modified: header(headers, &LAST_MODIFIED) }
}

/// The first byte in `Content-Range: bytes first-last/size`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = header(headers, &CONTENT_RANGE)?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// A tag without the mark of weak ones: whether content has changed is a weak comparison.
fn strong(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_a_url_are_sent_and_not_shown() {
        let url = parse("https://us%3Aer:p%40ss+w@host/a?b=c").unwrap();
        // us:er:p@ss+w
        assert_eq!(of_url(&url).as_deref(), Some("Basic dXM6ZXI6cEBzcyt3"));
        assert_eq!(shown(&url), "https://us%3Aer:xxxxx@host/a?b=c");
        assert_eq!(of_url(&parse("https://host/").unwrap()), None);
    }

    #[test]
    fn only_exact_validators_continue_a_body() {
        let validators = |etag: Option<&str>, time: Option<&str>| Validators {
            etag: etag.map(str::to_owned),
            last_modified: time.map(str::to_owned),
        };
        assert_eq!(validators(Some("\"a\""), Some("t")).for_range(), Some("\"a\""));
        assert_eq!(validators(Some("W/\"a\""), Some("t")).for_range(), None);
        assert_eq!(validators(None, Some("t")).for_range(), Some("t"));
        assert_eq!(validators(None, None).for_range(), None);
        assert_eq!(
            validators(None, Some("Tue, 05 Mar 2024 10:00:00 GMT")).modified_seconds(),
            Some(1_709_632_800)
        );
        assert_eq!(validators(None, Some("yesterday")).modified_seconds(), None);
        let beginning = validators(Some("\"a\""), None);
        assert!(validators(None, None).continues(&beginning));
        assert!(!validators(Some("\"b\""), None).continues(&beginning));
    }

    #[test]
    fn urls_of_other_kinds_are_refused() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(told("ftp://a/b"), "`ftp://a/b` is no URL of an HTTP server: its scheme is `ftp`");
        assert_eq!(told("http://"), "`http://` is no URL of an HTTP server: empty host");
    }
}
