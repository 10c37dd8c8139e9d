//! What is built: Dockerfiles that share steps, whose images depend on nothing but the version of their contexts.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use oci::Digest;

use crate::place::{self, Place, Who};

/// So many versions there are of each context.
pub(crate) const VERSIONS: u64 = 3;

/// A Dockerfile. Its context has `input` (one line, another in each version), `data` (256 KiB, others in each version),
/// `same` (the same in all), and a tree of files of which one changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Project {
    pub(crate) name: &'static str,
    dockerfile: &'static str,
}

pub(crate) const PROJECTS: &[Project] = &[
    Project {
        name: "chain",
        dockerfile: "FROM busybox
COPY same /same
RUN sha256sum < /same > /sum && seq 1 2000 > /many
COPY input data /
RUN sha256sum input data > sums && cat many input > all && rm many
RUN mkdir -p d/e && mv all d/e/ && chmod 700 d && ln -s d/e/all link && ln sums d/sums
",
    },
    Project {
        name: "stages",
        dockerfile: "FROM busybox AS one
COPY same /same
RUN sha256sum < /same > /sum && seq 1 2000 > /many
FROM busybox AS two
COPY --chown=1000:1001 tree /tree
RUN find /tree -type f | sort | xargs cat > /list && rm -r /tree/a
FROM one AS three
COPY --from=two /tree /list /from/
RUN cat /from/list /sum > /joined
FROM busybox
WORKDIR /work
COPY --from=three /from /joined ./
COPY --from=one /many /sum ./
COPY --link --from=two /list /linked/
RUN cat joined many /linked/list | sha256sum > sum && cp many copy && mv sum /sum
",
    },
    Project {
        name: "caches",
        dockerfile: "FROM busybox
COPY input /input
RUN --mount=type=cache,target=/c,sharing=locked echo x >> /c/count && wc -l < /c/count | grep -q . && cp /input /one
RUN --mount=type=cache,target=/c,sharing=private --mount=type=tmpfs,target=/t cp /input /c/own && cp /c/own /t/own && cmp /c/own /input && cp /t/own /two
RUN --mount=type=cache,target=/c,id=shared --mount=target=/ctx cat /ctx/data | sha256sum > /three
",
    },
    Project {
        name: "trees",
        dockerfile: "FROM busybox AS make
COPY . /all
RUN cd /all && rm Dockerfile && tar -cf /all.tar tree && rm -r tree && tar -xf /all.tar && rm /all.tar
FROM scratch
COPY --from=make /all /
COPY tree /tree
COPY --chmod=600 input /tree/a/input
COPY --link same data /linked/
",
    },
];

impl Project {
    /// The files of a context, by name.
    pub(crate) fn files(&self, version: u64) -> Vec<(String, Vec<u8>)> {
        let data = (0..32768_u64).flat_map(|number| (number * (version + 7)).to_le_bytes()).collect();
        let mut files = vec![
            ("Dockerfile".to_owned(), self.dockerfile.as_bytes().to_vec()),
            ("input".to_owned(), format!("version {version}\n").into_bytes()),
            ("data".to_owned(), data),
            ("same".to_owned(), vec![7; 100_000]),
        ];
        for number in 0..40 {
            let content = if number == 17 { format!("{version}\n") } else { format!("file {number}\n") };
            let directory = if number % 2 == 0 { "a" } else { "b/c" };
            files.push((format!("tree/{directory}/{number}"), content.into_bytes()));
        }
        files
    }
}

/// What the images have to be: from builds of which nothing came in the way.
pub(crate) struct References(BTreeMap<(&'static str, u64), Vec<String>>);

impl References {
    pub(crate) fn build() -> Self {
        let mut references = BTreeMap::new();
        for project in PROJECTS {
            for version in 0..VERSIONS {
                let place = Place::new(Who::Root, "overlay");
                let context = place.context("reference", *project, version);
                let tree = place.path("tree.tar");
                let output = format!("--output=type=tar,dest={}", tree.display());
                place::succeed(place.build(&context, &[&output]))
                    .unwrap_or_else(|failure| panic!("{} cannot be built: {failure}", project.name));
                references.insert((project.name, version), listing(&tree));
            }
        }
        Self(references)
    }

    /// Compares the archive of an image with what it has to be.
    pub(crate) fn compare(&self, project: Project, version: u64, tree: &Path) -> Result<(), String> {
        let (right, found) = (&self.0[&(project.name, version)], listing(tree));
        if *right == found {
            return Ok(());
        }
        let lacks: Vec<&String> = right.iter().filter(|line| !found.contains(line)).collect();
        let has: Vec<&String> = found.iter().filter(|line| !right.contains(line)).collect();
        Err(format!("{} version {version} is wrong: it lacks {lacks:#?} and has {has:#?}", project.name))
    }
}

/// Everything in an archive but times: name, kind, mode, owner, where a link leads, content.
fn listing(path: &Path) -> Vec<String> {
    let file = std::fs::File::open(path).expect("the archive can be opened");
    let mut archive = tar::Archive::new(std::io::BufReader::new(file));
    let entries = archive.entries().expect("the archive can be read");
    let line = |entry: std::io::Result<tar::Entry<'_, std::io::BufReader<std::fs::File>>>| {
        let mut entry = entry.expect("the archive can be read");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("the archive can be read");
        let header = entry.header();
        format!(
            "{} {:?} {:o} {}:{} {} {}",
            String::from_utf8_lossy(&entry.path_bytes()),
            header.entry_type(),
            header.mode().expect("an entry has a mode"),
            header.uid().expect("an entry has an owner"),
            header.gid().expect("an entry has a group"),
            entry
                .link_name_bytes()
                .map(|name| String::from_utf8_lossy(&name).into_owned())
                .unwrap_or_default(),
            Digest::sha256(&content)
        )
    };
    entries.map(line).collect()
}
