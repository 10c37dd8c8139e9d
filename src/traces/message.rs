//! What OTLP calls an export request.

use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::{Told, Traces};
use crate::progress::{Ending, Timed, TimedPart};

impl Traces {
    /// The spans of a build that has ended at `now`.
    pub(super) fn message(&self, told: &Told<'_>, now: Instant) -> ExportTraceServiceRequest {
        let root = self.root(told, now);
        let mut spans = Vec::new();
        for step in &told.steps {
            let span = self.step(step, &root, now);
            let part =
                |part: &TimedPart| self.span(&part.name, (part.started, part.ended.unwrap_or(now)), &span);
            let parts: Vec<Span> = step.parts.iter().map(part).collect();
            spans.push(span);
            spans.extend(parts);
        }
        spans.insert(0, root);
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let attributes = self.resource.iter().map(|(key, value)| text(key, value)).collect();
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes, ..Resource::default() }),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
                ..ResourceSpans::default()
            }],
        }
    }

    /// The span of the build.
    fn root(&self, told: &Told<'_>, now: Instant) -> Span {
        let parent = match &self.parent {
            Some(parent) => Span {
                trace_id: parent.trace.into(),
                span_id: parent.span.into(),
                trace_state: parent.state.clone(),
                ..Span::default()
            },
            None => Span { trace_id: random::<16>(), ..Span::default() },
        };
        let subject = told.subject;
        let mut attributes = vec![
            text("rbuild.dockerfile", &subject.dockerfile),
            text("rbuild.context", &subject.context),
            list("rbuild.platforms", &subject.platforms),
        ];
        attributes.extend(subject.target.as_ref().map(|target| text("rbuild.target", target)));
        attributes.extend((!subject.tags.is_empty()).then(|| list("rbuild.tags", &subject.tags)));
        let status = told.failure.map(|failure| failed(failure.cause()));
        Span {
            attributes,
            status: Some(status.unwrap_or_default()),
            ..self.span("build", (self.begun.instant, now), &parent)
        }
    }

    fn step(&self, step: &Timed, root: &Span, now: Instant) -> Span {
        let mut attributes = Vec::new();
        if let Some(lines) = step.lines {
            attributes.push(number("code.line.number", lines.first.into()));
        }
        let outcome = match &step.ending {
            Some(Ending::Cached) => "cached",
            Some(Ending::Done) => "executed",
            Some(Ending::Failed(_)) => "failed",
            Some(Ending::Canceled) | None => "canceled",
        };
        attributes.push(text("rbuild.step.outcome", outcome));
        let mut status = Status::default();
        if let Some(Ending::Failed(message)) = &step.ending {
            status = failed(message);
            attributes.extend(exit_code(message).map(|code| number("process.exit.code", code)));
        }
        let ended = step.ended.unwrap_or(now);
        Span { attributes, status: Some(status), ..self.span(&step.name, (step.started, ended), root) }
    }

    fn span(&self, name: &str, (started, ended): (Instant, Instant), parent: &Span) -> Span {
        Span {
            trace_id: parent.trace_id.clone(),
            span_id: random::<8>(),
            parent_span_id: parent.span_id.clone(),
            trace_state: parent.trace_state.clone(),
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.begun.nanoseconds(started),
            end_time_unix_nano: self.begun.nanoseconds(ended),
            ..Span::default()
        }
    }
}

/// The exit code that the error of a step tells.
fn exit_code(message: &str) -> Option<i64> {
    let (_, rest) = message.rsplit_once("exit code: ")?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn failed(message: &str) -> Status {
    Status { message: message.to_owned(), code: StatusCode::Error.into() }
}

/// An identifier.
fn random<const N: usize>() -> Vec<u8> {
    let mut bytes = [0; N];
    // Without a source of randomness identifiers are all alike, and a collector takes none of the spans.
    let _ = getrandom::fill(&mut bytes);
    bytes.into()
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn list(key: &str, values: &[String]) -> KeyValue {
    let value = |text: &String| AnyValue { value: Some(Value::StringValue(text.clone())) };
    attribute(key, Value::ArrayValue(ArrayValue { values: values.iter().map(value).collect() }))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_read_off_the_error() {
        let message =
            "process \"/bin/sh -c exit code: 7; exit 3\" did not complete successfully: exit code: 3";
        assert_eq!(exit_code(message), Some(3));
        assert_eq!((exit_code("exit code: "), exit_code("\"/x\": not found")), (None, None));
    }
}
