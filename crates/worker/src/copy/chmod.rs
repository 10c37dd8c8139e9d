//! Symbolic modes, as chmod(1) takes them.

use solver::Chmod;

use super::CopyError;

/// The umask that applies where a clause does not say whose permissions it is about.
const UMASK: u32 = 0o022;

/// A change of modes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// This mode.
    To(u32),
    /// One after the other.
    Steps(Vec<Step>),
}

/// One operation of a symbolic mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// The bits that it may change: of user, group and others, and the special bits that go with them.
    who: u32,
    /// The bits that an operation without a `who` leaves alone.
    masked: u32,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permissions {
    /// Letters: the bits for everybody, and whether `X` is among them.
    Letters { bits: u32, executable_too: bool },
    /// Those that the user (6), the group (3) or the others (0) have: how far their bits are shifted.
    CopyOf(u32),
}

impl ModeChange {
    /// What `--chmod` asks for.
    pub(crate) fn new(chmod: &Chmod) -> Result<Self, CopyError> {
        match chmod {
            Chmod::Octal(mode) => Ok(Self::To(*mode)),
            Chmod::Symbolic(text) => {
                let steps = parse(text).ok_or_else(|| CopyError::Chmod(text.clone()))?;
                Ok(Self::Steps(steps))
            }
        }
    }

    /// The mode that something of mode `mode` gets.
    pub(crate) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::To(mode) => *mode,
            Self::Steps(steps) => steps.iter().fold(mode, |mode, step| step.apply(mode, is_directory)),
        }
    }

    /// The mode of directories that are made on the way to the destination.
    pub(crate) fn of_parents(&self) -> u32 {
        match self {
            Self::To(mode) => mode & 0o777,
            Self::Steps(_) => 0o755,
        }
    }
}

impl Step {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let bits = match self.permissions {
            Permissions::Letters { bits, executable_too } => {
                let is_executable = is_directory || mode & 0o111 != 0;
                bits | if executable_too && is_executable { 0o111 } else { 0 }
            }
            Permissions::CopyOf(shift) => ((mode >> shift) & 7) * 0o111,
        };
        let changed = bits & self.who & !self.masked;
        match self.operator {
            Operator::Add => mode | changed,
            Operator::Remove => mode & !changed,
            // A directory's set-user-ID and set-group-ID bits stay unless they are named.
            Operator::Set if is_directory => (mode & !(self.who & !(0o6000 & !bits))) | changed,
            Operator::Set => (mode & !self.who) | changed,
        }
    }
}

/// The operations of a symbolic mode; `None` if it is malformed.
fn parse(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for clause in text.split(',') {
        let operators = clause.find(['+', '-', '='])?;
        let (who, mut rest) = clause.split_at(operators);
        let mut scope = 0;
        for letter in who.chars() {
            scope |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        let (who, masked) = if scope == 0 { (0o7777, UMASK) } else { (scope, 0) };
        while let Some(first) = rest.chars().next() {
            let operator = match first {
                '+' => Operator::Add,
                '-' => Operator::Remove,
                '=' => Operator::Set,
                _ => return None,
            };
            let letters = &rest[1..];
            let end = letters.find(['+', '-', '=']).unwrap_or(letters.len());
            let permissions = permissions(&letters[..end])?;
            steps.push(Step { who, masked, operator, permissions });
            rest = &letters[end..];
        }
    }
    Some(steps)
}

/// The letters after an operator.
fn permissions(letters: &str) -> Option<Permissions> {
    match letters {
        "u" => return Some(Permissions::CopyOf(6)),
        "g" => return Some(Permissions::CopyOf(3)),
        "o" => return Some(Permissions::CopyOf(0)),
        _ => {}
    }
    let (mut bits, mut executable_too) = (0, false);
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            's' => bits |= 0o6000,
            't' => bits |= 0o1000,
            'X' => executable_too = true,
            _ => return None,
        }
    }
    Some(Permissions::Letters { bits, executable_too })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str) -> Result<ModeChange, CopyError> {
        ModeChange::new(&Chmod::Symbolic(text.to_owned()))
    }

    #[test]
    fn symbolic_modes_change_what_chmod_changes() {
        let table = [
            ("u+x,go-r", 0o644, false, 0o700),
            ("a=r", 0o644, false, 0o444),
            ("go=u,u=rw", 0o644, false, 0o666),
            ("u=rwX,go=rX", 0o644, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("+w", 0o444, false, 0o644),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, false, 0o2755),
            ("ug+s", 0o755, false, 0o6755),
            ("+t", 0o755, true, 0o1755),
            ("o+t", 0o755, true, 0o1755),
            ("u-s", 0o4755, false, 0o755),
            ("u=rwx", 0o4755, false, 0o755),
            ("a-x+r", 0o333, false, 0o666),
            ("g-w+x", 0o664, false, 0o654),
            ("u=g", 0o640, false, 0o440),
            ("a=", 0o777, false, 0),
        ];
        for (text, before, is_directory, after) in table {
            let changed = change(text).expect(text).apply(before, is_directory);
            assert_eq!(changed, after, "{text} on {before:o}: {changed:o}");
        }
    }

    #[test]
    fn malformed_modes_are_refused() {
        for text in ["", "64a", "u", "u+q", "q+x", "u+x,", "u+ug"] {
            assert!(matches!(change(text), Err(CopyError::Chmod(_))), "{text}");
        }
    }

    #[test]
    fn octal_modes_reach_parents_without_special_bits() {
        let change = ModeChange::new(&Chmod::Octal(0o4511)).expect("valid");
        assert_eq!((change.apply(0o644, false), change.of_parents()), (0o4511, 0o511));
        assert_eq!(self::change("a=r").expect("valid").of_parents(), 0o755);
    }
}
