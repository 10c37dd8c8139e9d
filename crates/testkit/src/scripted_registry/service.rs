//! The server: connections, authentication, faults.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, IF_MODIFIED_SINCE, IF_NONE_MATCH, LOCATION, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::accept::accept;
use crate::basic;

use super::body::{ScriptedBody, Step};
use super::{AuthPolicy, Fault, FaultKind, SeenRequest, State, answer, lock};

type Shared = Arc<Mutex<State>>;
pub(super) type Answer = Response<ScriptedBody>;

/// What the answers need of a request.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    pub(super) fn header(&self, name: hyper::header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Serves until `stopped`.
pub(super) fn run(listener: TcpListener, address: &str, state: &Shared, stopped: oneshot::Receiver<()>) {
    accept(listener, stopped, |stream| {
        let (state, address) = (Arc::clone(state), address.to_owned());
        async move {
            let service = service_fn(|request| serve(request, &address, &state));
            let connection = hyper::server::conn::http1::Builder::new();
            // Connections break in many tests, by the client or by a fault.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        }
    });
}

async fn serve(request: Request<Incoming>, address: &str, state: &Shared) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let text =
        |name| head.headers.get(name).and_then(|value: &hyper::header::HeaderValue| value.to_str().ok());
    let seen = SeenRequest {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        authorization: text(AUTHORIZATION).map(str::to_owned),
        range: text(RANGE).map(str::to_owned),
        condition: text(IF_NONE_MATCH).or_else(|| text(IF_MODIFIED_SINCE)).map(str::to_owned),
        body_bytes: 0,
    };
    let cut = take_fault(&mut lock(state).faults, &seen, |kind| matches!(kind, FaultKind::Cut { .. }));
    let body = match cut {
        Some(FaultKind::Cut { after_bytes }) => read_part(body, after_bytes).await?,
        _ => body.collect().await.map_err(io::Error::other)?.to_bytes(),
    };
    let mut state = lock(state);
    let seen = SeenRequest { body_bytes: body.len(), ..seen };
    state.seen.push(seen.clone());
    let asked = Asked {
        method: seen.method.clone(),
        path: head.uri.path().to_owned(),
        query: parse_query(head.uri.query().unwrap_or_default()),
        headers: head.headers,
        body,
    };
    if cut.is_some() {
        answer::break_off(&mut state, &asked);
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if take_fault(&mut state.faults, &seen, |kind| matches!(kind, FaultKind::TokensEnd)).is_some() {
        state.tokens.clear();
    }
    if asked.path == "/token" {
        return Ok(token(&mut state, &asked));
    }
    if let Some(refusal) = authenticate(&state, &asked, address) {
        return Ok(refusal);
    }
    if state.longest_body.is_some_and(|longest| asked.body.len() > longest) {
        return Ok(status_answer(413, "too much"));
    }
    let fault = take_fault(&mut state.faults, &seen, |_| true);
    match fault {
        Some(FaultKind::Status(status, retry_after)) => {
            let mut answer =
                status_answer(status, r#"{"errors":[{"code":"SCRIPTED","message":"scripted"}]}"#);
            if let Some(value) = retry_after {
                answer.headers_mut().insert(RETRY_AFTER, value.parse().expect("a header's value"));
            }
            Ok(answer)
        }
        Some(FaultKind::Text(status, text)) => Ok(status_answer(status, &text)),
        Some(FaultKind::LostAnswer) => {
            answer::answer(&mut state, &asked);
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Some(FaultKind::Reset { after_bytes: 0 }) => Err(io::ErrorKind::ConnectionReset.into()),
        Some(FaultKind::Redirect(to)) => {
            let mut answer = status_answer(307, "");
            answer.headers_mut().insert(LOCATION, to.parse().expect("a header's value"));
            Ok(answer)
        }
        other => Ok(damage(answer::answer(&mut state, &asked), other.as_ref())),
    }
}

/// The first bytes of a body; the rest stays unread.
async fn read_part(mut body: Incoming, bytes: usize) -> io::Result<Bytes> {
    let mut part = Vec::new();
    while part.len() < bytes
        && let Some(frame) = body.frame().await
    {
        part.extend(frame.map_err(io::Error::other)?.into_data().unwrap_or_default());
    }
    part.truncate(bytes);
    Ok(part.into())
}

/// The first fault of those that `wanted` holds for, counted down.
fn take_fault(
    faults: &mut Vec<Fault>,
    seen: &SeenRequest,
    wanted: impl Fn(&FaultKind) -> bool,
) -> Option<FaultKind> {
    let at = faults.iter().position(|fault| {
        fault.method == seen.method && seen.path.contains(&fault.path) && wanted(&fault.kind)
    })?;
    faults[at].times -= 1;
    let kind = faults[at].kind.clone();
    if faults[at].times == 0 {
        faults.remove(at);
    }
    Some(kind)
}

/// Does to a good answer's body what the fault says.
fn damage(mut answer: Answer, fault: Option<&FaultKind>) -> Answer {
    let Some(fault) = fault else { return answer };
    let body = std::mem::take(&mut answer.body_mut().0);
    let bytes = body.into_iter().find_map(|step| match step {
        Step::Send(bytes) => Some(bytes),
        Step::Break | Step::Stall | Step::Pause(_) => None,
    });
    let bytes = bytes.unwrap_or_default();
    let part = |count: usize| Step::Send(bytes.slice(..count.min(bytes.len())));
    answer.body_mut().0 = match fault {
        FaultKind::Reset { after_bytes } => VecDeque::from([part(*after_bytes), Step::Break]),
        FaultKind::Stall { after_bytes } => VecDeque::from([part(*after_bytes), Step::Stall]),
        FaultKind::Slow { pieces, pause } => {
            let length = bytes.len().div_ceil((*pieces).max(1)).max(1);
            let starts = (0..bytes.len()).step_by(length).zip(1..);
            let steps = starts.flat_map(|(start, number)| {
                let pause = tokio::time::sleep(*pause * number);
                let piece = bytes.slice(start..bytes.len().min(start + length));
                [Step::Pause(Box::pin(pause)), Step::Send(piece)]
            });
            steps.collect()
        }
        FaultKind::Short { bytes: count } => {
            answer.headers_mut().insert(CONTENT_LENGTH, (*count).min(bytes.len()).into());
            VecDeque::from([part(*count)])
        }
        FaultKind::WrongBytes => {
            let mut wrong = bytes.to_vec();
            if let Some(first) = wrong.first_mut() {
                *first ^= 1;
            }
            VecDeque::from([Step::Send(wrong.into())])
        }
        // The others are no damages of an answer.
        _ => VecDeque::from([Step::Send(bytes.clone())]),
    };
    answer
}

/// An answer of `status` with a text.
pub(super) fn status_answer(status: u16, text: &str) -> Answer {
    let mut answer = Response::new(ScriptedBody::whole(Bytes::copy_from_slice(text.as_bytes())));
    *answer.status_mut() = status.try_into().expect("a status of HTTP");
    answer.headers_mut().insert(CONTENT_LENGTH, text.len().into());
    answer
}

/// The refusal of a request that lacks what the policy wants.
fn authenticate(state: &State, asked: &Asked, address: &str) -> Option<Answer> {
    let sent = asked.header(AUTHORIZATION).unwrap_or_default();
    let challenge = match &state.auth {
        AuthPolicy::Open => return None,
        AuthPolicy::Basic(username, password) => {
            if sent == basic(username, password) {
                return None;
            }
            "Basic realm=\"scripted\"".to_owned()
        }
        AuthPolicy::Token { .. } => {
            let scope = answer::repository(&asked.path).map(|repository| {
                let action = if matches!(asked.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
                (format!("repository:{repository}:{action}"), repository)
            });
            let allowed = sent.strip_prefix("Bearer ").and_then(|token| state.tokens.get(token));
            let is_allowed = |scope: &str| allowed.is_some_and(|scopes| scopes.contains(scope));
            match scope {
                None if allowed.is_some() => return None,
                Some((needed, _)) if is_allowed(&needed) => return None,
                None => format!("Bearer realm=\"http://{address}/token\",service=\"scripted\""),
                Some((needed, repository)) => {
                    let actions = if needed.ends_with("pull") { "pull" } else { "pull,push" };
                    format!(
                        "Bearer realm=\"http://{address}/token\",service=\"scripted\",\
                         scope=\"repository:{repository}:{actions}\""
                    )
                }
            }
        }
    };
    let mut answer = status_answer(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
    let others = state.offers_more.then_some(r#"Negotiate, Basic realm="a, \"b\"""#.to_owned());
    for challenge in others.into_iter().chain([challenge]) {
        answer.headers_mut().append(WWW_AUTHENTICATE, challenge.parse().expect("a header's value"));
    }
    Some(answer)
}

/// `/token`: by GET with basic authentication or none, or by POST with a refresh token.
fn token(state: &mut State, asked: &Asked) -> Answer {
    let AuthPolicy::Token { username, password, identity_token, anonymous_pull } = &state.auth else {
        return status_answer(404, "");
    };
    let form = parse_query(std::str::from_utf8(&asked.body).unwrap_or_default());
    let form = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let sent = asked.header(AUTHORIZATION);
    let is_known = match asked.method.as_str() {
        "POST" => form("refresh_token").as_deref() == Some(identity_token),
        _ => sent == Some(basic(username, password).as_str()),
    };
    if !is_known && (sent.is_some() || asked.method == "POST" || !anonymous_pull) {
        return status_answer(401, "");
    }
    let scopes: Vec<String> = match form("scope") {
        Some(text) => text.split(' ').map(str::to_owned).collect(),
        None => {
            asked.query.iter().filter(|(key, _)| key == "scope").map(|(_, value)| value.clone()).collect()
        }
    };
    let mut allowed = BTreeSet::new();
    for scope in scopes {
        let Some((name, actions)) = scope.rsplit_once(':') else { continue };
        let actions = actions.split(',').filter(|action| is_known || *action == "pull");
        allowed.extend(actions.map(|action| format!("{name}:{action}")));
    }
    state.next_number += 1;
    let token = format!("token-{}", state.next_number);
    let text = format!(r#"{{"token":"{token}","expires_in":300}}"#);
    state.tokens.insert(token, allowed);
    status_answer(200, &text)
}

fn parse_query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let escaped =
            escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(if *first == b'+' { b' ' } else { *first });
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
