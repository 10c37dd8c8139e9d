//! The works that are timed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::{Descriptor, Digest, MediaType};

use crate::lab::{Lab, shell};

/// What a work is prepared with.
pub(crate) struct Prepared {
    context: PathBuf,
    /// A store that has seen the build already, for works that are not cold.
    store: Option<PathBuf>,
}

/// One build to be timed, and a limit that it cannot beat by much.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) limit_name: &'static str,
    pub(crate) prepare: fn(&Lab) -> Result<Prepared, String>,
    pub(crate) run: fn(&Lab, &Prepared) -> Result<Duration, String>,
    pub(crate) limit: fn(&Lab, &Prepared) -> Result<Duration, String>,
}

/// All works, in the order in which they are printed.
pub(crate) fn all() -> Vec<Work> {
    let mut works = steps();
    works.extend(trees());
    works.extend(ignored());
    works.extend(carried());
    works
}

/// Many steps, or few that have little to copy.
fn steps() -> Vec<Work> {
    vec![
        Work {
            name: "20 RUN steps on busybox from a loopback registry, cold",
            limit_name: "20 times unshare and exec",
            prepare: |lab| prepare(lab, &run_steps(), |_| Ok(())),
            run: cold,
            limit: |_, work| shell("for i in {1..20}; do unshare -mpfiu sh -c true; done", &work.context),
        },
        Work {
            name: "the same, no change",
            limit_name: "start of a process",
            prepare: |lab| warmed(lab, prepare(lab, &run_steps(), |_| Ok(()))?),
            run: warm,
            limit: |_, work| shell("true", &work.context),
        },
        Work {
            name: "8 stages of sleep 2 and a COPY from each, cold",
            limit_name: "sleep 2",
            prepare: |lab| prepare(lab, &sleeping_stages(), |_| Ok(())),
            run: cold,
            limit: |_, work| shell("sleep 2", &work.context),
        },
        Work {
            name: "100 COPY steps of one small file each, cold",
            limit_name: "cp of each file",
            prepare: |lab| prepare(lab, &copies(), |context| small_files(context, 100)),
            run: cold,
            limit: |lab, work| copy_each(lab, work, 100),
        },
        Work {
            name: "400 scratch stages with a COPY each, 100 of them copied on, cold",
            limit_name: "cp of each file",
            prepare: |lab| prepare(lab, &scratch_stages(), |context| small_files(context, 400)),
            run: cold,
            limit: |lab, work| copy_each(lab, work, 500),
        },
        Work {
            name: "base of 128 MB in one gzip layer from a loopback registry, RUN true",
            limit_name: "gzip -d into tar -x",
            prepare: |lab| {
                push_debian(lab)?;
                prepare(lab, "FROM bench/debian\nRUN true\n", |_| Ok(()))
            },
            run: cold,
            limit: |lab, _| {
                let directory = lab.new_directory("unpacked")?;
                shell("gzip -dc ../layer.tar.gz | tar -x", &directory)
            },
        },
    ]
}

fn prepare_copy(lab: &Lab) -> Result<Prepared, String> {
    prepare(lab, "FROM busybox\nCOPY tree /tree\nRUN true\n", files)
}

fn prepare_stages(lab: &Lab) -> Result<Prepared, String> {
    let text = "FROM busybox AS one\nCOPY tree /tree\nFROM busybox\nCOPY --from=one /tree /tree\n";
    prepare(lab, text, files)
}

/// A tree of many files; nothing is exported, as that is a work of its own.
fn trees() -> Vec<Work> {
    vec![
        Work {
            name: "COPY of 20,000 files (122 MB) and a RUN, cold",
            limit_name: "cp -a of the tree",
            prepare: prepare_copy,
            run: |lab, work| lab.solve(&lab.new_directory("store")?, &work.context),
            limit: copy_tree,
        },
        Work {
            name: "the same, no change",
            limit_name: "a walk with lstat",
            prepare: |lab| solved(lab, prepare_copy(lab)?),
            run: solve_again,
            limit: walk,
        },
        Work {
            name: "the same, one file changed",
            limit_name: "cp -al of the tree",
            prepare: |lab| solved(lab, prepare_copy(lab)?),
            run: |lab, work| {
                shell("head -c 6100 /dev/urandom > tree/d50/f50; sleep 0.1", &work.context)?;
                solve_again(lab, work)
            },
            limit: |lab, work| {
                let target = lab.new_directory("copies")?;
                shell(&format!("cp -al tree {}", target.display()), &work.context)
            },
        },
        Work {
            name: "the tree by COPY into a stage and by COPY --from into the next, cold",
            limit_name: "cp -a of the tree",
            prepare: prepare_stages,
            run: |lab, work| lab.solve(&lab.new_directory("store")?, &work.context),
            limit: copy_tree,
        },
        Work {
            name: "COPY of 20,000 files (122 MB) into a gzip OCI archive, cold",
            limit_name: "cp -a of the tree, tar and gzip",
            prepare: |lab| prepare(lab, "FROM scratch\nCOPY tree /tree\n", files),
            run: |lab, work| {
                let output =
                    format!("--output=type=oci,dest={}", work.context.with_extension("tar").display());
                lab.run(&lab.new_directory("store")?, &work.context, &[&output])
            },
            limit: copy_and_pack,
        },
        Work {
            name: "COPY of 20,000 files (122 MB) and a RUN into a tagged image, cold",
            limit_name: "cp -a of the tree, tar and gzip",
            prepare: prepare_copy,
            run: cold,
            limit: copy_and_pack,
        },
    ]
}

/// Contexts of 100,000 files of which ten are left.
fn ignored() -> Vec<Work> {
    vec![
        Work {
            name: "100,000 files, all but a directory of ten ignored, no change",
            limit_name: "start of a process",
            prepare: |lab| warmed(lab, large_context(lab, "*\n!keep\n")?),
            run: warm,
            limit: |_, work| shell("true", &work.context),
        },
        Work {
            name: "100,000 files, all but ten ignored wherever they are, no change",
            limit_name: "a walk with lstat",
            prepare: |lab| warmed(lab, large_context(lab, "**/*.x\n")?),
            run: warm,
            limit: walk,
        },
    ]
}

const ARCHIVE: &str = "--output=type=oci,dest=/dev/null";
const NOTHING: &str = "--output=type=cacheonly";

/// What another machine has built, beside a pull of the same layers.
fn carried() -> Vec<Work> {
    vec![
        Work {
            name: "20 RUN steps from a cache in a loopback registry into an archive",
            limit_name: "FROM that image into an archive",
            prepare: |lab| carry(lab, &run_steps(), ""),
            run: |lab, work| from_cache(lab, &work.context, ARCHIVE),
            limit: |lab, work| lab.run(&lab.new_directory("store")?, &work.context.join("image"), &[ARCHIVE]),
        },
        Work {
            name: "the same, the last step changed, nothing exported",
            limit_name: "FROM that image and the step",
            prepare: |lab| carry(lab, &run_steps(), "RUN echo last > /last\n"),
            run: |lab, work| from_cache(lab, &work.context, NOTHING),
            limit: |lab, work| lab.run(&lab.new_directory("store")?, &work.context.join("image"), &[NOTHING]),
        },
    ]
}

/// Builds the steps, pushes image and cache, and adds `more` to what is to be built.
fn carry(lab: &Lab, steps: &str, more: &str) -> Result<Prepared, String> {
    let image = format!("{}/bench/carried", lab.registry.address());
    let prepared = prepare(lab, steps, |context| {
        let directory = context.join("image");
        std::fs::create_dir(&directory).map_err(|error| error.to_string())?;
        let text = format!("FROM {image}\n{more}");
        std::fs::write(directory.join("Dockerfile"), text).map_err(|error| error.to_string())
    })?;
    let to = format!("--cache-to=type=registry,ref={image}:cache,mode=max");
    lab.run(&lab.new_directory("store")?, &prepared.context, &["--push", "-t", &image, &to])?;
    let dockerfile = prepared.context.join("Dockerfile");
    std::fs::write(dockerfile, format!("{steps}{more}")).map_err(|error| error.to_string())?;
    Ok(prepared)
}

fn from_cache(lab: &Lab, context: &Path, output: &str) -> Result<Duration, String> {
    let from = format!("--cache-from={}/bench/carried:cache", lab.registry.address());
    lab.run(&lab.new_directory("store")?, context, &[output, &from])
}

fn large_context(lab: &Lab, ignore: &str) -> Result<Prepared, String> {
    prepare(lab, "FROM busybox\nCOPY . /all\nRUN true\n", |context| {
        let script = "mkdir keep; for i in {0..9}; do echo $i > keep/$i; done
            for i in {0..999}; do mkdir -p g$((i / 100))/d$i; (cd g$((i / 100))/d$i; touch f{0..99}.x); done";
        shell(script, context)?;
        std::fs::write(context.join(".dockerignore"), ignore).map_err(|error| error.to_string())
    })
}

/// 200 directories of 100 files each, of 6,100 bytes that do not compress.
fn files(context: &Path) -> Result<(), String> {
    let script = "for i in {0..199}; do mkdir -p tree/d$i; (cd tree/d$i
            head -c 610000 /dev/urandom | split -b 6100 -a 2 -d - f); done";
    shell(script, context).map(|_| ())
}

fn copy_and_pack(lab: &Lab, work: &Prepared) -> Result<Duration, String> {
    let target = lab.new_directory("copies")?;
    let target = target.display();
    shell(&format!("cp -a tree {target}; tar -c tree | gzip > {target}/gz"), &work.context)
}

fn copy_tree(lab: &Lab, work: &Prepared) -> Result<Duration, String> {
    let target = lab.new_directory("copies")?;
    shell(&format!("cp -a tree {}", target.display()), &work.context)
}

fn walk(_: &Lab, work: &Prepared) -> Result<Duration, String> {
    shell("find . -printf %s", &work.context)
}

/// Built once, with nothing exported.
fn solved(lab: &Lab, prepared: Prepared) -> Result<Prepared, String> {
    let store = lab.new_directory("store")?;
    lab.solve(&store, &prepared.context)?;
    Ok(Prepared { store: Some(store), ..prepared })
}

fn solve_again(lab: &Lab, work: &Prepared) -> Result<Duration, String> {
    lab.solve(work.store.as_ref().ok_or("the work has no store")?, &work.context)
}

fn prepare(
    lab: &Lab,
    dockerfile: &str,
    fill: impl Fn(&Path) -> Result<(), String>,
) -> Result<Prepared, String> {
    let context = lab.new_directory("context")?;
    std::fs::write(context.join("Dockerfile"), dockerfile).map_err(|error| error.to_string())?;
    fill(&context)?;
    Ok(Prepared { context, store: None })
}

fn warmed(lab: &Lab, prepared: Prepared) -> Result<Prepared, String> {
    let store = lab.new_directory("store")?;
    lab.build(&store, &prepared.context)?;
    Ok(Prepared { store: Some(store), ..prepared })
}

fn cold(lab: &Lab, work: &Prepared) -> Result<Duration, String> {
    let store = lab.new_directory("store")?;
    lab.build(&store, &work.context)
}

fn warm(lab: &Lab, work: &Prepared) -> Result<Duration, String> {
    let store = work.store.as_ref().ok_or("the work has no store")?;
    lab.build(store, &work.context)
}

fn run_steps() -> String {
    let mut text = String::from("FROM busybox\n");
    for step in 0..20 {
        let _ = writeln!(text, "RUN echo {step} > /step-{step}");
    }
    text
}

fn sleeping_stages() -> String {
    let mut text = String::new();
    for stage in 0..8 {
        let _ = writeln!(text, "FROM busybox AS s{stage}\nRUN sleep 2 && echo {stage} > /out-{stage}");
    }
    text.push_str("FROM scratch\n");
    for stage in 0..8 {
        let _ = writeln!(text, "COPY --from=s{stage} /out-{stage} /");
    }
    text
}

fn copies() -> String {
    let mut text = String::from("FROM busybox\n");
    for file in 0..100 {
        let _ = writeln!(text, "COPY f{file} /files/");
    }
    text
}

fn scratch_stages() -> String {
    let mut text = String::new();
    for stage in 0..400 {
        let _ = writeln!(text, "FROM scratch AS s{stage}\nCOPY f{stage} /");
    }
    text.push_str("FROM scratch\n");
    for stage in 0..100 {
        let _ = writeln!(text, "COPY --from=s{stage} /f{stage} /");
    }
    text
}

fn small_files(context: &Path, count: usize) -> Result<(), String> {
    for file in 0..count {
        let path = context.join(format!("f{file}"));
        std::fs::write(&path, format!("file {file}\n")).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn copy_each(lab: &Lab, work: &Prepared, count: usize) -> Result<Duration, String> {
    let target = lab.new_directory("copies")?;
    let files = std::fs::read_dir(&work.context).map_err(|error| error.to_string())?.count() - 1;
    let script =
        format!("for i in $(seq 0 {}); do cp f$((i % {files})) {}/$i; done", count - 1, target.display());
    shell(&script, &work.context)
}

/// Pushes an image whose one layer has files of this machine's Debian packages, about 128 MB of them.
fn push_debian(lab: &Lab) -> Result<(), String> {
    let directory = lab.new_directory("debian")?;
    let script = "cd ..
        # Without what is a link on one machine and a directory on another.
        dpkg-query -W -f '${Priority} ${Package}\\n' | sort -k1,1r -k2 | awk '{print $2}' | xargs dpkg -L 2>/dev/null |
          awk '!seen[$0]++' | grep -vE '^/(bin|sbin|lib[^/]*)(/|$)' > names
        # Whole files in the order of their packages, up to the size that is asked for.
        xargs -d '\\n' stat -c '%s %F %n' < names 2>/dev/null |
          awk '/regular/ {size += $1; if (size > 128000000) exit} {sub(/^[0-9]+ [a-z ]+ \\//, \"\"); print}' > chosen
        mkdir -p shell/bin && cp /bin/busybox shell/bin/sh
        tar --no-recursion -C / --numeric-owner --exclude=bin/sh -cf layer.tar -T chosen 2>/dev/null || true
        tar -C shell --append -f layer.tar bin/sh
        gzip -6 -k -f layer.tar";
    shell(script, &directory)?;
    let layers = directory.parent().ok_or("a directory has a parent")?;
    let read = |name: &str| std::fs::read(layers.join(name)).map_err(|error| format!("{name}: {error}"));
    let layout = lab.new_directory("layout")?;
    write_layout(&layout, &read("layer.tar")?, &read("layer.tar.gz")?).map_err(|error| error.to_string())?;
    lab.registry.load_oci_layout(&layout, "bench");
    Ok(())
}

/// An OCI layout with one image, `debian:latest`, of one layer.
fn write_layout(layout: &Path, layer: &[u8], compressed: &[u8]) -> std::io::Result<()> {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let add = |media_type: &str, bytes: &[u8]| -> std::io::Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, bytes);
        std::fs::write(blobs.join(descriptor.digest.hex()), bytes)?;
        Ok(descriptor)
    };
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(layer)]},
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": add(MediaType::OCI_CONFIG, config.to_string().as_bytes())?,
        "layers": [add(MediaType::OCI_LAYER_GZIP, compressed)?],
    });
    let mut descriptor = add(MediaType::OCI_MANIFEST, manifest.to_string().as_bytes())?;
    descriptor.annotations.insert("org.opencontainers.image.ref.name".to_owned(), "debian:latest".to_owned());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor]});
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}
