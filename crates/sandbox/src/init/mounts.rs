//! The mounts of a sandbox: `/proc`, `/sys`, `/dev` and what is below, the caller's, and what is masked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, chown, makedev, mkdir, mknodat, open, symlink};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount,
    open_tree, unmount,
};

use super::points::{Point, PointKind, Points, ensure_fixed};
use super::{During, Step, devices, rootfs};
use crate::wire::{Stub, Surroundings};
use crate::{Fallback, MountKind, MountSpec, ProcessSpec, Security, kernel};

/// Name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// What shows something of the machine, or slows it down when it is read; as Docker.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Where root without any capability could change the machine; as Docker.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const CLOSED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A mount that is attached nowhere yet.
pub(super) struct Detached {
    tree: OwnedFd,
    restriction: Restriction,
}

/// What a mount is to allow no longer once it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Restriction {
    taken: MountAttrFlags,
    /// Whether it holds for what is mounted below, too.
    recursive: bool,
}

impl Restriction {
    pub(super) const NONE: Self = Self { taken: MountAttrFlags::empty(), recursive: false };
    pub(super) const READ_ONLY: Self = Self { taken: MountAttrFlags::MOUNT_ATTR_RDONLY, recursive: false };
    const READ_ONLY_BELOW: Self = Self { recursive: true, ..Self::READ_ONLY };

    /// Of a mount of the caller: device nodes in it reach the machine no more than those of the root file system.
    fn of_bind(read_only: bool, spec: &ProcessSpec) -> Self {
        let read_only = if read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
        Self { taken: read_only | rootfs::flags(spec).0, recursive: true }
    }
}

/// Everything that comes from outside of the new root.
pub(super) struct Gathered {
    proc: Detached,
    /// Whether it is a file system of its own.
    pub(super) fresh_proc: bool,
    sys: Detached,
    cgroup: Option<Detached>,
    /// The caller's device nodes, where none can be made.
    nodes: Vec<(String, Detached)>,
    /// The machine's nodes of the devices that were asked for, likewise.
    devices: Vec<Detached>,
    /// What the caller's mounts of files and directories show, in their order.
    binds: Vec<Detached>,
}

/// Opens what is outside of the new root.
pub(super) fn gather(spec: &ProcessSpec, surroundings: Surroundings) -> Step<Gathered> {
    let sandboxed = spec.security == Security::Sandbox;
    let fresh_proc = if spec.fallbacks.contains(&Fallback::OuterProc) {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    } else {
        fresh("proc", &[], CLOSED)
    };
    let fresh_sys = if spec.fallbacks.contains(&Fallback::OuterSys) {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    } else {
        let read_only = if sandboxed { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
        fresh("sysfs", &[], CLOSED | read_only)
    };
    let binds = spec.mounts.iter().filter_map(|mount| gather_bind(mount, spec));
    let sys_below = if sandboxed { Restriction::READ_ONLY_BELOW } else { Restriction::NONE };
    Ok(Gathered {
        fresh_proc: fresh_proc.is_ok(),
        proc: or_outside(fresh_proc, "/proc", Restriction::NONE)?,
        sys: or_outside(fresh_sys, "/sys", sys_below)?,
        cgroup: gather_cgroup(sandboxed),
        nodes: gather_nodes(spec, surroundings)?,
        devices: devices::gather(spec, surroundings)?,
        binds: binds.collect::<Step<_>>()?,
    })
}

/// What a mount shows that is of the caller's files.
fn gather_bind(mount: &MountSpec, spec: &ProcessSpec) -> Option<Step<Detached>> {
    let (source, detached) = match &mount.kind {
        MountKind::Bind { source, read_only } => {
            (source, outside(source, Restriction::of_bind(*read_only, spec)))
        }
        MountKind::HostBind { source, read_only, no_suid, no_exec } => {
            let mut restriction = Restriction::of_bind(*read_only, spec);
            let pairs =
                [(no_suid, MountAttrFlags::MOUNT_ATTR_NOSUID), (no_exec, MountAttrFlags::MOUNT_ATTR_NOEXEC)];
            restriction.taken.extend(pairs.into_iter().filter(|(is_set, _)| **is_set).map(|(_, flag)| flag));
            (source, outside(source, restriction))
        }
        MountKind::Overlay { overlay, source } => {
            let part = rootfs::part_of_overlay(overlay, source, spec);
            // It is mounted like the root file system, and cannot be written to without an upper directory.
            (source, part.map(|tree| Detached { tree, restriction: Restriction::NONE }))
        }
        MountKind::Tmpfs { .. } | MountKind::File { .. } => return None,
    };
    Some(detached.during("open the source of a mount", source))
}

/// The kernel refuses a fresh file system where parts of the caller's are hidden from it, and `/sys` to a user
/// namespace that does not own the network; what the caller sees is then shown.
fn or_outside(fresh: io::Result<OwnedFd>, path: &'static str, restriction: Restriction) -> Step<Detached> {
    match fresh {
        Ok(tree) => Ok(Detached { tree, restriction: Restriction::NONE }),
        Err(_) => outside(Path::new(path), restriction).during("bind", path),
    }
}

/// The cgroups of the sandbox, where the machine has the second version. The first one's many mounts are for those alone
/// who may write to them: all of the machine's then, as a container engine in an insecure step wants them.
fn gather_cgroup(sandboxed: bool) -> Option<Detached> {
    const CGROUPS: &str = "/sys/fs/cgroup";
    const CGROUP2_MAGIC: u32 = 0x6367_7270;
    let found = rustix::fs::statfs(CGROUPS).ok()?;
    if u32::try_from(found.f_type).ok()? != CGROUP2_MAGIC {
        let insecure = !sandboxed;
        return insecure.then(|| outside(Path::new(CGROUPS), Restriction::NONE).ok()).flatten();
    }
    let read_only = if sandboxed { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    let tree = fresh("cgroup2", &[], CLOSED | read_only).ok()?;
    Some(Detached { tree, restriction: Restriction::NONE })
}

fn gather_nodes(spec: &ProcessSpec, surroundings: Surroundings) -> Step<Vec<(String, Detached)>> {
    let mut nodes = Vec::new();
    if surroundings.in_user_namespace || spec.fallbacks.contains(&Fallback::BindDevices) {
        for (name, ..) in DEVICES {
            let path = Path::new("/dev").join(name);
            // Read-only: writing to the device stays possible, changing the mode of the machine's node does not.
            nodes.push((
                name.to_owned(),
                outside(&path, Restriction::READ_ONLY).during("bind the device", &path)?,
            ));
        }
    }
    if spec.security == Security::Insecure {
        for entry in std::fs::read_dir("/dev").during("list", "/dev")?.flatten() {
            use std::os::unix::fs::FileTypeExt;
            let is_device =
                entry.file_type().is_ok_and(|kind| kind.is_char_device() || kind.is_block_device());
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !is_device
                || name == "ptmx"
                || name == "console"
                || DEVICES.iter().any(|(own, ..)| *own == name)
            {
                continue;
            }
            if let Ok(node) = outside(&entry.path(), Restriction::NONE) {
                nodes.push((name, node));
            }
        }
    }
    Ok(nodes)
}

/// Mounts everything inside the new root, in which this process is by now.
pub(super) fn attach(spec: &ProcessSpec, gathered: Gathered) -> Step<Vec<Stub>> {
    for fixed in ["/proc", "/sys", "/dev"] {
        ensure_fixed(fixed).during("make the mount point", fixed)?;
    }
    let context = Attaching { by_remount: spec.fallbacks.contains(&Fallback::ReadOnlyByRemount) };
    let prepared = prepare(spec, gathered.devices, &context)?;
    context.attach(&gathered.proc, "/proc")?;
    context.attach(&gathered.sys, "/sys")?;
    if let Some(cgroup) = gathered.cgroup {
        // Where `/sys` is the caller's, its own may be in the way; then that stays.
        let _ = context.attach(&cgroup, "/sys/fs/cgroup");
    }
    attach_dev(spec, gathered.nodes, prepared.nodes, &context)?;
    // Before anything of the caller's is mounted: what is in `/dev` and `/proc` now is what the kernel and this made.
    if spec.security == Security::Sandbox {
        hide(&prepared.empty_directory, &context)?;
    }
    own_stdin()?;
    let mut points = Points::on(Path::new("/")).during("look at", "/")?;
    for (path, file) in prepared.files_of_etc {
        context.attach_at_point(&file, Path::new(path), PointKind::File, &mut points)?;
    }
    for (device, node) in spec.devices.iter().zip(prepared.devices) {
        context.attach_at_point(&node, &device.path, PointKind::File, &mut points)?;
    }
    let mut binds = gathered.binds.into_iter();
    let mut files = prepared.files.into_iter();
    for mount in &spec.mounts {
        attach_mount((mount, spec), &mut binds, &mut files, &context, &mut points)?;
    }
    Ok(points.into_stubs())
}

/// Makes the standard input the sandbox's own device: root could change the mode of the machine's by its descriptor.
fn own_stdin() -> Step {
    let path = "/dev/null";
    let null = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
    // What the caller gives the program to read stays.
    let device = |stat: rustix::fs::Stat| (FileType::from_raw_mode(stat.st_mode), stat.st_rdev);
    let is_null =
        rustix::fs::fstat(rustix::stdio::stdin()).map(device) == rustix::fs::fstat(&null).map(device);
    if is_null { kernel::replace_stdin(null.as_fd()).during("open", path) } else { Ok(()) }
}

/// How mounts are attached.
struct Attaching {
    by_remount: bool,
}

impl Attaching {
    fn attach(&self, mount: &Detached, target: impl AsRef<Path>) -> Step {
        let target = target.as_ref();
        self.try_attach(mount, target).during("mount", target)
    }

    fn try_attach(&self, mount: &Detached, target: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.try_attach_over(mount, &open(target, flags, Mode::empty())?, target)
    }

    /// `target` is the path of `place`, which older kernels need.
    fn try_attach_over(&self, mount: &Detached, place: &OwnedFd, target: &Path) -> io::Result<()> {
        let Restriction { taken, recursive } = mount.restriction;
        let set = !taken.is_empty()
            && !self.by_remount
            && match kernel::restrict(mount.tree.as_fd(), taken, recursive) {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => false,
                Err(error) => return Err(error),
            };
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(mount.tree.as_fd(), "", place, "", empty)?;
        if taken.is_empty() || set {
            return Ok(());
        }
        remount(target, taken)?;
        if recursive {
            for below in mounts_below(target)? {
                remount(&below, taken)?;
            }
        }
        Ok(())
    }

    fn attach_at_point(&self, mount: &Detached, target: &Path, kind: PointKind, points: &mut Points) -> Step {
        let Point { place, path } = points.ensure(target, kind).during("make the mount point", target)?;
        self.try_attach_over(mount, &place, &path).during("mount", target)
    }
}

/// Keeps the program from writing to the root file system; what is mounted in it stays as it is.
pub(super) fn make_root_read_only() -> Step {
    remount(Path::new("/"), MountAttrFlags::MOUNT_ATTR_RDONLY).during("make the root read-only", "/")
}

/// Takes rights from a mount that is attached.
fn remount(target: &Path, taken: MountAttrFlags) -> io::Result<()> {
    let pairs = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    ];
    let wanted = pairs.into_iter().filter(|(flag, _)| taken.contains(*flag));
    let flags = wanted.fold(MountFlags::BIND | kept_flags(target)?, |flags, (_, flag)| flags | flag);
    Ok(mount_remount(target, flags, c"")?)
}

/// The flags of a mount that a remount has to repeat: in a user namespace the inherited ones are locked.
pub(super) fn kept_flags(target: &Path) -> io::Result<MountFlags> {
    use rustix::fs::StatVfsMountFlags as Found;
    let found = rustix::fs::statvfs(target)?.f_flag;
    let relative = Found::from_bits_retain(4096);
    let pairs = [
        (Found::RDONLY, MountFlags::RDONLY),
        (Found::NOSUID, MountFlags::NOSUID),
        (Found::from_bits_retain(4), MountFlags::NODEV),
        (Found::from_bits_retain(8), MountFlags::NOEXEC),
        (Found::from_bits_retain(1024), MountFlags::NOATIME),
        (Found::from_bits_retain(2048), MountFlags::NODIRATIME),
        (relative, MountFlags::RELATIME),
    ];
    Ok(pairs
        .into_iter()
        .filter(|(flag, _)| found.contains(*flag))
        .fold(MountFlags::empty(), |flags, (_, kept)| flags | kept))
}

/// The mount points below a directory, from `/proc`, which has to be mounted.
fn mounts_below(target: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(|point| std::ffi::OsString::from_vec(unescape(point)).into())
        .filter(|point: &std::path::PathBuf| point.starts_with(target) && point != target)
        .collect())
}

/// Undoes the kernel's `\040` for bytes that would break the table.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(value) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            plain.push(value);
            rest = &after[3..];
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    plain
}

/// Small things in memory that are shown at several places.
struct Prepared {
    empty_directory: OwnedFd,
    files_of_etc: Vec<(&'static str, Detached)>,
    files: Vec<Detached>,
    nodes: Vec<(&'static str, Detached)>,
    devices: Vec<Detached>,
}

/// Makes them in a file system that is mounted on `/proc` for a moment: only what is attached can be cloned.
fn prepare(spec: &ProcessSpec, devices: Vec<Detached>, context: &Attaching) -> Step<Prepared> {
    let during = "prepare files in memory";
    // Device nodes must work here and scripts be executable. The program cannot make any here: it never sees more than
    // single files.
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    // There may be secrets among them, and what is in a tmpfs may get to a disk to be swapped.
    let mode = [("mode", "0755")];
    let tree = fresh("ramfs", &mode, attributes).or_else(|_| fresh("tmpfs", &mode, attributes));
    let tree = tree.during(during, "")?;
    context.attach(&Detached { tree, restriction: Restriction::NONE }, "/proc")?;
    let mut files_of_etc = Vec::new();
    for (path, name, content) in [
        ("/etc/resolv.conf", "/proc/resolv.conf", &spec.resolv_conf),
        ("/etc/hosts", "/proc/hosts", &spec.hosts),
    ] {
        if let Some(content) = content {
            std::fs::write(name, content).during(during, path)?;
            files_of_etc.push((path, outside(Path::new(name), Restriction::READ_ONLY).during(during, path)?));
        }
    }
    let mut files = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        if let MountKind::File { content, mode, uid, gid } = &mount.kind {
            let name = format!("/proc/file-{index}");
            std::fs::write(&name, content).during(during, &mount.target)?;
            if (*uid, *gid) != (0, 0) {
                chown(&name, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))
                    .during("set the owner of", &mount.target)?;
            }
            rustix::fs::chmod(&name, Mode::from_raw_mode(*mode)).during(during, &mount.target)?;
            files.push(outside(Path::new(&name), Restriction::READ_ONLY).during(during, &mount.target)?);
        }
    }
    mkdir("/proc/empty", Mode::from_raw_mode(0o755)).during(during, "")?;
    let nodes = make_nodes()?;
    let devices = devices::make(spec, devices, Path::new("/proc"))?;
    let empty_directory = clone_tree(Path::new("/proc/empty"), false).during(during, "")?;
    unmount("/proc", UnmountFlags::DETACH).during(during, "")?;
    Ok(Prepared { empty_directory, files_of_etc, files, nodes, devices })
}

/// The device nodes; none where the kernel does not let this process make any.
fn make_nodes() -> Step<Vec<(&'static str, Detached)>> {
    let mut nodes = Vec::new();
    for (name, major, minor) in DEVICES {
        let path = format!("/proc/{name}");
        let mode = Mode::from_raw_mode(0o666);
        match mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)) {
            Ok(()) => {}
            Err(rustix::io::Errno::PERM) => return Ok(Vec::new()),
            Err(error) => return Err(error).during("make the device", name),
        }
        // The mask took bits away.
        rustix::fs::chmod(&path, mode).during("make the device", name)?;
        nodes.push((name, outside(Path::new(&path), Restriction::NONE).during("make the device", name)?));
    }
    Ok(nodes)
}

/// `/dev`: a file system of its own in which device nodes do not work, so that made ones reach nothing; the few good
/// ones are mounted over empty files.
fn attach_dev(
    spec: &ProcessSpec,
    bound: Vec<(String, Detached)>,
    made: Vec<(&'static str, Detached)>,
    context: &Attaching,
) -> Step {
    let sandboxed = spec.security == Security::Sandbox;
    let nodev = if sandboxed { MountAttrFlags::MOUNT_ATTR_NODEV } else { MountAttrFlags::empty() };
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME | nodev;
    mount_fresh("tmpfs", &[("mode", "0755"), ("size", "65536k")], attributes, "/dev", context)?;
    for name in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        mkdir(name, Mode::from_raw_mode(0o755)).during("make", name)?;
    }
    let exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = fresh_pts(exec).during("mount", "/dev/pts")?;
    context.attach(&Detached { tree: pts, restriction: Restriction::NONE }, "/dev/pts")?;
    let size = spec.shm_size_bytes.to_string();
    mount_fresh("tmpfs", &[("mode", "1777"), ("size", &size)], CLOSED, "/dev/shm", context)?;
    mount_fresh("mqueue", &[], CLOSED, "/dev/mqueue", context)?;
    // Bound ones win: there are some only where made ones do not work or were not asked for.
    let names: Vec<String> = bound.iter().map(|(name, _)| name.clone()).collect();
    let made = made.into_iter().map(|(name, node)| (name.to_owned(), node));
    for (name, node) in bound.into_iter().chain(made.filter(|(name, _)| !names.contains(name))) {
        let path = Path::new("/dev").join(name);
        std::fs::File::create_new(&path).during("make", &path)?;
        context.attach(&node, &path)?;
    }
    let core = Path::new("/proc/kcore").exists().then_some(("/proc/kcore", "/dev/core"));
    for (target, link) in LINKS.into_iter().chain(core) {
        symlink(target, link).during("make the link", link)?;
    }
    Ok(())
}

/// Terminals belong to the group `tty`, which a user namespace may lack.
fn fresh_pts(attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let modes = [("ptmxmode", "0666"), ("mode", "0620")];
    fresh("devpts", &[modes[0], modes[1], ("gid", "5")], attributes)
        .or_else(|_| fresh("devpts", &modes, attributes))
}

fn mount_fresh(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
    target: &str,
    context: &Attaching,
) -> Step {
    let tree = fresh(kind, options, attributes).during("mount", target)?;
    context.attach(&Detached { tree, restriction: Restriction::NONE }, target)
}

fn attach_mount(
    (mount, spec): (&MountSpec, &ProcessSpec),
    binds: &mut impl Iterator<Item = Detached>,
    files: &mut impl Iterator<Item = Detached>,
    context: &Attaching,
    points: &mut Points,
) -> Step {
    let (detached, kind) = match &mount.kind {
        MountKind::Bind { .. } | MountKind::HostBind { .. } | MountKind::Overlay { .. } => {
            let tree = binds.next().expect("what is outside was gathered");
            let stat = rustix::fs::fstat(&tree.tree).during("look at the source of", &mount.target)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            (tree, if is_directory { PointKind::Directory } else { PointKind::File })
        }
        MountKind::File { .. } => (files.next().expect("each file was prepared"), PointKind::File),
        MountKind::Tmpfs { size_bytes, read_only } => {
            let size = size_bytes.map(|size| size.to_string());
            let mut options = vec![("mode", "1777")];
            options.extend(size.as_deref().map(|size| ("size", size)));
            // Programs that are unpacked or compiled in it are run there.
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | rootfs::flags(spec).0;
            let tree = fresh("tmpfs", &options, attributes).during("mount", &mount.target)?;
            let restriction = if *read_only { Restriction::READ_ONLY } else { Restriction::NONE };
            (Detached { tree, restriction }, PointKind::Directory)
        }
    };
    context.attach_at_point(&detached, &mount.target, kind, points)
}

fn hide(empty_directory: &OwnedFd, context: &Attaching) -> Step {
    for path in READ_ONLY {
        if Path::new(path).symlink_metadata().is_ok() {
            let tree = outside(Path::new(path), Restriction::READ_ONLY_BELOW).during("open", path)?;
            context.attach(&tree, path)?;
        }
    }
    for path in MASKED {
        let Ok(metadata) = Path::new(path).symlink_metadata() else { continue };
        let mask = if metadata.is_dir() {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let tree = open_tree(empty_directory, "", flags).during("mask", path)?;
            Detached { tree, restriction: Restriction::READ_ONLY }
        } else {
            outside(Path::new("/dev/null"), Restriction::NONE).during("mask", path)?
        };
        context.attach(&mask, path)?;
    }
    Ok(())
}

/// A copy of a mount of this namespace.
pub(super) fn outside(path: &Path, restriction: Restriction) -> io::Result<Detached> {
    Ok(Detached { tree: clone_tree(path, true)?, restriction })
}

fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let below = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | below)?)
}

/// A file system of its own.
fn fresh(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What stands first in a line of /proc/mounts.
    fsconfig_set_string(context.as_fd(), "source", kind)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    if kind == "devpts" {
        fsconfig_set_flag(context.as_fd(), "newinstance")?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Whether a file system of its own can be had.
pub(super) fn try_fresh(kind: &str) -> io::Result<()> {
    fresh(kind, &[], CLOSED).map(drop)
}

/// An empty directory that is attached nowhere.
pub(super) fn empty_root() -> rustix::io::Result<OwnedFd> {
    // What is executed there is outside of it.
    fresh("tmpfs", &[], CLOSED)
        .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
}

/// The handlers of this user namespace.
pub(super) fn fresh_binfmt_misc() -> io::Result<OwnedFd> {
    fresh("binfmt_misc", &[], CLOSED)
}

/// Whether a mount can be made read-only before it is attached.
pub(super) fn try_read_only() -> io::Result<()> {
    let tree = fresh("tmpfs", &[], CLOSED)?;
    kernel::restrict(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)
}
