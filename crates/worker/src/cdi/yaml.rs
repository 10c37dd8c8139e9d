//! YAML as the values of JSON: what specifications of devices are written in.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::scanner::TScalarStyle;

/// No specification is nested as deeply.
const MAX_DEPTH: usize = 64;
/// Nor has one as many values, those that aliases repeat included.
const MAX_VALUES: usize = 1 << 20;

/// A list or a map that is not complete yet, and the number of its anchor.
enum Open {
    List(Vec<Value>, usize),
    Map(Map<String, Value>, Option<String>, usize),
}

/// Reads the only document of a text.
///
/// # Errors
/// What is wrong, for people.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let mut reader = Reader { open: Vec::new(), anchors: HashMap::new(), root: None, values: 0 };
    loop {
        let (event, mark) = parser.next_token().map_err(|error| error.to_string())?;
        if event == Event::StreamEnd {
            return Ok(reader.root.unwrap_or(Value::Null));
        }
        reader.read(event).map_err(|what| format!("{what} at line {}", mark.line()))?;
    }
}

struct Reader {
    open: Vec<Open>,
    anchors: HashMap<usize, Value>,
    root: Option<Value>,
    values: usize,
}

impl Reader {
    fn read(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = if style == TScalarStyle::Plain { plain(text) } else { Value::String(text) };
                self.add(value, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(Open::List(Vec::new(), anchor)),
            Event::MappingStart(anchor, _) => self.begin(Open::Map(Map::new(), None, anchor)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(list, anchor)) => self.add(Value::Array(list), anchor),
                Some(Open::Map(map, _, anchor)) => self.add(Value::Object(map), anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned().ok_or("an alias of what contains it")?;
                self.values += count(&value);
                self.add(value, 0)
            }
            Event::DocumentStart if self.root.is_some() => Err("a second document".to_owned()),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, open: Open) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err("too deep a nesting".to_owned());
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err("too many values".to_owned());
        }
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List(list, _)) => list.push(value),
            Some(Open::Map(map, key, _)) => match key.take() {
                None => *key = Some(key_of(value)?),
                Some(key) => {
                    if map.insert(key.clone(), value).is_some() {
                        return Err(format!("the key `{key}` twice"));
                    }
                }
            },
        }
        Ok(())
    }
}

fn key_of(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err("a key that is no text".to_owned()),
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(count).sum::<usize>() + 1,
        Value::Object(map) => map.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

/// A scalar without quotes. Whole numbers with a leading zero are octal, as the readers of YAML 1.1 have it that other
/// builders use: modes are written so.
fn plain(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |prefix: &str, radix| {
        let digits =
            text.strip_prefix(prefix).filter(|digits| digits.starts_with(|c: char| c.is_digit(radix)));
        digits.and_then(|digits| i64::from_str_radix(digits, radix).ok())
    };
    let number = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0", 8));
    let number =
        number.or_else(|| text.parse::<i64>().ok().filter(|_| !text.starts_with('+'))).map(Number::from);
    let is_fraction = text.starts_with(|c: char| c.is_ascii_digit() || "-.".contains(c));
    let fraction = || text.parse::<f64>().ok().filter(|_| is_fraction).and_then(Number::from_f64);
    match number.or_else(fraction) {
        Some(number) => Value::Number(number),
        None => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_values_are_those_of_json() {
        let text = "# a comment\nkind: \"v.com/c\"\nlist:\n- a: 1\n  b: [x, 'y', \"0660\"]\n- {}\n\
                    mode: 0660\nnone:\nyes: true\nfloat: 1.5\nhex: 0x10\nversion: 0.6.0\nminus: -1\nzero: 0\nhost: 08\n\
                    text: |\n  two\n  lines\nsame: &s {q: 1}\nagain: *s\n";
        let expected = json!({
            "kind": "v.com/c", "list": [{"a": 1, "b": ["x", "y", "0660"]}, {}], "mode": 432, "none": null,
            "yes": true, "float": 1.5, "hex": 16, "version": "0.6.0", "minus": -1, "zero": 0, "host": 8,
            "text": "two\nlines\n", "same": {"q": 1}, "again": {"q": 1},
        });
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse("{\"a\": [1, \"b\"]}"), Ok(json!({"a": [1, "b"]})));
        assert_eq!(parse(""), Ok(Value::Null));
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(parse("a: 1\na: 2\n").unwrap_err().starts_with("the key `a` twice at line 2"));
        assert!(parse("a: 1\n---\nb: 1\n").unwrap_err().starts_with("a second document"));
        assert!(parse("a: [1\n").is_err());
        assert!(parse("[a]: 1").unwrap_err().starts_with("a key that is no text"));
        assert!(parse(&"[".repeat(100_000)).is_err());
        let bomb: String = (1..20).fold("a0: &a0 [x,x]\n".to_owned(), |text, n| {
            let before = format!("*a{}", n - 1);
            text + &format!("a{n}: &a{n} [{}]\n", [before.as_str(); 10].join(","))
        });
        assert!(parse(&bomb).unwrap_err().starts_with("too many values"));
    }
}
