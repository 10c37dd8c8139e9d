//! The commands that look after images.

mod archives;
mod find;
mod flags;
mod history;
mod inspect;
mod list;
mod transfer;

use std::fmt::Write as _;
use std::path::PathBuf;

use cache::Store;
use exporter::ExportError;
use oci::{Digest, Platform};

use crate::report::{Failure, FailureKind};
use crate::session::{Session, blocking};
use crate::values;

pub(crate) use find::{Named, find, find_one, id_of_set, read, reference, unknown};
pub(crate) use flags::ImageAction;
pub(crate) use history::{HistoryView, show as history};
pub(crate) use transfer::{Pull, client, fetch_missing, progress, pull_image};

pub(crate) fn store_failure(error: &cache::StoreError) -> Failure {
    Failure::from_error(FailureKind::Environment, error)
}

/// An image that could not be read or written.
pub(crate) fn export_failure(error: &ExportError) -> Failure {
    crate::export::failure(error)
}

/// `--platform` of a command for one image.
pub(crate) fn platform(text: Option<&str>) -> Result<Option<Platform>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match values::platforms(Some(text)).map_err(Failure::usage)?.as_slice() {
        [platform] => Ok(Some(platform.clone())),
        _ => Err(Failure::usage(format!("`--platform {text}`: only one platform can be given here"))),
    }
}

/// Does what a command says, save for running something in an image.
pub(crate) async fn act(
    session: Session,
    root: PathBuf,
    action: ImageAction,
) -> Result<Option<String>, Failure> {
    let store = session.open_store(root).await?;
    match action {
        ImageAction::Images(arguments) => blocking(move || list::list(&store, &arguments)).await.map(Some),
        ImageAction::Inspect(arguments) => blocking(move || inspect::run(&store, &arguments)).await.map(Some),
        ImageAction::Pull(arguments) => transfer::pull(&store, arguments).await.map(Some),
        ImageAction::Push(arguments) => transfer::push(&store, arguments).await.map(Some),
        ImageAction::Save(arguments) => archives::save(&store, arguments).await.map(|()| None),
        ImageAction::Load(arguments) => blocking(move || archives::load(&store, &arguments)).await.map(Some),
        ImageAction::Tag { image, name } => blocking(move || tag(&store, &image, &name)).await.map(|()| None),
        ImageAction::Rmi(arguments) => blocking(move || remove(&store, &arguments)).await.map(Some),
        ImageAction::Run(_) => unreachable!("it is done elsewhere, as signals mean something else there"),
    }
}

/// `rbuild tag`.
fn tag(store: &Store, image: &str, name: &str) -> Result<(), Failure> {
    let name = crate::export::tag(name)?;
    let found = find_one(store, image)?;
    store.tag(&name, &found.target).map_err(|error| store_failure(&error))
}

/// `rbuild rmi`. All names are looked up before the first is removed.
fn remove(store: &Store, arguments: &flags::RemoveArguments) -> Result<String, Failure> {
    let mut references = Vec::new();
    for name in &arguments.images {
        match find(store, name)? {
            Some(find::Named::Tag(tag)) => references.push(tag.reference),
            Some(find::Named::Id(tags)) if tags.len() == 1 || arguments.force => {
                references.extend(tags.into_iter().map(|tag| tag.reference));
            }
            Some(find::Named::Id(tags)) => {
                let names: Vec<String> =
                    tags.iter().map(|tag| format!("`{}`", tag.reference.familiar())).collect();
                let message = format!("`{name}` has several names: {}", names.join(", "));
                let failure = Failure::new(FailureKind::Build, message);
                return Err(failure.with_hint("`--force` removes all of them"));
            }
            None if arguments.force => {}
            None => return Err(unknown(name)),
        }
    }
    let mut text = String::new();
    for reference in &references {
        if store.untag(reference).map_err(|error| store_failure(&error))? {
            let _ = writeln!(text, "Untagged: {}", reference.familiar());
        }
    }
    Ok(text)
}

/// The first digits of a digest, as docker shows them.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// Lines of cells, in aligned columns.
pub(crate) fn columns(cells: &[Vec<String>]) -> String {
    let mut widths = vec![0; cells.iter().map(Vec::len).max().unwrap_or(0)];
    for line in cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in cells {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(line) {
            let _ = write!(row, "{cell:<width$}   ");
        }
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}
