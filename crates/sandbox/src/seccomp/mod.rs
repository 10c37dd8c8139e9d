//! Docker's default system call policy as a program for the kernel's filter (`seccomp(2)`, classic BPF).
//!
//! The policy is data (`syscalls.txt`); this assembles it, one binary search over runs of equal action for each ABI
//! that the machine runs, so that a look-up takes some eight comparisons.

mod assembler;

use assembler::{Action, Run, emit_search};

use crate::OwnerChanges;

const POLICY: &str = include_str!("syscalls.txt");

const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xC000_00B7;
/// x32 shares the audit architecture of x86-64 and marks its numbers with this bit.
const X32_BIT: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;

/// One instruction of classic BPF: `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// The operation.
    pub(crate) code: u16,
    /// How many instructions are skipped where a condition holds.
    pub(crate) jump_true: u8,
    /// And where it does not.
    pub(crate) jump_false: u8,
    /// The operand.
    pub(crate) operand: u32,
}

impl Instruction {
    /// The instruction as the kernel reads it, in native byte order.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let code = self.code.to_ne_bytes();
        let operand = self.operand.to_ne_bytes();
        [code[0], code[1], self.jump_true, self.jump_false, operand[0], operand[1], operand[2], operand[3]]
    }
}

/// A column of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abi {
    X86_64 = 1,
    I386 = 2,
    X32 = 3,
    Aarch64 = 4,
}

/// The calls that change owners or become somebody else, of which there is nobody in a namespace of one id. Most of
/// them have one more name on i386.
const OWNER_CHANGES: [&str; 25] = [
    "chown",
    "chown32",
    "fchown",
    "fchown32",
    "fchownat",
    "lchown",
    "lchown32",
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "setgid",
    "setgid32",
    "setgroups",
    "setgroups32",
    "setregid",
    "setregid32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "setreuid",
    "setreuid32",
    "setuid",
    "setuid32",
];

/// What a program may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Whether Docker's default policy holds; else everything is allowed that nothing else forbids.
    pub(crate) confined: bool,
    /// What becomes of changes of owners.
    pub(crate) owner_changes: OwnerChanges,
}

/// The filter for the machine that this was compiled for; none where there is nothing to filter.
pub(crate) fn filter(policy: Policy) -> Vec<Instruction> {
    if !policy.confined && policy.owner_changes == OwnerChanges::Made {
        return Vec::new();
    }
    if cfg!(target_arch = "aarch64") { filter_aarch64(policy) } else { filter_x86(policy) }
}

fn filter_x86(policy: Policy) -> Vec<Instruction> {
    let x86_64 = emit_search(&runs(Abi::X86_64, policy));
    let x32 = emit_search(&runs(Abi::X32, policy));
    let i386 = emit_search(&runs(Abi::I386, policy));
    let mut program = Vec::with_capacity(x86_64.len() + x32.len() + i386.len() + 16);
    program.push(assembler::load(OFFSET_ARCHITECTURE));
    // 64-bit: both ABIs, told apart by the bit in the number.
    let mut native = vec![assembler::load(OFFSET_NUMBER)];
    native.push(assembler::jump_if_at_least(X32_BIT, 0, 1));
    native.push(assembler::jump(x86_64.len()));
    native.extend(x86_64);
    native.push(assembler::subtract(X32_BIT));
    native.extend(x32);
    push_branch(&mut program, AUDIT_ARCH_X86_64, &native);
    let mut compatible = vec![assembler::load(OFFSET_NUMBER)];
    compatible.extend(i386);
    push_branch(&mut program, AUDIT_ARCH_I386, &compatible);
    program.push(assembler::kill());
    program
}

fn filter_aarch64(policy: Policy) -> Vec<Instruction> {
    let mut native = vec![assembler::load(OFFSET_NUMBER)];
    native.extend(emit_search(&runs(Abi::Aarch64, policy)));
    let mut program = vec![assembler::load(OFFSET_ARCHITECTURE)];
    push_branch(&mut program, AUDIT_ARCH_AARCH64, &native);
    program.push(assembler::kill());
    program
}

fn push_branch(program: &mut Vec<Instruction>, architecture: u32, branch: &[Instruction]) {
    program.push(assembler::jump_if_equal(architecture, 1, 0));
    program.push(assembler::jump(branch.len()));
    program.extend_from_slice(branch);
}

/// What happens to each number of an ABI, as runs in ascending order that cover all numbers.
fn runs(abi: Abi, policy: Policy) -> Vec<Run> {
    let mut actions: Vec<(u32, Action)> = POLICY
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| {
            let columns: Vec<&str> = line.split(' ').collect();
            let number = columns[abi as usize];
            let action = policy.action(columns[0], columns[5]);
            (number != "-").then(|| (number.parse().expect("the policy's numbers are numbers"), action))
        })
        .collect();
    actions.sort_unstable_by_key(|&(number, _)| number);
    let (missing, unknown) =
        if policy.confined { (Action::Deny, Action::NoSuchCall) } else { (Action::Allow, Action::Allow) };
    let mut runs: Vec<Run> = vec![Run { first: 0, action: missing }];
    let mut next = 0;
    for (number, action) in actions {
        if number > next {
            push_run(&mut runs, next, missing);
        }
        push_run(&mut runs, number, action);
        next = number + 1;
    }
    push_run(&mut runs, next, unknown);
    runs
}

impl Policy {
    /// What happens to the call of this name, for which Docker's policy names this action.
    fn action(self, name: &str, action: &str) -> Action {
        if self.owner_changes == OwnerChanges::Ignored && OWNER_CHANGES.contains(&name) {
            return Action::Pretend;
        }
        if !self.confined {
            return Action::Allow;
        }
        Action::parse(action).expect("the policy names known actions")
    }
}

fn push_run(runs: &mut Vec<Run>, first: u32, action: Action) {
    match runs.last_mut() {
        Some(last) if last.action == action => {}
        Some(last) if last.first == first => last.action = action,
        _ => runs.push(Run { first, action }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = 0x7FFF_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;
    const KILL: u32 = 0x8000_0000;

    const DEFAULT: Policy = Policy { confined: true, owner_changes: OwnerChanges::Made };

    /// Runs a filter as the kernel would, on one call.
    fn run(program: &[Instruction], architecture: u32, number: u32, argument: u32) -> u32 {
        let mut accumulator = 0_u32;
        let mut at = 0;
        loop {
            let instruction = program[at];
            at += 1;
            let operand = instruction.operand;
            let condition = match instruction.code {
                0x20 => {
                    accumulator = match operand {
                        0 => number,
                        4 => architecture,
                        16 => argument,
                        other => panic!("load of {other}"),
                    };
                    continue;
                }
                0x06 => return operand,
                0x05 => {
                    at += operand as usize;
                    continue;
                }
                0x14 => {
                    accumulator = accumulator.wrapping_sub(operand);
                    continue;
                }
                0x15 => accumulator == operand,
                0x35 => accumulator >= operand,
                0x45 => accumulator & operand != 0,
                other => panic!("operation {other:#x}"),
            };
            at += usize::from(if condition { instruction.jump_true } else { instruction.jump_false });
        }
    }

    #[test]
    fn every_line_of_the_policy_holds_in_every_abi() {
        let x86 = filter_x86(DEFAULT);
        let arm = filter_aarch64(DEFAULT);
        for line in POLICY.lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<&str> = line.split(' ').collect();
            let want = match columns[5] {
                "allow" | "clone" | "personality" | "socket" => ALLOW,
                "deny" => EPERM,
                _ => ENOSYS,
            };
            let abis = [
                (&x86, AUDIT_ARCH_X86_64, 0, columns[1]),
                (&x86, AUDIT_ARCH_I386, 0, columns[2]),
                (&x86, AUDIT_ARCH_X86_64, X32_BIT, columns[3]),
                (&arm, AUDIT_ARCH_AARCH64, 0, columns[4]),
            ];
            for (program, architecture, bit, number) in abis {
                if let Ok(number) = number.parse::<u32>() {
                    assert_eq!(run(program, architecture, number | bit, 0), want, "{line}");
                }
            }
        }
    }

    #[test]
    fn unknown_numbers() {
        let x86 = filter_x86(DEFAULT);
        for number in [467, 600, 0x3FFF_FFFF, X32_BIT | 0x3E8, u32::MAX] {
            assert_eq!(run(&x86, AUDIT_ARCH_X86_64, number, 0), ENOSYS, "{number}");
        }
        assert_eq!(run(&x86, AUDIT_ARCH_X86_64, 400, 0), EPERM);
        assert_eq!(run(&x86, AUDIT_ARCH_I386, 500, 0), ENOSYS);
        assert_eq!(run(&x86, AUDIT_ARCH_AARCH64, 1, 0), KILL);
    }

    #[test]
    fn arguments_are_checked() {
        let x86 = filter_x86(DEFAULT);
        let call = |number, argument| run(&x86, AUDIT_ARCH_X86_64, number, argument);
        for flags in [0x11, 0x0100_0000 | 0x11] {
            assert_eq!(call(56, flags), ALLOW, "clone {flags:#x}");
        }
        for flags in [0x1000_0000, 0x0002_0000, 0x4000_0000, 0x0200_0000, 0x2000_0000] {
            assert_eq!(call(56, flags), EPERM, "clone {flags:#x}");
        }
        let allowed: Vec<u32> = (0..60).filter(|&domain| call(41, domain) == ALLOW).collect();
        let refused: Vec<u32> = (0..46).filter(|domain| !allowed.contains(domain)).collect();
        assert_eq!(refused, [12, 19, 20, 23, 25, 34, 37, 38, 40]);
        assert_eq!(allowed.last(), Some(&45));
        for persona in [0, 8, 0x0002_0000, 0x0002_0008, u32::MAX] {
            assert_eq!(call(135, persona), ALLOW, "personality {persona:#x}");
        }
        for persona in [0x0004_0000, 1] {
            assert_eq!(call(135, persona), EPERM, "personality {persona:#x}");
        }
    }

    #[test]
    fn fits_the_kernels_limit() {
        for owner_changes in [OwnerChanges::Made, OwnerChanges::Ignored] {
            let filter = filter_x86(Policy { confined: true, owner_changes });
            assert!(filter.len() < 4096, "{owner_changes:?}: {}", filter.len());
        }
    }

    #[test]
    fn changes_of_owners_are_pretended() {
        const PRETENDED: u32 = 0x0005_0000;
        for confined in [true, false] {
            let policy = Policy { confined, owner_changes: OwnerChanges::Ignored };
            let (x86, arm) = (filter_x86(policy), filter_aarch64(policy));
            // chown, fchown, lchown, fchownat, setuid, setgroups; with and without the bit of x32.
            for number in [92, 93, 94, 260, 105, 116] {
                for number in [number, number | X32_BIT] {
                    assert_eq!(run(&x86, AUDIT_ARCH_X86_64, number, 7), PRETENDED, "{number:#x}");
                }
            }
            // chown32, setgroups32, setresuid32 and setreuid32.
            for number in [212, 206, 208, 203] {
                assert_eq!(run(&x86, AUDIT_ARCH_I386, number, 7), PRETENDED, "{number}");
            }
            assert_eq!(run(&arm, AUDIT_ARCH_AARCH64, 54, 7), PRETENDED, "fchownat");
            // chmod and getuid; mount; a number that nobody knows.
            let others = [90, 102, 165, 600].map(|number| run(&x86, AUDIT_ARCH_X86_64, number, 0));
            let expected = if confined { [ALLOW, ALLOW, EPERM, ENOSYS] } else { [ALLOW; 4] };
            assert_eq!(others, expected);
        }
        assert_eq!(filter(Policy { confined: false, owner_changes: OwnerChanges::Made }), []);
        for name in OWNER_CHANGES {
            assert!(POLICY.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
        }
    }
}
