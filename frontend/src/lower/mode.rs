//! The modes of `--chmod`.

use solver::Chmod;

/// An octal or symbolic mode (chmod(1)).
///
/// # Errors
/// The text of a diagnostic.
pub(super) fn parse(text: &str) -> Result<Chmod, String> {
    let octal = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) && !text.is_empty();
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o7777 => Ok(Chmod::Octal(mode)),
        _ if !octal && is_symbolic(text) => Ok(Chmod::Symbolic(text.to_owned())),
        _ => Err(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )),
    }
}

/// Clauses between commas: whose, then one or more operators, each with permissions.
fn is_symbolic(text: &str) -> bool {
    text.split(',').all(|clause| {
        let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let is_action = |c: char| matches!(c, '+' | '-' | '=');
        actions.starts_with(is_action)
            && actions
                .chars()
                .all(|c| is_action(c) || matches!(c, 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(parse("0640"), Ok(Chmod::Octal(0o640)));
        assert_eq!(parse("7777"), Ok(Chmod::Octal(0o7777)));
        for text in ["u+x,go-r", "a=r", "go=u,u=rw", "u=rwX,go=rX", "+x", "u=rwx,go="] {
            assert_eq!(parse(text), Ok(Chmod::Symbolic(text.to_owned())), "{text}");
        }
        for text in ["64a", "17777", "8", "", "u", "u+x,", "z+x", "+7", "99999999999999"] {
            let message = format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            );
            assert_eq!(parse(text), Err(message), "{text}");
        }
    }
}
