//! The device nodes that the caller asked for, beyond the ordinary ones: single files that are mounted where they are to
//! be, so that nothing else of what surrounds them works.

use std::path::Path;

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chown, makedev, mknodat};

use super::mounts::{Detached, Restriction, outside};
use super::{During, Step};
use crate::wire::Surroundings;
use crate::{DeviceKind, DeviceNode, Fallback, ProcessSpec};

/// Opens the machine's nodes where none can be made: in a user namespace.
pub(super) fn gather(spec: &ProcessSpec, surroundings: Surroundings) -> Step<Vec<Detached>> {
    if !surroundings.in_user_namespace && !spec.fallbacks.contains(&Fallback::BindDevices) {
        return Ok(Vec::new());
    }
    let bound = spec.devices.iter().map(|device| {
        // Read-only: writing to the device stays possible, changing the mode of the machine's node does not.
        outside(&device.source, Restriction::READ_ONLY).during("bind the device", &device.source)
    });
    bound.collect()
}

/// Makes nodes in `directory`, in which they work, unless the machine's have been opened.
pub(super) fn make(spec: &ProcessSpec, bound: Vec<Detached>, directory: &Path) -> Step<Vec<Detached>> {
    if !bound.is_empty() {
        return Ok(bound);
    }
    let made = spec.devices.iter().enumerate().map(|(index, device)| {
        let path = directory.join(format!("device-{index}"));
        make_node(device, &path).during("make the device", &device.path)?;
        outside(&path, Restriction::NONE).during("make the device", &device.path)
    });
    made.collect()
}

fn make_node(device: &DeviceNode, path: &Path) -> rustix::io::Result<()> {
    let kind = match device.kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
    };
    let mode = Mode::from_raw_mode(device.mode);
    mknodat(CWD, path, kind, mode, makedev(device.major, device.minor))?;
    // The mask took bits away.
    rustix::fs::chmod(path, mode)?;
    chown(path, Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)))
}
