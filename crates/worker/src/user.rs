//! Users and groups of an image, from its `/etc/passwd` and `/etc/group`.

use std::io::Read;
use std::path::Path;

use cache::tree::{Follow, TreeError, TreeView};

/// More than any real file of users has; what comes after is not read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why a user or group could not be told.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The image has no such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// The image has no such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A name in the first copy onto an empty root file system, which has no users. The words are the peers'.
    #[error("invalid user index: -1 (`{0}` is a name, and there is no image whose users could be asked)")]
    NoImage(String),
    /// The files could not be read.
    #[error("cannot read the users of the image")]
    Tree(#[from] TreeError),
    /// A file could not be read.
    #[error("cannot read `{path}` of the image")]
    Read {
        /// Its path in the image.
        path: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The identity of a process of RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessUser {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// All groups: the group itself, then the supplementary ones.
    pub(crate) groups: Vec<u32>,
    /// The home directory of the user's entry in passwd, `/` where there is none. May be empty.
    pub(crate) home: String,
}

/// One line of passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// One line of group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupEntry {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who `user` (`user[:group]`, names or numbers; empty for root) is in the image `tree`; `None` for an empty tree.
///
/// An unknown number is taken as it is, with group 0. The supplementary groups are those of a user who is in passwd,
/// unless a group is given.
pub(crate) fn process_user(tree: Option<&TreeView>, user: &str) -> Result<ProcessUser, UserError> {
    let users = passwd(tree)?;
    let (user_part, group_part) = split(user);
    if let (Some(uid), Some(gid)) = (user_part.and_then(number), group_part.and_then(number)) {
        return Ok(ProcessUser { uid, gid, groups: vec![gid], home: home_of(&users, uid) });
    }
    let entry = find_user(&users, user_part.unwrap_or("0"));
    let uid = match (entry, user_part) {
        (Some(entry), _) => entry.uid,
        (None, None) => 0,
        (None, Some(part)) => number(part).ok_or_else(|| UserError::UnknownUser(part.to_owned()))?,
    };
    let mut gid = entry.map_or(0, |entry| entry.gid);
    let mut supplementary = Vec::new();
    if group_part.is_some() || entry.is_some() {
        let groups = group(tree)?;
        match (group_part, entry) {
            (Some(part), _) => gid = find_group(&groups, part)?,
            (None, Some(entry)) => {
                let member = |group: &&GroupEntry| group.members.contains(&entry.name);
                supplementary = groups.iter().filter(member).map(|group| group.gid).collect();
            }
            (None, None) => {}
        }
    }
    let mut groups = vec![gid];
    for group in supplementary {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    Ok(ProcessUser { uid, gid, groups, home: home_of(&users, uid) })
}

/// The owner and group that `--chown=spec` or the user of a WORKDIR mean in the image `tree`; `None` for an empty
/// tree.
///
/// As the peers do it: a user that the image lacks is root, a group that it lacks leaves the user's primary group;
/// a number stands for the user and the group of that number, whatever passwd says.
pub(crate) fn owner(tree: Option<&TreeView>, spec: &str) -> Result<(u32, u32), UserError> {
    let (user_part, group_part) = split(spec);
    let image = |name: &str| tree.ok_or_else(|| UserError::NoImage(name.to_owned()));
    let (uid, mut gid) = match user_part.map(|part| (part, number(part))) {
        None => (0, 0),
        Some((_, Some(number))) => (number, number),
        Some((name, None)) => {
            let users = passwd(Some(image(name)?))?;
            users.iter().find(|user| user.name == name).map_or((0, 0), |user| (user.uid, user.gid))
        }
    };
    match group_part.map(|part| (part, number(part))) {
        None => {}
        Some((_, Some(number))) => gid = number,
        Some((name, None)) => {
            let groups = group(Some(image(name)?))?;
            gid = groups.iter().find(|group| group.name == name).map_or(gid, |group| group.gid);
        }
    }
    Ok((uid, gid))
}

/// The two parts of `user[:group]`; an empty part is none.
fn split(spec: &str) -> (Option<&str>, Option<&str>) {
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    (Some(user).filter(|part| !part.is_empty()), Some(group).filter(|part| !part.is_empty()))
}

/// A user or group ID.
fn number(part: &str) -> Option<u32> {
    part.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok())
}

/// The first entry that a name or number means; a number is compared with the uid only.
fn find_user<'a>(users: &'a [PasswdEntry], part: &str) -> Option<&'a PasswdEntry> {
    match number(part) {
        Some(uid) => users.iter().find(|user| user.uid == uid),
        None => users.iter().find(|user| user.name == part),
    }
}

/// The ID of a group given by name or number.
fn find_group(groups: &[GroupEntry], part: &str) -> Result<u32, UserError> {
    if let Some(gid) = number(part) {
        return Ok(gid);
    }
    let entry = groups.iter().find(|group| group.name == part);
    entry.map(|group| group.gid).ok_or_else(|| UserError::UnknownGroup(part.to_owned()))
}

/// The home directory in the first entry of `uid`.
fn home_of(users: &[PasswdEntry], uid: u32) -> String {
    users.iter().find(|user| user.uid == uid).map_or_else(|| "/".to_owned(), |user| user.home.clone())
}

/// The entries of `/etc/passwd` (passwd(5)). Lines whose numbers are no numbers do not count.
fn passwd(tree: Option<&TreeView>) -> Result<Vec<PasswdEntry>, UserError> {
    let text = read(tree, "/etc/passwd")?;
    let entry = |line: &str| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        Some(PasswdEntry {
            name: fields.first().filter(|name| !name.is_empty())?.to_string(),
            uid: number(fields.get(2)?)?,
            gid: number(fields.get(3)?)?,
            home: fields.get(5).copied().unwrap_or_default().to_owned(),
        })
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// The entries of `/etc/group` (group(5)). Lines whose numbers are no numbers do not count.
fn group(tree: Option<&TreeView>) -> Result<Vec<GroupEntry>, UserError> {
    let text = read(tree, "/etc/group")?;
    let entry = |line: &str| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let members = fields.get(3).copied().unwrap_or_default();
        Some(GroupEntry {
            name: fields.first().filter(|name| !name.is_empty())?.to_string(),
            gid: number(fields.get(2)?)?,
            members: members.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        })
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// The text of a file, empty where there is none. Links are followed inside the tree.
fn read(tree: Option<&TreeView>, path: &'static str) -> Result<String, UserError> {
    let Some(tree) = tree else { return Ok(String::new()) };
    let resolved = tree.resolve(Path::new(path), Follow::All)?;
    let file = match tree.open_file(&resolved) {
        Ok(file) => file,
        Err(TreeError::NotFound(_) | TreeError::NotADirectory(_) | TreeError::NotAFile(_)) => {
            return Ok(String::new());
        }
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|source| UserError::Read { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cache::tree::TreeMode;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        daemon:x:1:1::/:/bin/false\n\
        # a comment\n\
        broken:x:none:1::/:/bin/sh\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n\
        bare:x:7:8\n\
        again:x:1000:5:/again:/bin/sh\n";
    const GROUP: &str = "root:x:0:root\nstaff:x:50:app,daemon\napp:x:1001:\nwheel:x:10:root,app\n";

    fn image() -> (tempfile::TempDir, TreeView) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("etc")).expect("mkdir");
        fs::write(directory.path().join("etc/passwd"), PASSWD).expect("write");
        fs::write(directory.path().join("etc/group"), GROUP).expect("write");
        let tree = TreeView::open(&[directory.path().to_owned()], TreeMode::PLAIN).expect("open");
        (directory, tree)
    }

    #[test]
    fn a_process_gets_the_user_and_groups_of_the_image() {
        let (_directory, tree) = image();
        let table: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[0, 10], "/root"),
            ("root", 0, 0, &[0, 10], "/root"),
            ("0", 0, 0, &[0, 10], "/root"),
            ("app", 1000, 1001, &[1001, 50, 10], "/home/app"),
            ("1000", 1000, 1001, &[1001, 50, 10], "/home/app"),
            ("app:staff", 1000, 50, &[50], "/home/app"),
            ("app:77", 1000, 77, &[77], "/home/app"),
            ("1000:50", 1000, 50, &[50], "/home/app"),
            ("1234", 1234, 0, &[0], "/"),
            ("1234:99", 1234, 99, &[99], "/"),
            ("1234:staff", 1234, 50, &[50], "/"),
            (":staff", 0, 50, &[50], "/root"),
            ("bare", 7, 8, &[8], ""),
        ];
        for (spec, uid, gid, groups, home) in table {
            let expected =
                ProcessUser { uid: *uid, gid: *gid, groups: groups.to_vec(), home: (*home).to_owned() };
            assert_eq!(process_user(Some(&tree), spec).expect(spec), expected, "{spec}");
        }
    }

    #[test]
    fn a_process_cannot_run_as_an_unknown_name() {
        let (_directory, tree) = image();
        let message = |spec| process_user(Some(&tree), spec).expect_err(spec).to_string();
        assert_eq!(message("ghost"), "unable to find user ghost: no matching entries in passwd file");
        assert_eq!(message("broken"), "unable to find user broken: no matching entries in passwd file");
        assert_eq!(message("-1"), "unable to find user -1: no matching entries in passwd file");
        assert_eq!(message("app:ghosts"), "unable to find group ghosts: no matching entries in group file");
        assert!(matches!(process_user(None, "app"), Err(UserError::UnknownUser(_))));
        let root = process_user(None, "").expect("root needs no passwd");
        assert_eq!(root, ProcessUser { uid: 0, gid: 0, groups: vec![0], home: "/".to_owned() });
    }

    #[test]
    fn chown_is_forgiving_as_the_peers_are() {
        let (_directory, tree) = image();
        let table = [
            ("app", (1000, 1001)),
            ("app:staff", (1000, 50)),
            ("app:0", (1000, 0)),
            ("99:staff", (99, 50)),
            ("7", (7, 7)),
            ("1000", (1000, 1000)),
            ("12:34", (12, 34)),
            (":staff", (0, 50)),
            ("ghost", (0, 0)),
            ("app:ghosts", (1000, 1001)),
        ];
        for (spec, expected) in table {
            assert_eq!(owner(Some(&tree), spec).expect(spec), expected, "{spec}");
        }
        assert_eq!(owner(None, "4:5").expect("numbers"), (4, 5));
        assert!(matches!(owner(None, "app:5"), Err(UserError::NoImage(_))));
        assert!(matches!(owner(None, "5:app"), Err(UserError::NoImage(_))));
    }
}
