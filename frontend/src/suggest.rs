//! `(did you mean X?)`.

/// The largest number of changes between what was written and what is suggested.
const MAX_DISTANCE: usize = 2;
/// Longer words are no slips of a name that is known.
const MAX_CHARS: usize = 64;

/// ` (did you mean X?)` for the closest of `options`, or nothing. Case is ignored; so is an option that is the word
/// itself.
pub(crate) fn did_you_mean<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, options).map_or_else(String::new, |option| format!(" (did you mean {option}?)"))
}

/// The closest of `options`.
pub(crate) fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = word.to_lowercase().chars().take(MAX_CHARS + 1).collect();
    if wanted.len() > MAX_CHARS {
        return None;
    }
    options
        .into_iter()
        .map(|option| (distance(&wanted, &option.to_lowercase()), option))
        .filter(|(distance, _)| (1..=MAX_DISTANCE).contains(distance))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}

/// Levenshtein's distance.
fn distance(wanted: &[char], option: &str) -> usize {
    let mut row: Vec<usize> = (0..=wanted.len()).collect();
    for (index, c) in option.chars().take(MAX_CHARS + 1).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for at in 1..row.len() {
            let substituted = diagonal + usize::from(wanted[at - 1] != c);
            diagonal = row[at];
            row[at] = substituted.min(row[at] + 1).min(row[at - 1] + 1);
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_option_is_suggested() {
        let options = ["build", "final", "base"];
        assert_eq!(did_you_mean("biuld", options), " (did you mean build?)");
        assert_eq!(did_you_mean("BASEE", options), " (did you mean base?)");
        assert_eq!(did_you_mean("other", options), "");
        assert_eq!(did_you_mean("build", ["build"]), "");
        assert_eq!(did_you_mean("0", ["a"]), " (did you mean a?)");
    }
}
