//! The API itself: manifests, blobs, uploads, mounts.

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RANGE};
use oci::Digest;

use super::body::ScriptedBody;
use super::service::{Answer, Asked, status_answer};
use super::{MountPolicy, State, files};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The repository in a path of the API.
pub(super) fn repository(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    let end = ["/manifests/", "/blobs/"].iter().filter_map(|part| rest.find(part)).min()?;
    Some(&rest[..end])
}

/// The answer of a registry that works.
pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.path == "/v2/" {
        return status_answer(200, "{}");
    }
    if let Some(file) = state.files.get(&asked.path) {
        return files::answer(file, asked);
    }
    let Some(repository) = repository(&asked.path).map(str::to_owned) else { return not_found() };
    let tail = &asked.path["/v2/".len() + repository.len() + 1..];
    if let Some(reference) = tail.strip_prefix("manifests/") {
        return manifest(state, asked, &repository, reference);
    }
    if let Some(session) = tail.strip_prefix("blobs/uploads/") {
        return upload(state, asked, &repository, session);
    }
    match tail.strip_prefix("blobs/").and_then(|digest| digest.parse::<Digest>().ok()) {
        Some(digest) => blob(state, asked, &repository, &digest),
        None => not_found(),
    }
}

fn not_found() -> Answer {
    status_answer(404, r#"{"errors":[{"code":"UNKNOWN","message":"not here"}]}"#)
}

fn header(answer: &mut Answer, name: HeaderName, value: &str) {
    answer.headers_mut().insert(name, value.parse().expect("a header's value"));
}

/// An answer with `bytes`, which a HEAD gets without them.
pub(super) fn content(asked: &Asked, bytes: &Bytes) -> Answer {
    let body =
        if asked.method == "HEAD" { ScriptedBody::empty() } else { ScriptedBody::whole(bytes.clone()) };
    let mut answer = Response::new(body);
    header(&mut answer, CONTENT_LENGTH, &bytes.len().to_string());
    answer
}

fn manifest(state: &mut State, asked: &Asked, name: &str, reference: &str) -> Answer {
    let tells_digests = state.tells_digests;
    let repository = state.repositories.entry(name.to_owned()).or_default();
    if asked.method == "PUT" {
        let digest = Digest::sha256(&asked.body);
        let media_type = asked.header(CONTENT_TYPE).unwrap_or_default().to_owned();
        repository.manifests.insert(digest.clone(), (media_type, asked.body.clone()));
        match reference.parse::<Digest>() {
            Ok(given) if given != digest => return status_answer(400, ""),
            Ok(_) => {}
            Err(_) => {
                repository.tags.insert(reference.to_owned(), digest.clone());
            }
        }
        let mut answer = status_answer(201, "");
        header(&mut answer, CONTENT_DIGEST, digest.as_str());
        return answer;
    }
    let digest = reference.parse().ok().or_else(|| repository.tags.get(reference).cloned());
    let found = digest.and_then(|digest| Some((repository.manifests.get(&digest)?, digest)));
    let Some(((media_type, bytes), digest)) = found else { return not_found() };
    let mut answer = content(asked, bytes);
    header(&mut answer, CONTENT_TYPE, media_type);
    if tells_digests {
        header(&mut answer, CONTENT_DIGEST, digest.as_str());
    }
    answer
}

fn blob(state: &State, asked: &Asked, name: &str, digest: &Digest) -> Answer {
    let bytes = state.repositories.get(name).and_then(|repository| repository.blobs.get(digest));
    let Some(bytes) = bytes else { return not_found() };
    let start = asked
        .header(RANGE)
        .filter(|_| state.knows_ranges)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let Some(start) = start else { return content(asked, bytes) };
    if start >= bytes.len() {
        return status_answer(416, "");
    }
    let mut answer = content(asked, &bytes.slice(start..));
    *answer.status_mut() = hyper::StatusCode::PARTIAL_CONTENT;
    header(&mut answer, CONTENT_RANGE, &format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()));
    answer
}

/// What the registry keeps of a request that breaks off.
pub(super) fn break_off(state: &mut State, asked: &Asked) {
    let Some((_, session)) = asked.path.split_once("/blobs/uploads/") else { return };
    let Ok(number) = session.parse::<usize>() else { return };
    if state.forgets_uploads {
        state.uploads.remove(&number);
    } else if let Some(received) = state.uploads.get_mut(&number) {
        received.extend_from_slice(&asked.body);
    }
}

fn upload(state: &mut State, asked: &Asked, name: &str, session: &str) -> Answer {
    if asked.method == "POST" {
        return begin(state, asked, name);
    }
    let Some(number) = session.parse::<usize>().ok().filter(|number| state.uploads.contains_key(number))
    else {
        return not_found();
    };
    let received = state.uploads.entry(number).or_default();
    match asked.method.as_str() {
        "GET" => progress(204, name, number, received.len()),
        "PATCH" => {
            let start = asked.header(CONTENT_RANGE).and_then(|range| range.split('-').next()?.parse().ok());
            if start.is_some_and(|start: usize| start != received.len()) {
                return status_answer(416, "");
            }
            received.extend_from_slice(&asked.body);
            progress(202, name, number, received.len())
        }
        "DELETE" => {
            state.uploads.remove(&number);
            status_answer(204, "")
        }
        "PUT" => {
            received.extend_from_slice(&asked.body);
            let bytes = Bytes::from(std::mem::take(received));
            let digest = Digest::sha256(&bytes);
            state.uploads.remove(&number);
            if asked.query("digest") != Some(digest.as_str()) {
                return status_answer(
                    400,
                    r#"{"errors":[{"code":"DIGEST_INVALID","message":"wrong digest"}]}"#,
                );
            }
            let repository = state.repositories.entry(name.to_owned()).or_default();
            repository.blobs.insert(digest.clone(), bytes);
            let mut answer = status_answer(201, "");
            header(&mut answer, CONTENT_DIGEST, digest.as_str());
            answer
        }
        _ => status_answer(405, ""),
    }
}

/// A POST: a mount where that is asked for and done, else a new upload.
fn begin(state: &mut State, asked: &Asked, name: &str) -> Answer {
    let wanted = asked.query("mount").and_then(|digest| digest.parse::<Digest>().ok());
    if let (Some(digest), Some(from), MountPolicy::Mount) = (wanted, asked.query("from"), state.mount) {
        let bytes = state.repositories.get(from).and_then(|other| other.blobs.get(&digest)).cloned();
        if let Some(bytes) = bytes {
            let repository = state.repositories.entry(name.to_owned()).or_default();
            repository.blobs.insert(digest, bytes);
            return status_answer(201, "");
        }
    }
    state.next_number += 1;
    let number = state.next_number;
    state.uploads.insert(number, Vec::new());
    progress(202, name, number, 0)
}

/// Where an upload stands. Its address is relative, as the specification allows.
fn progress(status: u16, name: &str, number: usize, received: usize) -> Answer {
    let mut answer = status_answer(status, "");
    header(&mut answer, LOCATION, &format!("/v2/{name}/blobs/uploads/{number}"));
    header(&mut answer, RANGE, &format!("0-{}", received.saturating_sub(1)));
    answer
}
