//! `rbuild fmt`: Dockerfiles in one layout.

use std::fmt::Write as _;
use std::path::Path;

use frontend::SourceFile;

use crate::Answer;
use crate::arguments::FormatArguments;
use crate::inputs;
use crate::report::{Failure, FailureKind};

/// Formats files in their places, or tells which are not formatted. A file with mistakes stays as it is, and the
/// others are formatted all the same.
pub(crate) fn run(arguments: &FormatArguments) -> Result<Answer, Failure> {
    let mut answer = Answer::from(None);
    let mut listed = String::new();
    for path in &arguments.files {
        let (path, directory) =
            if path.is_dir() { (None, path.as_path()) } else { (Some(path.as_path()), Path::new(".")) };
        let inputs::Definition { file, path: place } = inputs::dockerfile(path, directory)?;
        let formatted = match frontend::format(&file) {
            Ok(formatted) => formatted,
            Err(mistakes) => {
                let shown = place.as_deref().map_or(file.name.clone(), |place| place.display().to_string());
                let file = SourceFile { name: shown, ..file };
                let failure = Failure::mistakes(&file, &mistakes);
                answer.failure = Some(match answer.failure.take() {
                    Some(before) => failure.after(&before.render()),
                    None => failure,
                });
                continue;
            }
        };
        match place {
            None if !arguments.check => listed += &formatted,
            _ if formatted == file.text => {}
            Some(place) if !arguments.check => inputs::replace_file(&place, &formatted)?,
            place => {
                let shown = place.as_deref().unwrap_or(Path::new("-"));
                let _ = writeln!(listed, "{}", shown.display());
                answer.code = FailureKind::Build.exit_code();
            }
        }
    }
    answer.text = Some(listed).filter(|text| !text.is_empty());
    Ok(answer)
}
