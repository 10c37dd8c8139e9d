//! Who we are to a registry: basic authentication, and tokens of its token service (distribution's "Token
//! Authentication Specification" and its OAuth 2 variant).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Response;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;

use crate::challenge::{self, Challenge};
use crate::client::Shared;
use crate::credentials::{Credential, CredentialStore, Credentials};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::fetch::basic_authorization;
use crate::retry::{is_passing, retry_after};
use crate::send::{Call, Failure, Retry, message_of};
use crate::transport::Direction;

/// How long a token lives that does not say so (the specification's number).
const DEFAULT_LIFE_SECONDS: u64 = 60;
/// A token is renewed this long before its end, so that it does not end on the way.
const MARGIN: Duration = Duration::from_secs(10);
/// The most that is read of a token service's answer.
const MAX_TOKEN_BYTES: usize = 1 << 20;

/// Knows credentials, what each host wants of them, and tokens.
pub(crate) struct Authenticator {
    credentials: Credentials,
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
}

#[derive(Default)]
struct HostState {
    challenge: Mutex<Option<Challenge>>,
    /// By the scopes of requests. The lock of a slot is held while its token is fetched, so that it is fetched once.
    slots: Mutex<HashMap<Vec<String>, Arc<tokio::sync::Mutex<Slot>>>>,
}

#[derive(Default)]
struct Slot {
    token: Option<Token>,
    /// What the registry asked for beyond the request's own scopes.
    extra: BTreeSet<String>,
}

struct Token {
    header: HeaderValue,
    expires: Instant,
}

/// A token service's answer.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What a token service is asked.
struct TokenRequest<'a> {
    realm: Url,
    service: Option<&'a str>,
    scopes: Vec<String>,
    credential: Option<&'a Credential>,
}

impl Authenticator {
    pub(crate) fn new(store: CredentialStore) -> Self {
        Self { credentials: Credentials::new(store), hosts: Mutex::new(HashMap::new()) }
    }

    fn host(&self, name: &str) -> Arc<HostState> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(name.to_owned()).or_default())
    }

    async fn credential(&self, call: &Call<'_>) -> Result<Option<Credential>, RegistryError> {
        let Endpoint { configured_as, .. } = call.endpoint;
        let known = self.credentials.get(configured_as, &call.endpoint.repository(call.reference)).await;
        known.map_err(|source| RegistryError::Credentials { host: configured_as.clone(), source })
    }

    /// What to send with `call`, as far as the host has asked for something before.
    pub(crate) async fn authorization(
        &self,
        shared: &Shared,
        call: &Call<'_>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let state = self.host(&call.endpoint.host);
        let challenge = state.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credential(call).await? {
                Some(Credential::Password { username, password }) => Ok(basic(&username, &password)),
                _ => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, .. }) => {
                let credential = self.credential(call).await?;
                if let Some(Credential::RegistryToken(token)) = credential {
                    return Ok(bearer(&token));
                }
                let slot = state.slot(&call.scopes);
                let mut slot = slot.lock().await;
                if let Some(token) = &slot.token
                    && token.expires > Instant::now() + MARGIN
                {
                    return Ok(Some(token.header.clone()));
                }
                let scopes = merged(call.scopes.iter().chain(&slot.extra));
                let realm = Url::parse(&realm)
                    .map_err(|_| call.protocol(format!("its token service `{realm}` is no address")))?;
                let request = TokenRequest {
                    realm,
                    service: service.as_deref(),
                    scopes,
                    credential: credential.as_ref(),
                };
                let token = fetch_token(shared, call, &request).await?;
                let header = token.header.clone();
                slot.token = Some(token);
                Ok(Some(header))
            }
        }
    }

    /// Learns from a 401 what the host wants. An error if we have nothing (else) to offer.
    pub(crate) async fn challenged(
        &self,
        call: &Call<'_>,
        base: &Url,
        response: &Response,
        sent: Option<&HeaderValue>,
    ) -> Result<(), RegistryError> {
        let unauthorized = || RegistryError::Unauthorized {
            reference: call.name(),
            host: call.host(),
            had_credentials: sent.is_some(),
            message: String::new(),
        };
        let state = self.host(&call.endpoint.host);
        let values = response.headers().get_all(WWW_AUTHENTICATE);
        let mut challenges: Vec<_> =
            values.iter().filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        // Tokens first: a password that a token service turns into one travels less.
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        let chosen = challenges.into_iter().next().ok_or_else(unauthorized)?;
        match &chosen {
            Challenge::Basic => {
                let has_password = matches!(self.credential(call).await?, Some(Credential::Password { .. }));
                if !has_password || sent.is_some() {
                    return Err(unauthorized());
                }
            }
            Challenge::Bearer { realm, scope, .. } => {
                if base.scheme() == "https" && realm.starts_with("http:") {
                    return Err(call.protocol(format!("its token service `{realm}` has no TLS")));
                }
                let slot = state.slot(&call.scopes);
                let mut slot = slot.lock().await;
                if slot.token.as_ref().map(|token| &token.header) == sent {
                    slot.token = None;
                }
                let asked = scope.iter().flat_map(|scope| scope.split(' ')).filter(|scope| !scope.is_empty());
                slot.extra.extend(asked.map(str::to_owned));
            }
        }
        *state.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(chosen);
        Ok(())
    }
}

impl HostState {
    fn slot(&self, scopes: &[String]) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(scopes.to_vec()).or_default())
    }
}

/// Each resource once, with all that is asked for it.
fn merged<'a>(scopes: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut resources: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for scope in scopes {
        let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        resources.entry(resource).or_default().extend(actions.split(','));
    }
    let text = |(resource, actions): (&str, BTreeSet<&str>)| {
        format!("{resource}:{}", actions.into_iter().collect::<Vec<_>>().join(","))
    };
    resources.into_iter().map(text).collect()
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    secret(&basic_authorization(username, password))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Asks the token service. A refresh token takes the form of OAuth 2, everything else the older query.
async fn fetch_token(shared: &Shared, call: &Call<'_>, request: &TokenRequest<'_>) -> Result<Token, Failure> {
    let client = shared.transport.client(&shared.options, &request.realm, Direction::Down)?;
    let builder = match request.credential {
        Some(Credential::IdentityToken(token)) => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("service", request.service.unwrap_or_default());
            form.append_pair("scope", &request.scopes.join(" "));
            form.append_pair("client_id", "rbuild");
            form.append_pair("refresh_token", token);
            client
                .post(request.realm.clone())
                .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish())
        }
        other => {
            let mut url = request.realm.clone();
            if let Some(service) = request.service {
                url.query_pairs_mut().append_pair("service", service);
            }
            for scope in &request.scopes {
                url.query_pairs_mut().append_pair("scope", scope);
            }
            match other {
                Some(Credential::Password { username, password }) => {
                    url.query_pairs_mut().append_pair("account", username);
                    client.get(url).basic_auth(username, Some(password))
                }
                _ => client.get(url),
            }
        }
    };
    let host = crate::transport::authority(&request.realm);
    let response = builder.send().await.map_err(|error| call.disconnected(host, &error))?;
    read_token(call, request, response).await
}

async fn read_token(
    call: &Call<'_>,
    request: &TokenRequest<'_>,
    mut response: Response,
) -> Result<Token, Failure> {
    let status = response.status();
    let asked_pause = retry_after(response.headers());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| call.disconnected(call.host(), &error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_TOKEN_BYTES {
            return Err(call.protocol("its token service sends too much").into());
        }
    }
    if !status.is_success() {
        return Err(refusal(call, request, status.as_u16(), asked_pause, &body));
    }
    let unusable = || call.protocol("its token service sent no token");
    let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| unusable())?;
    let text = if answer.token.is_empty() { &answer.access_token } else { &answer.token };
    let header = bearer(text).filter(|_| !text.is_empty()).ok_or_else(unusable)?;
    // The service's clock is not ours, so its `issued_at` is not used. A life below the margin would have every request
    // fetch a token of its own.
    let life = answer.expires_in.unwrap_or(0).clamp(DEFAULT_LIFE_SECONDS, 24 * 3600);
    Ok(Token { header, expires: Instant::now() + Duration::from_secs(life) })
}

fn refusal(
    call: &Call<'_>,
    request: &TokenRequest<'_>,
    status: u16,
    asked_pause: Option<Duration>,
    body: &[u8],
) -> Failure {
    let (reference, host) = (call.name(), call.host());
    let error = match status {
        401 => {
            let had_credentials = request.credential.is_some();
            RegistryError::Unauthorized { reference, host, had_credentials, message: message_of(body) }
        }
        403 => RegistryError::Denied { reference, host, message: message_of(body) },
        429 => RegistryError::RateLimited {
            reference,
            host,
            retry_after_seconds: asked_pause.map(|pause| pause.as_secs()),
            message: message_of(body),
        },
        status => RegistryError::Status {
            reference,
            host: crate::transport::authority(&request.realm),
            request: "GET token".to_owned(),
            status,
            message: message_of(body),
        },
    };
    let retry = if is_passing(status) { Retry::Later(asked_pause) } else { Retry::Never };
    Failure { error, retry }
}
