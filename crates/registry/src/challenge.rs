//! `WWW-Authenticate` (RFC 9110, section 11.6.1), as far as registries use it.

/// How a registry wants requests to be authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// With a token of a token service.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// With user name and password.
    Basic,
}

/// The challenges of one header's value. Schemes that are not known are left out.
pub(crate) fn parse(value: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let (scheme, after) = split_word(rest);
        let (parameters, next) = parse_parameters(after);
        let get = |name: &str| {
            parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            challenges.push(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        } else if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        }
        // A value that does not move on is not a list of challenges.
        rest = if next.len() < rest.len() { next } else { "" };
    }
    challenges
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find([' ', ',']).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start_matches([' ', ',']))
}

/// `key=value, key="value"` up to the next word that has no `=`: the name of the next scheme.
fn parse_parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        if !rest[end..].starts_with('=') {
            return (parameters, rest);
        }
        let key = rest[..end].to_owned();
        let (value, after) = parse_value(&rest[end + 1..]);
        parameters.push((key, value));
        rest = after;
    }
}

fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read() {
        let cases = [
            (
                r#"Bearer realm="https://auth.x/token",service="reg",scope="repository:a/b:pull,push""#,
                vec![bearer("https://auth.x/token", Some("reg"), Some("repository:a/b:pull,push"))],
            ),
            (
                r#"bearer realm="https://a?b=c", service=reg"#,
                vec![bearer("https://a?b=c", Some("reg"), None)],
            ),
            (
                r#"Negotiate, Basic realm="a \"b\", c", Bearer realm="x""#,
                vec![Challenge::Basic, bearer("x", None, None)],
            ),
            ("Basic", vec![Challenge::Basic]),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="unfinished"#, vec![bearer("unfinished", None, None)]),
            ("", vec![]),
            ("=,=", vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
