//! Ordered variables.

use std::collections::HashMap;

use crate::expand::Variables;

/// Variables in the order in which they were first set; setting one again keeps its place.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    entries: Vec<(String, String)>,
    index: HashMap<String, usize>,
    size_bytes: usize,
}

impl Environment {
    /// The variables of an image config. An entry without `=` is a variable without a value.
    pub(super) fn from_list(list: &[String]) -> Self {
        let mut environment = Self::default();
        for entry in list {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.set(name, value);
        }
        environment
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        if let Some(&at) = self.index.get(name) {
            let old = &mut self.entries[at].1;
            self.size_bytes = self.size_bytes - old.len() + value.len();
            value.clone_into(old);
        } else {
            self.size_bytes += name.len() + value.len() + 1;
            self.index.insert(name.to_owned(), self.entries.len());
            self.entries.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Sets a variable that is not set.
    pub(super) fn set_default(&mut self, name: &str, value: &str) {
        if !self.index.contains_key(name) {
            self.set(name, value);
        }
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All of them, `NAME=value`.
    pub(super) fn to_list(&self) -> Vec<String> {
        self.entries.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The length of all names and values.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

impl Variables for Environment {
    fn value(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.entries[at].1.as_str())
    }
}
