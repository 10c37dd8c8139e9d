//! Looking into steps.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cache::SnapshotterKind;
use sandbox::{Console, Exit};
use solver::{
    CacheSharing, ExecContext, RunAgent, RunCache, RunMount, RunMountKind, RunOp, RunSecret, SecretVariable,
    SolveError, VertexId,
};
use worker::{Debugger, Looking, ProcessFailure, Program, Scene, WorkerError};

use crate::bench::{Bench, Draft, cache, chain, part, run_op};
use crate::cases::Test;

pub(crate) const ALL: &[(&str, Test)] = &[
    ("a_failed_run_is_looked_at_as_it_was_left", a_failed_run_is_looked_at_as_it_was_left),
    ("what_is_seen_at_a_breakpoint_does_not_change", what_is_seen_at_a_breakpoint_does_not_change),
    ("a_breakpoint_before_a_copy", a_breakpoint_before_a_copy),
    ("a_build_can_be_ended_at_a_breakpoint", a_build_can_be_ended_at_a_breakpoint),
    ("an_image_can_be_looked_at_after_all", an_image_can_be_looked_at_after_all),
];

/// Runs scripts in each scene and keeps what they say.
#[derive(Debug, Default)]
struct Script {
    stops: Vec<(VertexId, RunOp)>,
    scripts: Vec<&'static str>,
    refuses: bool,
    said: Mutex<Vec<String>>,
}

impl Script {
    fn run(&self, scene: &mut Scene) {
        assert!(scene.has_program(Path::new("/bin/sh")).unwrap());
        for name in ["/bin", "/no/such", "/etc/passwd"] {
            assert!(!scene.has_program(Path::new(name)).unwrap(), "{name}");
        }
        for script in &self.scripts {
            let args = ["/bin/sh", "-c", script].map(|word| word.as_bytes().to_vec()).to_vec();
            let env = ["A=other", "MORE=more"].map(|entry| entry.as_bytes().to_vec()).to_vec();
            let program = Program { args, env, ..Program::default() };
            let mut running = scene.spawn(program, Console::Output).unwrap();
            let mut text = String::new();
            File::from(running.stdout().unwrap()).read_to_string(&mut text).unwrap();
            File::from(running.stderr().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(running.wait().unwrap(), Exit::Code(0), "{text}");
            self.said.lock().unwrap().push(text);
        }
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().unwrap())
    }
}

impl Debugger for Script {
    fn stops_before(&self, vertex: VertexId) -> Looking<'_, Option<RunOp>> {
        let found = self.stops.iter().find(|(stop, _)| *stop == vertex).map(|(_, op)| op.clone());
        Box::pin(async move { found })
    }

    fn before<'a>(
        &'a self,
        mut scene: Scene,
        _: &'a ExecContext,
    ) -> Looking<'a, (Scene, Result<(), WorkerError>)> {
        Box::pin(async move {
            self.run(&mut scene);
            let outcome =
                if self.refuses { Err(WorkerError::Stopped(ProcessFailure::Code(1))) } else { Ok(()) };
            (scene, outcome)
        })
    }

    fn after_failure<'a>(
        &'a self,
        mut scene: Scene,
        _: &'a ExecContext,
        error: &'a WorkerError,
    ) -> Looking<'a, Scene> {
        assert!(matches!(error, WorkerError::Process { .. }));
        Box::pin(async move {
            self.run(&mut scene);
            scene
        })
    }
}

fn bench(kind: SnapshotterKind, script: Script) -> (Bench, Arc<Script>) {
    let script = Arc::new(script);
    let mut bench = Bench::new(kind);
    bench.debugger = Some(Arc::clone(&script) as Arc<dyn Debugger>);
    (bench, script)
}

/// What a run has begun and not finished.
fn leftovers(bench: &Bench) -> Vec<String> {
    let entries = fs::read_dir(bench.store.run_directory()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "uses").collect()
}

fn everything(script: &str) -> RunOp {
    let mount = |target: &str, kind| RunMount { target: target.to_owned(), kind };
    let secret = RunSecret { id: "token".to_owned(), required: true, mode: 0o400, uid: 7, gid: 0 };
    let agent = RunAgent { id: "default".to_owned(), required: true, mode: 0o666, uid: 0, gid: 0 };
    let locked = RunCache { sharing: CacheSharing::Locked, uid: Some(7), ..cache("c") };
    RunOp {
        env: vec!["PATH=/bin".to_owned(), "A=1".to_owned()],
        cwd: "/w".to_owned(),
        user: "7:8".to_owned(),
        mounts: vec![
            mount("/ro", RunMountKind::Bind { input: 1, read_only: true }),
            mount("/rw", RunMountKind::Bind { input: 1, read_only: false }),
            mount("/cache", RunMountKind::Cache(locked)),
            mount("/secret", RunMountKind::Secret(secret)),
            mount("/agent", RunMountKind::Ssh(agent)),
            mount("/t", RunMountKind::Tmpfs { size_bytes: None, read_only: false }),
        ],
        secret_env: vec![SecretVariable { id: "token".to_owned(), name: "S".to_owned(), required: true }],
        ..run_op(script)
    }
}

fn a_failed_run_is_looked_at_as_it_was_left(kind: SnapshotterKind) {
    let scripts = vec![
        "cat /w/half /ro/f /rw/f /rw/written /cache/kept /secret; echo $A $S $MORE; stat -c %F /agent; id -u; id -g; pwd; ls /t; \
         echo more > /w/more; echo again > /rw/written; echo x > /cache/later",
        "cat /w/more /rw/written",
    ];
    let (bench, script) = bench(kind, Script { scripts, ..Script::default() });
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let files = draft.run(base, "mkdir -m 777 /d /w; echo f > /d/f; chmod 777 /d /w");
    let op = everything(
        "echo half > half; echo written > /rw/written; echo kept > /cache/kept; echo x > /t/x; exit 3",
    );
    let run = draft.add(solver::Op::Run(op), vec![chain(files), part(files, "/d")]);
    let built = bench.solve(draft.graph(), run);
    let Err(SolveError::Vertex { error: WorkerError::Process { failure, .. }, .. }) = built.result else {
        panic!("{:?}", built.result)
    };
    assert_eq!(failure, ProcessFailure::Code(3));
    let expected = [
        "half\nf\nf\nwritten\nkept\ns3cret\n1 s3cret more\nsocket\n7\n8\n/w\n".to_owned(),
        "more\nagain\n".to_owned(),
    ];
    assert_eq!(script.said(), expected);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

fn what_is_seen_at_a_breakpoint_does_not_change(kind: SnapshotterKind) {
    let look = || vec!["cat /one /rw/f; echo changed > /one; echo changed > /rw/f; touch /new", "cat /one"];
    let mut draft = Draft::default();
    let (mut bench, _) = bench(kind, Script::default());
    let base = draft.add(bench.busybox(), Vec::new());
    let one = draft.run(base, "echo one > /one; mkdir /d; echo f > /d/f");
    let kind = RunMountKind::Bind { input: 1, read_only: false };
    let op = RunOp {
        mounts: vec![RunMount { target: "/rw".to_owned(), kind }],
        ..run_op("cat /rw/f >> /one; ls /new 2> /dev/null; true")
    };
    let two = draft.add(solver::Op::Run(op.clone()), vec![chain(one), part(one, "/d")]);
    let script = Arc::new(Script { stops: vec![(two, op)], scripts: look(), ..Script::default() });
    bench.debugger = Some(Arc::clone(&script) as Arc<dyn Debugger>);
    let built = bench.solve(draft.graph(), two);
    let solved = built.result.unwrap_or_else(|error| panic!("{error:?}\n{}", built.log));
    assert_eq!(script.said(), ["one\nf\n", "changed\n"]);
    assert_eq!(
        bench.listing(&solved.outputs[0], &["/one", "/new"]),
        ["/one 644 0:0 \"one\\nf\\n\"", "/new -"]
    );
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

fn a_breakpoint_before_a_copy(kind: SnapshotterKind) {
    let mut draft = Draft::default();
    let (mut bench, _) = bench(kind, Script::default());
    fs::write(bench.context().join("file"), "x").unwrap();
    let base = draft.add(bench.busybox(), Vec::new());
    let context = draft.context();
    let copy = draft.copy(base, context, "/file", "/file");
    let op = RunOp { env: vec!["B=2".to_owned()], ..run_op("") };
    let scripts = vec!["ls /file 2>/dev/null || echo $B"];
    let script = Arc::new(Script { stops: vec![(copy, op)], scripts, ..Script::default() });
    bench.debugger = Some(Arc::clone(&script) as Arc<dyn Debugger>);
    let built = bench.solve(draft.graph(), copy);
    assert_eq!((script.said(), built.result.unwrap().executed), (vec!["2\n".to_owned()], 1));
}

fn a_build_can_be_ended_at_a_breakpoint(kind: SnapshotterKind) {
    let mut draft = Draft::default();
    let (mut bench, _) = bench(kind, Script::default());
    let base = draft.add(bench.busybox(), Vec::new());
    let run = draft.run(base, "true");
    let script = Script { stops: vec![(run, run_op(""))], refuses: true, ..Script::default() };
    bench.debugger = Some(Arc::new(script));
    let built = bench.solve(draft.graph(), run);
    let Err(SolveError::Vertex { vertex, error }) = built.result else { panic!("{:?}", built.result) };
    assert_eq!(vertex, run);
    assert_eq!(error.to_string(), "the build was ended at a breakpoint (exit code: 1)");
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

fn an_image_can_be_looked_at_after_all(kind: SnapshotterKind) {
    let (bench, script) = bench(kind, Script { scripts: vec!["id -un; pwd"], ..Script::default() });
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let built = bench.solve(draft.graph(), base);
    let op = RunOp { cwd: "/etc".to_owned(), ..run_op("") };
    let context = ExecContext {
        vertex: base,
        cancel: tokio_util::sync::CancellationToken::new(),
        events: Arc::new(|_| {}),
    };
    let output = built.result.unwrap().outputs.remove(0);
    let mut scene = bench.runtime.block_on(built.worker.scene(&output, &op, &context)).unwrap();
    script.run(&mut scene);
    assert_eq!(script.said(), ["root\n/etc\n"]);
    drop(scene);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}
