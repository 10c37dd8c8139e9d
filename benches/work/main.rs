//! Times whole builds, from the start of the process to its exit, and prints medians beside limits measured in the
//! same run.
//!
//! `cargo bench` as root; `RBUILD_BENCH_RUNS` sets the number of runs (5), `RBUILD_BENCH` chooses works by name. Store
//! and contexts are on a fresh ext4 in a file, mounted without `discard` and synced before each run. Needs the Debian
//! packages docker-registry, e2fsprogs, util-linux, passwd, crun, buildah,
//! gzip, pigz, isal and zstd. Cold: an empty store, the page cache warm.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program that reports to a person")]

mod lab;
mod layers;
mod overhead;
mod works;

use std::process::ExitCode;
use std::time::Duration;

use lab::Lab;
use works::Work;

fn main() -> ExitCode {
    let runs = std::env::var("RBUILD_BENCH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    let chosen = std::env::var("RBUILD_BENCH").unwrap_or_default();
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => {
            eprintln!("cannot set up the bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:64} {:>9} {:>9}  limit", "work", "median s", "least s");
    for work in works::all().into_iter().filter(|work| chosen.is_empty() || work.name.contains(&chosen)) {
        match measure(&lab, &work, runs) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("{}: {error}", work.name);
                return ExitCode::FAILURE;
            }
        }
    }
    let is_chosen = |name: &str| chosen.is_empty() || name.contains(&chosen);
    for name in [overhead::NAME, layers::NAME].into_iter().filter(|name| is_chosen(name)) {
        let told =
            if name == layers::NAME { layers::report(&lab, runs) } else { overhead::report(&lab, runs) };
        if let Err(error) = told {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(lab: &Lab, work: &Work, runs: usize) -> Result<String, String> {
    let prepared = (work.prepare)(lab)?;
    let mut times = Vec::new();
    let mut limits = Vec::new();
    for _ in 0..runs {
        lab.sync();
        times.push((work.run)(lab, &prepared)?);
        lab.sync();
        limits.push((work.limit)(lab, &prepared)?);
    }
    let (median, least) = (median(&mut times), times[0]);
    let limit = self::median(&mut limits);
    Ok(format!(
        "{:64} {:9.3} {:9.3}  {:.3} s {} (ratio {:.2})",
        work.name,
        median.as_secs_f64(),
        least.as_secs_f64(),
        limit.as_secs_f64(),
        work.limit_name,
        median.as_secs_f64() / limit.as_secs_f64(),
    ))
}

/// Sorts `times`.
fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
