//! Keeping what is secret out of the output of a process.

use std::collections::{BTreeSet, HashMap};

/// What stands for something secret.
const STARS: &[u8] = b"****";
/// Shorter texts are no secrets, and would black out ordinary words.
const SHORTEST: usize = 4;

/// Replaces secret texts by stars. It is a net below people who print their secrets by mistake, and none that catches
/// those who want to: a text that is changed in any way (encoded, cut) is not found.
#[derive(Debug, Default)]
pub(super) struct Redaction {
    /// By their first bytes, the longest first.
    texts: HashMap<[u8; SHORTEST], Vec<Vec<u8>>>,
    longest: usize,
}

impl Redaction {
    /// Of each line of each secret, without the blanks around it: output is looked at by lines.
    pub(super) fn of<'s>(secrets: impl Iterator<Item = &'s [u8]>) -> Self {
        let lines = secrets.flat_map(|secret| secret.split(|byte| matches!(byte, b'\n' | b'\r')));
        let lines = lines.map(<[u8]>::trim_ascii).filter(|line| line.len() >= SHORTEST);
        let mut redaction = Self::default();
        for line in lines.collect::<BTreeSet<_>>() {
            let Some(start) = line.first_chunk() else { continue };
            redaction.texts.entry(*start).or_default().push(line.to_vec());
            redaction.longest = redaction.longest.max(line.len());
        }
        for texts in redaction.texts.values_mut() {
            texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
        redaction
    }

    /// How many bytes at the end of something unfinished may belong to a secret that is not there as a whole.
    pub(super) fn held_back(&self) -> usize {
        self.longest.saturating_sub(1)
    }

    /// What is to be shown of the first `end` bytes of `data`, and how many bytes that is about: more than `end` where
    /// a secret begins before and ends after it.
    pub(super) fn apply(&self, data: &[u8], end: usize) -> (Vec<u8>, usize) {
        if self.texts.is_empty() {
            return (data[..end].to_vec(), end);
        }
        let mut shown = Vec::with_capacity(end);
        let mut at = 0;
        while at < end {
            let rest = &data[at..];
            let texts = rest.first_chunk().and_then(|start| self.texts.get(start));
            if let Some(text) = texts.and_then(|texts| texts.iter().find(|text| rest.starts_with(text))) {
                shown.extend_from_slice(STARS);
                at += text.len();
            } else {
                shown.push(data[at]);
                at += 1;
            }
        }
        (shown, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(secrets: &[&str], text: &str) -> String {
        let redaction = Redaction::of(secrets.iter().map(|secret| secret.as_bytes()));
        let (shown, length) = redaction.apply(text.as_bytes(), text.len());
        assert_eq!(length, text.len());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn secrets_are_replaced_by_their_lines() {
        let secrets = ["token", "  first line\r\n\n}\nsecond\n", "tokens"];
        assert_eq!(redacted(&secrets, "a token, tokens"), "a ****, ****");
        assert_eq!(redacted(&secrets, "first line second }"), "**** **** }");
        assert_eq!(redacted(&secrets, "toke first lin"), "toke first lin");
        assert_eq!(redacted(&["abc", ""], "abc"), "abc");
        assert_eq!(redacted(&[], "abc"), "abc");
        assert_eq!(redacted(&["aaaa"], "aaaaaaaaa"), "********a");
    }

    #[test]
    fn what_crosses_the_end_is_taken_as_a_whole() {
        let redaction = Redaction::of([b"secret".as_slice()].into_iter());
        assert_eq!(redaction.held_back(), 5);
        assert_eq!(redaction.apply(b"a secret b", 4), (b"a ****".to_vec(), 8));
        assert_eq!(redaction.apply(b"a secret b", 2), (b"a ".to_vec(), 2));
    }
}
