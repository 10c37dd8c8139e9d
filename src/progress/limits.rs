//! How much is shown of the output of a step, where people want less than all of it.

use std::time::Duration;

/// The limits for each stream of a step, as BuildKit's variables set them; none where there is no such variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogLimits {
    /// Bytes in all: `BUILDKIT_STEP_LOG_MAX_SIZE`.
    pub(crate) size_bytes: Option<u64>,
    /// Bytes for each second that the step has run: `BUILDKIT_STEP_LOG_MAX_SPEED`.
    pub(crate) bytes_per_second: Option<u64>,
}

/// What was shown of a stream so far.
#[derive(Debug)]
pub(super) struct Clipping {
    limits: LogLimits,
    shown_bytes: u64,
    goes_on: bool,
}

/// Whether the next line is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Clip {
    /// It is.
    Nothing,
    /// It is the first that is not, for this limit.
    Begins(String),
    /// It is not either.
    GoesOn,
}

impl Clipping {
    pub(super) fn new(limits: LogLimits) -> Self {
        Self { limits, shown_bytes: 0, goes_on: false }
    }

    /// What becomes of a line of `length` bytes, `elapsed` after the beginning of the step.
    pub(super) fn take(&mut self, length: usize, elapsed: Duration) -> Clip {
        let wanted = self.shown_bytes + length as u64;
        let LogLimits { size_bytes, bytes_per_second } = self.limits;
        let by_speed = bytes_per_second.map(|speed| speed.saturating_mul(elapsed.as_secs() + 1));
        let limit = if size_bytes.is_some_and(|limit| wanted > limit) {
            size_bytes.map(binary)
        } else if by_speed.is_some_and(|limit| wanted > limit) {
            bytes_per_second.map(|speed| format!("{}/s", binary(speed)))
        } else {
            None
        };
        match limit {
            None => {
                self.shown_bytes = wanted;
                self.goes_on = false;
                Clip::Nothing
            }
            Some(_) if self.goes_on => Clip::GoesOn,
            Some(limit) => {
                self.goes_on = true;
                Clip::Begins(limit)
            }
        }
    }
}

/// A number of bytes in the largest unit that leaves it whole.
fn binary(bytes: u64) -> String {
    match bytes {
        bytes if bytes > 0 && bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
        bytes if bytes > 0 && bytes % (1 << 10) == 0 => format!("{}KiB", bytes >> 10),
        bytes => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn without_limits_all_is_shown() {
        let mut clipping = Clipping::new(LogLimits::default());
        assert_eq!(clipping.take(usize::MAX / 2, NOW), Clip::Nothing);
    }

    #[test]
    fn a_stream_is_clipped_once_it_is_too_long() {
        let mut clipping = Clipping::new(LogLimits { size_bytes: Some(2 << 20), ..LogLimits::default() });
        assert_eq!(clipping.take(2 << 20, NOW), Clip::Nothing);
        assert_eq!(clipping.take(1, NOW), Clip::Begins("2MiB".to_owned()));
        assert_eq!(clipping.take(1, NOW), Clip::GoesOn);
    }

    #[test]
    fn a_stream_that_is_too_fast_is_clipped_for_a_while() {
        let mut clipping = Clipping::new(LogLimits { bytes_per_second: Some(1000), ..LogLimits::default() });
        assert_eq!(clipping.take(900, NOW), Clip::Nothing);
        assert_eq!(clipping.take(200, NOW), Clip::Begins("1000B/s".to_owned()));
        assert_eq!(clipping.take(200, Duration::from_secs(1)), Clip::Nothing);
        assert_eq!(clipping.take(2000, Duration::from_secs(1)), Clip::Begins("1000B/s".to_owned()));
    }
}
