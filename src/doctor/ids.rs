//! The ids that builds have.

use std::path::Path;

use cache::{IdMode, Store};
use sandbox::OneId;

use super::Finding;
use crate::session::Session;

/// Who calls the program.
pub(super) struct User {
    uid: u32,
    /// If there is one.
    name: Option<String>,
}

impl User {
    pub(super) fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1) == Some(&uid.to_string())).then(|| name.to_owned())
        });
        Self { uid, name }
    }

    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }
}

pub(super) fn finding(session: &Session, user: &User, root: &Path) -> Finding {
    match session.ids() {
        IdMode::Root => Finding::ok("ids", "all of the machine's: this is root"),
        IdMode::Mapped { map } => Finding::ok("ids", format!("{}, in a user namespace", count(map))),
        IdMode::Single => {
            let reason = session.one_id().unwrap_or(&OneId::Given);
            let limits = "`chown`, `setgroups`, `mknod` and `USER` to other ids fail in RUN";
            let finding = Finding::limited("ids", format!("one: {reason}; {limits}"));
            match remedy(user, reason, root) {
                Some(remedy) => finding.with_remedy(remedy),
                None => {
                    finding.with_remedy("`--ignore-chown` lets RUN go on where only owners are in question")
                }
            }
        }
    }
}

/// How many ids a map has.
fn count(map: &str) -> String {
    let count = |line: &str| line.split(' ').nth(2).and_then(|count| count.parse::<u64>().ok());
    // Users first, then groups, whose ranges begin at 0 again.
    let mut lines = map.lines();
    let first: Option<u64> = lines.next().and_then(count);
    let users: u64 = lines.take_while(|line| !line.starts_with("0 ")).filter_map(count).sum();
    format!("{}", first.unwrap_or_default() + users)
}

fn remedy(user: &User, reason: &OneId, root: &Path) -> Option<String> {
    let store = if Store::has_one_id(root) {
        format!("; then remove the store `{}`, which has one id", root.display())
    } else {
        String::new()
    };
    match reason {
        OneId::NoProgram { .. } => return Some(format!("install the package `uidmap`{store}")),
        OneId::NoRange { .. } => {}
        OneId::Asked | OneId::NotMapped { .. } | OneId::RootWithoutRights | OneId::Given => return None,
    }
    let texts = ["/etc/subuid", "/etc/subgid"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let first = first_free(&texts.concat());
    let last = first + RANGE - 1;
    let package =
        if Path::new("/usr/bin/newuidmap").exists() { "" } else { ", and install the package `uidmap`" };
    let Some(name) = &user.name else {
        let line = format!("{}:{first}:{RANGE}", user.uid);
        return Some(format!("as root: the line `{line}` in /etc/subuid and in /etc/subgid{package}{store}"));
    };
    Some(format!(
        "as root: `usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {name}`{package}{store}"
    ))
}

/// What distributions give each user.
const RANGE: u64 = 65536;
/// Where they begin.
const FIRST: u64 = 100_000;

/// The first id behind all ranges that somebody has.
fn first_free(ranges: &str) -> u64 {
    let end = |line: &str| {
        let mut fields = line.split(':').skip(1);
        let first: u64 = fields.next()?.trim().parse().ok()?;
        Some(first + fields.next()?.trim().parse::<u64>().ok()?)
    };
    ranges.lines().filter_map(end).fold(FIRST, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_counted_and_placed_behind_others() {
        assert_eq!(count("0 1000 1\n1 100000 65536\n0 1000 1\n1 100000 65536"), "65537");
        assert_eq!(count("0 0 4294967294\n0 0 4294967294"), "4294967294");
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("a:100000:65536\nb:165536:65536\nnonsense\na:100000:65536\n"), 231_072);
    }
}
