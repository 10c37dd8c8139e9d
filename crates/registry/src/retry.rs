//! When a request is repeated, and after how long.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use reqwest::header::HeaderMap;

/// How failed requests are repeated. Connections that break or time out and the statuses 408, 429, 500, 502, 503 and
/// 504 are; a refused connection is not, because nobody listens there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often something is tried altogether, at least once.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one. What is really waited is up to a quarter
    /// less, so that clients which failed together do not come back together.
    pub first_delay: Duration,
    /// The longest pause that is made, also where the registry asks for one (`Retry-After`). A registry that asks for
    /// a longer one ends the request.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 6, first_delay: Duration::from_millis(500), longest_delay: Duration::from_secs(60) }
    }
}

impl RetryPolicy {
    /// What is waited after failure number `failures` (from 1); `None` where it is time to give up. A pause that the
    /// registry asked for is never cut short.
    pub(crate) fn pause(&self, failures: u32, retry_after: Option<Duration>) -> Option<Duration> {
        let delay = self.delay(failures, retry_after)?;
        let shortened = delay.mul_f64(1.0 - random_fraction() / 4.0);
        Some(shortened.max(retry_after.unwrap_or_default()))
    }

    /// The pause after failure number `failures` (from 1); `None` where it is time to give up.
    fn delay(&self, failures: u32, retry_after: Option<Duration>) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doubled = self.first_delay.saturating_mul(1 << (failures - 1).min(16));
        match retry_after {
            Some(asked) if asked > self.longest_delay => None,
            Some(asked) => Some(asked.max(doubled.min(self.longest_delay))),
            None => Some(doubled.min(self.longest_delay)),
        }
    }
}

/// Between 0 and 1, another one each time.
fn random_fraction() -> f64 {
    // Each state has keys of its own.
    let bits = RandomState::new().build_hasher().finish();
    f64::from((bits >> 32) as u32) / f64::from(u32::MAX)
}

/// Whether a request that was answered with `status` may have more luck later.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// The value of `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = date.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderValue, RETRY_AFTER};

    #[test]
    fn pauses_double_within_bounds() {
        let policy = RetryPolicy {
            attempts: 4,
            first_delay: Duration::from_millis(100),
            longest_delay: Duration::from_millis(300),
        };
        let ms = |number| Some(Duration::from_millis(number));
        assert_eq!(policy.delay(1, None), ms(100));
        assert_eq!(policy.delay(2, None), ms(200));
        assert_eq!(policy.delay(3, None), ms(300));
        assert_eq!(policy.delay(4, None), None);
        assert_eq!(policy.delay(1, ms(250)), ms(250));
        assert_eq!(policy.delay(1, ms(0)), ms(100));
        assert_eq!(policy.delay(1, ms(301)), None);
    }

    #[test]
    fn pauses_differ_and_are_never_shorter_than_asked_for() {
        let policy = RetryPolicy {
            attempts: 2,
            first_delay: Duration::from_secs(4),
            longest_delay: Duration::from_secs(9),
        };
        let pauses: Vec<_> = (0..20).filter_map(|_| policy.pause(1, None)).collect();
        let bounds = Duration::from_secs(3)..=Duration::from_secs(4);
        assert!(pauses.iter().all(|pause| bounds.contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
        let asked = Some(Duration::from_secs(8));
        assert_eq!(policy.pause(1, asked), asked);
        assert_eq!(policy.pause(2, None), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(read("Sun, 06 Nov 2095 08:49:37 GMT").unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(read("soon"), None);
    }
}
