//! Times the language: parsing, lowering, linting and formatting Dockerfiles of growing length, and the solve of the
//! chains that they make with a worker that does nothing. Prints medians beside the time of one pass over the text
//! that only splits it into words, the least that any reader does.
//!
//! `cargo bench --bench language`; `RBUILD_BENCH_RUNS` sets the number of runs (21).

#![expect(clippy::print_stdout, reason = "this is a program that reports to a person")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frontend::{
    ImageRequest, ImageResolver, LowerOptions, ResolveError, ResolvedImage, SourceFile, check, format, lower,
    parse,
};
use oci::{DiffId, Digest, ImageConfig, Platform};
use solver::{
    CacheKey, Claim, ContentDigest, ExecContext, Graph, ImageSource, RemoteIdentity, Saving, Selector,
    SolveOptions, Vertex, VertexId, Worker,
};

const LENGTHS: [usize; 5] = [1_000, 2_000, 5_000, 10_000, 20_000];

fn main() {
    let runs = std::env::var("RBUILD_BENCH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(21);
    println!(
        "{:>12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "instructions", "KiB", "words ms", "parse ms", "lower ms", "check ms", "format ms", "solve ms"
    );
    for length in LENGTHS {
        let file = SourceFile { name: "Dockerfile".to_owned(), text: dockerfile(length) };
        let tree = parse(&file);
        assert_eq!(tree.diagnostics, [], "the file is right");
        let options = LowerOptions::new(Platform::new("linux", "amd64", None));
        let lowered = lower(&tree, &options, &mut OneImage).expect("the file is right");
        let (graph, target) = (Arc::new(lowered.graph), lowered.target);
        let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
        let words = median(runs, || file.text.split_whitespace().map(str::len).sum::<usize>());
        let parsed = median(runs, || parse(&file));
        let lowered = median(runs, || lower(&tree, &options, &mut OneImage));
        let checked = median(runs, || check(&tree, &options, &mut OneImage));
        let formatted = median(runs, || format(&file));
        let solved = median(runs, || solve(&runtime, &graph, target));
        println!(
            "{length:12} {:9} {:9.3} {:9.3} {:9.3} {:9.3} {:9.3} {:9.3}",
            file.text.len() / 1024,
            milliseconds(words),
            milliseconds(parsed),
            milliseconds(lowered),
            milliseconds(checked),
            milliseconds(formatted),
            milliseconds(solved),
        );
    }
}

/// The mix of a long Dockerfile: commands over several lines, copies, variables, labels.
fn dockerfile(instructions: usize) -> String {
    let mut text = "FROM busybox\nARG VERSION=1.2.3\nENV PREFIX=/usr/local LANG=C.UTF-8\n".to_owned();
    for number in 0..instructions.saturating_sub(3) {
        let _ = match number % 8 {
            0 => writeln!(
                text,
                "# Step {number}.\nRUN apt-get update && \\\n    apt-get install -y tool-{number}"
            ),
            1 => writeln!(text, "COPY --chown=app:app src/{number} lib/*.so ${{PREFIX}}/lib/{number}/"),
            2 => writeln!(text, "RUN [\"/bin/tool\", \"--level={number}\", \"$PREFIX\"]"),
            3 => writeln!(text, "LABEL org.example.step.{number}=\"step $VERSION of {number}\""),
            4 => writeln!(text, "RUN <<EOF\nset -e\nmake -C /src/{number} all\nmake install\nEOF"),
            5 => writeln!(text, "WORKDIR /work/{number}"),
            6 => writeln!(text, "RUN cd /x && ./configure --prefix=\"$PREFIX\" && make -j4 V={number}"),
            _ => writeln!(text, "COPY --from=busybox /bin/busybox ${{PREFIX:-/opt}}/bin/b{number}"),
        };
    }
    text
}

fn median<T>(runs: usize, work: impl Fn() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..runs.max(1))
        .map(|_| {
            let started = Instant::now();
            let result = black_box(work());
            let time = started.elapsed();
            // Taking apart what was made is not part of the work.
            drop(result);
            time
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Answers every request with one image.
struct OneImage;

impl ImageResolver for OneImage {
    fn resolve(&mut self, requests: &[ImageRequest]) -> Vec<Result<ResolvedImage, ResolveError>> {
        let image = |request: &ImageRequest| {
            let digest = Digest::sha256(request.name.as_bytes());
            let (os, architecture) = (request.platform.os.clone(), request.platform.architecture.clone());
            let mut config = ImageConfig { os, architecture, ..ImageConfig::default() };
            config.rootfs.diff_ids = vec![DiffId(digest.clone())];
            let source = ImageSource {
                name: request.name.clone(),
                manifest: digest.clone(),
                location: request.location.clone(),
                platform: request.platform.clone(),
            };
            Ok(ResolvedImage { source, config, index_or_manifest: digest })
        };
        requests.iter().map(image).collect()
    }
}

fn solve(runtime: &tokio::runtime::Runtime, graph: &Arc<Graph>, target: VertexId) {
    let options = SolveOptions {
        parallelism: 16,
        salt: Vec::new(),
        cancel: tokio_util::sync::CancellationToken::new(),
        events: Arc::new(drop),
    };
    let solved = runtime.block_on(solver::solve(Arc::clone(graph), &[target], Arc::new(Idle), options));
    assert!(solved.is_ok(), "a worker that does nothing does not fail");
}

/// Does nothing, at once, and knows nothing.
struct Idle;

#[derive(Debug, thiserror::Error)]
#[error("nothing goes wrong here")]
struct Never;

impl Worker for Idle {
    type Output = ();
    type Error = Never;
    type Guard = ();

    async fn lookup(&self, _: &CacheKey, _: &ExecContext) -> Result<Option<()>, Never> {
        Ok(None)
    }

    async fn known_digest(&self, _: &CacheKey, _: &Selector) -> Result<Option<ContentDigest>, Never> {
        Ok(None)
    }

    async fn digest(&self, (): &(), _: Option<&CacheKey>, _: &Selector) -> Result<ContentDigest, Never> {
        Ok(ContentDigest([0; 32]))
    }

    async fn identify(&self, _: &Vertex, _: &ExecContext) -> Result<RemoteIdentity, Never> {
        Ok(RemoteIdentity(String::new()))
    }

    async fn claim(
        &self,
        _: &Vertex,
        _: &CacheKey,
        _: &ExecContext,
        _: bool,
    ) -> Result<Claim<(), ()>, Never> {
        Ok(Claim::Execute(()))
    }

    async fn prepare(&self, _: &Vertex, _: &[()], _: &ExecContext) -> Result<(), Never> {
        Ok(())
    }

    async fn exec(
        &self,
        _: &Vertex,
        _: &[()],
        _: &[Option<ContentDigest>],
        _: &ExecContext,
    ) -> Result<(), Never> {
        Ok(())
    }

    async fn save(&self, _: &CacheKey, (): (), _: Saving, (): ()) -> Result<(), Never> {
        Ok(())
    }
}
