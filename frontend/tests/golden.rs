//! Whole graphs and configs of small Dockerfiles, and what was asked of the resolver.

mod stub;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use expect_test::{Expect, expect};
use frontend::{LowerOptions, Lowered, NamedContext, NoCache, SourceFile, lower, parse};
use oci::Platform;
use solver::{InputKey, Op};
use stub::{Stub, build, options};

/// Steps, one a line, the target marked; then history and config.
fn describe(lowered: &Lowered) -> String {
    let mut text = String::new();
    for (at, vertex) in lowered.graph.vertices().iter().enumerate() {
        let mark = if at == lowered.target.index() { '*' } else { ' ' };
        write!(text, "{mark}{at} {}", describe_op(&vertex.op)).expect("a string takes everything");
        for input in &vertex.inputs {
            let key = match &input.key {
                InputKey::Chain => String::new(),
                InputKey::Content(selector) => format!("{:?}", selector.paths),
            };
            write!(text, " <{}{key}", input.vertex.index()).expect("a string takes everything");
        }
        let lines =
            vertex.meta.lines.map_or(String::new(), |lines| format!(" @{}-{}", lines.first, lines.last));
        let no_cache = if vertex.meta.no_cache { " no-cache" } else { "" };
        writeln!(text, " | {}{lines}{no_cache}", vertex.meta.name).expect("a string takes everything");
    }
    for entry in &lowered.config.history {
        let mark = if entry.empty_layer { '-' } else { '+' };
        writeln!(text, "{mark} {}", entry.created_by.as_deref().unwrap_or_default())
            .expect("a string takes everything");
    }
    let config = serde_json::to_string(&lowered.config.config).expect("a config can be written");
    writeln!(text, "{config}").expect("a string takes everything");
    text
}

fn describe_op(op: &Op) -> String {
    match op {
        Op::Scratch => "scratch".to_owned(),
        Op::Image(image) => format!("image {} {}", image.source.name, image.source.platform),
        Op::Context(context) => format!("context {}", context.name),
        Op::Http(http) => format!("http {} as {:?} {:?}", http.url, http.name, http.checksum),
        Op::Git(git) => format!(
            "git {} {:?} {:?} {:?} {}",
            git.url, git.reference, git.checksum, git.repository, git.submodules
        ),
        Op::Copy(copy) => {
            let flags = (&copy.chown, &copy.chmod, copy.unpack, copy.parents, &copy.exclude);
            format!("copy {:?} to {} {flags:?}", copy.sources, copy.destination)
        }
        Op::Mkdir(mkdir) => format!("mkdir {} {:?}", mkdir.path, mkdir.owner),
        Op::Run(run) => format!(
            "run {:?} env {:?} proxy {:?} in {} as {:?} {:?} {:?} {:?}{}",
            run.args,
            run.env,
            run.proxy_env,
            run.cwd,
            run.user,
            run.network,
            run.security,
            run.mounts,
            if run.secret_env.is_empty() { String::new() } else { format!(" {:?}", run.secret_env) }
        ),
        Op::Merge => "merge".to_owned(),
    }
}

#[track_caller]
fn check(text: &str, options: &LowerOptions, expected: &Expect) {
    let found = match build(text, options) {
        Ok(lowered) => describe(&lowered),
        Err(diagnostics) => format!("{diagnostics:#?}"),
    };
    expected.assert_eq(&found);
}

#[test]
fn a_single_stage() {
    let text = "FROM busybox\nARG V=1\nENV E=$V\nRUN make \\\n  $V\nCOPY --chown=a:b --chmod=0640 x y* /d/\n\
                WORKDIR w\nUSER u\nRUN [\"ls\"]\nCMD run it\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [1/5] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 run ["/bin/sh", "-c", "make   $V"] env ["PATH=/bin", "V=1", "E=1"] proxy [] in / as "" Default Sandbox [] <0 | [2/5] RUN make   1 @4-5
         2 context context | [internal] load build context
         3 copy [Path { input: 1, path: "x" }, Path { input: 1, path: "y*" }] to /d/ (Some("a:b"), Some(Octal(416)), Never, false, []) <1 <2["x", "y*"] | [3/5] COPY --chown=a:b --chmod=0640 x y* /d/ @6-6
         4 mkdir /w None <3 | [4/5] WORKDIR w @7-7
        *5 run ["ls"] env ["PATH=/bin", "V=1", "E=1"] proxy [] in /w as "u" Default Sandbox [] <4 | [5/5] RUN ["ls"] @9-9
        + base
        - ARG V=1
        - ENV E=1
        + RUN |1 V=1 /bin/sh -c make   $V # buildkit
        + COPY --chown=a:b --chmod=0640 x y* /d/ # buildkit
        + WORKDIR /w
        - USER u
        + RUN |1 V=1 ls # buildkit
        - CMD ["/bin/sh" "-c" "run it"]
        {"User":"u","Env":["PATH=/bin","E=1"],"Cmd":["/bin/sh","-c","run it"],"WorkingDir":"/w","ArgsEscaped":true}
    "#]],
    );
}

#[test]
fn stages_that_are_not_needed_are_left_out() {
    let text = "FROM busybox AS build\nRUN a\nFROM missing AS unused\nRUN b\nFROM scratch\nCOPY --from=BUILD /a /b\n\
                COPY --from=0 /a /c\nCOPY --from=rich /r /\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [build 1/2] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 run ["/bin/sh", "-c", "a"] env ["PATH=/bin"] proxy [] in / as "" Default Sandbox [] <0 | [build 2/2] RUN a @2-2
         2 scratch | 
         3 copy [Path { input: 1, path: "/a" }] to /b (None, None, Never, false, []) <2 <1["/a"] | [stage-2 1/3] COPY --from=BUILD /a /b @6-6
         4 copy [Path { input: 1, path: "/a" }] to /c (None, None, Never, false, []) <3 <1["/a"] | [stage-2 2/3] COPY --from=0 /a /c @7-7
         5 image docker.io/library/rich:latest linux/amd64 | FROM docker.io/library/rich:latest@sha256:7baa68f2418ba82d2545a780c00d7a8778249bbcdaf7369114534874ea6d3bd6 @8-8
        *6 copy [Path { input: 1, path: "/r" }] to / (None, None, Never, false, []) <4 <5["/r"] | [stage-2 3/3] COPY --from=rich /r / @8-8
        + COPY /a /b # buildkit
        + COPY /a /c # buildkit
        + COPY /r / # buildkit
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"}
    "#]],
    );
}

#[test]
fn children_take_over_what_their_base_has() {
    let text = "FROM rich AS one\nARG A=a\nCMD x\nFROM one\nENTRYPOINT [\"e\"]\nRUN y\nWORKDIR z\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/rich:latest linux/amd64 | [one 1/1] FROM docker.io/library/rich:latest@sha256:7baa68f2418ba82d2545a780c00d7a8778249bbcdaf7369114534874ea6d3bd6 @1-1
         1 run ["/bin/sh", "-ec", "y"] env ["PATH=/bin", "BASE=b", "A=a"] proxy [] in /base as "app" Default Sandbox [] <0 | [stage-1 1/2] RUN y @6-6
        *2 mkdir /base/z Some("app") <1 | [stage-1 2/2] WORKDIR z @7-7
        + base
        - ARG A=a
        - CMD ["/bin/sh" "-ec" "x"]
        - ENTRYPOINT ["e"]
        + RUN |1 A=a /bin/sh -ec y # buildkit
        + WORKDIR /base/z
        {"User":"app","Env":["PATH=/bin","BASE=b"],"Entrypoint":["e"],"WorkingDir":"/base/z","Labels":{"from":"rich"},"ArgsEscaped":true,"Shell":["/bin/sh","-ec"]}
    "#]],
    );
}

#[test]
fn triggers_fire_in_children_alone() {
    let text = "FROM busybox AS tool\nRUN make\nFROM busybox AS parent\nONBUILD RUN t\nONBUILD ENV T=1\nFROM parent\n\
                RUN own\nFROM onbuild\nCOPY --from=2 / /c\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [tool 1/2] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 run ["/bin/sh", "-c", "make"] env ["PATH=/bin"] proxy [] in / as "" Default Sandbox [] <0 | [tool 2/2] RUN make @2-2
         2 run ["/bin/sh", "-c", "t"] env ["PATH=/bin"] proxy [] in / as "" Default Sandbox [] <0 | [stage-2 1/2] ONBUILD RUN t @6-6
         3 run ["/bin/sh", "-c", "own"] env ["PATH=/bin", "T=1"] proxy [] in / as "" Default Sandbox [] <2 | [stage-2 2/2] RUN own @7-7
         4 image docker.io/library/onbuild:latest linux/amd64 | [stage-3 1/4] FROM docker.io/library/onbuild:latest@sha256:12369a24f5c44991818cd9c8da73c2c8b8b237acd6a4f8ac5ce12fd8cf24f36c @8-8
         5 copy [Path { input: 1, path: "/t" }] to /t (None, None, Never, false, []) <4 <1["/t"] | [stage-3 2/4] ONBUILD COPY --from=tool /t /t @8-8
         6 run ["/bin/sh", "-c", "use /t"] env ["PATH=/bin"] proxy [] in / as "" Default Sandbox [] <5 | [stage-3 3/4] ONBUILD RUN use /t @8-8
        *7 copy [Path { input: 1, path: "/" }] to /c (None, None, Never, false, []) <6 <3["/"] | [stage-3 4/4] COPY --from=2 / /c @9-9
        + base
        + COPY /t /t # buildkit
        + RUN /bin/sh -c use /t # buildkit
        + COPY / /c # buildkit
        {"Env":["PATH=/bin"],"Cmd":["sh"]}
    "#]],
    );
}

#[test]
fn links_are_copied_on_nothing_and_merged() {
    let text = "FROM busybox\nCOPY --link a /b\nCOPY --link --chmod=600 a /c\nADD --unpack=false t.tar /\nADD t.tar .\n\
                COPY --parents --exclude=*.o x/./y /p\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [1/6] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 context context | [internal] load build context
         2 scratch | 
         3 copy [Path { input: 1, path: "a" }] to /b (None, None, Never, false, []) <2 <1["a"] | [2/6] COPY --link a /b @2-2
         4 merge <0 <3 | [2/6] LINK COPY --link a /b @2-2
         5 copy [Path { input: 1, path: "a" }] to /c (None, Some(Octal(384)), Never, false, []) <4 <1["a"] | [3/6] COPY --link --chmod=600 a /c @3-3
         6 copy [Path { input: 1, path: "t.tar" }] to / (None, None, Never, false, []) <5 <1["t.tar"] | [4/6] ADD --unpack=false t.tar / @4-4
         7 copy [Path { input: 1, path: "t.tar" }] to / (None, None, Archives, false, []) <6 <1["t.tar"] | [5/6] ADD t.tar . @5-5
        *8 copy [Path { input: 1, path: "x/./y" }] to /p (None, None, Never, true, ["*.o"]) <7 <1["x/./y"] | [6/6] COPY --parents --exclude=*.o x/./y /p @6-6
        + base
        + COPY a /b # buildkit
        + COPY --chmod=600 a /c # buildkit
        + ADD t.tar / # buildkit
        + ADD t.tar . # buildkit
        + COPY --parents x/./y /p # buildkit
        {"Env":["PATH=/bin"],"Cmd":["sh"]}
    "#]],
    );
}

#[test]
fn heredocs_are_files_and_scripts() {
    let text = "FROM busybox\nENV E=e\nCOPY <<A <<-'B' x /d/\n$E \\$E \"$E\"\nA\n\t$E\nB\nRUN <<S\none\ntwo\nS\n\
                RUN <<-P\n\t#!/bin/awk\n\tx\n\tP\nRUN cat <<X >y\n$E\nX\n";
    check(
        text,
        &options(),
        &expect![[r#"
             0 image docker.io/library/busybox:latest linux/amd64 | [1/5] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
             1 context context | [internal] load build context
             2 copy [Path { input: 1, path: "x" }, Inline { name: "A", content: [101, 32, 36, 69, 32, 34, 101, 34, 10] }, Inline { name: "B", content: [36, 69, 10] }] to /d/ (None, None, Never, false, []) <0 <1["x"] | [2/5] COPY <<A <<-'B' x /d/ @3-7
             3 run ["/bin/sh", "-c", "one\ntwo\n"] env ["PATH=/bin", "E=e"] proxy [] in / as "" Default Sandbox [] <2 | [3/5] RUN <<S (one...) @8-11
             4 run ["/bin/sh", "-c", "/dev/pipes/P"] env ["PATH=/bin", "E=e"] proxy [] in / as "" Default Sandbox [RunMount { target: "/dev/pipes/P", kind: Inline { content: [35, 33, 47, 98, 105, 110, 47, 97, 119, 107, 10, 120, 10], mode: 493 } }] <3 | [4/5] RUN <<-P (#!/bin/awk...) @12-15
            *5 run ["/bin/sh", "-c", "cat <<X >y\n$E\nX"] env ["PATH=/bin", "E=e"] proxy [] in / as "" Default Sandbox [] <4 | [5/5] RUN cat <<X >y @16-18
            + base
            - ENV E=e
            + COPY x <<A <<B /d/ # buildkit
            + RUN /bin/sh -c one
            two
             # buildkit
            + RUN /bin/sh -c /dev/pipes/P # buildkit
            + RUN /bin/sh -c cat <<X >y
            $E
            X # buildkit
            {"Env":["PATH=/bin","E=e"],"Cmd":["sh"]}
        "#]],
    );
}

#[test]
fn bind_mounts_are_inputs_in_the_order_of_their_targets() {
    let named_contexts = [("dir", NamedContext::Local), ("gen", NamedContext::Local)];
    let named_contexts = named_contexts.map(|(name, context)| (name.to_owned(), context));
    let options = LowerOptions { named_contexts: named_contexts.into(), ..options() };
    let text = "FROM busybox AS made\nRUN make\nFROM missing AS gen\nFROM busybox\nWORKDIR /w\nARG D=sub\n\
                RUN --mount=from=MADE,target=b/in --mount=src=$D/../x,dst=../a,rw --mount=target=b/ x\n\
                RUN --mount=from=dir --mount=from=gen,source=/g,target=/m --mount=from=rich,target=/m <<EOF\n\
                #!/bin/sh\nEOF\nRUN --mount=from=scratch,target=/s,ro=0 z\n\
                RUN --mount=type=tmpfs,size=1k,target=t --mount=ro,type=tmpfs y\n";
    check(
        text,
        &options,
        &expect![[r#"
             0 image docker.io/library/busybox:latest linux/amd64 | [made 1/2] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
             1 run ["/bin/sh", "-c", "make"] env ["PATH=/bin"] proxy [] in / as "" Default Sandbox [] <0 | [made 2/2] RUN make @2-2
             2 mkdir /w None <0 | [stage-2 2/6] WORKDIR /w @5-5
             3 context context | [internal] load build context
             4 run ["/bin/sh", "-c", "x"] env ["PATH=/bin", "D=sub"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/a", kind: Bind { input: 1, read_only: false } }, RunMount { target: "/w/b", kind: Bind { input: 2, read_only: true } }, RunMount { target: "/w/b/in", kind: Bind { input: 3, read_only: true } }] <2 <3["/x"] <3["/"] <1["/"] | [stage-2 3/6] RUN --mount=from=MADE,target=b/in --mount=src=sub/../x,dst=../a,rw --mount=target=b/ x @7-7
             5 context gen | [context gen] load from client
             6 image docker.io/library/rich:latest linux/amd64 | FROM docker.io/library/rich:latest@sha256:7baa68f2418ba82d2545a780c00d7a8778249bbcdaf7369114534874ea6d3bd6 @8-10
             7 context dir | [context dir] load from client
             8 run ["/bin/sh", "-c", "/dev/pipes/EOF"] env ["PATH=/bin", "D=sub"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/m", kind: Bind { input: 1, read_only: true } }, RunMount { target: "/m", kind: Bind { input: 2, read_only: true } }, RunMount { target: "/w", kind: Bind { input: 3, read_only: true } }, RunMount { target: "/dev/pipes/EOF", kind: Inline { content: [35, 33, 47, 98, 105, 110, 47, 115, 104, 10], mode: 493 } }] <4 <5["/g"] <6["/"] <7["/"] | [stage-2 4/6] RUN --mount=from=dir --mount=from=gen,source=/g,target=/m --mount=from=rich,target=/m <<EOF (#!/bin/sh) @8-10
             9 scratch | 
             10 run ["/bin/sh", "-c", "z"] env ["PATH=/bin", "D=sub"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/s", kind: Bind { input: 1, read_only: false } }] <8 <9["/"] | [stage-2 5/6] RUN --mount=from=scratch,target=/s,ro=0 z @11-11
            *11 run ["/bin/sh", "-c", "y"] env ["PATH=/bin", "D=sub"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/w", kind: Tmpfs { size_bytes: None, read_only: true } }, RunMount { target: "/w/t", kind: Tmpfs { size_bytes: Some(1024), read_only: false } }] <10 | [stage-2 6/6] RUN --mount=type=tmpfs,size=1k,target=t --mount=ro,type=tmpfs y @12-12
            + base
            + WORKDIR /w
            - ARG D=sub
            + RUN |1 D=sub /bin/sh -c x # buildkit
            + RUN |1 D=sub /bin/sh -c /dev/pipes/EOF # buildkit
            + RUN |1 D=sub /bin/sh -c z # buildkit
            + RUN |1 D=sub /bin/sh -c y # buildkit
            {"Env":["PATH=/bin"],"Cmd":["sh"],"WorkingDir":"/w"}
        "#]],
    );
}

#[test]
fn words_of_a_list_can_be_heredocs_without_a_body() {
    check(
        "FROM scratch\nENV A \u{a0}b\nCOPY --'' [\"<<EOF\", \"/x\"]\n",
        &options(),
        &expect![[r#"
         0 scratch | 
        *1 copy [Inline { name: "EOF", content: [] }] to /x (None, None, Never, false, []) <0 | [1/1] COPY --'' ["<<EOF", "/x"] @3-3
        - ENV A= b
        + COPY <<EOF /x # buildkit
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A= b"],"WorkingDir":"/"}
    "#]],
    );
}

#[test]
fn caches_have_ids_in_a_namespace_and_may_begin_with_files() {
    let build_args = [("BUILDKIT_CACHE_MOUNT_NS".to_owned(), "team".to_owned())];
    let options = LowerOptions { build_args: build_args.into(), ..options() };
    let text = "FROM busybox AS seed\nRUN make\nFROM busybox\nWORKDIR /w\n\
                RUN --mount=type=cache,target=/go//mod/ --mount=type=cache,target=rel --mount=type=cache,id=x,target=y,ro x\n\
                RUN --mount=type=cache,target=/s,from=seed,src=d,sharing=locked,mode=2750,uid=1,gid=2 y\n\
                RUN --mount=type=cache,target=/s,from=scratch,sharing=private --mount=type=cache,target=/t,source=none z\n";
    check(
        text,
        &options,
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [seed 1/2] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 run ["/bin/sh", "-c", "make"] env ["PATH=/bin"] proxy [] in / as "" Default Sandbox [] <0 | [seed 2/2] RUN make @2-2
         2 mkdir /w None <0 | [stage-1 2/5] WORKDIR /w @4-4
         3 run ["/bin/sh", "-c", "x"] env ["PATH=/bin"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/go/mod", kind: Cache(RunCache { id: "team//go/mod", sharing: Shared, input: None, read_only: false, mode: None, uid: None, gid: None }) }, RunMount { target: "/w/rel", kind: Cache(RunCache { id: "team/rel", sharing: Shared, input: None, read_only: false, mode: None, uid: None, gid: None }) }, RunMount { target: "/w/y", kind: Cache(RunCache { id: "team/x", sharing: Shared, input: None, read_only: true, mode: None, uid: None, gid: None }) }] <2 | [stage-1 3/5] RUN --mount=type=cache,target=/go//mod/ --mount=type=cache,target=rel --mount=type=cache,id=x,target=y,ro x @5-5
         4 run ["/bin/sh", "-c", "y"] env ["PATH=/bin"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/s", kind: Cache(RunCache { id: "team//s", sharing: Locked, input: Some(1), read_only: false, mode: Some(488), uid: Some(1), gid: Some(2) }) }] <3 <1["/d"] | [stage-1 4/5] RUN --mount=type=cache,target=/s,from=seed,src=d,sharing=locked,mode=2750,uid=1,gid=2 y @6-6
         5 scratch | 
        *6 run ["/bin/sh", "-c", "z"] env ["PATH=/bin"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/s", kind: Cache(RunCache { id: "team//s", sharing: Private, input: None, read_only: false, mode: None, uid: None, gid: None }) }, RunMount { target: "/t", kind: Cache(RunCache { id: "team//t", sharing: Shared, input: Some(1), read_only: false, mode: None, uid: None, gid: None }) }] <4 <5["/none"] | [stage-1 5/5] RUN --mount=type=cache,target=/s,from=scratch,sharing=private --mount=type=cache,target=/t,source=none z @7-7
        + base
        + WORKDIR /w
        + RUN /bin/sh -c x # buildkit
        + RUN /bin/sh -c y # buildkit
        + RUN /bin/sh -c z # buildkit
        {"Env":["PATH=/bin"],"Cmd":["sh"],"WorkingDir":"/w"}
    "#]],
    );
}

#[test]
fn secrets_are_files_and_variables_and_shown_by_neither() {
    let text = "FROM busybox\nENV T=seen\nWORKDIR /w\nRUN --mount=type=secret,id=a/b x\n\
                RUN --mount=type=secret,source=a,target=rel,required,mode=0440,uid=1,gid=2 --mount=type=secret,target=/t/c y\n\
                RUN --mount=type=secret,id=a,env=T,required=true --mount=type=secret,id=b,env=U,target=/u z $T ${U} ${V}\n\
                RUN --mount=type=secret,id=a,env= echo $T\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [1/6] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 mkdir /w None <0 | [2/6] WORKDIR /w @3-3
         2 run ["/bin/sh", "-c", "x"] env ["PATH=/bin", "T=seen"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/run/secrets/b", kind: Secret(RunSecret { id: "a/b", required: false, mode: 256, uid: 0, gid: 0 }) }] <1 | [3/6] RUN --mount=type=secret,id=a/b x @4-4
         3 run ["/bin/sh", "-c", "y"] env ["PATH=/bin", "T=seen"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/t/c", kind: Secret(RunSecret { id: "c", required: false, mode: 256, uid: 0, gid: 0 }) }, RunMount { target: "/w/rel", kind: Secret(RunSecret { id: "a", required: true, mode: 288, uid: 1, gid: 2 }) }] <2 | [4/6] RUN --mount=type=secret,source=a,target=rel,required,mode=0440,uid=1,gid=2 --mount=type=secret,target=/t/c y @5-5
         4 run ["/bin/sh", "-c", "z $T ${U} ${V}"] env ["PATH=/bin", "T=seen"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/u", kind: Secret(RunSecret { id: "b", required: false, mode: 256, uid: 0, gid: 0 }) }] [SecretVariable { name: "T", id: "a", required: true }, SecretVariable { name: "U", id: "b", required: false }] <3 | [5/6] RUN --mount=type=secret,id=a,env=T,required=true --mount=type=secret,id=b,env=U,target=/u z **** **** ${V} @6-6
        *5 run ["/bin/sh", "-c", "echo $T"] env ["PATH=/bin", "T=seen"] proxy [] in /w as "" Default Sandbox [] <4 | [6/6] RUN --mount=type=secret,id=a,env= echo seen @7-7
        + base
        - ENV T=seen
        + WORKDIR /w
        + RUN /bin/sh -c x # buildkit
        + RUN /bin/sh -c y # buildkit
        + RUN /bin/sh -c z $T ${U} ${V} # buildkit
        + RUN /bin/sh -c echo $T # buildkit
        {"Env":["PATH=/bin","T=seen"],"Cmd":["sh"],"WorkingDir":"/w"}
    "#]],
    );
}

#[test]
fn agents_have_sockets_and_the_first_one_is_told() {
    let text = "FROM busybox\nWORKDIR /w\nRUN --mount=type=ssh x\n\
                RUN --mount=type=ssh,id=a,target=sock,required,mode=1666,uid=1,gid=2 --mount=type=ssh,id=b --mount=type=ssh,id=c y\n\
                ENV SSH_AUTH_SOCK=/own\nRUN --mount=type=ssh z\n";
    check(
        text,
        &options(),
        &expect![[r#"
             0 image docker.io/library/busybox:latest linux/amd64 | [1/5] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
             1 mkdir /w None <0 | [2/5] WORKDIR /w @2-2
             2 run ["/bin/sh", "-c", "x"] env ["PATH=/bin", "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/run/buildkit/ssh_agent.0", kind: Ssh(RunAgent { id: "default", required: false, mode: 384, uid: 0, gid: 0 }) }] <1 | [3/5] RUN --mount=type=ssh x @3-3
             3 run ["/bin/sh", "-c", "y"] env ["PATH=/bin", "SSH_AUTH_SOCK=/w/sock"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/run/buildkit/ssh_agent.1", kind: Ssh(RunAgent { id: "b", required: false, mode: 384, uid: 0, gid: 0 }) }, RunMount { target: "/run/buildkit/ssh_agent.2", kind: Ssh(RunAgent { id: "c", required: false, mode: 384, uid: 0, gid: 0 }) }, RunMount { target: "/w/sock", kind: Ssh(RunAgent { id: "a", required: true, mode: 438, uid: 1, gid: 2 }) }] <2 | [4/5] RUN --mount=type=ssh,id=a,target=sock,required,mode=1666,uid=1,gid=2 --mount=type=ssh,id=b --mount=type=ssh,id=c y @4-4
            *4 run ["/bin/sh", "-c", "z"] env ["PATH=/bin", "SSH_AUTH_SOCK=/own"] proxy [] in /w as "" Default Sandbox [RunMount { target: "/run/buildkit/ssh_agent.0", kind: Ssh(RunAgent { id: "default", required: false, mode: 384, uid: 0, gid: 0 }) }] <3 | [5/5] RUN --mount=type=ssh z @6-6
            + base
            + WORKDIR /w
            + RUN /bin/sh -c x # buildkit
            + RUN /bin/sh -c y # buildkit
            - ENV SSH_AUTH_SOCK=/own
            + RUN /bin/sh -c z # buildkit
            {"Env":["PATH=/bin","SSH_AUTH_SOCK=/own"],"Cmd":["sh"],"WorkingDir":"/w"}
        "#]],
    );
}

#[test]
fn blanks_may_stand_before_the_name_of_a_heredoc() {
    check(
        "FROM scratch\nRUN << S\none\nS\nRUN cat <<  'X' >y\n$E\nX\nRUN echo $((1 << X))\nRUN x <<\n",
        &options(),
        &expect![[r#"
             0 scratch | 
             1 run ["/bin/sh", "-c", "one\n"] env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] proxy [] in / as "" Default Sandbox [] <0 | [1/4] RUN << S (one) @2-4
             2 run ["/bin/sh", "-c", "cat <<  'X' >y\n$E\nX"] env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] proxy [] in / as "" Default Sandbox [] <1 | [2/4] RUN cat <<  'X' >y @5-7
             3 run ["/bin/sh", "-c", "echo $((1 << X))"] env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] proxy [] in / as "" Default Sandbox [] <2 | [3/4] RUN echo $((1 << X)) @8-8
            *4 run ["/bin/sh", "-c", "x <<"] env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] proxy [] in / as "" Default Sandbox [] <3 | [4/4] RUN x << @9-9
            + RUN /bin/sh -c one
             # buildkit
            + RUN /bin/sh -c cat <<  'X' >y
            $E
            X # buildkit
            + RUN /bin/sh -c echo $((1 << X)) # buildkit
            + RUN /bin/sh -c x << # buildkit
            {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"}
        "#]],
    );
}

#[test]
fn named_contexts_replace_images_and_stages() {
    let named_contexts = [
        ("dir".to_owned(), NamedContext::Local),
        ("gen".to_owned(), NamedContext::Local),
        ("docker.io/library/alpine:3".to_owned(), NamedContext::Image("rich".parse().expect("a name"))),
    ];
    let options = LowerOptions { named_contexts: named_contexts.into(), ..options() };
    let text = "FROM missing AS gen\nRUN never\nFROM alpine:3 AS a\nFROM dir\nCOPY --from=gen /g /g\n\
                COPY --from=dir /x /x\nCOPY --from=a /a /a\n";
    let file = parse(&SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() });
    let mut resolver = Stub::default();
    lower(&file, &options, &mut resolver).expect("all names are known");
    assert_eq!(resolver.calls, [["rich"]]);
    check(
        text,
        &options,
        &expect![[r#"
         0 image docker.io/library/rich:latest linux/amd64 | [a 1/1] FROM docker.io/library/rich:latest@sha256:7baa68f2418ba82d2545a780c00d7a8778249bbcdaf7369114534874ea6d3bd6 @3-3
         1 context gen | [context gen] load from client
         2 context dir | [context dir] load from client
         3 scratch | 
         4 copy [Path { input: 1, path: "/" }] to / (None, None, Never, false, []) <3 <2["/"] | [context dir] copy @5-5
         5 copy [Path { input: 1, path: "/g" }] to /g (None, None, Never, false, []) <4 <1["/g"] | [stage-2 1/3] COPY --from=gen /g /g @5-5
         6 copy [Path { input: 1, path: "/x" }] to /x (None, None, Never, false, []) <5 <2["/x"] | [stage-2 2/3] COPY --from=dir /x /x @6-6
        *7 copy [Path { input: 1, path: "/a" }] to /a (None, None, Never, false, []) <6 <0["/a"] | [stage-2 3/3] COPY --from=a /a /a @7-7
        + COPY /g /g # buildkit
        + COPY /x /x # buildkit
        + COPY /a /a # buildkit
        + context dir
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"}
    "#]],
    );
}

#[test]
fn urls_are_sources_of_their_own() {
    let text = "FROM busybox\nARG SUM=sha256:0000000000000000000000000000000000000000000000000000000000000000\n\
                ADD --chown=1:2 https://u:p@host/dir/[x]%20y?q=1 a.tar http://host /dst/\n\
                ADD --checksum=$SUM --unpack=true https://host/a.tar /dst/\n\
                ADD --link --unpack=false --exclude=x http://host/b /b\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [1/4] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 context context | [internal] load build context
         2 http https://u:p@host/dir/[x]%20y?q=1 as "[x] y" None | https://u:xxxxx@host/dir/[x]%20y?q=1 @3-3
         3 http http://host as "__unnamed__" None | http://host @3-3
         4 copy [Remote { input: 2, path: "[x] y" }, Path { input: 1, path: "a.tar" }, Remote { input: 3, path: "__unnamed__" }] to /dst/ (Some("1:2"), None, Archives, false, []) <0 <1["a.tar"] <2 <3 | [2/4] ADD --chown=1:2 https://u:p@host/dir/[x]%20y?q=1 a.tar http://host /dst/ @3-3
         5 http https://host/a.tar as "a.tar" Some(sha256:0000000000000000000000000000000000000000000000000000000000000000) | https://host/a.tar @4-4
         6 copy [Remote { input: 1, path: "a.tar" }] to /dst/ (None, None, Everything, false, []) <4 <5 | [3/4] ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 --unpack=true https://host/a.tar /dst/ @4-4
         7 http http://host/b as "b" None | http://host/b @5-5
         8 scratch | 
         9 copy [Remote { input: 1, path: "b" }] to /b (None, None, Never, false, ["x"]) <8 <7 | [4/4] ADD --link --unpack=false --exclude=x http://host/b /b @5-5
        *10 merge <6 <9 | [4/4] LINK ADD --link --unpack=false --exclude=x http://host/b /b @5-5
        + base
        - ARG SUM=sha256:0000000000000000000000000000000000000000000000000000000000000000
        + ADD --chown=1:2 https://u:p@host/dir/[x]%20y?q=1 a.tar http://host /dst/ # buildkit
        + ADD https://host/a.tar /dst/ # buildkit
        + ADD http://host/b /b # buildkit
        {"Env":["PATH=/bin"],"Cmd":["sh"]}
    "#]],
    );
}

#[test]
fn repositories_are_sources_of_their_own() {
    let text = "FROM busybox\nARG REF=v1\n\
                ADD --chown=1:2 --exclude=*.md https://u:p@host/a.git#$REF:dir /dst/\n\
                ADD --keep-git-dir=true --checksum=ABCD git@host:a/b /dst/\n\
                ADD git://host/a?submodules=false x /dst/\n";
    check(
        text,
        &options(),
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [1/4] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @1-1
         1 git https://u:p@host/a.git Some("v1") None Removed true | https://u:xxxxx@host/a.git#v1:dir @3-3
         2 copy [Remote { input: 1, path: "dir" }] to /dst/ (Some("1:2"), None, Archives, false, ["*.md"]) <0 <1["dir"] | [2/4] ADD --chown=1:2 --exclude=*.md https://u:p@host/a.git#v1:dir /dst/ @3-3
         3 git git@host:a/b None Some("abcd") Kept true | git@host:a/b @4-4
         4 copy [Remote { input: 1, path: "/" }] to /dst/ (None, None, Archives, false, []) <2 <3 | [3/4] ADD --keep-git-dir=true --checksum=ABCD git@host:a/b /dst/ @4-4
         5 context context | [internal] load build context
         6 git git://host/a None None Removed false | git://host/a?submodules=false @5-5
        *7 copy [Remote { input: 2, path: "/" }, Path { input: 1, path: "x" }] to /dst/ (None, None, Archives, false, []) <4 <5["x"] <6["/"] | [4/4] ADD git://host/a?submodules=false x /dst/ @5-5
        + base
        - ARG REF=v1
        + ADD --chown=1:2 https://u:p@host/a.git#v1:dir /dst/ # buildkit
        + ADD git@host:a/b /dst/ # buildkit
        + ADD git://host/a?submodules=false x /dst/ # buildkit
        {"Env":["PATH=/bin"],"Cmd":["sh"]}
    "#]],
    );
}

#[test]
fn options_of_the_build_reach_the_steps() {
    let options = LowerOptions {
        build_args: [("HTTP_PROXY".to_owned(), "http://p".to_owned()), ("A".to_owned(), "given".to_owned())]
            .into(),
        labels: [("l".to_owned(), "cli".to_owned())].into(),
        no_cache: NoCache::Stages(vec!["B".to_owned()]),
        network: solver::NetworkMode::None,
        allow: BTreeSet::from(["network.host".to_owned()]),
        platform: Platform::new("linux", "arm64", None),
        ..options()
    };
    let text = "ARG A\nFROM --platform=$BUILDPLATFORM busybox AS a\nARG TARGETARCH A\nRUN x\nFROM busybox AS b\n\
                LABEL l=file\nCOPY --from=a / /\nRUN --network=host y\nARG http_proxy=own\nRUN z\n";
    check(
        text,
        &options,
        &expect![[r#"
         0 image docker.io/library/busybox:latest linux/amd64 | [a 1/2] FROM docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91 @2-2
         1 run ["/bin/sh", "-c", "x"] env ["PATH=/bin", "TARGETARCH=arm64", "A=given"] proxy ["HTTP_PROXY=http://p", "http_proxy=http://p"] in / as "" None Sandbox [] <0 | [a 2/2] RUN x @4-4
         2 copy [Path { input: 1, path: "/" }] to / (None, None, Never, false, []) <0 <1["/"] | [b 2/4] COPY --from=a / / @7-7 no-cache
         3 run ["/bin/sh", "-c", "y"] env ["PATH=/bin"] proxy ["HTTP_PROXY=http://p", "http_proxy=http://p"] in / as "" Host Sandbox [] <2 | [b 3/4] RUN --network=host y @8-8 no-cache
        *4 run ["/bin/sh", "-c", "z"] env ["PATH=/bin", "http_proxy=own"] proxy ["HTTP_PROXY=http://p"] in / as "" None Sandbox [] <3 | [b 4/4] RUN z @10-10 no-cache
        + base
        - LABEL l=file
        + COPY / / # buildkit
        + RUN /bin/sh -c y # buildkit
        - ARG http_proxy=own
        + RUN |1 http_proxy=own /bin/sh -c z # buildkit
        {"Env":["PATH=/bin"],"Cmd":["sh"],"Labels":{"l":"cli"}}
    "#]],
    );
}

#[test]
fn images_are_asked_for_in_one_batch_and_those_of_triggers_in_a_second() {
    let text = "FROM busybox AS x\nFROM missing AS unused\nFROM rich AS y\nFROM onbuild\nCOPY --from=y / /\n";
    let file = parse(&SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() });
    let mut resolver = Stub::default();
    let diagnostics = lower(&file, &options(), &mut resolver).expect_err("the trigger's image is missing");
    assert_eq!(resolver.calls, [vec!["onbuild", "rich"], vec!["tool"]]);
    assert_eq!(diagnostics[0].message, "tool: not found");
    assert_eq!(diagnostics[0].span.map(|span| span.first_line), Some(4));
}

#[test]
fn config_instructions_are_recorded() {
    let text = "FROM scratch\nARG A=1 B\nENV E=1 F=\"two words\"\nLABEL l=1 \"m n\"=\"o p\"\nMAINTAINER me\n\
                EXPOSE 2 1/udp\nVOLUME /v /w\nSTOPSIGNAL 15\nSHELL [\"/s\", \"-x y\"]\n\
                HEALTHCHECK --interval=90s CMD [\"h\", \"i j\"]\nENTRYPOINT [\"e\", \"f g\"]\nCMD c d\nONBUILD RUN x\n";
    check(
        text,
        &options(),
        &expect![[r#"
        *0 scratch | 
        - ARG A=1 B
        - ENV E=1 F=two words
        - LABEL l=1 m n=o p
        - MAINTAINER me
        - EXPOSE [1/udp 2/tcp]
        - VOLUME [/v /w]
        - STOPSIGNAL 15
        - SHELL [/s -x y]
        - HEALTHCHECK {Test:[CMD h i j] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
        - ENTRYPOINT ["e" "f g"]
        - CMD ["/s" "-x y" "c d"]
        {"ExposedPorts":{"1/udp":{},"2/tcp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","E=1","F=two words"],"Entrypoint":["e","f g"],"Cmd":["/s","-x y","c d"],"Volumes":{"/v":{},"/w":{}},"WorkingDir":"/","Labels":{"l":"1","m n":"o p"},"StopSignal":"15","ArgsEscaped":true,"Healthcheck":{"Test":["CMD","h","i j"],"Interval":90000000000},"OnBuild":["RUN x"],"Shell":["/s","-x y"]}
    "#]],
    );
}

#[test]
fn the_time_of_a_build_comes_from_the_argument_or_a_global_default() {
    let epoch = |text: &str, given: Option<&str>| {
        let given = given.map(|value| ("SOURCE_DATE_EPOCH".to_owned(), value.to_owned()));
        let named = [("named".to_owned(), NamedContext::Local)].into();
        let options =
            LowerOptions { build_args: given.into_iter().collect(), named_contexts: named, ..options() };
        let lowered = lower(
            &parse(&SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() }),
            &options,
            &mut Stub::default(),
        );
        let lowered = lowered.map_err(|list| {
            let line = list[0].span.map_or(0, |span| span.first_line);
            format!("{line} {}: {}", list[0].code, list[0].message)
        })?;
        let mtimes = lowered.graph.vertices().iter().filter_map(|vertex| match &vertex.op {
            Op::Mkdir(mkdir) => Some(mkdir.mtime),
            _ => None,
        });
        assert_eq!(mtimes.collect::<Vec<_>>(), [lowered.epoch]);
        Ok::<_, String>(lowered.epoch)
    };
    let with = |default: &str| {
        format!("ARG X=12\nARG SOURCE_DATE_EPOCH{default}\nFROM busybox AS base\nWORKDIR /d\n")
    };
    let without = "FROM busybox\nARG SOURCE_DATE_EPOCH=5\nWORKDIR /d\n";
    let stage = |body: &str| {
        format!(
            "ARG H=h\nARG SOURCE_DATE_EPOCH=Src\nFROM scratch AS src\n{body}\nFROM busybox AS base\nWORKDIR /d\n"
        )
    };
    let wrong = |message: &str| Err(format!("3 invalid-epoch: SOURCE_DATE_EPOCH stage {message}"));
    for (text, given, wanted) in [
        (without.to_owned(), None, Ok(None)),
        (without.to_owned(), Some("7"), Ok(Some(7))),
        (with(""), None, Ok(None)),
        (with("=123"), None, Ok(Some(123))),
        (with("=${X}3"), None, Ok(Some(123))),
        (with("=123"), Some("7"), Ok(Some(7))),
        (with("=123"), Some(""), Ok(None)),
        (with("=x"), Some("0"), Ok(Some(0))),
        (with("=x"), None, Err("2 invalid-epoch: invalid SOURCE_DATE_EPOCH: x".to_owned())),
        (with("=1"), Some("1.5"), Err("0 invalid-epoch: invalid SOURCE_DATE_EPOCH: 1.5".to_owned())),
        (with("=context"), None, Ok(Some(100))),
        (with("=named"), None, Ok(None)),
        (with("=1"), Some("context"), Ok(Some(100))),
        (stage("ADD https://h/f /"), None, Ok(Some(300))),
        (stage("ARG H\nARG F=f\nADD https://$H/$F /"), None, Ok(Some(300))),
        (stage("ADD https://h/a.git#main /"), None, Ok(Some(200))),
        (stage("ADD f /"), None, wrong("source must be a single HTTP(S) or Git ADD")),
        (stage("ADD https://h/f https://h/g /"), None, wrong("must contain exactly one remote ADD source")),
        (stage("ADD https://h/f /\nADD https://h/f /"), None, wrong("must contain exactly one remote ADD")),
        (stage("ARG A"), None, wrong("must contain exactly one remote ADD")),
        (
            stage("COPY f /"),
            None,
            wrong("does not meet source-only requirements: unsupported copy instruction"),
        ),
        (
            with("=BASE"),
            None,
            Err("3 invalid-epoch: SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned()),
        ),
    ] {
        assert_eq!(epoch(&text, given), wanted, "{text} {given:?}");
    }
}

#[test]
fn what_onbuild_records_begins_behind_the_keyword() {
    let text = "FROM scratch\nonbuild \t -- RUN x \nONBUILD \\\n  --  CMD [\"\\ud800\"]\nCMD [\"\\ud800\"]\n";
    check(
        text,
        &options(),
        &expect![[r#"
        *0 scratch | 
        - CMD ["�"]
        {"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["�"],"WorkingDir":"/","ArgsEscaped":true,"OnBuild":["-- RUN x ","--  CMD [\"\\ud800\"]"]}
    "#]],
    );
}

#[test]
fn ports_are_in_the_order_of_the_words_as_they_were_written() {
    let text = "FROM scratch\nENV PORTS=\"9 10/UDP\" P=1\n\
                EXPOSE 99-101 8080:80 $PORTS 80/ 80 80/TCP 127.0.0.1::7/sctp\nEXPOSE ${P}0 9 5$P\n";
    check(
        text,
        &options(),
        &expect![[r#"
        *0 scratch | 
        - ENV PORTS=9 10/UDP P=1
        - EXPOSE [9/tcp 10/udp 7/sctp 80/tcp 80/tcp 80/tcp 80/tcp 99/tcp 100/tcp 101/tcp]
        - EXPOSE [10/tcp 51/tcp 9/tcp]
        {"ExposedPorts":{"10/tcp":{},"10/udp":{},"100/tcp":{},"101/tcp":{},"51/tcp":{},"7/sctp":{},"80/tcp":{},"9/tcp":{},"99/tcp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","PORTS=9 10/UDP","P=1"],"WorkingDir":"/"}
    "#]],
    );
}
