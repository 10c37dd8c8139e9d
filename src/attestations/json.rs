//! JSON objects as Go writes them: what is empty is left out.

use serde_json::{Map, Value};

/// An object without those of its members that say nothing.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let told = members.into_iter().filter(|(_, value)| !is_empty(value));
    Value::Object(told.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) => false,
    }
}
