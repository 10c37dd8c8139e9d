//! The stream of BuildKit's `SolveStatus`, a JSON value in each line, as `--progress=rawjson` of its clients writes it:
//! what reads that reads this.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frontend::{Diagnostic, SourceFile};
use jiff::Timestamp;
use oci::Digest;
use serde::{Serialize, Serializer};
use solver::LogStream;

use super::limits::{Clip, Clipping, LogLimits};
use super::model::{Detail, DetailKind, Ending, Model, Phase, Step};
use super::output;

/// A transfer that goes on is told of no more often than this.
const TRANSFER_INTERVAL: Duration = Duration::from_millis(100);

/// `client.SolveStatus`.
#[derive(Default, Serialize)]
struct SolveStatus<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    vertexes: Option<[Vertex<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statuses: Option<[VertexStatus<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<[VertexLog; 1]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<VertexWarning>,
}

/// A time, in RFC 3339.
#[derive(Clone, Copy)]
struct Time(Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// `client.Vertex`. Times are RFC 3339 with nanoseconds.
#[derive(Serialize)]
struct Vertex<'a> {
    digest: Digest,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Digest>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<Time>,
    #[serde(skip_serializing_if = "is_false")]
    cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// `client.VertexStatus`. Numbers are bytes.
#[derive(Serialize)]
struct VertexStatus<'a> {
    id: &'a str,
    vertex: Digest,
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    current: u64,
    timestamp: Time,
    started: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<Time>,
}

/// `client.VertexLog`: bytes as they came, in base64, of stream 1 or 2.
#[derive(Serialize)]
struct VertexLog {
    vertex: Digest,
    stream: u8,
    data: String,
    timestamp: Time,
}

/// `client.VertexWarning`; texts are base64.
#[derive(Default, Serialize)]
struct VertexWarning {
    #[serde(skip_serializing_if = "Option::is_none")]
    vertex: Option<Digest>,
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    source_info: Option<SourceInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<Range>,
}

/// `pb.SourceInfo`.
#[derive(Serialize)]
struct SourceInfo {
    filename: String,
    data: String,
    language: &'static str,
}

/// `pb.Range`.
#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

/// `pb.Position`, counted from 1.
#[derive(Serialize)]
struct Position {
    line: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as above")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Writes lines.
pub(super) struct RawJson {
    begun: (Instant, Timestamp),
    limits: LogLimits,
    /// How much was told of the output of each step.
    logs: HashMap<usize, [Clipping; 2]>,
    /// When each transfer was last told of.
    told: HashMap<(usize, usize), Instant>,
}

impl RawJson {
    pub(super) fn new(limits: LogLimits) -> Self {
        let begun = (Instant::now(), Timestamp::now());
        Self { begun, limits, logs: HashMap::new(), told: HashMap::new() }
    }

    fn time(&self, at: Instant) -> Time {
        let (instant, timestamp) = self.begun;
        let since = at.saturating_duration_since(instant);
        Time(timestamp.checked_add(since).unwrap_or(timestamp))
    }

    /// Where a step stands.
    pub(super) fn vertex(&self, model: &Model, number: usize) -> String {
        let step = &model.steps[number];
        let (completed, how) = match &step.phase {
            Phase::Known | Phase::Running => (None, None),
            Phase::Ended { took, how } => (Some(self.time(step.started + *took)), Some(how)),
        };
        let error = match how {
            Some(Ending::Failed(message)) => Some(message.as_str()),
            // The words by which viewers know it.
            Some(Ending::Canceled) => Some("context canceled"),
            None | Some(Ending::Done | Ending::Cached) => None,
        };
        line(&SolveStatus {
            vertexes: Some([Vertex {
                digest: digest(model, number),
                inputs: inputs(model, step),
                name: &step.name,
                started: Some(self.time(step.started)),
                completed,
                cached: how == Some(&Ending::Cached),
                error,
            }]),
            ..SolveStatus::default()
        })
    }

    /// What a step does, if it is due.
    pub(super) fn detail(&mut self, model: &Model, number: usize, index: usize, now: Instant) -> String {
        let detail: &Detail = &model.steps[number].details[index];
        let told = self.told.insert((number, index), now);
        if let Some(told) = told
            && detail.ended.is_none()
            && now.saturating_duration_since(told) < TRANSFER_INTERVAL
        {
            self.told.insert((number, index), told);
            return String::new();
        }
        if detail.kind == DetailKind::Warning {
            let warning = VertexWarning {
                vertex: Some(digest(model, number)),
                level: 1,
                short: STANDARD.encode(&detail.name),
                ..VertexWarning::default()
            };
            return line(&SolveStatus { warnings: vec![warning], ..SolveStatus::default() });
        }
        let (current, total) = match detail.kind {
            DetailKind::Transfer { current, total } => (current, total.unwrap_or(0)),
            DetailKind::Activity | DetailKind::Note | DetailKind::Warning => (0, 0),
        };
        let status = VertexStatus {
            id: &detail.name,
            vertex: digest(model, number),
            total,
            current,
            timestamp: self.time(now),
            started: self.time(detail.started),
            completed: detail.ended.map(|ended| self.time(ended)),
        };
        line(&SolveStatus { statuses: Some([status]), ..SolveStatus::default() })
    }

    /// The end of a step, and of what it did.
    pub(super) fn end(&mut self, model: &Model, number: usize, open: &[usize], now: Instant) -> String {
        let mut lines: String = open.iter().map(|index| self.detail(model, number, *index, now)).collect();
        lines += &self.vertex(model, number);
        self.logs.remove(&number);
        self.told.retain(|(step, _), _| *step != number);
        lines
    }

    /// Output of a step.
    pub(super) fn log(
        &mut self,
        model: &Model,
        number: usize,
        (stream, data): (LogStream, &[u8]),
        now: Instant,
    ) -> String {
        let limits = self.limits;
        let clippings =
            self.logs.entry(number).or_insert_with(|| [Clipping::new(limits), Clipping::new(limits)]);
        let index = output::index(stream);
        let elapsed = model.steps[number].elapsed(now);
        let data = match clippings[index].take(data.len(), elapsed) {
            Clip::Nothing => STANDARD.encode(data),
            Clip::Begins(limit) => STANDARD.encode(format!("[output clipped, log limit {limit} reached]\n")),
            Clip::GoesOn => return String::new(),
        };
        let stream = if index == 0 { 1 } else { 2 };
        let log = VertexLog { vertex: digest(model, number), stream, data, timestamp: self.time(now) };
        line(&SolveStatus { logs: Some([log]), ..SolveStatus::default() })
    }
}

/// A text that belongs to no step.
pub(super) fn note(text: &str) -> String {
    let short = STANDARD.encode(text.trim());
    let warning = VertexWarning { level: 1, short, ..VertexWarning::default() };
    line(&SolveStatus { warnings: vec![warning], ..SolveStatus::default() })
}

/// What is to be said of a Dockerfile, which a step has loaded.
pub(super) fn findings(vertex: Option<&Digest>, file: &SourceFile, found: &[Diagnostic]) -> String {
    let warnings = warnings_of(vertex, file, found);
    if warnings.is_empty() {
        String::new()
    } else {
        line(&SolveStatus { warnings, ..SolveStatus::default() })
    }
}

/// The same for `--metadata-file`.
pub(crate) fn warnings(file: &SourceFile, found: &[Diagnostic]) -> serde_json::Value {
    serde_json::to_value(warnings_of(None, file, found)).expect("warnings can be written")
}

fn warnings_of(vertex: Option<&Digest>, file: &SourceFile, found: &[Diagnostic]) -> Vec<VertexWarning> {
    found
        .iter()
        .map(|finding| VertexWarning {
            vertex: vertex.cloned(),
            level: 1,
            short: STANDARD.encode(format!("{}: {}", finding.code, finding.message)),
            detail: finding.help.iter().map(|help| STANDARD.encode(help)).collect(),
            url: finding.rule.and_then(frontend::Rule::url),
            source_info: Some(SourceInfo {
                filename: file.name.clone(),
                data: STANDARD.encode(&file.text),
                language: "Dockerfile",
            }),
            range: finding
                .span
                .iter()
                .map(|span| Range {
                    start: Position { line: span.first_line },
                    end: Position { line: span.last_line },
                })
                .collect(),
        })
        .collect()
}

fn line(status: &SolveStatus<'_>) -> String {
    let mut text = serde_json::to_string(status).expect("a status can be written");
    text.push('\n');
    text
}

/// The name of a step: the digest of its vertex, else one of its number and its name.
pub(super) fn digest(model: &Model, number: usize) -> Digest {
    let step = &model.steps[number];
    match step.vertex.zip(model.graph()) {
        Some((vertex, graph)) => Digest::from_sha256(graph.vertex(vertex).digest.0),
        None => Digest::sha256(format!("rbuild step {number} {}", step.name).as_bytes()),
    }
}

fn inputs(model: &Model, step: &Step) -> Vec<Digest> {
    let Some((vertex, graph)) = step.vertex.zip(model.graph()) else { return Vec::new() };
    let inputs = graph.vertex(vertex).inputs.iter();
    inputs.map(|input| Digest::from_sha256(graph.vertex(input.vertex).digest.0)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(lines: &str) -> Vec<Value> {
        lines.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    #[test]
    fn a_step_has_the_fields_that_viewers_know() {
        let mut model = Model::new(LogLimits::default(), 0);
        let json =
            RawJson { begun: (model.begun, Timestamp::UNIX_EPOCH), ..RawJson::new(LogLimits::default()) };
        let now = model.begun + Duration::from_millis(1500);
        let number = model.add("exporting to image");
        model.start(number, now);
        let digest = digest(&model, number).to_string();
        let running = json!({"vertexes": [
            {"digest": digest, "name": "exporting to image", "started": "1970-01-01T00:00:01.5Z"}
        ]});
        assert_eq!(read(&json.vertex(&model, number)), [running]);
        let took = Some(Duration::from_millis(500));
        model.end(number, Ending::Failed("no room".to_owned()), took, now);
        let failed = json!({"vertexes": [{
            "digest": digest, "name": "exporting to image", "started": "1970-01-01T00:00:01.5Z",
            "completed": "1970-01-01T00:00:02Z", "error": "no room",
        }]});
        assert_eq!(read(&json.vertex(&model, number)), [failed]);
    }

    #[test]
    fn what_a_step_does_ends_before_it() {
        let mut model = Model::new(LogLimits::default(), 0);
        let mut json =
            RawJson { begun: (model.begun, Timestamp::UNIX_EPOCH), ..RawJson::new(LogLimits::default()) };
        let now = model.begun;
        let number = model.add("FROM busybox");
        model.start(number, now);
        let digest = digest(&model, number).to_string();
        let kind = DetailKind::Transfer { current: 5, total: Some(10) };
        let index = model.detail(number, "sha256:ab", kind, now);
        let zero = "1970-01-01T00:00:00Z";
        let mut status = json!({"statuses": [{
            "id": "sha256:ab", "vertex": digest, "total": 10, "current": 5, "timestamp": zero, "started": zero,
        }]});
        assert_eq!(read(&json.detail(&model, number, index, now)), [status.clone()]);
        assert_eq!(json.detail(&model, number, index, now), "");
        model.end(number, Ending::Cached, None, now);
        status["statuses"][0]["completed"] = zero.into();
        let vertex = json!({"vertexes": [{
            "digest": digest, "name": "FROM busybox", "started": zero, "completed": zero, "cached": true,
        }]});
        assert_eq!(read(&json.end(&model, number, &[index], now)), [status, vertex]);
    }

    #[test]
    fn output_and_warnings_are_base64() {
        let mut model = Model::new(LogLimits::default(), 0);
        let limits = LogLimits { size_bytes: Some(4), ..LogLimits::default() };
        let mut json = RawJson { begun: (model.begun, Timestamp::UNIX_EPOCH), ..RawJson::new(limits) };
        let (now, number) = (model.begun, model.add("RUN"));
        let mut log = |data: &[u8]| json.log(&model, number, (LogStream::Stderr, data), now);
        let [whole] = read(&log(b"\xff\n"))[..].to_vec().try_into().expect("a line");
        let whole: Value = whole;
        assert_eq!(whole["logs"][0]["data"], "/wo=");
        assert_eq!(whole["logs"][0]["stream"], 2);
        let clipped = read(&log(b"more"));
        assert_eq!(
            clipped[0]["logs"][0]["data"],
            STANDARD.encode("[output clipped, log limit 4B reached]\n")
        );
        assert_eq!(log(b"more"), "");
        assert_eq!(
            read(&note("\nWARNING: x\n"))[0],
            json!({"warnings": [{"level": 1, "short": "V0FSTklORzogeA=="}]})
        );
    }
}
