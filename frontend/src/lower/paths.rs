//! Paths as text, as Go's `path` package treats them.

/// `path` without `.`, `..`, doubled and trailing slashes. An absolute path stays beneath `/`.
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// `path` as seen from `directory`: left alone if it is absolute, else joined and cleaned.
pub(super) fn join(directory: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    clean(&format!("/{directory}/{path}"))
}

/// The destination of a copy: absolute and clean, with a slash at its end if it says that it is a directory.
pub(super) fn destination(directory: &str, path: &str) -> String {
    let is_directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    let mut joined = clean(&join(directory, path));
    if is_directory && !joined.ends_with('/') {
        joined.push('/');
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_absolute_and_clean() {
        let rows = [
            ("/w", "", "/w/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "sub", "/w/sub"),
            ("/w", "sub/.", "/w/sub/"),
            ("/w/x", "../up", "/w/up"),
            ("/w", "../../../over", "/over"),
            ("", "a", "/a"),
            ("/w", "/x/../y//z/./b", "/y/z/b"),
            ("/w", "/../../top", "/top"),
            ("/w", "/", "/"),
        ];
        for (directory, path, wanted) in rows {
            assert_eq!(destination(directory, path), wanted, "{directory} {path}");
        }
        assert_eq!(clean("a/../.."), "..");
        assert_eq!(clean(""), ".");
    }
}
