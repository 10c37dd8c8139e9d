//! What it takes to compress and push a layer, beside what others take for the same bytes.
//!
//! The layer is made of this machine's programs, libraries, sources and documents, about 600 MB of them. It is built before
//! anything is timed: what is timed is the export. What is printed beside the time is the size of what came out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::{Lab, shell};
use crate::median;

/// By what it is chosen.
pub(crate) const NAME: &str = "export of a layer of 600 MB";

/// The sizes of what is taken from each place, in MB; where there is less, more is taken from the next.
const SOURCES: [(&str, u32); 4] =
    [("/usr/bin", 220), ("/usr/lib", 440), ("/usr/share/doc", 520), ("/usr", 600)];

/// One line of the table: a script with the context and an empty directory, which writes `out` there.
struct Row {
    name: &'static str,
    /// Run before the clock.
    prepare: String,
    script: String,
}

/// A context with the layer.
fn context(lab: &Lab) -> Result<PathBuf, String> {
    let context = lab.new_directory("context")?;
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY tree /tree\n")
        .map_err(|error| error.to_string())?;
    let mut script = String::from("mkdir tree; : > names\n");
    for (place, megabytes) in SOURCES {
        let _ = write!(
            script,
            "find {place} -type f -size -60M -printf '%s %p\\n' | LC_ALL=C sort -k 2 | grep -vxFf names |
               awk -v had=$(awk '{{sum += $1}} END {{print sum + 0}}' names) \
                 '{{had += $1; if (had > {megabytes}e6) exit; print}}' > more || true
             cat more >> names\n"
        );
    }
    script.push_str("sed 's/^[0-9]* //' names | xargs -d '\\n' cp --parents -t tree; rm names more\n");
    script.push_str("tar -c --sort=name -f tar tree; mv tar ..");
    shell(&script, &context)?;
    Ok(context)
}

/// Prints a line for each.
pub(crate) fn report(lab: &Lab, runs: usize) -> Result<(), String> {
    let context = context(lab)?;
    println!("\n{NAME}");
    println!("{:64} {:>9} {:>9} {:>9}", "", "median s", "least s", "MB");
    for row in rows(lab, &context) {
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..runs {
            let directory = lab.new_directory("layers")?;
            shell(&row.prepare, &directory)?;
            lab.sync();
            times.push(shell(&row.script, &directory)?);
            // A registry keeps what it gets, and has no file here.
            size = std::fs::metadata(directory.join("out")).map_or(0, |found| found.len());
            std::fs::remove_dir_all(&directory).map_err(|error| error.to_string())?;
        }
        print_line(row.name, &mut times, size);
    }
    pushes(lab, &context, runs)
}

fn print_line(name: &str, times: &mut [Duration], size_bytes: u64) {
    let median = median(times).as_secs_f64();
    let least = times[0].as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a size in MB is told with one digit behind the point")]
    let megabytes =
        if size_bytes == 0 { String::from("-") } else { format!("{:.1}", size_bytes as f64 / 1e6) };
    println!("{name:64} {median:9.3} {least:9.3} {megabytes:>9}");
}

fn rows(lab: &Lab, context: &Path) -> Vec<Row> {
    let rbuild = format!("{} --root store", env!("CARGO_BIN_EXE_rbuild"));
    let context = context.display();
    let built = format!("{rbuild} --output=type=cacheonly {context}");
    let archive = |name, attributes: &str| Row {
        name,
        prepare: built.clone(),
        script: format!("{rbuild} --output=type=oci,dest=out{attributes} {context}"),
    };
    let limit = |name, script: &str| Row { name, prepare: String::new(), script: script.to_owned() };
    let buildah = "buildah --root $PWD/root --runroot $PWD/run --storage-driver overlay";
    vec![
        archive("rbuild, a gzip OCI archive", ""),
        archive("rbuild, zstd", ",compression=zstd"),
        archive("rbuild, eStargz", ",compression=estargz"),
        archive("rbuild, uncompressed", ",compression=uncompressed"),
        Row {
            name: "rbuild, pushed to docker-registry (gzip)",
            prepare: built,
            script: format!(
                "{rbuild} --push -t {}/layers/$(basename $PWD) {context}",
                lab.registry.address()
            ),
        },
        Row {
            name: "buildah push, a gzip OCI archive",
            prepare: format!(
                "{buildah} from --name one scratch; {buildah} copy -q one {context}/tree /tree;
                 {buildah} commit -q one one"
            ),
            script: format!("{buildah} push -q one oci-archive:out"),
        },
        limit("sha256sum", "sha256sum ../tar > sum"),
        limit("cp", "cp ../tar out"),
        limit("gzip -6", "gzip -6 -c ../tar > out"),
        limit("pigz -6", "pigz -6 -c ../tar > out"),
        limit("igzip -1", "igzip -1 -c ../tar > out"),
        limit("zstd -3, all processors", "zstd -q -3 -T0 -c ../tar > out"),
    ]
}

/// Pushes of what is known, and with a small layer more.
fn pushes(lab: &Lab, context: &Path, runs: usize) -> Result<(), String> {
    let directory = lab.new_directory("again")?;
    let rbuild = format!("{} --root store", env!("CARGO_BIN_EXE_rbuild"));
    let name = format!("{}/layers/again", lab.registry.address());
    let same = format!("{rbuild} --push -t {name} {}", context.display());
    shell(&same, &directory)?;
    let (mut again, mut more) = (Vec::new(), Vec::new());
    for run in 0..runs {
        lab.sync();
        again.push(shell(&same, &directory)?);
        let dockerfile = directory.join("Dockerfile");
        let text = format!("FROM scratch\nCOPY tree /tree\nCOPY Dockerfile /{run}\n");
        std::fs::write(&dockerfile, text).map_err(|error| error.to_string())?;
        lab.sync();
        let file = dockerfile.display();
        more.push(shell(&format!("{rbuild} --push -t {name} -f {file} {}", context.display()), &directory)?);
    }
    print_line("rbuild, the same push again", &mut again, 0);
    print_line("rbuild, the same push after one more small layer", &mut more, 0);
    Ok(())
}
