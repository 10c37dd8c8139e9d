//! The spans of builds, as a collector gets them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use testkit::run_with_timeout;

use crate::lab::{Lab, Ran, TIMEOUT};

/// A request to a collector.
struct Posted {
    /// The first line, and the header fields in small letters.
    head: Vec<String>,
    body: Vec<u8>,
}

/// A collector that answers everything with `status`.
fn collector(status: &'static str) -> (String, Receiver<Posted>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(&mut stream);
            let lines = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let head: Vec<String> = lines.map(|line| line.to_lowercase()).collect();
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.expect("the length of the body is told")];
            reader.read_exact(&mut body).expect("the body comes");
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = sender.send(Posted { head, body });
        }
    });
    (url, receiver)
}

fn build(lab: &Lab, context: &Path, variables: &[(&str, &str)]) -> Ran {
    let mut command = lab.build_command(context, &["-t", "traced"]);
    command.envs(variables.iter().copied());
    Ran::from(run_with_timeout(command, TIMEOUT))
}

fn spans(message: ExportTraceServiceRequest) -> Vec<Span> {
    let resources = message.resource_spans.into_iter();
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// The attributes of a span, as JSON has them.
fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let text = |value| serde_json::to_string(value).expect("a value can be written");
    span.attributes.iter().map(|pair| (pair.key.as_str(), text(&pair.value))).collect()
}

#[test]
fn a_build_and_its_steps_are_spans() {
    let (lab, (url, posted)) = (Lab::new(), collector("200 OK"));
    let context = lab.context(
        "ctx",
        &[("Dockerfile", "FROM busybox\nRUN true\n"), ("fails", "FROM busybox\nRUN exit 3\n")],
    );
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let json = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x"),
        ("OTEL_SERVICE_NAME", "ci"),
        ("TRACEPARENT", &parent),
    ];
    build(&lab, &context, &json).succeeded();
    let Posted { head, body } = posted.recv_timeout(TIMEOUT).expect("the spans come");
    assert_eq!(head[0], "post /v1/traces http/1.1");
    for field in ["content-type: application/json", "authorization: bearer x"] {
        assert!(head.iter().any(|line| line == field), "{head:?}");
    }
    let text = String::from_utf8(body).expect("JSON is text");
    assert!(text.contains(r#""key":"service.name","value":{"stringValue":"ci"}"#), "{text}");
    let message: ExportTraceServiceRequest = serde_json::from_str(&text).expect("it is as OTLP has it");
    let all = spans(message);
    let root = &all[0];
    assert!(text.contains(&format!(r#""traceId":"{trace}""#)), "{text}");
    assert_eq!((root.name.as_str(), root.parent_span_id[0], root.parent_span_id[7]), ("build", 0xb7, 0x31));
    assert_eq!(attributes(root)["rbuild.tags"], r#"{"arrayValue":{"values":[{"stringValue":"traced"}]}}"#);
    let run = all.iter().find(|span| span.name.ends_with("RUN true")).expect("the step has a span");
    assert_eq!((&run.parent_span_id, &run.trace_id), (&root.span_id, &root.trace_id));
    assert_eq!(attributes(run)["rbuild.step.outcome"], r#"{"stringValue":"executed"}"#);
    assert_eq!(attributes(run)["code.line.number"], r#"{"intValue":"2"}"#);
    assert!(root.start_time_unix_nano <= run.start_time_unix_nano, "{text}");
    assert!(run.start_time_unix_nano < run.end_time_unix_nano, "{text}");
    assert!(run.end_time_unix_nano <= root.end_time_unix_nano, "{text}");
    let export = all.iter().find(|span| span.name.starts_with("exporting")).expect("so has the export");
    assert_eq!(export.parent_span_id, root.span_id);
    build(&lab, &context, &json[..1]).succeeded();
    let posted_again = posted.recv_timeout(TIMEOUT).expect("the spans come");
    assert!(posted_again.head.iter().any(|line| line == "content-type: application/x-protobuf"));
    let again =
        spans(ExportTraceServiceRequest::decode(posted_again.body.as_slice()).expect("it is protobuf"));
    let run = again.iter().find(|span| span.name.ends_with("RUN true")).expect("the step has a span");
    assert_eq!(attributes(run)["rbuild.step.outcome"], r#"{"stringValue":"cached"}"#);
    assert!(again[0].parent_span_id.is_empty() && again[0].trace_id != root.trace_id);
    std::fs::rename(context.join("fails"), context.join("Dockerfile")).expect("a file can be moved");
    build(&lab, &context, &json[..1]).failed(1, &["exit code: 3"]);
    let body = posted.recv_timeout(TIMEOUT).expect("the spans come").body;
    let failed = spans(ExportTraceServiceRequest::decode(body.as_slice()).expect("it is protobuf"));
    let run = failed.iter().find(|span| span.name.ends_with("RUN exit 3")).expect("the step has a span");
    assert_eq!(attributes(run)["process.exit.code"], r#"{"intValue":"3"}"#);
    let codes = [&failed[0], run].map(|span| span.status.as_ref().map(|status| status.code));
    assert_eq!(codes, [Some(2), Some(2)]);
}

#[test]
fn a_collector_that_takes_nothing_fails_no_build() {
    let (lab, (url, _posted)) = (Lab::new(), collector("503 Service Unavailable"));
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let told = |variables: &[(&str, &str)]| build(&lab, &context, variables).succeeded().stderr;
    let text = told(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    let expected =
        format!("WARNING: the spans of the build are lost: `{url}/v1/traces` answers with status 503\n");
    assert!(text.contains(&expected), "{text}");
    let text = told(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/x")]);
    assert!(text.contains("are lost: cannot send to `http://127.0.0.1:9/x`: "), "{text}");
    let text = told(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert!(
        text.contains("WARNING: no spans are sent: `OTEL_EXPORTER_OTLP_PROTOCOL=grpc` is neither"),
        "{text}"
    );
    let text = told(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "no url")]);
    assert!(
        text.contains("WARNING: the spans of the build are lost: `no url/v1/traces` is no URL"),
        "{text}"
    );
}
