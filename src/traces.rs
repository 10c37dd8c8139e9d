//! The spans of a build for a collector of OpenTelemetry (OTLP over HTTP): one for the build, and in it one for each step.
//! What is deliberately absent: gRPC, metrics and logs.

mod message;
mod settings;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use registry::{Client, PostError, PostRequest};

use crate::history::Subject;
use crate::notices::Notices;
use crate::progress::Timed;
use crate::report::Failure;
use settings::{Collector, Parent};

/// A build whose spans are wanted.
#[derive(Debug)]
pub(crate) struct Traces {
    collector: Collector,
    /// What is said of the program.
    resource: Vec<(String, String)>,
    /// The span that the build belongs to.
    parent: Option<Parent>,
    begun: Clock,
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Clock {
    instant: Instant,
    system: SystemTime,
}

/// What there is to tell of a build.
pub(crate) struct Told<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) steps: Vec<Timed>,
    pub(crate) failure: Option<&'a Failure>,
}

impl Traces {
    /// What the variables ask for, of which `read` knows the values. The build begins now.
    pub(crate) fn of(read: impl Fn(&str) -> Option<String>, notices: &mut Notices) -> Option<Self> {
        let begun = Clock { instant: Instant::now(), system: SystemTime::now() };
        let collector = Collector::of(&read, notices)?;
        let parent = Parent::of(&read);
        // Whoever began the trace does not want to have it.
        if parent.as_ref().is_some_and(|parent| !parent.is_sampled) {
            return None;
        }
        Some(Self { collector, resource: settings::resource(&read, notices), parent, begun })
    }

    /// Sends the spans of a build that has ended.
    pub(crate) async fn send(&self, told: &Told<'_>, client: &Client) -> Result<(), PostError> {
        let Collector { url, encoding, headers, time_limit } = &self.collector;
        let (content_type, body) = encoding.encode(&self.message(told, Instant::now()));
        let request = PostRequest {
            url: url.clone(),
            headers: headers.clone(),
            content_type,
            body,
            time_limit: *time_limit,
        };
        client.post(&request).await
    }

    /// What may help where the spans could not be sent.
    pub(crate) fn hint(&self) -> Option<String> {
        let is_grpc = self.collector.url.contains(":4317/");
        is_grpc.then(|| "port 4317 is that of gRPC: OTLP over HTTP has 4318".to_owned())
    }
}

impl Clock {
    /// Nanoseconds since 1970.
    fn nanoseconds(&self, instant: Instant) -> u64 {
        let since = self.system.duration_since(UNIX_EPOCH).unwrap_or_default();
        let from_begin = match instant.checked_duration_since(self.instant) {
            Some(later) => since + later,
            None => since.saturating_sub(self.instant.duration_since(instant)),
        };
        u64::try_from(from_begin.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The limit where none is set.
const TIME_LIMIT: Duration = Duration::from_secs(10);
