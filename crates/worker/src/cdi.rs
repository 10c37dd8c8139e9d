//! Devices of the machine for RUN, as the Container Device Interface describes them: nodes, mounts and variables, in files
//! that vendors put into a few directories.
//!
//! Not supported, and an error where a device wants it: hooks, which are programs of the machine that change the file
//! system of a container from outside; network devices; Intel RDT; nodes that may be read or written alone, which takes a
//! device cgroup.

mod spec;
mod yaml;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sandbox::{DeviceKind, DeviceNode, MountKind, MountSpec, ProcessSpec};
use spec::{Edits, Mount, Node, SpecFile};

/// Where specifications are if nothing else was configured, as with BuildKit. Of two that describe a device, the one in
/// the later directory counts.
pub const DEVICE_SPEC_DIRS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];

/// No specification is as long.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a device could not be given to a step.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is not registered any more.
    #[error("device `{0}` is not registered")]
    Unknown(String),
    /// It wants something that is not supported.
    #[error("device `{device}` wants {what}, which is not supported")]
    NotSupported {
        /// Which device.
        device: String,
        /// What it wants, in words.
        what: String,
    },
    /// Its node could not be looked at.
    #[error("device `{device}`: cannot look at `{}`", path.display())]
    Node {
        /// Which device.
        device: String,
        /// The node on the machine.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// The devices that are registered on this machine.
#[derive(Debug, Default)]
pub struct DeviceRegistry {
    files: Vec<SpecFile>,
    /// By qualified name: the file, and the device in it.
    devices: BTreeMap<String, (usize, usize)>,
    problems: Vec<String>,
}

impl DeviceRegistry {
    /// Reads the specifications in these directories, the most important one last. What cannot be read is
    /// [told](Self::problems), and the rest holds; a directory that does not exist is empty. Blocks.
    pub fn load(directories: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for directory in directories {
            let mut here = BTreeMap::new();
            for path in registry.specifications(directory) {
                match read(&path) {
                    Ok(file) => registry.add(&path, file, &mut here),
                    Err(reason) => registry.problems.push(format!("`{}`: {reason}", path.display())),
                }
            }
            // What two files of one directory describe is nobody's.
            for (name, device) in here {
                match device {
                    Some(device) => registry.devices.insert(name, device),
                    None => registry.devices.remove(&name),
                };
            }
        }
        registry
    }

    /// The files of a directory that are specifications by their names, sorted.
    fn specifications(&mut self, directory: &Path) -> Vec<PathBuf> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Vec::new();
            }
            Err(error) => {
                self.problems.push(format!("`{}`: {error}", directory.display()));
                return Vec::new();
            }
        };
        let is_specification = |path: &PathBuf| {
            path.extension()
                .is_some_and(|extension| extension == "json" || extension == "yaml" || extension == "yml")
        };
        let mut paths: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(is_specification).collect();
        paths.sort();
        paths
    }

    fn add(&mut self, path: &Path, file: SpecFile, here: &mut BTreeMap<String, Option<(usize, usize)>>) {
        for (index, device) in file.devices.iter().enumerate() {
            let name = format!("{}={}", file.kind, device.name);
            let number = self.files.len();
            if here.insert(name.clone(), Some((number, index))).is_some() {
                self.problems
                    .push(format!("`{}`: another file describes the device `{name}`, too", path.display()));
                here.insert(name, None);
            }
        }
        self.files.push(file);
    }

    /// The qualified name of each device (`vendor.com/class=name`), with its annotations, sorted.
    pub fn devices(&self) -> impl Iterator<Item = (&str, BTreeMap<&str, &str>)> {
        self.devices.iter().map(|(name, &(file, device))| {
            let file = &self.files[file];
            let all = file.annotations.iter().chain(&file.devices[device].annotations);
            (name.as_str(), all.map(|(key, value)| (key.as_str(), value.as_str())).collect())
        })
    }

    /// What is wrong with the specifications, each with its file.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Gives devices to a process, by their qualified names. Blocks.
    pub(crate) fn give(&self, names: &[String], spec: &mut ProcessSpec) -> Result<(), DeviceError> {
        let mut files_done = Vec::new();
        for name in names {
            let &(number, index) =
                self.devices.get(name).ok_or_else(|| DeviceError::Unknown(name.clone()))?;
            let file = &self.files[number];
            if !files_done.contains(&number) {
                files_done.push(number);
                apply(name, &file.container_edits, spec)?;
            }
            apply(name, &file.devices[index].container_edits, spec)?;
        }
        // What is mounted below another mount is not hidden by it.
        spec.mounts.sort_by(|one, other| one.target.cmp(&other.target));
        Ok(())
    }
}

fn read(path: &Path) -> Result<SpecFile, String> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    file.map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err("it is too long".to_owned());
    }
    SpecFile::read(path, &text)
}

fn apply(device: &str, edits: &Edits, spec: &mut ProcessSpec) -> Result<(), DeviceError> {
    let refuse = |what: String| Err(DeviceError::NotSupported { device: device.to_owned(), what });
    if let Some(hook) = edits.hooks.first() {
        return refuse(format!("a hook (`{}` at `{}`)", hook.path, hook.stage));
    }
    if !edits.net_devices.is_empty() {
        return refuse("a network device".to_owned());
    }
    if edits.intel_rdt.is_some() {
        return refuse("Intel RDT".to_owned());
    }
    spec.env.extend(edits.env.iter().map(|variable| variable.clone().into_bytes()));
    for group in &edits.additional_groups {
        if *group != 0 && !spec.groups.contains(group) {
            spec.groups.push(*group);
        }
    }
    for node in &edits.device_nodes {
        let node = device_node(device, node, spec)?;
        spec.devices.retain(|other| other.path != node.path);
        spec.devices.push(node);
    }
    for mount in &edits.mounts {
        let mount = bind(device, mount)?;
        spec.mounts.retain(|other| other.target != mount.target);
        spec.mounts.push(mount);
    }
    Ok(())
}

/// A node; what the specification does not say is as on the machine, and its owner is the user of the step.
fn device_node(device: &str, node: &Node, spec: &ProcessSpec) -> Result<DeviceNode, DeviceError> {
    let refuse = |what: String| DeviceError::NotSupported { device: device.to_owned(), what };
    let is_part = |permissions: &&String| {
        let both = permissions.contains('r') && permissions.contains('w');
        !both && !permissions.is_empty()
    };
    if let Some(permissions) = node.permissions.as_ref().filter(is_part) {
        return Err(refuse(format!("`{}` with the permissions `{permissions}`", node.path.display())));
    }
    let source = node.host_path.as_ref().unwrap_or(&node.path);
    let found = if node.kind.is_some() && node.major.is_some() {
        None
    } else {
        let failed = |cause| DeviceError::Node { device: device.to_owned(), path: source.clone(), cause };
        Some(fs::metadata(source).map_err(failed)?)
    };
    let kind = match (&node.kind, &found) {
        (Some(kind), _) if kind == "c" || kind == "u" => DeviceKind::Character,
        (Some(kind), _) if kind == "b" => DeviceKind::Block,
        (None, Some(found)) if found.file_type().is_char_device() => DeviceKind::Character,
        (None, Some(found)) if found.file_type().is_block_device() => DeviceKind::Block,
        (None, _) => return Err(refuse(format!("`{}`, which is no device", source.display()))),
        (Some(kind), _) => return Err(refuse(format!("a node of the type `{kind}`"))),
    };
    let number = found.as_ref().map_or(0, MetadataExt::rdev);
    let mode = node.file_mode.or(found.as_ref().map(MetadataExt::mode)).unwrap_or(0o666);
    Ok(DeviceNode {
        path: node.path.clone(),
        source: source.clone(),
        kind,
        major: node.major.unwrap_or_else(|| rustix::fs::major(number)),
        minor: match (node.major, node.minor) {
            (Some(_), minor) => minor.unwrap_or_default(),
            (None, _) => rustix::fs::minor(number),
        },
        mode: mode & 0o777,
        uid: node.uid.unwrap_or(spec.uid),
        gid: node.gid.unwrap_or(spec.gid),
    })
}

/// A mount of a file or directory of the machine.
fn bind(device: &str, mount: &Mount) -> Result<MountSpec, DeviceError> {
    let refuse = |what: String| DeviceError::NotSupported { device: device.to_owned(), what };
    if let Some(kind) = mount.kind.as_ref().filter(|kind| !matches!(kind.as_str(), "" | "bind" | "none")) {
        return Err(refuse(format!("a mount of the type `{kind}`")));
    }
    let (mut read_only, mut no_suid, mut no_exec) = (false, false, false);
    for option in &mount.options {
        match option.as_str() {
            "ro" => read_only = true,
            "nosuid" => no_suid = true,
            "noexec" => no_exec = true,
            // Device nodes do not work anyway, and what is mounted stays in the step's namespace.
            "rw" | "nodev" | "bind" | "rbind" | "private" | "rprivate" | "relatime" => {}
            other => return Err(refuse(format!("the mount option `{other}`"))),
        }
    }
    let source = mount.host_path.clone();
    let kind = MountKind::HostBind { source, read_only, no_suid, no_exec };
    Ok(MountSpec { target: mount.container_path.clone(), kind })
}

#[cfg(test)]
#[path = "cdi/tests.rs"]
mod tests;
