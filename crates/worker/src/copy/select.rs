//! What the sources of a copy select.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cache::tree::{Attributes, Entry, FileKind, Timestamp};
use pattern::{Directory, PatternSet, clean, has_wildcards, match_path};
use rayon::prelude::*;
use solver::Selector;

use super::source::{Found, SourceTree, base_name};
use super::{CopyError, is_worth_threads};

/// What the paths of a selector select, in their order.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) sources: Vec<Selected>,
}

/// What one path selects.
#[derive(Debug)]
pub(crate) struct Selected {
    /// The path as it is in the selector.
    pub(crate) path: String,
    /// What it stands for. Several things only where it has wildcards.
    pub(crate) matches: Vec<Match>,
}

/// One thing that a path stands for.
#[derive(Debug)]
pub(crate) struct Match {
    /// The name that a file gets in a destination that is a directory: of the path, not of what a link leads to.
    pub(crate) name: OsString,
    /// Whether a wildcard brought the name about, so that it is not known from the path.
    pub(crate) is_name_found: bool,
    /// What it is, links followed.
    pub(crate) node: Node,
}

/// Something that is copied, with all that is copied below it.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its path in the source.
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) entry: Entry,
    /// Its time; none for the time of the build.
    pub(crate) mtime: Option<Timestamp>,
    /// Whether it is selected itself, or is only a directory above something that is.
    pub(crate) is_included: bool,
    /// The target of a link.
    pub(crate) target: Option<PathBuf>,
    /// Extended attributes that are copied.
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
    /// Whether these are all that it has, so that a link to it is as good as a copy.
    pub(crate) is_whole: bool,
    /// The path below the top of the first name of the same inode, if this is not the first.
    pub(crate) same_as: Option<PathBuf>,
    /// Whether it is a socket that is copied as an empty file.
    pub(crate) is_socket: bool,
    /// The digest of a file's bytes, once it is known.
    pub(crate) content: Option<[u8; 32]>,
    /// What is in a directory, sorted by the bytes of the names.
    pub(crate) children: Vec<(OsString, Node)>,
}

impl Node {
    /// The metadata that it has in its source.
    pub(crate) fn attributes(&self) -> Attributes {
        Attributes { mtime: self.mtime, ..Attributes::of(&self.entry, self.xattrs.clone()) }
    }

    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.entry.kind == FileKind::Directory
    }
}

/// What of a directory is taken.
struct Rules<'a> {
    exclude: &'a PatternSet,
    /// Under `--parents`: what alone is taken.
    include: Option<PatternSet>,
}

/// How far the rules have come at a directory.
struct RulesAt {
    exclude: Directory,
    include: Option<Directory>,
}

/// Finds what `selector` selects in `source`.
pub(crate) fn select(source: &SourceTree, selector: &Selector) -> Result<Selection, CopyError> {
    let exclude = PatternSet::new(&selector.exclude)?;
    let mut sources = Vec::with_capacity(selector.paths.len());
    for path in &selector.paths {
        let mut matches = if selector.parents {
            with_parents(source, path, &exclude)?
        } else {
            let rules = Rules { exclude: &exclude, include: None };
            let found = find(source, path, selector.wildcards)?;
            let matches = found.into_iter().map(|found| found.into_match(source, &rules));
            matches.collect::<Result<_, _>>()?
        };
        for found in &mut matches {
            mark_links(&mut found.node);
        }
        sources.push(Selected { path: path.clone(), matches });
    }
    Ok(Selection { sources })
}

/// A path that was found.
struct FoundPath {
    name: OsString,
    is_name_found: bool,
    found: Found,
}

impl FoundPath {
    /// The match with all below it.
    fn into_match(self, source: &SourceTree, rules: &Rules<'_>) -> Result<Match, CopyError> {
        let at =
            RulesAt { exclude: rules.exclude.root(), include: rules.include.as_ref().map(PatternSet::root) };
        let node = walk(source, &self.found, true, (rules, &at))?;
        Ok(Match { name: self.name, is_name_found: self.is_name_found, node })
    }
}

/// What a path stands for, links followed.
fn find(source: &SourceTree, path: &str, wildcards: bool) -> Result<Vec<FoundPath>, CopyError> {
    let path = clean(&format!("/{path}"));
    if !(wildcards && has_wildcards(&path)) {
        let found = source.resolve(Path::new(&path))?.ok_or_else(|| not_found(source, &path))?;
        return Ok(vec![FoundPath { name: base_name(Path::new(&path)), is_name_found: false, found }]);
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let literal = parts.iter().take_while(|part| !has_wildcards(part)).count();
    let above = format!("/{}", parts[..literal].join("/"));
    let mut found = Vec::new();
    if let Some(directory) = source.resolve(Path::new(&above))? {
        expand(source, &directory, &parts[literal..], &mut found)?;
    }
    found.into_iter().map(|found| follow(source, found)).collect()
}

/// The entries below `directory` that the components of a path match. Links on the way are not followed.
fn expand(
    source: &SourceTree,
    directory: &Found,
    parts: &[&str],
    matches: &mut Vec<Found>,
) -> Result<(), CopyError> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    if directory.entry.kind != FileKind::Directory {
        return Ok(());
    }
    // Also where nothing is compared: a malformed pattern is an error in any case.
    match_path(part, b"")?;
    for (name, found) in source.children(directory)? {
        if !match_path(part, name.as_bytes())? {
            continue;
        }
        if !rest.is_empty() {
            expand(source, &found, rest, matches)?;
        } else if !found.is_hollow || source.has_content(&found)? {
            matches.push(found);
        }
    }
    Ok(())
}

/// What a match is, if it is a link.
fn follow(source: &SourceTree, matched: Found) -> Result<FoundPath, CopyError> {
    let name = base_name(&matched.path);
    let found = if matched.entry.kind == FileKind::Symlink {
        let found = source.resolve(&matched.path)?;
        found.ok_or_else(|| not_found(source, &matched.path.to_string_lossy()))?
    } else {
        matched
    };
    Ok(FoundPath { name, is_name_found: true, found })
}

/// What a path under `--parents` selects: a directory, the pivot, of which only what the rest of the path matches
/// is taken, with the directories on the way.
fn with_parents(source: &SourceTree, path: &str, exclude: &PatternSet) -> Result<Vec<Match>, CopyError> {
    let (pivot, rest) = path.split_once("/./").unwrap_or(("", path));
    let rest = clean(&format!("/{rest}"));
    let pattern = rest.trim_start_matches('/');
    let include = if pattern.is_empty() { None } else { Some(PatternSet::new(&[pattern])?) };
    let rules = Rules { exclude, include };
    let mut matches = Vec::new();
    for found in find(source, pivot, true)? {
        let full = clean(&format!("/{pivot}/{pattern}"));
        if found.found.entry.kind != FileKind::Directory {
            return Err(not_found(source, &full));
        }
        let is_pivot_found = found.is_name_found;
        let found = found.into_match(source, &rules)?;
        let is_literal = !is_pivot_found && !has_wildcards(pattern);
        if is_literal && found.node.children.is_empty() && source.resolve(Path::new(&full))?.is_none() {
            return Err(not_found(source, &full));
        }
        matches.push(found);
    }
    Ok(matches)
}

/// The error for a source that is not there.
fn not_found(source: &SourceTree, path: &str) -> CopyError {
    let is_there = |context: &crate::context::Context| {
        let resolved = context.view.resolve(Path::new(path), cache::tree::Follow::All);
        resolved.and_then(|path| context.view.entry(&path)).is_ok_and(|entry| entry.is_some())
    };
    let ignored = source.context().is_some_and(is_there);
    CopyError::NotFound { path: path.to_owned(), reference: source.reference().to_owned(), ignored }
}

/// A node with all below it that the rules let through.
fn walk(
    source: &SourceTree,
    found: &Found,
    is_included: bool,
    rules: (&Rules<'_>, &RulesAt),
) -> Result<Node, CopyError> {
    let mut xattrs = xattrs(source, found)?;
    let count = xattrs.len();
    xattrs.retain(|(name, _)| is_copied(name));
    let is_whole = xattrs.len() == count;
    let mut node = Node {
        path: found.path.clone(),
        entry: found.entry,
        mtime: found.mtime,
        is_included,
        target: None,
        xattrs,
        is_whole,
        same_as: None,
        is_socket: found.is_socket,
        content: None,
        children: Vec::new(),
    };
    match (found.entry.kind, source.view()) {
        (FileKind::Symlink, Some(view)) => node.target = Some(view.read_link(&found.path)?),
        (FileKind::Directory, _) => node.children = walk_children(source, found, rules)?,
        _ => {}
    }
    Ok(node)
}

/// What the rules let through of a directory's entries.
fn walk_children(
    source: &SourceTree,
    directory: &Found,
    rules: (&Rules<'_>, &RulesAt),
) -> Result<Vec<(OsString, Node)>, CopyError> {
    let children = source.children(directory)?;
    let visit = |(name, found): (OsString, Found)| {
        let node = visit(source, &name, &found, rules).transpose()?;
        Some(node.map(|node| (name, node)))
    };
    let directories =
        children.iter().filter(|(_, found)| found.entry.kind == FileKind::Directory).take(2).count();
    if is_worth_threads(children.len(), directories) {
        children.into_par_iter().filter_map(visit).collect()
    } else {
        children.into_iter().filter_map(visit).collect()
    }
}

/// The node of one entry, if the rules let it or something below it through.
fn visit(
    source: &SourceTree,
    name: &OsStr,
    found: &Found,
    (rules, at): (&Rules<'_>, &RulesAt),
) -> Result<Option<Node>, CopyError> {
    let name = name.as_bytes();
    if found.entry.kind != FileKind::Directory {
        let matches = |(set, at): (&PatternSet, &Directory)| set.check(at, name).matched;
        let is_included = rules.include.as_ref().zip(at.include.as_ref()).is_none_or(matches);
        if !is_included || rules.exclude.check(&at.exclude, name).matched {
            return Ok(None);
        }
        return walk(source, found, true, (rules, at)).map(Some);
    }
    let (excluded, exclude) = rules.exclude.enter(&at.exclude, name);
    if excluded.matched && !rules.exclude.may_be_negated_below(&exclude) {
        return Ok(None);
    }
    let mut is_included = !excluded.matched;
    let mut include = None;
    if let (Some(set), Some(at)) = (&rules.include, &at.include) {
        let (included, below) = set.enter(at, name);
        if !included.matched && !set.may_match_below(&below) {
            return Ok(None);
        }
        is_included &= included.matched;
        include = Some(below);
    }
    let node = walk(source, found, is_included, (rules, &RulesAt { exclude, include }))?;
    let is_left_out =
        node.children.is_empty() && (!is_included || (found.is_hollow && !source.has_content(found)?));
    Ok(Some(node).filter(|_| !is_left_out))
}

/// The extended attributes of something. Of a context none, as the peers' transfer loses them, and none of links.
fn xattrs(source: &SourceTree, found: &Found) -> Result<Vec<(OsString, Vec<u8>)>, CopyError> {
    match source {
        SourceTree::Snapshot(tree) if found.entry.kind != FileKind::Symlink => {
            Ok(tree.view().xattrs(&found.path)?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Whether a copy takes an extended attribute along: file capabilities and those outside `security` and `system`.
fn is_copied(attribute: &OsStr) -> bool {
    let name = attribute.as_bytes();
    name == b"security.capability" || !(name.starts_with(b"security.") || name.starts_with(b"system."))
}

/// Finds the names of one inode below `top`, in the order of the walk.
fn mark_links(top: &mut Node) {
    fn visit(node: &mut Node, path: &Path, first: &mut HashMap<(u64, u64), PathBuf>) {
        if node.entry.kind == FileKind::File && node.entry.nlink > 1 && !node.is_socket {
            let inode = (node.entry.dev, node.entry.ino);
            match first.get(&inode) {
                Some(other) => node.same_as = Some(other.clone()),
                None => {
                    first.insert(inode, path.to_owned());
                }
            }
        }
        for (name, child) in &mut node.children {
            if child.is_directory() || child.entry.nlink > 1 {
                visit(child, &path.join(name), first);
            }
        }
    }
    if top.is_directory() {
        visit(top, Path::new(""), &mut HashMap::new());
    }
}
