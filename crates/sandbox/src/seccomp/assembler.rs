//! Classic BPF for a search over numbers.

use super::Instruction;

const LOAD_WORD: u16 = 0x20;
const SUBTRACT: u16 = 0x14;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The number that stands for success.
const NO_ERROR: u32 = 0;
const RETURN_ALLOW: u32 = 0x7FFF_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The low half of the first argument in `struct seccomp_data`; all that is checked are 32-bit integers, of which the
/// kernel too ignores the high half.
const OFFSET_FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NEW_NAMESPACES: u32 = 0x7E02_0000;
/// The execution domains of today's programs: Linux, 32-bit addresses, with `UNAME26`, and asking for the current one.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xFFFF_FFFF];
/// Address families: `(first, last)` of each allowed range.
const SOCKET_DOMAINS: [(u32, u32); 8] =
    [(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It is made.
    Allow,
    /// `EPERM`.
    Deny,
    /// `ENOSYS`.
    NoSuchCall,
    /// Not made, and told to have succeeded.
    Pretend,
    /// Made unless it asks for a new namespace.
    Clone,
    /// Made for today's execution domains.
    Personality,
    /// Made for most address families.
    Socket,
}

impl Action {
    /// The action of this name in the policy.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "allow" => Self::Allow,
            "deny" => Self::Deny,
            "enosys" => Self::NoSuchCall,
            "clone" => Self::Clone,
            "personality" => Self::Personality,
            "socket" => Self::Socket,
            _ => return None,
        })
    }

    fn emit(self) -> Vec<Instruction> {
        let allow = give(RETURN_ALLOW);
        let deny = give(RETURN_ERRNO | EPERM);
        match self {
            Self::Allow => vec![allow],
            Self::Deny => vec![deny],
            Self::NoSuchCall => vec![give(RETURN_ERRNO | ENOSYS)],
            Self::Pretend => vec![give(RETURN_ERRNO | NO_ERROR)],
            Self::Clone => {
                vec![
                    load(OFFSET_FIRST_ARGUMENT),
                    conditional(JUMP_ANY_BIT, NEW_NAMESPACES, 1, 0),
                    allow,
                    deny,
                ]
            }
            Self::Personality => {
                let mut code = vec![load(OFFSET_FIRST_ARGUMENT)];
                for persona in PERSONALITIES {
                    code.extend([jump_if_equal(persona, 0, 1), allow]);
                }
                code.push(deny);
                code
            }
            Self::Socket => {
                let mut code = vec![load(OFFSET_FIRST_ARGUMENT)];
                for (first, last) in SOCKET_DOMAINS {
                    // Below the range: no later range can match.
                    code.extend([jump_if_at_least(first, 1, 0), deny]);
                    code.extend([jump_if_at_least(last + 1, 1, 0), allow]);
                }
                code.push(deny);
                code
            }
        }
    }
}

/// Consecutive numbers with one action, up to the next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first of them.
    pub(super) first: u32,
    /// What happens to them.
    pub(super) action: Action,
}

/// A binary search for the run of the accumulator, ending in the run's action. At least one run.
pub(super) fn emit_search(runs: &[Run]) -> Vec<Instruction> {
    if let [run] = runs {
        return run.action.emit();
    }
    let (low, high) = runs.split_at(runs.len() / 2);
    let low_code = emit_search(low);
    let mut code = Vec::new();
    match u8::try_from(low_code.len()) {
        Ok(length) => code.push(jump_if_at_least(high[0].first, length, 0)),
        // Conditional jumps reach 255 instructions; the unconditional one reaches any.
        Err(_) => code.extend([jump_if_at_least(high[0].first, 0, 1), jump(low_code.len())]),
    }
    code.extend(low_code);
    code.extend(emit_search(high));
    code
}

/// Loads a word of the call's data.
pub(super) fn load(offset: u32) -> Instruction {
    plain(LOAD_WORD, offset)
}

/// Subtracts from the accumulator.
pub(super) fn subtract(operand: u32) -> Instruction {
    plain(SUBTRACT, operand)
}

/// Skips this many instructions.
pub(super) fn jump(instructions: usize) -> Instruction {
    plain(JUMP, u32::try_from(instructions).expect("a program has less than 4096 instructions"))
}

/// Ends the process.
pub(super) fn kill() -> Instruction {
    give(RETURN_KILL_PROCESS)
}

/// Compares the accumulator for equality.
pub(super) fn jump_if_equal(operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    conditional(JUMP_EQUAL, operand, jump_true, jump_false)
}

/// Compares the accumulator, unsigned.
pub(super) fn jump_if_at_least(operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    conditional(JUMP_AT_LEAST, operand, jump_true, jump_false)
}

fn give(value: u32) -> Instruction {
    plain(RETURN, value)
}

fn plain(code: u16, operand: u32) -> Instruction {
    conditional(code, operand, 0, 0)
}

fn conditional(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}
