//! The packages of languages: lock files, metadata of what is installed, and what is written into programs.

mod archive;
mod dotnet;
mod go;
mod java;
mod javascript;
mod lists;
mod pnpm;
mod program;
mod python;
mod ruby;
mod yarn;

use std::path::Path;

use crate::scan::{Executable, Reader};

/// The first that takes a file reads it.
pub(crate) const READERS: &[Reader] = &[
    Reader {
        takes: |path, _| is(path, &["package-lock.json", "npm-shrinkwrap.json"]),
        read: javascript::read_lock,
    },
    Reader { takes: |path, _| is(path, &[".package-lock.json"]), read: javascript::read_lock },
    Reader { takes: |path, _| is(path, &["yarn.lock"]), read: yarn::read },
    Reader { takes: |path, _| is(path, &["pnpm-lock.yaml"]), read: pnpm::read },
    Reader { takes: |path, _| javascript::is_installed(path), read: javascript::read_installed },
    Reader { takes: |path, _| is(path, &["requirements.txt"]), read: python::read_requirements },
    Reader { takes: |path, _| is(path, &["poetry.lock", "uv.lock", "pdm.lock"]), read: lists::read_python },
    Reader { takes: |path, _| is(path, &["Pipfile.lock"]), read: python::read_pipfile },
    Reader { takes: |path, _| python::is_installed(path), read: python::read_installed },
    Reader { takes: |path, _| is(path, &["go.mod"]), read: go::read_module },
    Reader { takes: |path, _| is(path, &["go.sum"]), read: go::read_sums },
    Reader { takes: |path, _| is(path, &["Cargo.lock"]), read: lists::read_cargo },
    Reader { takes: |path, _| is(path, &["Gemfile.lock", "gems.locked"]), read: ruby::read_lock },
    Reader { takes: |path, _| ruby::is_installed(path), read: ruby::read_installed },
    Reader { takes: |path, _| is(path, &["composer.lock"]), read: lists::read_composer },
    Reader { takes: |path, _| path.ends_with("composer/installed.json"), read: lists::read_composer },
    Reader { takes: |path, _| ends(path, &["jar", "war", "ear"]), read: java::read_archive },
    Reader { takes: |path, _| is(path, &["pom.properties"]), read: java::read_properties },
    Reader { takes: |path, _| dotnet::is_dependencies(path), read: dotnet::read },
    Reader { takes: |_, executable| executable == Executable::Yes, read: program::read },
];

fn is(path: &Path, names: &[&str]) -> bool {
    path.file_name().is_some_and(|own| names.iter().any(|name| own == *name))
}

fn ends(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|own| extensions.iter().any(|extension| own == *extension))
}
