//! Many builds on one store at once, with prune, and with builds that are killed: every image is right, the store is
//! consistent at every moment, and nothing is left over.
//!
//! `RBUILD_STRESS_SECONDS` says for how long (each of the three rounds), `RBUILD_STRESS_SEED` with which numbers; the
//! seed is printed. What processes do to each other depends on time, so that a seed repeats the requests, not the run.

#![expect(clippy::print_stdout, reason = "this is a program that reports to a person")]

mod place;
mod projects;
mod remains;
mod seed;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use place::{Place, Who};
use projects::{PROJECTS, References, VERSIONS};
use seed::Numbers;

/// Of each round.
const SECONDS: u64 = 8;
/// So many build at once; others prune and look.
const BUILDERS: u64 = 8;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if !words.is_empty() && !words.iter().any(|word| "stress".contains(word.as_str())) {
        println!("not chosen by {words:?}");
        return ExitCode::SUCCESS;
    }
    let seconds = number("RBUILD_STRESS_SECONDS").unwrap_or(SECONDS);
    let seed = number("RBUILD_STRESS_SEED").unwrap_or_else(seed::fresh);
    println!("RBUILD_STRESS_SEED={seed} RBUILD_STRESS_SECONDS={seconds}");
    let references = References::build();
    let rounds = [(Who::Root, "overlay"), (Who::user(), "overlay"), (Who::Root, "copy")];
    let mut is_right = true;
    for (number, (who, snapshotter)) in rounds.into_iter().enumerate() {
        let round = Round {
            place: Place::new(who, snapshotter),
            references: &references,
            deadline: Instant::now() + Duration::from_secs(seconds),
            has_failed: AtomicBool::new(false),
            failures: Mutex::default(),
            counts: Counts::default(),
        };
        is_right &= round.run(&mut Numbers::new(seed ^ number as u64));
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} should be a number: {text}")))
}

/// What was done.
#[derive(Debug, Default)]
struct Counts {
    built: AtomicU64,
    killed: AtomicU64,
    pruned: AtomicU64,
    verified: AtomicU64,
}

/// One store, and all that is done to it at once.
struct Round<'a> {
    place: Place,
    references: &'a References,
    deadline: Instant,
    has_failed: AtomicBool,
    failures: Mutex<Vec<String>>,
    counts: Counts,
}

impl Round<'_> {
    /// Tells whether all was right.
    fn run(self, numbers: &mut Numbers) -> bool {
        let mut seeds: Vec<u64> = (0..BUILDERS + 2).map(|_| numbers.next()).collect();
        std::thread::scope(|scope| {
            let round = &self;
            for builder in 0..BUILDERS {
                let mut numbers = Numbers::new(seeds.pop().expect("there is one for each"));
                scope.spawn(move || round.until_the_end(|| round.build(builder, &mut numbers)));
            }
            let mut numbers = Numbers::new(seeds.pop().expect("there is one for each"));
            scope.spawn(move || round.until_the_end(|| round.prune(&mut numbers)));
            let mut numbers = Numbers::new(seeds.pop().expect("there is one for each"));
            scope.spawn(move || round.until_the_end(|| round.look(&mut numbers)));
        });
        if !self.has_failed.load(Ordering::SeqCst)
            && let Err(failure) = remains::check(&self.place)
        {
            self.fail(failure);
        }
        let Counts { built, killed, pruned, verified } = &self.counts;
        println!(
            "{}: {} builds compared, {} killed, {} prunes, {} looks at the whole store",
            self.place.describe(),
            built.load(Ordering::SeqCst),
            killed.load(Ordering::SeqCst),
            pruned.load(Ordering::SeqCst),
            verified.load(Ordering::SeqCst)
        );
        let failures = self.failures.into_inner().expect("no thread panics");
        for failure in &failures {
            println!("FAILED: {failure}\n");
        }
        failures.is_empty()
    }

    fn until_the_end(&self, mut work: impl FnMut() -> Result<(), String>) {
        while Instant::now() < self.deadline && !self.has_failed.load(Ordering::SeqCst) {
            if let Err(failure) = work() {
                self.fail(failure);
            }
        }
    }

    fn fail(&self, failure: String) {
        self.has_failed.store(true, Ordering::SeqCst);
        self.failures.lock().expect("no thread panics").push(failure);
    }

    /// One build, which is killed or compared.
    fn build(&self, builder: u64, numbers: &mut Numbers) -> Result<(), String> {
        let project = *numbers.one_of(PROJECTS);
        let version = numbers.below(VERSIONS);
        let context = self.place.context(&format!("{builder}"), project, version);
        let tree = self.place.path(&format!("tree-{builder}.tar"));
        let output = format!("--output=type=tar,dest={}", tree.display());
        let tag = format!("{}:v{version}", project.name);
        let mut arguments = match numbers.below(3) {
            0 => vec!["--tag", &tag],
            _ => vec![output.as_str()],
        };
        let is_compared = arguments.len() == 1;
        if numbers.below(6) == 0 {
            arguments.push("--no-cache");
        }
        let command = self.place.build(&context, &arguments);
        if numbers.below(4) == 0 {
            let delay = Duration::from_millis(numbers.below(1500));
            self.counts.killed.fetch_add(u64::from(place::kill_after(command, delay)), Ordering::SeqCst);
            return Ok(());
        }
        place::succeed(command)?;
        if is_compared {
            self.references.compare(project, version, &tree)?;
            self.counts.built.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// One prune, of one kind or another.
    fn prune(&self, numbers: &mut Numbers) -> Result<(), String> {
        let tag = format!("{}:v{}", numbers.one_of(PROJECTS).name, numbers.below(VERSIONS));
        let arguments: &[&str] = match numbers.below(8) {
            0 => &["prune", "--all", "--force"],
            1 => &["prune", "--max-used-space=3mb"],
            2 => &["prune", "--reserved-space=2mb"],
            3 => &["prune", "--filter=type=exec.cachemount"],
            4 => &["prune", "--filter=description~=COPY"],
            5 => &["prune", "--filter=until=1s"],
            6 => &["gc"],
            _ => {
                // Whether there is such an image just now, nobody knows.
                place::run(self.place.rbuild(&["rmi", &tag]));
                &["prune"]
            }
        };
        place::succeed(self.place.rbuild(arguments))?;
        self.counts.pruned.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// One look at the store.
    fn look(&self, numbers: &mut Numbers) -> Result<(), String> {
        let arguments: &[&str] = match numbers.below(4) {
            0 => &["du", "--verbose"],
            1 => &["images"],
            _ => &["doctor", "--store"],
        };
        place::succeed(self.place.rbuild(arguments))?;
        self.counts.verified.fetch_add(u64::from(arguments[0] == "doctor"), Ordering::SeqCst);
        Ok(())
    }
}
