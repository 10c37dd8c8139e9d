//! Numbers as people read them.

use std::time::Duration;

/// A time in seconds with one decimal.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// The time before a line of output, with as many decimals as BuildKit has there.
pub(super) fn moment(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match elapsed.as_secs() {
        0..10 => format!("{seconds:.3}"),
        10..100 => format!("{seconds:.2}"),
        _ => format!("{seconds:.1}"),
    }
}

/// A size for people, in powers of 1000 as docker writes it.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: &[&str] = &["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let cases = [(0, "0B"), (999, "999B"), (1500, "1.50kB"), (2_000_000, "2.00MB")];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn moments_get_coarser() {
        let cases = [(9_999, "9.999"), (10_000, "10.00"), (99_990, "99.99"), (100_000, "100.0")];
        for (milliseconds, text) in cases {
            assert_eq!(moment(Duration::from_millis(milliseconds)), text);
        }
    }
}
