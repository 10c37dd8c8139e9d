//! Variables and quotes: `$name`, `${name…}` with modifiers, `'…'`, `"…"`, escapes.

use std::collections::HashMap;

use crate::glob::Glob;

/// How deep `${a:-${b:-…}}` may nest. Each level is a frame of the stack.
const MAX_DEPTH: usize = 100;
/// The longest result, beyond the length of the text itself. `ENV a=$a$a` doubles with each line.
pub(crate) const MAX_GROWTH_BYTES: usize = 1 << 20;
/// The most steps that matching the patterns of one text may take.
const MAX_MATCH_STEPS: usize = 1 << 26;

/// Where the values of variables come from.
pub(crate) trait Variables {
    /// The value, if the variable is set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl<S: std::hash::BuildHasher> Variables for HashMap<String, String, S> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// What happens to quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// They quote, and are removed.
    Remove,
    /// They quote, and stay; escapes stay too.
    Keep,
    /// They are characters like any other.
    Literal,
}

/// How a text is expanded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expander {
    /// The escape character.
    pub(crate) escape: char,
    /// What happens to quotes.
    pub(crate) quotes: Quotes,
    /// Whether references to variables that are not set stay as they are.
    pub(crate) keep_unset: bool,
}

impl Expander {
    /// The way of instructions: quotes are removed, what is not set is empty.
    pub(crate) fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, keep_unset: false }
    }

    /// The expanded text.
    ///
    /// # Errors
    /// The text of a diagnostic.
    pub(crate) fn text(self, text: &str, variables: &dyn Variables) -> Result<String, String> {
        // Most words have nothing to expand.
        if !text.contains(['$', '\'', '"', self.escape]) {
            return Ok(text.to_owned());
        }
        self.run(text, variables, false).map(|output| output.text)
    }

    /// The expanded text, split at white space that was not quoted.
    ///
    /// # Errors
    /// The text of a diagnostic.
    pub(crate) fn words(self, text: &str, variables: &dyn Variables) -> Result<Vec<String>, String> {
        self.run(text, variables, true).map(Output::into_words)
    }

    fn run(self, text: &str, variables: &dyn Variables, splits: bool) -> Result<Output, String> {
        let mut scanner = Scanner {
            rest: text,
            expander: self,
            variables,
            raw_escapes: self.quotes == Quotes::Keep,
            limit: text.len() + MAX_GROWTH_BYTES,
            steps: MAX_MATCH_STEPS,
            depth: 0,
        };
        scanner
            .until(None, splits)
            .map_err(|cause| format!("failed to process {}: {cause}", crate::quote::go_quote(text)))
    }
}

/// What has been put out: the whole text, and the words in it.
#[derive(Default)]
struct Output {
    /// Whether words are wanted, or the text alone.
    splits: bool,
    text: String,
    word: String,
    words: Vec<String>,
}

impl Output {
    /// A character that separates words if it is white space.
    fn push(&mut self, c: char) {
        self.text.push(c);
        if !self.splits {
            return;
        }
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn push_quoted(&mut self, text: &str) {
        self.text.push_str(text);
        if self.splits {
            self.word.push_str(text);
        }
    }

    /// The value of a variable: white space in it separates.
    fn push_value(&mut self, value: &str) {
        if self.splits {
            value.chars().for_each(|c| self.push(c));
        } else {
            self.text.push_str(value);
        }
    }

    fn into_words(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Scanner<'a> {
    rest: &'a str,
    expander: Expander,
    variables: &'a dyn Variables,
    raw_escapes: bool,
    limit: usize,
    steps: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn checked(&self, text: &str) -> Result<(), String> {
        if text.len() > self.limit {
            return Err(format!("the result is longer than {MAX_GROWTH_BYTES} bytes"));
        }
        Ok(())
    }

    /// Everything up to `stop`, which is taken too, or to the end.
    fn until(&mut self, stop: Option<char>, splits: bool) -> Result<Output, String> {
        let mut output = Output { splits, ..Output::default() };
        while let Some(c) = self.next() {
            if Some(c) == stop {
                return Ok(output);
            }
            match c {
                '$' => output.push_value(&self.dollar()?),
                '\'' if self.expander.quotes != Quotes::Literal => output.push_quoted(&self.single_quoted()?),
                '"' if self.expander.quotes != Quotes::Literal => output.push_quoted(&self.double_quoted()?),
                '<' if splits && self.expander.quotes != Quotes::Literal && self.peek() == Some('<') => {
                    output.push_quoted(&self.heredoc_sign());
                }
                c if c == self.expander.escape => {
                    let mut pair = String::new();
                    pair.extend(self.raw_escapes.then_some(c));
                    pair.extend(self.next());
                    output.push_quoted(&pair);
                }
                c => output.push(c),
            }
            self.checked(&output.text)?;
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok(output),
        }
    }

    /// The `<<` of a here-document, of which one `<` has been taken, with the blanks behind it: they do not separate
    /// it from the name.
    fn heredoc_sign(&mut self) -> String {
        let behind = self.rest.strip_prefix('<').unwrap_or(self.rest).trim_start();
        let (sign, behind) = self.rest.split_at(self.rest.len() - behind.len());
        self.rest = behind;
        format!("<{sign}")
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let Some(end) = self.rest.find('\'') else {
            self.rest = "";
            return Err("unexpected end of statement while looking for matching single-quote".to_owned());
        };
        let inner = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(match self.expander.quotes {
            Quotes::Keep => format!("'{inner}'"),
            _ => inner.to_owned(),
        })
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let keep = self.expander.quotes == Quotes::Keep;
        let escape = self.expander.escape;
        let mut result = String::new();
        result.extend(keep.then_some('"'));
        while let Some(c) = self.next() {
            match c {
                '"' => {
                    result.extend(keep.then_some('"'));
                    return Ok(result);
                }
                '$' => result.push_str(&self.dollar()?),
                c if c == escape => {
                    result.extend(self.raw_escapes.then_some(c));
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == escape => {
                            result.extend(self.next());
                        }
                        // One that escapes nothing stays. In a pattern it is doubled, which makes it itself there.
                        Some(_) => {
                            let stays = !self.raw_escapes || self.expander.quotes == Quotes::Remove;
                            result.extend(stays.then_some(c));
                        }
                    }
                }
                c => result.push(c),
            }
            self.checked(&result)?;
        }
        Err("unexpected end of statement while looking for matching double-quote".to_owned())
    }

    /// What follows a `$`.
    fn dollar(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(match self.variables.value(name) {
                Some(value) if !name.is_empty() => value.to_owned(),
                _ if name.is_empty() || self.expander.keep_unset => format!("${name}"),
                _ => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(missing_brace()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("substitutions are nested more than {MAX_DEPTH} deep"));
        }
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// What follows a `${`, the closing brace included.
    fn braces(&mut self) -> Result<String, String> {
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.variables.value(name) {
                Some(value) => value.to_owned(),
                None if self.expander.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => {
                let modifier = self.next();
                self.modified(name, modifier, true)
            }
            Some(c @ ('+' | '-' | '?' | '#' | '%')) => self.modified(name, Some(c), false),
            Some('/') => self.replaced(name),
            Some(c) => Err(format!("unsupported modifier ({c}) in substitution")),
            None => Err(missing_brace()),
        }
    }

    /// `${name-word}` and its like; `empty_is_unset` for those with a colon.
    fn modified(
        &mut self,
        name: &str,
        modifier: Option<char>,
        empty_is_unset: bool,
    ) -> Result<String, String> {
        let sign: String = empty_is_unset.then_some(':').into_iter().chain(modifier).collect();
        let unsupported = || format!("unsupported modifier ({sign}) in substitution");
        let is_pattern = matches!(modifier, Some('#' | '%'));
        if is_pattern && empty_is_unset {
            return Err(unsupported());
        }
        let word = self.inner('}', is_pattern, missing_brace)?;
        let value = self.variables.value(name);
        if value.is_none() && self.expander.keep_unset {
            return Ok(format!("${{{name}{sign}{word}}}"));
        }
        let usable = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match modifier {
            Some('-') => Ok(usable.map_or(word, str::to_owned)),
            Some('+') => Ok(usable.map_or_else(String::new, |_| word)),
            Some('?') => match (usable, value) {
                (Some(value), _) => Ok(value.to_owned()),
                _ if !word.is_empty() => Err(format!("{name}: {word}")),
                (_, Some(_)) => Err(format!("{name}: is not allowed to be empty")),
                (_, None) => Err(format!("{name}: is not allowed to be unset")),
            },
            Some(side @ ('#' | '%')) => self.trimmed(value.unwrap_or_default(), side, &word),
            _ => Err(unsupported()),
        }
    }

    fn trimmed(&mut self, value: &str, side: char, word: &str) -> Result<String, String> {
        let (pattern, longest) = match word.strip_prefix(side) {
            Some(pattern) => (pattern, true),
            None => (word, false),
        };
        let glob = self.glob(pattern, |glob| glob.steps(value.len()))?;
        Ok(match side {
            '#' => glob.without_prefix(value, longest),
            _ => glob.without_suffix(value, longest),
        }
        .to_owned())
    }

    /// `${name/pattern/replacement}`.
    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.inner('/', true, || "syntax error: missing '/' in ${}".to_owned())?;
        let replacement = self.inner('}', true, missing_brace)?;
        let Some(value) = self.variables.value(name) else {
            let kept = || format!("${{{name}/{pattern}/{replacement}}}");
            return Ok(self.expander.keep_unset.then(kept).unwrap_or_default());
        };
        let glob = self.glob(&pattern, |glob| glob.replace_steps(value.len()))?;
        let result = glob.replace(value, &replacement, all, self.limit);
        result.ok_or_else(|| format!("the result is longer than {MAX_GROWTH_BYTES} bytes"))
    }

    /// A pattern whose use takes that many steps. The end of a value is a place to try too: a long pattern takes time
    /// even if there is nothing to match.
    fn glob(&mut self, pattern: &str, steps: impl FnOnce(&Glob) -> usize) -> Result<Glob, String> {
        let glob = Glob::new(pattern)
            .map_err(|cause| format!("invalid pattern ({pattern}) in substitution: {cause}"))?;
        self.steps = self.steps.checked_sub(steps(&glob)).ok_or_else(too_many_steps)?;
        Ok(glob)
    }

    /// The text up to `stop`; `missing` where it does not come.
    fn inner(&mut self, stop: char, raw_escapes: bool, missing: fn() -> String) -> Result<String, String> {
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until(Some(stop), false);
        self.raw_escapes = before;
        match result {
            Ok(output) => Ok(output.text),
            Err(_) if self.rest.is_empty() => Err(missing()),
            Err(cause) => Err(cause),
        }
    }

    /// A name, the number of an argument, or one of the special parameters of a shell.
    fn name(&mut self) -> &'a str {
        let all = self.rest;
        let first = self.peek();
        let length = match first {
            Some(c) if c.is_numeric() => all.find(|c: char| !c.is_numeric()).unwrap_or(all.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => all.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(all.len()),
        };
        self.rest = &all[length..];
        &all[..length]
    }
}

fn too_many_steps() -> String {
    format!("the patterns take more than {MAX_MATCH_STEPS} steps to match")
}

fn missing_brace() -> String {
    "syntax error: missing '}'".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> HashMap<String, String> {
        [
            ("X", "x"),
            ("EMPTY", ""),
            ("P", "/usr/lib/libz.so.1"),
            ("S", "a*b*c"),
            ("W", "one.two.three"),
            ("É", "e"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }

    #[test]
    fn words_are_expanded() {
        let rows = [
            ("plain", "plain"),
            ("$X-${X}", "x-x"),
            ("'$X' \"$X\" \\$X", "$X x $X"),
            (r#""\$X" "\a\"\\""#, r#"$X \a"\"#),
            (r"\a\\", r"a\"),
            (r"end\", "end"),
            ("$É$NOPE!", "e!"),
            ("$. a$ $/x", "$. a$ $/x"),
            ("$1x[$@]$$x${1}y", "x[]xy"),
            ("${X:-d}${EMPTY:-d}${NO:-d}", "xdd"),
            ("${X-d}${EMPTY-d}${NO-d}", "xd"),
            ("${X:+a}${EMPTY:+a}${NO:+a}", "a"),
            ("${X+a}${EMPTY+a}${NO+a}", "aa"),
            ("${EMPTY?fine}${X:?no}", "x"),
            ("${NO:-${EMPTY:-${X}y}}", "xy"),
            (r#"${NO:-"two words"} ${NO:-a\}b} ${NO:-'$X'}"#, "two words a}b $X"),
            (
                "${P#*/} ${P##*/} ${P%.*} ${P%%.*}",
                "usr/lib/libz.so.1 libz.so.1 /usr/lib/libz.so /usr/lib/libz",
            ),
            ("${P#?usr?} ${P##} ${P%no}", "lib/libz.so.1 /usr/lib/libz.so.1 /usr/lib/libz.so.1"),
            (r"${S#a\*} ${S%\**} ${S##*\*}", "b*c a*b c"),
            (r#"${W#"one\."}"#, "one.two.three"),
            ("${W/./-} ${W//./-} ${W//./}", "one-two.three one-two-three onetwothree"),
            (r"${W//t*/'[$0$1]'} ${W/t*/'[$0]'} ${W//./\$0}", r"one.[two.three] one.[$0] one\.two\.three"),
            ("${W/t*e/Z} ${W/?wo/2} ${W//o?/0} ${W/.*/}", "one.Z one.2.three 0e.tw0three one"),
            (r"${P/\//-} ${W/one/$X} ${NO/a/b} ${W/q/r}", "-usr/lib/libz.so.1 x.two.three  one.two.three"),
        ];
        for (text, wanted) in rows {
            assert_eq!(Expander::new('\\').text(text, &variables()).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let rows = [
            ("${}", "syntax error: bad substitution"),
            ("${:}", "syntax error: bad substitution"),
            ("${{x}", "syntax error: bad substitution"),
            ("${", "syntax error: missing '}'"),
            ("${X", "syntax error: missing '}'"),
            ("${X:-a", "syntax error: missing '}'"),
            ("${X/a}", "syntax error: missing '/' in ${}"),
            ("${X/a/b", "syntax error: missing '}'"),
            ("${X:=y}", "unsupported modifier (:=) in substitution"),
            ("${X=y}", "unsupported modifier (=) in substitution"),
            ("${X:#y}", "unsupported modifier (:#) in substitution"),
            ("${NO?}", "NO: is not allowed to be unset"),
            ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
            ("${NO:?please give it}", "NO: please give it"),
            (r"${X#\a}", r"invalid pattern (\a) in substitution: invalid escape '\a'"),
            ("'a", "unexpected end of statement while looking for matching single-quote"),
            ("\"a", "unexpected end of statement while looking for matching double-quote"),
        ];
        for (text, wanted) in rows {
            let quoted = crate::quote::go_quote(text);
            let wanted = Err(format!("failed to process {quoted}: {wanted}"));
            assert_eq!(Expander::new('\\').text(text, &variables()), wanted, "{text}");
        }
    }

    #[test]
    fn nothing_grows_or_nests_without_a_bound() {
        let deep = "${a:-".repeat(100_000);
        assert!(Expander::new('\\').text(&deep, &variables()).is_err());
        let long = HashMap::from([("A".to_owned(), "x".repeat(MAX_GROWTH_BYTES))]);
        assert!(Expander::new('\\').text("$A$A$A", &long).is_err());
        assert!(Expander::new('\\').text("${A//?/yy}", &long).is_err());
    }

    #[test]
    fn long_values_are_replaced_in() {
        let long = HashMap::from([("A".to_owned(), "ab".repeat(100_000))]);
        let text = Expander::new('\\').text("${A//a?/c}", &long).unwrap();
        assert!(text == "c".repeat(100_000), "{} bytes", text.len());
    }

    #[test]
    fn patterns_cost_something_even_where_nothing_can_match() {
        for text in ["${EMPTY#abcdef}", "${EMPTY%%abcdef}", "${EMPTY/abcdef/x}"] {
            let mut scanner = Scanner {
                rest: text,
                expander: Expander::new('\\'),
                variables: &variables(),
                raw_escapes: false,
                limit: MAX_GROWTH_BYTES,
                steps: 6,
                depth: 0,
            };
            let cause = scanner.until(None, false).err();
            assert_eq!(cause.as_deref(), Some(too_many_steps().as_str()), "{text}");
        }
    }

    #[test]
    fn other_ways_of_expanding() {
        let heredoc = Expander { quotes: Quotes::Literal, ..Expander::new('\\') };
        assert_eq!(heredoc.text("\"$X\" '$X' \\$X \\\\", &variables()).unwrap(), "\"x\" 'x' $X \\");
        let name = Expander { quotes: Quotes::Keep, keep_unset: true, ..Expander::new('\\') };
        assert_eq!(
            name.text("a \"$X\" '$X' $NO ${NO:-d}", &variables()).unwrap(),
            "a \"x\" '$X' $NO ${NO:-d}"
        );
        let ports = HashMap::from([("PORTS".to_owned(), "81 82/udp".to_owned())]);
        assert_eq!(Expander::new('\\').words("$PORTS", &ports).unwrap(), ["81", "82/udp"]);
        assert_eq!(Expander::new('\\').words("'a b' c", &ports).unwrap(), ["a b", "c"]);
        assert_eq!(Expander::new('`').text("c:\\x `$X", &variables()).unwrap(), "c:\\x $X");
    }
}
