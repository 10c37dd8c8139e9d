//! How Go writes strings and durations: the history of an image is made of such texts.

use std::time::Duration;

/// `text` as Go's `%q` writes it.
pub(crate) fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if is_printable(c) => quoted.push(c),
            c if u32::from(c) < 0x80 => quoted.extend(escaped("\\x", c, 2)),
            c if u32::from(c) < 0x1_0000 => quoted.extend(escaped("\\u", c, 4)),
            c => quoted.extend(escaped("\\U", c, 8)),
        }
    }
    quoted.push('"');
    quoted
}

fn escaped(prefix: &str, c: char, digits: usize) -> [String; 2] {
    [prefix.to_owned(), format!("{:0digits$x}", u32::from(c))]
}

/// A list as Go's `%q` writes it: `["a" "b"]`.
pub(crate) fn go_quote_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| go_quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Go prints letters, marks, numbers, punctuation, symbols and the plain space.
fn is_printable(c: char) -> bool {
    match u32::from(c) {
        0x20..=0x7e => true,
        0..=0xa0
        | 0xad
        | 0x600..=0x605
        | 0x61c
        | 0x6dd
        | 0x70f
        | 0x1680
        | 0x180e
        | 0x2000..=0x200f
        | 0x2028..=0x202f
        | 0x205f..=0x206f
        | 0x3000
        | 0xe000..=0xf8ff
        | 0xfeff
        | 0xfff0..=0xfffb
        | 0xfffe..=0xffff
        | 0xe_0000..=0xe_00ff
        | 0xe_01f0..=0x10_ffff => false,
        _ => true,
    }
}

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of a duration in Go's form (`1h30m`, `1.5s`).
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(*size)?)?.checked_add(fraction_of(fraction, *size)?)?;
        rest = after;
    }
    Some(if negative { -total } else { total })
}

/// A duration in Go's form (`1h30m`, `1.5s`); one below zero is none.
pub fn go_duration(text: &str) -> Option<Duration> {
    let nanoseconds = parse_duration(text)?;
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

fn fraction_of(digits: &str, size: i64) -> Option<i64> {
    // More than eighteen digits are beyond a nanosecond of any unit.
    let digits = &digits[..digits.len().min(18)];
    if digits.is_empty() {
        return Some(0);
    }
    let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
    let part = digits.parse::<i128>().ok()?.checked_mul(i128::from(size))? / scale;
    i64::try_from(part).ok()
}

/// Nanoseconds as Go writes them: `1m30s`, `500ms`, `0s`.
pub(crate) fn format_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let decimal = |unit: u64, name: &str| {
        let fraction = format!("{:0width$}", total % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() || unit == 1 { "" } else { "." };
        let fraction = if unit == 1 { "" } else { fraction };
        format!("{sign}{}{dot}{fraction}{name}", total / unit)
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => decimal(1, "ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let seconds = total / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let fraction = format!("{:09}", total % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            let tail = format!("{}{dot}{fraction}s", seconds % 60);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{tail}"),
                (0, minutes) => format!("{sign}{minutes}m{tail}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{tail}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        let rows = [
            ("a b", r#""a b""#),
            ("tab\there\"\\", r#""tab\there\"\\""#),
            ("échø☃", "\"échø☃\""),
            ("\u{1}\u{7f}\u{a0}\u{feff}\u{10ffff}", r#""\x01\x7f\u00a0\ufeff\U0010ffff""#),
        ];
        for (text, wanted) in rows {
            assert_eq!(go_quote(text), wanted);
        }
        assert_eq!(go_quote_list(&["a".into(), "b c".into()]), r#"["a" "b c"]"#);
    }

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        let rows = [
            ("1m30s", 90_000_000_000, "1m30s"),
            ("500ms", 500_000_000, "500ms"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("999us", 999_000, "999µs"),
            ("1500us", 1_500_000, "1.5ms"),
            ("0", 0, "0s"),
            ("-1s", -1_000_000_000, "-1s"),
            ("7ns", 7, "7ns"),
        ];
        for (text, nanoseconds, written) in rows {
            assert_eq!(parse_duration(text), Some(nanoseconds), "{text}");
            assert_eq!(format_duration(nanoseconds), written, "{text}");
        }
        for text in ["", "5", "s", "1x", "1.s.", "9999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
