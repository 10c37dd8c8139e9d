//! Docker's default system call policy as a program for the kernel's filter (`seccomp(2)`, classic BPF).
//!
//! The policy is data (`syscalls.txt`); this assembles it, one binary search over runs of equal action for each ABI
//! that the machine runs, so that a look-up takes some eight comparisons.

mod assembler;

use assembler::{Action, Run, emit_search};

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

/// The filter for the machine that this was compiled for.
pub(crate) fn default_filter() -> Vec<Instruction> {
    if cfg!(target_arch = "aarch64") { filter_aarch64() } else { filter_x86() }
}

fn filter_x86() -> Vec<Instruction> {
    let x86_64 = emit_search(&runs(Abi::X86_64));
    let x32 = emit_search(&runs(Abi::X32));
    let i386 = emit_search(&runs(Abi::I386));
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

fn filter_aarch64() -> Vec<Instruction> {
    let mut native = vec![assembler::load(OFFSET_NUMBER)];
    native.extend(emit_search(&runs(Abi::Aarch64)));
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
fn runs(abi: Abi) -> Vec<Run> {
    let mut actions: Vec<(u32, Action)> = POLICY
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| {
            let columns: Vec<&str> = line.split(' ').collect();
            let number = columns[abi as usize];
            let action = Action::parse(columns[5]).expect("the policy names known actions");
            (number != "-").then(|| (number.parse().expect("the policy's numbers are numbers"), action))
        })
        .collect();
    actions.sort_unstable_by_key(|&(number, _)| number);
    let mut runs: Vec<Run> = vec![Run { first: 0, action: Action::Deny }];
    let mut next = 0;
    for (number, action) in actions {
        if number > next {
            push_run(&mut runs, next, Action::Deny);
        }
        push_run(&mut runs, number, action);
        next = number + 1;
    }
    push_run(&mut runs, next, Action::NoSuchCall);
    runs
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
        let x86 = filter_x86();
        let arm = filter_aarch64();
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
        let x86 = filter_x86();
        for number in [467, 600, 0x3FFF_FFFF, X32_BIT | 0x3E8, u32::MAX] {
            assert_eq!(run(&x86, AUDIT_ARCH_X86_64, number, 0), ENOSYS, "{number}");
        }
        assert_eq!(run(&x86, AUDIT_ARCH_X86_64, 400, 0), EPERM);
        assert_eq!(run(&x86, AUDIT_ARCH_I386, 500, 0), ENOSYS);
        assert_eq!(run(&x86, AUDIT_ARCH_AARCH64, 1, 0), KILL);
    }

    #[test]
    fn arguments_are_checked() {
        let x86 = filter_x86();
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
        assert!(filter_x86().len() < 4096, "{}", filter_x86().len());
    }
}
