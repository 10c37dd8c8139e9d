//! What may leave a network namespace through the tap device of pasta.
//!
//! pasta makes a connection to whatever address a frame is for, and that from outside. Some versions do so for
//! loopback addresses, too, which are then those of the machine. A program needs no rights to send such a frame (a socket
//! that is bound to the device will do), so that routes and rules of the namespace do not help: the frames are dropped
//! where pasta would read them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::process::{ForeignRawFd, PidfdGetfdFlags, pidfd_getfd};

use crate::kernel;
use crate::seccomp::Instruction;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const ETHERTYPE: u32 = 12;
const ARP: u32 = 0x0806;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86DD;
/// Where the destination stands in a frame.
const DESTINATION_V4: u32 = 14 + 16;
const DESTINATION_V6: u32 = 14 + 24;

/// Keeps ARP, IPv4 but for `127.0.0.0/8` and `0.0.0.0/8`, which mean the machine itself, and IPv6 but for addresses that
/// begin with 80 zeros: `::`, `::1` and those that stand for one of IPv4. Drops everything else.
const FILTER: [Instruction; 15] = [
    load(LOAD_HALF, ETHERTYPE),
    if_equal(ARP, 11, 0),
    if_equal(IPV4, 0, 3),
    load(LOAD_BYTE, DESTINATION_V4),
    if_equal(127, 9, 0),
    if_equal(0, 8, 7),
    if_equal(IPV6, 0, 7),
    load(LOAD_WORD, DESTINATION_V6),
    if_equal(0, 0, 4),
    load(LOAD_WORD, DESTINATION_V6 + 4),
    if_equal(0, 0, 2),
    load(LOAD_HALF, DESTINATION_V6 + 8),
    if_equal(0, 1, 0),
    give(u32::MAX),
    give(0),
];

const fn load(code: u16, offset: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand: offset }
}

const fn if_equal(operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code: JUMP_EQUAL, jump_true, jump_false, operand }
}

/// How many bytes of the frame are kept.
const fn give(bytes: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: bytes }
}

/// Puts the filter between the tap device `device` and the process that reads from it.
pub(crate) fn install(device: &str, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map_or("", str::trim);
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<ForeignRawFd>().ok());
        // Descriptors may be closed meanwhile.
        let Ok(info) = std::fs::read_to_string(entry.path()) else { continue };
        if let Some(number) = number
            && info.lines().any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == device))
        {
            let tap = pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())?;
            return kernel::attach_frame_filter(tap.as_fd(), &FILTER);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("the process has no device `{device}`")))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// What the kernel does with the few instructions that are used.
    fn keeps(frame: &[u8]) -> bool {
        let (mut value, mut next) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = FILTER[next];
            next += 1;
            let width = match code {
                LOAD_WORD => 4,
                LOAD_HALF => 2,
                LOAD_BYTE => 1,
                JUMP_EQUAL => {
                    next += usize::from(if value == operand { jump_true } else { jump_false });
                    continue;
                }
                RETURN => return operand != 0,
                other => panic!("unknown instruction {other:#x}"),
            };
            let at = operand as usize;
            // A load from beyond the end drops the frame.
            let Some(bytes) = frame.get(at..at + width) else { return false };
            value = bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte));
        }
    }

    fn frame(ethertype: u32, header: usize, destination: &[u8]) -> Vec<u8> {
        let ethertype = u16::try_from(ethertype).unwrap().to_be_bytes();
        [&[0xFF; 12], ethertype.as_slice(), &vec![0xFF; header], destination, b"payload"].concat()
    }

    fn keeps_v4(address: &str) -> bool {
        keeps(&frame(IPV4, 16, &address.parse::<Ipv4Addr>().unwrap().octets()))
    }

    fn keeps_v6(address: &str) -> bool {
        keeps(&frame(IPV6, 24, &address.parse::<Ipv6Addr>().unwrap().octets()))
    }

    #[test]
    fn addresses_of_the_machine_itself_are_dropped() {
        for address in ["127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3"] {
            assert!(!keeps_v4(address), "{address}");
        }
        for address in ["192.0.2.1", "10.0.0.127", "128.0.0.1", "1.0.0.0", "255.255.255.255"] {
            assert!(keeps_v4(address), "{address}");
        }
        for address in ["::", "::1", "::ffff:127.0.0.1", "::ffff:192.0.2.1", "::127.0.0.1"] {
            assert!(!keeps_v6(address), "{address}");
        }
        for address in
            ["fd00::1", "fe80::1", "ff02::1", "2001:db8::1", "0:0:1::", "0:0:0:0:1::1", "64:ff9b::7f00:1"]
        {
            assert!(keeps_v6(address), "{address}");
        }
        assert!(keeps(&frame(ARP, 28, b"")));
        // Neither frames of other protocols nor of virtual networks, nor parts of frames.
        for other in [&frame(0x8100, 20, &[10, 0, 0, 1]), &frame(IPV4, 4, b"")[..18], &[0; 13]] {
            assert!(!keeps(other), "{other:?}");
        }
    }
}
