//! What the program may do: its limits, its user and groups, its capabilities and its system calls.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, capabilities, clear_ambient_capability_set,
    move_into_link_name_space, remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{During, Failed, Step};
use crate::seccomp::Instruction;
use crate::wire::Surroundings;
use crate::{ProcessSpec, ResourceLimit, Security, kernel};

/// Docker's default set, `00000000a80425fb`.
const DEFAULT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Sets the asked-for limits. Still privileged: a hard limit may be above the caller's.
pub(super) fn limit(limits: &[ResourceLimit]) -> Step {
    for limit in limits {
        let step = "set the limit";
        let Some(resource) = resource(&limit.name) else {
            return Err(Errno::INVAL).during(step, &limit.name);
        };
        let value = |number: i64| u64::try_from(number).ok();
        setrlimit(resource, Rlimit { current: value(limit.soft), maximum: value(limit.hard) })
            .during(step, &limit.name)?;
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        "as" => Resource::As,
        _ => return None,
    })
}

/// Enters a user namespace with the same ids, beneath this one, where this process has all rights again. It has none
/// over what was set up before.
pub(super) fn enter_namespace(namespace: &OwnedFd, security: Security) -> Step {
    let step = "enter a user namespace";
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User)).during(step, "")?;
    if security == Security::Insecure {
        // A program that may mount can do so only in a mount namespace of the user namespace it is in.
        kernel::unshare_mounts().during("make a mount namespace", "")?;
    }
    Ok(())
}

/// Becomes the user, with no more rights than the security mode gives.
pub(super) fn drop_all(spec: &ProcessSpec, surroundings: Surroundings, filter: &[u8]) -> Step {
    own_output(spec);
    let sandboxed = spec.security == Security::Sandbox;
    if !filter.is_empty() {
        // Before the capabilities go: without no_new_privs a filter needs CAP_SYS_ADMIN. It allows all that follows.
        let filter: Vec<Instruction> = filter.chunks_exact(8).map(instruction).collect();
        kernel::install_filter(&filter).during("install the system call filter", "")?;
    }
    if sandboxed {
        drop_bounding_set().during("drop capabilities", "")?;
    }
    let kept = if sandboxed { DEFAULT_CAPABILITIES } else { CapabilitySet::all() };
    // The program gets them by its execution if its user is root; any other user's are gone then. Until that they
    // help to find and open it, as in other runtimes.
    set_keep_capabilities(true).during("keep capabilities", "")?;
    become_user(spec, surroundings)?;
    clear_ambient_capability_set().during("drop capabilities", "")?;
    let own = capabilities(None).during("read capabilities", "")?;
    let kept = own.permitted & kept;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).during("drop capabilities", "")
}

/// The program opens its output by name too (`/dev/stdout`), which takes the right to.
fn own_output(spec: &ProcessSpec) {
    if spec.uid != 0 {
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        for output in [stdout.as_fd(), stderr.as_fd()] {
            // Where the id does not exist, becoming the user fails a moment later, with a better error.
            let _ = fchown(output, Some(Uid::from_raw(spec.uid)), None);
        }
    }
}

fn drop_bounding_set() -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if DEFAULT_CAPABILITIES.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // Past the last one that the kernel knows.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

fn become_user(spec: &ProcessSpec, surroundings: Surroundings) -> Step {
    let groups: Vec<Gid> = spec.groups.iter().map(|&group| Gid::from_raw(group)).collect();
    if !surroundings.groups_denied {
        set_thread_groups(&groups).during("set the groups", "")?;
    }
    let gid = Gid::from_raw(spec.gid);
    set_thread_res_gid(gid, gid, gid).map_err(|error| unmapped("become the group", spec.gid, error))?;
    let uid = Uid::from_raw(spec.uid);
    set_thread_res_uid(uid, uid, uid).map_err(|error| unmapped("become the user", spec.uid, error))
}

fn unmapped(step: &'static str, id: u32, error: Errno) -> Failed {
    Failed { step, path: id.to_string().into(), error: error.into() }
}

fn instruction(bytes: &[u8]) -> Instruction {
    Instruction {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jump_true: bytes[2],
        jump_false: bytes[3],
        operand: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(DEFAULT_CAPABILITIES.bits(), 0xa804_25fb);
    }
}
