//! Subordinate ids: `subuid(5)`, `subgid(5)` and the user's name in `passwd(5)`. Read by own code: the C library's
//! look-ups load further libraries, which a static program cannot.

use std::fmt::Write as _;

/// A range of ids outside of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
}

/// The ranges of a user in the text of `/etc/subuid` or `/etc/subgid`, by number or name, in the file's order.
pub(crate) fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<Range> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let range = Range { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
            let is_end = fields.next().is_none();
            (is_end && range.count > 0 && (owner == number || Some(owner) == name)).then_some(range)
        })
        .collect()
}

/// The name of a user in the text of `/etc/passwd`.
pub(crate) fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    let number = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&number)).then_some(name)
    })
}

/// The arguments of `newuidmap(1)` and `newgidmap(1)` after the process: the own id becomes 0, the subordinate ones
/// follow it without gaps.
pub(crate) fn map_arguments(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut arguments = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside: u32 = 1;
    for range in ranges {
        let Some(next) = inside.checked_add(range.count) else { break };
        arguments.extend([inside.to_string(), range.first.to_string(), range.count.to_string()]);
        inside = next;
    }
    arguments
}

/// A map of all ids of this namespace to themselves, from the text of its own map (`user_namespaces(7)`). Of all ids
/// that there can be the last is left out, which nobody has: a map of all of them is how one tells that a process is
/// in no namespace.
pub(crate) fn own_ids(map: &str) -> String {
    let mut text = String::new();
    for line in map.lines() {
        let mut fields = line.split_whitespace();
        let (Some(first), Some(count)) = (fields.next(), fields.nth(1)) else { continue };
        let count = count.parse().unwrap_or(0_u32).min(u32::MAX - 1);
        let _ = writeln!(text, "{first} {first} {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_and_number() {
        let text =
            "alice:100000:65536\n# x\nbob:1:2:3\n1000:300000:10\nalice:400000:5\nalice:x:5\nalice:9:0\n";
        let range = |first, count| Range { first, count };
        assert_eq!(
            ranges(text, 1000, Some("alice")),
            [range(100_000, 65536), range(300_000, 10), range(400_000, 5)]
        );
        assert_eq!(ranges(text, 1000, None), [range(300_000, 10)]);
        assert_eq!(ranges(text, 1001, Some("bob")), []);
    }

    #[test]
    fn names() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbad\n";
        assert_eq!(user_name(passwd, 1000), Some("alice"));
        assert_eq!(user_name(passwd, 5), None);
    }

    #[test]
    fn arguments_have_no_gaps() {
        let ranges = [Range { first: 100_000, count: 65536 }, Range { first: 300_000, count: 10 }];
        let words = map_arguments(1000, &ranges).join(" ");
        assert_eq!(words, "0 1000 1 1 100000 65536 65537 300000 10");
    }

    #[test]
    fn own_ids_are_mapped_to_themselves() {
        assert_eq!(own_ids("         0          0 4294967295\n"), "0 0 4294967294\n");
        assert_eq!(own_ids("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
