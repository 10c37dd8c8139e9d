//! `(did you mean X?)`.

/// The largest number of changes between what was written and what is suggested.
const MAX_DISTANCE: usize = 2;

/// Whether capitals make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// They do: names that mean something else in other letters.
    Sensitive,
    /// They do not: a suggestion takes over the case of the word, capitals alone if it has no small letters.
    Ignored,
}

/// ` (did you mean X?)` for the closest of `options`, or nothing.
pub(crate) fn did_you_mean<'a>(word: &str, options: impl IntoIterator<Item = &'a str>, case: Case) -> String {
    closest(word, options, case).map_or_else(String::new, |option| format!(" (did you mean {option}?)"))
}

/// The first of those `options` that the fewest changes make of the word. There is none if they all take more than
/// two, nor if one of them is the word itself: then something else is wrong than its spelling.
pub fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>, case: Case) -> Option<String> {
    let folded = |text: &str| match case {
        Case::Sensitive => text.to_owned(),
        Case::Ignored => text.to_lowercase(),
    };
    let wanted: Vec<char> = folded(word).chars().collect();
    let mut best = None;
    let mut limit = MAX_DISTANCE;
    for option in options {
        let option = folded(option);
        let chars: Vec<char> = option.chars().collect();
        match distance(&wanted, &chars, limit) {
            Some(0) => return None,
            Some(distance) => {
                best = Some(option);
                // What comes later has to be closer.
                limit = distance - 1;
            }
            None => {}
        }
    }
    best.map(|option| match case {
        Case::Ignored if word != word.to_lowercase() && word == word.to_uppercase() => option.to_uppercase(),
        _ => option,
    })
}

/// Levenshtein's distance, if it is not more than `limit`. It takes time in proportion to the lengths, not to their
/// product: names may be as long as a line, and the ways to go on are three for each change.
fn distance(left: &[char], right: &[char], limit: usize) -> Option<usize> {
    let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let (left, right) = (&left[same..], &right[same..]);
    let (Some((_, left_rest)), Some((_, right_rest))) = (left.split_first(), right.split_first()) else {
        return Some(left.len().max(right.len())).filter(|distance| *distance <= limit);
    };
    let limit = limit.checked_sub(1)?;
    let ways = [(left_rest, right_rest), (left_rest, right), (left, right_rest)];
    ways.into_iter().filter_map(|(left, right)| distance(left, right, limit)).min().map(|least| least + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_option_is_suggested() {
        let options = ["build", "final", "base"];
        let rows = [
            ("biuld", Case::Sensitive, " (did you mean build?)"),
            ("bases", Case::Sensitive, " (did you mean base?)"),
            ("other", Case::Sensitive, ""),
            ("base", Case::Sensitive, ""),
            ("BASE", Case::Sensitive, ""),
            ("BASE", Case::Ignored, ""),
            ("BASEE", Case::Ignored, " (did you mean BASE?)"),
            ("Basee", Case::Ignored, " (did you mean base?)"),
            ("basee", Case::Ignored, " (did you mean base?)"),
            ("BIULD", Case::Sensitive, ""),
            ("Fnal", Case::Sensitive, " (did you mean final?)"),
        ];
        for (word, case, wanted) in rows {
            assert_eq!(did_you_mean(word, options, case), wanted, "{word} {case:?}");
        }
        assert_eq!(closest("0", ["a"], Case::Ignored).as_deref(), Some("a"));
    }

    #[test]
    fn the_first_of_equals_wins_and_a_word_that_is_known_ends_the_search() {
        let closest = |word, options: &[&'static str]| {
            super::closest(word, options.iter().copied(), Case::Sensitive).unwrap_or_default()
        };
        assert_eq!(closest("ab", &["abcd", "abc", "abd", "xyz"]), "abc");
        assert_eq!(closest("ab", &["abc", "ab", "a"]), "");
        assert_eq!(closest("", &["abc", "ab"]), "ab");
    }

    #[test]
    fn distances_are_levenshtein_s_up_to_a_limit() {
        let rows = [
            ("", "", Some(0)),
            ("abc", "abc", Some(0)),
            ("abc", "abd", Some(1)),
            ("abc", "bc", Some(1)),
            ("abc", "abxc", Some(1)),
            ("ab", "ba", Some(2)),
            ("échø", "echo", Some(2)),
            ("kitten", "sitting", None),
            ("abc", "", None),
            ("flaw", "lawn", Some(2)),
        ];
        for (left, right, wanted) in rows {
            let [left, right]: [Vec<char>; 2] = [left.chars().collect(), right.chars().collect()];
            assert_eq!(distance(&left, &right, MAX_DISTANCE), wanted, "{left:?} {right:?}");
            assert_eq!(distance(&right, &left, MAX_DISTANCE), wanted, "{right:?} {left:?}");
        }
        let long = "x".repeat(1 << 20);
        assert_eq!(closest(&format!("a{long}b"), [long.as_str()], Case::Sensitive), Some(long.clone()));
    }
}
