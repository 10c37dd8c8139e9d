//! The commands in the files of CI systems.

use yaml_rust2::{Yaml, YamlLoader};

use crate::markdown::Block;

/// Commands of a recipe.
pub(crate) struct Script {
    pub(crate) text: String,
    /// How far below the beginning of the block they stand.
    pub(crate) line: usize,
}

/// What a recipe runs: GitHub's `run`, GitLab's `script`, and Kubernetes' `args`, which are those of `rbuild` there.
pub(crate) fn scripts(block: &Block) -> Vec<Script> {
    let documents = YamlLoader::load_from_str(&block.text());
    let documents = documents.unwrap_or_else(|error| panic!("{}: {error}", block.place(0)));
    let mut texts = Vec::new();
    collect(&Yaml::Array(documents), &mut texts);
    let script = |text: String| {
        let first = text.lines().next().unwrap_or_default();
        let line = block.lines.iter().position(|line| line.contains(first)).unwrap_or_default();
        Script { text, line }
    };
    texts.into_iter().map(script).collect()
}

fn collect(yaml: &Yaml, texts: &mut Vec<String>) {
    match yaml {
        Yaml::Array(all) => all.iter().for_each(|yaml| collect(yaml, texts)),
        Yaml::Hash(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    (Some("run"), Yaml::String(text)) => texts.push(text.clone()),
                    (Some("script" | "before_script"), Yaml::Array(lines)) => texts.push(joined(lines, "\n")),
                    (Some("args"), Yaml::Array(words)) => {
                        texts.push(format!("rbuild {}", joined(words, " ")));
                    }
                    _ => collect(value, texts),
                }
            }
        }
        _ => {}
    }
}

fn joined(all: &[Yaml], separator: &str) -> String {
    let all: Vec<&str> = all.iter().filter_map(Yaml::as_str).collect();
    all.join(separator)
}
