//! Files as any HTTP server has them: conditions and ranges.

use hyper::StatusCode;
use hyper::header::{
    AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE,
};

use super::WebFile;
use super::answer::content;
use super::service::{Answer, Asked, status_answer};

/// The answer with a file.
pub(super) fn answer(file: &WebFile, asked: &Asked) -> Answer {
    if file.authorization.is_some() && file.authorization.as_deref() != asked.header(AUTHORIZATION) {
        return status_answer(401, "who are you");
    }
    if !matches!(asked.method.as_str(), "GET" | "HEAD") {
        return status_answer(405, "");
    }
    let mut answer = if !file.ignores_conditions && is_known(file, asked) {
        status_answer(304, "")
    } else {
        part(file, asked)
    };
    for (name, value) in [(ETAG, &file.etag), (LAST_MODIFIED, &file.last_modified)] {
        if let Some(value) = value {
            answer.headers_mut().insert(name, value.parse().expect("a header's value"));
        }
    }
    answer
}

/// Whether the client has it (RFC 9110, section 13.2.2: a time counts only where no tag is sent).
fn is_known(file: &WebFile, asked: &Asked) -> bool {
    let agree =
        |name: HeaderName, own: &Option<String>| asked.header(name).map(|sent| own.as_deref() == Some(sent));
    agree(IF_NONE_MATCH, &file.etag)
        .or_else(|| agree(IF_MODIFIED_SINCE, &file.last_modified))
        .unwrap_or(false)
}

fn part(file: &WebFile, asked: &Asked) -> Answer {
    let length = file.content.len();
    let range = asked.header(RANGE).and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let start = range.and_then(|start| start.parse::<usize>().ok()).filter(|start| *start < length);
    let is_same = asked
        .header(IF_RANGE)
        .is_none_or(|sent| [&file.etag, &file.last_modified].iter().any(|own| own.as_deref() == Some(sent)));
    let Some(start) = start.filter(|_| is_same) else { return content(asked, &file.content) };
    let mut answer = content(asked, &file.content.slice(start..));
    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    let range = format!("bytes {start}-{}/{length}", length - 1);
    answer.headers_mut().insert(CONTENT_RANGE, range.parse().expect("a header's value"));
    answer
}
