//! Where the outputs of a build went, for people.

use std::path::Path;

use exporter::{Destination, ImageSet, OutputSpec};
use oci::ImageReference;

use crate::progress::bytes;

/// A line for each place that an output went to.
pub(super) fn results(spec: &OutputSpec, image: Option<&ImageSet>, names: &[ImageReference]) -> Vec<String> {
    let size = image.map(size_of).unwrap_or_default();
    let digest = image.map(|image| &image.descriptor().digest);
    match spec {
        OutputSpec::Image(wanted) => {
            let mut lines = Vec::new();
            let what = match (names, digest) {
                ([], Some(digest)) => vec![digest.to_string()],
                (names, _) => names.iter().map(ToString::to_string).collect(),
            };
            if wanted.store {
                lines.extend(what.iter().map(|name| format!("{name} in the local store, {size}")));
            }
            if let (Some(push), Some(digest)) = (wanted.push, digest) {
                let name =
                    |name: &ImageReference| if push.by_digest { name.name() } else { name.to_string() };
                lines.extend(names.iter().map(|tag| format!("pushed {}@{digest}, {size}", name(tag))));
            }
            lines
        }
        OutputSpec::Oci(archive) | OutputSpec::Docker(archive) => {
            vec![format!("image in {}, {size}", place(&archive.destination))]
        }
        OutputSpec::Tar(files) => {
            let size = match &files.destination {
                Destination::Path(path) => file_size(path),
                Destination::Stdout | Destination::Engine(_) => String::new(),
            };
            vec![format!("files in {}{size}", place(&files.destination))]
        }
        OutputSpec::Local(files) => vec![format!("files in {}", files.destination.display())],
        OutputSpec::CacheOnly => Vec::new(),
    }
}

/// What is said where nothing was made.
pub(super) const NOTHING: &str = "no image was asked for (`-t NAME` keeps one); the cache has the steps";

fn size_of(image: &ImageSet) -> String {
    let layers = image.layers();
    let count = if layers.len() == 1 { "1 layer".to_owned() } else { format!("{} layers", layers.len()) };
    format!("{} in {count}", bytes(layers.iter().map(|layer| layer.size).sum()))
}

fn place(destination: &Destination) -> String {
    match destination {
        Destination::Path(path) => path.display().to_string(),
        Destination::Stdout => "standard output".to_owned(),
        Destination::Engine(_) => "an engine of this machine".to_owned(),
    }
}

fn file_size(path: &Path) -> String {
    // What cannot be looked at any more has no size to tell.
    std::fs::metadata(path).map_or_else(|_| String::new(), |metadata| format!(", {}", bytes(metadata.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(spec: &str, names: &[&str]) -> Vec<String> {
        let spec = exporter::parse_output(spec).expect("an output");
        let names: Vec<ImageReference> = names.iter().map(|name| name.parse().expect("a name")).collect();
        results(&spec, None, &names)
    }

    #[test]
    fn places_are_told() {
        assert_eq!(told("type=local,dest=out", &[]), ["files in out"]);
        assert_eq!(told("type=tar,dest=/nowhere/x.tar", &[]), ["files in /nowhere/x.tar"]);
        assert_eq!(told("type=tar,dest=-", &[]), ["files in standard output"]);
        assert_eq!(told("type=cacheonly", &[]), Vec::<String>::new());
    }
}
