//! The variables of OpenTelemetry that say where spans go and what they say.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use percent_encoding::percent_decode_str;
use prost::Message as _;

use super::TIME_LIMIT;
use crate::notices::Notices;

/// Where spans go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Collector {
    pub(super) url: String,
    pub(super) encoding: Encoding,
    pub(super) headers: Vec<(String, String)>,
    pub(super) time_limit: Duration,
}

/// How spans are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

/// The span that the build belongs to (`TRACEPARENT`, as W3C's Trace Context has it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) is_sampled: bool,
    /// `TRACESTATE`, which is handed on.
    pub(super) state: String,
}

impl Collector {
    /// The collector that the variables name; none if they name none, or one that cannot be spoken to, which is told.
    pub(super) fn of(read: &impl Fn(&str) -> Option<String>, notices: &mut Notices) -> Option<Self> {
        let set =
            |name: &str| read(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        // The variables for traces alone go before those for everything.
        let either = |name: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            set(&own).map(|value| (own, value)).or_else(|| {
                let general = format!("OTEL_EXPORTER_OTLP_{name}");
                set(&general).map(|value| (general, value))
            })
        };
        let (name, endpoint) = either("ENDPOINT")?;
        let is_disabled = set("OTEL_SDK_DISABLED").and_then(|value| frontend::go_bool(&value)) == Some(true);
        match set("OTEL_TRACES_EXPORTER").as_deref() {
            _ if is_disabled => return None,
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(other) => {
                notices
                    .warn(format!("`OTEL_TRACES_EXPORTER={other}` has no effect: spans are sent by `otlp`"));
                return None;
            }
        }
        let encoding = match either("PROTOCOL") {
            None => Encoding::Protobuf,
            Some((name, protocol)) => match protocol.as_str() {
                "http/protobuf" => Encoding::Protobuf,
                "http/json" => Encoding::Json,
                other => {
                    notices.warn(format!(
                        "no spans are sent: `{name}={other}` is neither `http/protobuf` nor `http/json`"
                    ));
                    return None;
                }
            },
        };
        let url = if name.contains("TRACES") {
            endpoint
        } else {
            format!("{}/v1/traces", endpoint.trim_end_matches('/'))
        };
        let headers = either("HEADERS").map_or_else(Vec::new, |(name, text)| pairs(&name, &text, notices));
        let limit = either("TIMEOUT").and_then(|(_, milliseconds)| milliseconds.parse().ok());
        let time_limit = limit.map_or(TIME_LIMIT, Duration::from_millis);
        Some(Self { url, encoding, headers, time_limit })
    }
}

impl Encoding {
    /// The type and the bytes of a message.
    pub(super) fn encode(self, message: &ExportTraceServiceRequest) -> (&'static str, Vec<u8>) {
        match self {
            Self::Protobuf => ("application/x-protobuf", message.encode_to_vec()),
            Self::Json => {
                ("application/json", serde_json::to_vec(message).expect("a message can be written as JSON"))
            }
        }
    }
}

impl Parent {
    /// The parent that the variables name; one that is not well-formed is none.
    pub(super) fn of(read: &impl Fn(&str) -> Option<String>) -> Option<Self> {
        let text = read("TRACEPARENT")?;
        let mut fields = text.trim().split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        // Later versions may have more fields.
        if bytes::<1>(version)? == [0xff] || (version == "00" && fields.next().is_some()) {
            return None;
        }
        let (trace, span, [flags]) = (bytes(trace)?, bytes(span)?, bytes(flags)?);
        let state = read("TRACESTATE").unwrap_or_default();
        let is_valid = trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self { trace, span, is_sampled: flags & 1 == 1, state })
    }
}

/// `N` bytes in hexadecimal digits, small letters.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hexadecimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let digits = Some(text).filter(|text| is_hexadecimal && text.len() == 2 * N)?;
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap_or_default();
    Some(std::array::from_fn(byte))
}

/// What is said of the program: `service.name`, and what the variables add.
pub(super) fn resource(
    read: &impl Fn(&str) -> Option<String>,
    notices: &mut Notices,
) -> Vec<(String, String)> {
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    let mut attributes = pairs(name, &read(name).unwrap_or_default(), notices);
    if let Some(service) = read("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
        attributes.retain(|(key, _)| key != "service.name");
        attributes.push(("service.name".to_owned(), service));
    }
    let own = [("service.name", "rbuild"), ("service.version", env!("CARGO_PKG_VERSION"))];
    for (key, value) in own {
        if !attributes.iter().any(|(known, _)| known == key) {
            attributes.push((key.to_owned(), value.to_owned()));
        }
    }
    attributes
}

/// `key=value,key=value`, with `%XX` for what has a meaning. The value may be a credential: it is not told.
fn pairs(variable: &str, text: &str, notices: &mut Notices) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for field in text.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        let pair = field.split_once('=').map(|(key, value)| (key.trim(), percent_decode_str(value.trim())));
        match pair.map(|(key, value)| (key, value.decode_utf8())) {
            Some((key, Ok(value))) if !key.is_empty() => pairs.push((key.to_owned(), value.into_owned())),
            _ => notices.warn(format!("a field of `{variable}` has no effect: it should be `KEY=VALUE`")),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(variables: &[(&str, &str)]) -> (Option<Collector>, Vec<String>) {
        let mut notices = Notices::default();
        let read = |asked: &str| {
            variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned())
        };
        (Collector::of(&read, &mut notices), notices.warnings)
    }

    #[test]
    fn the_variables_for_traces_go_before_the_general_ones() {
        assert_eq!(collector(&[]), (None, Vec::new()));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let expected = Collector {
            url: "http://c:4318/v1/traces".to_owned(),
            encoding: Encoding::Protobuf,
            headers: Vec::new(),
            time_limit: TIME_LIMIT,
        };
        assert_eq!(collector(&[endpoint]), (Some(expected), Vec::new()));
        let all = [
            endpoint,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t/x"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, b=2,wrong"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ];
        let (found, warnings) = collector(&all);
        let headers = [("authorization", "Bearer x"), ("b", "2")];
        let expected = Collector {
            url: "http://t/x".to_owned(),
            encoding: Encoding::Json,
            headers: headers.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            time_limit: Duration::from_millis(500),
        };
        assert_eq!(found, Some(expected));
        let warning = "a field of `OTEL_EXPORTER_OTLP_HEADERS` has no effect: it should be `KEY=VALUE`";
        assert_eq!(warnings, [warning]);
    }

    #[test]
    fn what_cannot_be_spoken_to_is_told() {
        let with = |name: &'static str, value: &'static str| {
            let (found, warnings) = collector(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), (name, value)]);
            (found.is_some(), warnings)
        };
        let grpc = "no spans are sent: `OTEL_EXPORTER_OTLP_PROTOCOL=grpc` is neither `http/protobuf` nor `http/json`";
        assert_eq!(with("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), (false, vec![grpc.to_owned()]));
        let zipkin = "`OTEL_TRACES_EXPORTER=zipkin` has no effect: spans are sent by `otlp`";
        assert_eq!(with("OTEL_TRACES_EXPORTER", "zipkin"), (false, vec![zipkin.to_owned()]));
        assert_eq!(with("OTEL_TRACES_EXPORTER", "none"), (false, Vec::new()));
        assert_eq!(with("OTEL_SDK_DISABLED", "true"), (false, Vec::new()));
        assert_eq!(with("OTEL_TRACES_EXPORTER", "otlp"), (true, Vec::new()));
    }

    #[test]
    fn parents() {
        let parent = |text: &str| Parent::of(&|name: &str| (name == "TRACEPARENT").then(|| text.to_owned()));
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let found = parent(&format!("00-{trace}-{span}-01")).unwrap();
        assert_eq!((found.trace[0], found.span[7], found.is_sampled), (0x0a, 0x31, true));
        assert!(!parent(&format!("00-{trace}-{span}-00")).unwrap().is_sampled);
        assert!(parent(&format!("01-{trace}-{span}-01-more")).is_some());
        let zero = "0".repeat(32);
        let wrong = [
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{zero}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}"),
            String::new(),
        ];
        for text in wrong {
            assert_eq!(parent(&text), None, "{text}");
        }
    }

    #[test]
    fn what_is_said_of_the_program() {
        let of = |attributes: &str, service: &str| {
            let read = |name: &str| match name {
                "OTEL_RESOURCE_ATTRIBUTES" => Some(attributes.to_owned()),
                "OTEL_SERVICE_NAME" => Some(service.to_owned()),
                _ => None,
            };
            let mut found = resource(&read, &mut Notices::default());
            found.retain(|(key, _)| key != "service.version");
            found.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(of("", ""), ["service.name=rbuild"]);
        assert_eq!(of("service.name=a,team=b%2Cc", ""), ["service.name=a", "team=b,c"]);
        assert_eq!(of("service.name=a", "s"), ["service.name=s"]);
    }
}
