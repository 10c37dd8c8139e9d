//! The solve against a worker in memory.

mod memory_worker;
mod plan;
mod promises;
mod property;
mod scale;

use crate::{
    CopyOp, CopySource, ImageLocation, ImageOp, ImageSource, NetworkMode, Op, RunMount, RunMountKind, RunOp,
    SecurityMode, Unpack,
};
use oci::{ChainId, Digest, Platform};

pub(crate) fn image_op(name: &str) -> Op {
    let location = ImageLocation::OciLayout { path: "layout".into(), tag_or_digest: "latest".to_owned() };
    Op::Image(ImageOp {
        chain_id: ChainId(Digest::sha256(name.as_bytes())),
        source: ImageSource {
            name: name.to_owned(),
            manifest: Digest::sha256(b"manifest"),
            location,
            platform: Platform::new("linux", "amd64", None),
        },
    })
}

pub(crate) fn run_op(args: &str) -> Op {
    Op::Run(RunOp {
        args: vec![args.to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        proxy_env: Vec::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        hostname: None,
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        mounts: Vec::new(),
        secret_env: Vec::new(),
        devices: Vec::new(),
        extra_hosts: Vec::new(),
        ulimits: Vec::new(),
        shm_size_bytes: None,
        cgroup_parent: None,
        platform: Platform::new("linux", "amd64", None),
    })
}

/// The same with a mount of input 1.
pub(crate) fn run_with_mount(args: &str) -> Op {
    let Op::Run(run) = run_op(args) else { unreachable!() };
    let kind = RunMountKind::Bind { input: 1, read_only: true };
    Op::Run(RunOp { mounts: vec![RunMount { target: "/m".to_owned(), kind }], ..run })
}

/// A copy of `paths` of input 1.
pub(crate) fn copy_op(paths: &[&str], destination: &str) -> Op {
    let source = |path: &&str| CopySource::Path { input: 1, path: (*path).to_owned() };
    Op::Copy(CopyOp {
        sources: paths.iter().map(source).collect(),
        destination: format!("{destination}/"),
        chown: None,
        chmod: None,
        unpack: Unpack::Never,
        parents: false,
        exclude: Vec::new(),
    })
}
