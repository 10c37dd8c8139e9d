//! The language of `RUN --mount=…`: one record of comma-separated fields, each `key=value` or a key alone.
//!
//! It is read twice. The parser needs to know which stage a mount takes its files from, before any variable has a
//! value ([`source_of`]); everything else is understood where the RUN is lowered ([`parse`]), since every value may
//! hold variables, the kind of the mount included.
//!
//! What is deliberately absent: paths are not resolved and nothing is looked up. Whether a target is the root, or the
//! source is there, only the lowering and the worker can say.

use crate::boolean::go_bool;
use crate::csv;
use crate::quote::go_quote;
use crate::suggest::{Case, did_you_mean};

/// What a RUN finds mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MountKind {
    /// Files of the build context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// An empty directory in memory.
    Tmpfs,
    /// A file or a variable with something secret.
    Secret,
    /// The socket of an ssh agent.
    Ssh,
}

impl MountKind {
    const ALL: [Self; 5] = [Self::Bind, Self::Cache, Self::Tmpfs, Self::Secret, Self::Ssh];

    /// The word of a Dockerfile for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// What happens when two processes want one cache at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheSharing {
    /// Both have it.
    Shared,
    /// The second has a cache of its own.
    Private,
    /// The second waits for the first.
    Locked,
}

impl CacheSharing {
    const ALL: [Self; 3] = [Self::Shared, Self::Private, Self::Locked];

    /// The word of a Dockerfile for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }
}

/// A mount as it was asked for, variables expanded. What goes together with what has been checked; a key that means
/// nothing to a kind (`env` of a bind mount) may be set all the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mount {
    /// What it is.
    pub(crate) kind: MountKind,
    /// The stage, image or named context whose files it shows; a cache begins with them. Never set for a secret.
    /// `None` and an empty value are the same thing, here and in all other texts but [`Mount::env`].
    pub(crate) from: Option<String>,
    /// The path below the root of [`Mount::from`], or of the context. Of a secret it is another word for
    /// [`Mount::id`], never set beside it; never set for ssh.
    pub(crate) source: Option<String>,
    /// Where it is mounted, relative to the working directory. Without it, bind mounts, caches and tmpfs are mounted
    /// at the working directory itself, which may not be `/`; a secret at a place after its id, and an agent's socket
    /// at a place of its own.
    pub(crate) target: Option<String>,
    /// Whether it cannot be written: as asked for, else true for all kinds but caches and tmpfs.
    pub(crate) read_only: bool,
    /// The most that a tmpfs holds. `None`, for which `size=0` is another word, is as much as the system allows.
    pub(crate) size_bytes: Option<u64>,
    /// The name of a cache (else its target as it was written, cleaned), of a secret (else the last element of its
    /// target), or of an agent (else `default`).
    pub(crate) id: Option<String>,
    /// Said of caches only. `None` means [`CacheSharing::Shared`].
    pub(crate) sharing: Option<CacheSharing>,
    /// Whether the build fails without the secret or the agent.
    pub(crate) required: bool,
    /// The variable that holds the secret; may be empty. With it, there is a file only if there is a target.
    pub(crate) env: Option<String>,
    /// The permissions of a secret, a socket or a new cache.
    pub(crate) mode: Option<u32>,
    /// Whose the secret, the socket or the new cache is.
    pub(crate) uid: Option<u32>,
    /// The group of the same.
    pub(crate) gid: Option<u32>,
}

/// What is wrong with a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountError {
    /// The code of a diagnostic.
    pub(crate) code: &'static str,
    /// Its text.
    pub(crate) message: String,
}

impl MountError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The keys that are suggested for others; where two are as close, the first.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// What can be said before variables are known: that the text is a record, and where the files come from. The value
/// is as it stands in the text. It is the name that stages depend on, whatever [`parse`] makes of it later.
///
/// # Errors
/// The record is malformed, or `from` has a variable.
pub(crate) fn source_of(text: &str) -> Result<Option<String>, MountError> {
    let mut from = None;
    for field in fields(text)? {
        let Some((key, value)) = field.split_once('=') else { continue };
        if key.to_lowercase() != "from" {
            continue;
        }
        // A sign at the very end is no variable.
        if value.find('$').is_some_and(|at| at + 1 < value.len()) {
            let message = "'from' doesn't support variable expansion, define alias stage instead";
            return Err(MountError::new("mount-from-variable", message));
        }
        from = said(value.to_owned());
    }
    Ok(from)
}

/// The whole option. `expand` is given each value as it stands in the text, in order, and returns it with its
/// variables expanded; keys without a value are taken as they are.
///
/// # Errors
/// The first thing that is wrong: the record, then its fields one after the other, then what does not go together.
pub(crate) fn parse(
    text: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, String>,
) -> Result<Mount, MountError> {
    let mut reader = Reader::default();
    for field in fields(text)? {
        let Some((key, value)) = field.split_once('=') else {
            reader.read_word(&field)?;
            continue;
        };
        // Even what belongs to a key that does not exist is expanded first, and may be the mistake that is told.
        let value = expand(value).map_err(|message| MountError::new("expansion", message))?;
        reader.read_pair(&key.to_lowercase(), value, &field)?;
    }
    reader.finish()
}

fn fields(text: &str) -> Result<Vec<String>, MountError> {
    csv::fields(text)
        .map_err(|cause| MountError::new("mount-syntax", format!("failed to parse csv mounts: {cause}")))
}

/// What the fields so far have said.
#[derive(Default)]
struct Reader {
    mount: Mount,
    /// The default depends on the kind, which may come last.
    read_only: Option<bool>,
}

impl Reader {
    /// A key without a value.
    fn read_word(&mut self, field: &str) -> Result<(), MountError> {
        match field.to_lowercase().as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            key @ "required" => {
                self.check_kind(key)?;
                self.mount.required = true;
            }
            _ => {
                let message = format!("invalid field '{field}' must be a key=value pair");
                return Err(MountError::new("mount-syntax", message));
            }
        }
        Ok(())
    }

    /// A key with its value; `field` is the text of both.
    fn read_pair(&mut self, key: &str, value: String, field: &str) -> Result<(), MountError> {
        let mount = &mut self.mount;
        match key {
            "type" => mount.kind = kind(&value)?,
            "from" => mount.from = said(value),
            "source" | "src" => mount.source = said(value),
            "target" | "dst" | "destination" => mount.target = said(value),
            "id" => mount.id = said(value),
            "env" => mount.env = Some(value),
            "sharing" => mount.sharing = Some(sharing(&value)?),
            "mode" => mount.mode = Some(number(key, &value, 8)?),
            "uid" => mount.uid = Some(number(key, &value, 10)?),
            "gid" => mount.gid = Some(number(key, &value, 10)?),
            "readonly" | "ro" => self.read_only = Some(boolean(key, &value)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean(key, &value)?),
            "required" => {
                self.check_kind(key)?;
                self.mount.required = boolean(key, &value)?;
            }
            "size" => {
                self.check_kind(key)?;
                let size = size_bytes(&value).ok_or_else(|| invalid_value(key, &value))?;
                self.mount.size_bytes = Some(size).filter(|size| *size > 0);
            }
            _ => return Err(unknown_key(key, field)),
        }
        Ok(())
    }

    /// Whether a key suits the kind said so far, which is a bind mount before any is.
    fn check_kind(&self, key: &str) -> Result<(), MountError> {
        let kind = self.mount.kind;
        let suits = match key {
            "size" => kind == MountKind::Tmpfs,
            _ => matches!(kind, MountKind::Secret | MountKind::Ssh),
        };
        if suits {
            return Ok(());
        }
        let message = format!("unexpected key '{key}' for mount type '{}'", kind.name());
        Err(MountError::new("invalid-mount", message))
    }

    fn finish(self) -> Result<Mount, MountError> {
        let mut mount = self.mount;
        check_combination(&mount).map_err(|message| MountError::new("invalid-mount", message))?;
        let is_writable = matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs);
        mount.read_only = self.read_only.unwrap_or(!is_writable);
        Ok(mount)
    }
}

/// What may stand beside what.
fn check_combination(mount: &Mount) -> Result<(), String> {
    let kind = mount.kind.name();
    if matches!(mount.kind, MountKind::Bind | MountKind::Tmpfs) {
        let keys = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
        if let Some((key, _)) = keys.iter().find(|(_, value)| value.is_some()) {
            return Err(format!("{key} not allowed for \"{kind}\" type mounts"));
        }
    }
    if mount.kind == MountKind::Secret {
        check_secret(mount)?;
    }
    if mount.sharing.is_some() && mount.kind != MountKind::Cache {
        return Err(format!("invalid cache sharing set for {kind} mount"));
    }
    if mount.kind == MountKind::Ssh && mount.source.is_some() {
        return Err("ssh does not support source".to_owned());
    }
    Ok(())
}

fn check_secret(mount: &Mount) -> Result<(), &'static str> {
    if mount.from.is_some() {
        return Err("secret mount should not have a from");
    }
    if mount.sharing.is_some() {
        return Err("secret mount should not define sharing");
    }
    match (&mount.source, &mount.id, &mount.target) {
        (None, None, None) => Err("invalid secret mount. one of source, target required"),
        (Some(_), Some(_), _) => Err("both source and id can't be set"),
        _ => Ok(()),
    }
}

/// A text, unless it is empty.
fn said(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

fn unknown_key(key: &str, field: &str) -> MountError {
    let hint = did_you_mean(key, KEYS, Case::Sensitive);
    MountError::new("unknown-mount-key", format!("unexpected key '{key}' in '{field}'{hint}"))
}

fn invalid_value(key: &str, value: &str) -> MountError {
    MountError::new("invalid-mount-value", format!("invalid value for {key}: {value}"))
}

fn kind(value: &str) -> Result<MountKind, MountError> {
    let lower = value.to_lowercase();
    MountKind::ALL.into_iter().find(|kind| kind.name() == lower).ok_or_else(|| {
        let hint = did_you_mean(value, MountKind::ALL.map(MountKind::name), Case::Sensitive);
        let message = format!("unsupported mount type {}{hint}", go_quote(value));
        MountError::new("unknown-mount-type", message)
    })
}

fn sharing(value: &str) -> Result<CacheSharing, MountError> {
    let lower = value.to_lowercase();
    CacheSharing::ALL.into_iter().find(|sharing| sharing.name() == lower).ok_or_else(|| {
        let hint = did_you_mean(value, CacheSharing::ALL.map(CacheSharing::name), Case::Sensitive);
        let message = format!("unsupported sharing value {}{hint}", go_quote(value));
        MountError::new("unknown-cache-sharing", message)
    })
}

fn boolean(key: &str, value: &str) -> Result<bool, MountError> {
    go_bool(value).ok_or_else(|| invalid_value(key, value))
}

/// Digits alone; `from_str_radix` would let a sign pass.
fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    let is_signed = value.starts_with(['+', '-']);
    let number = u32::from_str_radix(value, radix).ok().filter(|_| !is_signed);
    number.ok_or_else(|| MountError::new("invalid-mount-value", format!("invalid value {value} for {key}")))
}

/// Bytes, as docker reads sizes of memory: a decimal number, perhaps one blank, perhaps a unit. Units are powers of
/// 1024 (`k`, `kb`, `KiB`) in letters of any case. What remains of a fraction of a byte is dropped.
fn size_bytes(value: &str) -> Option<u64> {
    // The last of these ends the number, so `1e3` is one too.
    let end = value.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))?;
    let (number, unit) = match value[end..].strip_prefix(' ') {
        Some(unit) => (&value[..end], unit),
        None => value.split_at(end + 1),
    };
    let scale = match unit.to_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1_024.0,
        "m" | "mb" | "mib" => 1_048_576.0,
        "g" | "gb" | "gib" => 1_073_741_824.0,
        "t" | "tb" | "tib" => 1_099_511_627_776.0,
        "p" | "pb" | "pib" => 1_125_899_906_842_624.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * scale;
    // What a signed number of 64 bits cannot hold is no size of anything.
    let is_size = (0.0..9_223_372_036_854_775_808.0).contains(&bytes);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    is_size.then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `$NAME` alone is the name in small letters; `!` cannot be expanded.
    fn read(text: &str) -> Result<Mount, MountError> {
        parse(text, &mut |value| match value.strip_prefix('$') {
            Some("!") => Err("no such variable".to_owned()),
            Some(name) => Ok(name.to_lowercase()),
            None => Ok(value.to_owned()),
        })
    }

    fn text(value: &str) -> Option<String> {
        said(value.to_owned())
    }

    fn bind() -> Mount {
        Mount { read_only: true, ..Mount::default() }
    }

    fn of_kind(kind: MountKind) -> Mount {
        let read_only = !matches!(kind, MountKind::Cache | MountKind::Tmpfs);
        Mount { kind, read_only, ..Mount::default() }
    }

    fn check(rows: Vec<(&str, Mount)>) {
        for (text, wanted) in rows {
            assert_eq!(read(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn every_key_sets_its_field() {
        let secret = || Mount { id: text("x"), ..of_kind(MountKind::Secret) };
        check(vec![
            ("type=bind", bind()),
            ("type=cache", of_kind(MountKind::Cache)),
            ("type=tmpfs", of_kind(MountKind::Tmpfs)),
            ("type=ssh", of_kind(MountKind::Ssh)),
            ("type=secret,id=x", secret()),
            ("Type=SECRET,ID=x", secret()),
            ("from=Stage", Mount { from: text("Stage"), ..bind() }),
            ("source=/a", Mount { source: text("/a"), ..bind() }),
            ("src=a b", Mount { source: text("a b"), ..bind() }),
            ("target=/a=b", Mount { target: text("/a=b"), ..bind() }),
            ("dst=/a", Mount { target: text("/a"), ..bind() }),
            ("DESTINATION=/a", Mount { target: text("/a"), ..bind() }),
            ("id=/a//b", Mount { id: text("/a//b"), ..bind() }),
            ("type=tmpfs,size=2k", Mount { size_bytes: Some(2048), ..of_kind(MountKind::Tmpfs) }),
            ("type=tmpfs,size=0", of_kind(MountKind::Tmpfs)),
            ("type=ssh,required", Mount { required: true, ..of_kind(MountKind::Ssh) }),
            ("type=ssh,Required=T", Mount { required: true, ..of_kind(MountKind::Ssh) }),
            ("type=secret,id=x,required,required=false", secret()),
            ("type=secret,id=x,env=X", Mount { env: text("X"), ..secret() }),
            ("type=secret,id=x,env=", Mount { env: Some(String::new()), ..secret() }),
            ("env=X", Mount { env: text("X"), ..bind() }),
            ("type=cache,mode=0750", Mount { mode: Some(0o750), ..of_kind(MountKind::Cache) }),
            ("type=ssh,uid=007", Mount { uid: Some(7), ..of_kind(MountKind::Ssh) }),
            ("type=secret,id=x,gid=4294967295", Mount { gid: Some(u32::MAX), ..secret() }),
        ]);
    }

    #[test]
    fn the_last_word_counts_and_an_empty_one_is_none() {
        check(vec![
            ("target=/a,target=/b", Mount { target: text("/b"), ..bind() }),
            ("from=a,from=,source=,target=,id=", bind()),
            ("type=cache,type=bind,ro=0,rw=0", bind()),
            ("type=tmpfs,size=1,type=bind", Mount { size_bytes: Some(1), ..bind() }),
            ("type=secret,source=x", Mount { source: text("x"), ..of_kind(MountKind::Secret) }),
            ("type=secret,target=/x", Mount { target: text("/x"), ..of_kind(MountKind::Secret) }),
        ]);
    }

    #[test]
    fn values_are_expanded_and_words_are_not() {
        check(vec![
            (
                "type=$CACHE,sharing=$LOCKED",
                Mount { sharing: Some(CacheSharing::Locked), ..of_kind(MountKind::Cache) },
            ),
            ("\"source=a,b\",\"target=\"\"c\"\"\"", {
                Mount { source: text("a,b"), target: text("\"c\""), ..bind() }
            }),
            ("from=$A", Mount { from: text("a"), ..bind() }),
        ]);
        assert_eq!(read("$RO").unwrap_err().message, "invalid field '$RO' must be a key=value pair");
    }

    #[test]
    fn sharing_modes() {
        for (text, wanted) in [
            ("shared", CacheSharing::Shared),
            ("private", CacheSharing::Private),
            ("LOCKED", CacheSharing::Locked),
        ] {
            let mount = read(&format!("sharing={text},type=cache")).unwrap();
            assert_eq!(mount.sharing, Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_can_be_written() {
        let rows = [
            ("target=/x", true),
            ("type=ssh", true),
            ("type=cache", false),
            ("type=tmpfs", false),
            ("type=cache,ro", true),
            ("type=cache,readonly", true),
            ("type=tmpfs,READONLY=1", true),
            ("rw", false),
            ("readwrite", false),
            ("RW=t", false),
            ("readwrite=false", true),
            ("ro=false", false),
            ("ro,rw", false),
            ("rw,ro=true", true),
        ];
        for (text, wanted) in rows {
            assert_eq!(read(text).unwrap().read_only, wanted, "{text}");
        }
    }

    #[test]
    fn booleans_have_twelve_spellings() {
        for (spellings, wanted) in [("1 t T true TRUE True", true), ("0 f F false FALSE False", false)] {
            for value in spellings.split(' ') {
                assert_eq!(boolean("ro", value), Ok(wanted), "{value}");
            }
        }
        for value in ["", "yes", "tRUE", "2", " 1"] {
            assert_eq!(boolean("ro", value), Err(invalid_value("ro", value)), "{value}");
        }
    }

    #[test]
    fn sizes_of_memory() {
        const MIB: u64 = 1 << 20;
        let rows = [
            ("131072", 131_072),
            ("0", 0),
            ("32b", 32),
            ("32.9", 32),
            ("1.", 1),
            (".5k", 512),
            ("1e3", 1000),
            ("1k", 1024),
            ("128m", 128 * MIB),
            ("128M", 128 * MIB),
            ("1 mb", MIB),
            ("64MiB", 64 * MIB),
            ("64mIB", 64 * MIB),
            ("5 ", 5),
            ("1.5g", 1536 * MIB),
            ("2TB", 2 * MIB * MIB),
            ("3p", 3 * MIB * MIB * 1024),
        ];
        for (text, wanted) in rows {
            assert_eq!(size_bytes(text), Some(wanted), "{text}");
        }
        let mistakes = [
            "", "big", "-1", "m", "1x", "1kk", "1bk", "1ki", "1m b", "1  m", " 1", "1 000", "1.2.3", "9e9p",
            "nan ",
        ];
        for text in mistakes {
            assert_eq!(size_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let rows = [
            ("", "mount-syntax", "failed to parse csv mounts: EOF"),
            (
                "type=bind,a\"b",
                "mount-syntax",
                "failed to parse csv mounts: parse error on line 1, column 12: bare \" in non-quoted field",
            ),
            (
                "\"a",
                "mount-syntax",
                "failed to parse csv mounts: parse error on line 1, column 2: \
                 extraneous or missing \" in quoted-field",
            ),
            ("Source,target=/x", "mount-syntax", "invalid field 'Source' must be a key=value pair"),
            ("target=/x,", "mount-syntax", "invalid field '' must be a key=value pair"),
            ("nokey=$!", "expansion", "no such variable"),
            (
                "tagret=/x",
                "unknown-mount-key",
                "unexpected key 'tagret' in 'tagret=/x' (did you mean target?)",
            ),
            ("Sorce=$X", "unknown-mount-key", "unexpected key 'sorce' in 'Sorce=$X' (did you mean source?)"),
            ("what=ever", "unknown-mount-key", "unexpected key 'what' in 'what=ever'"),
            ("=x", "unknown-mount-key", "unexpected key '' in '=x' (did you mean id?)"),
            ("type=bnd", "unknown-mount-type", "unsupported mount type \"bnd\" (did you mean bind?)"),
            ("type=", "unknown-mount-type", "unsupported mount type \"\""),
            ("type=a\tb", "unknown-mount-type", "unsupported mount type \"a\\tb\""),
            (
                "sharing=privat",
                "unknown-cache-sharing",
                "unsupported sharing value \"privat\" (did you mean private?)",
            ),
            ("sharing=", "unknown-cache-sharing", "unsupported sharing value \"\""),
            ("ro=maybe", "invalid-mount-value", "invalid value for ro: maybe"),
            ("ReadOnly=", "invalid-mount-value", "invalid value for readonly: "),
            ("rw=$X", "invalid-mount-value", "invalid value for rw: x"),
            ("readwrite=no", "invalid-mount-value", "invalid value for readwrite: no"),
            ("type=ssh,required=x", "invalid-mount-value", "invalid value for required: x"),
            ("type=tmpfs,size=big", "invalid-mount-value", "invalid value for size: big"),
            ("mode=0789", "invalid-mount-value", "invalid value 0789 for mode"),
            ("mode=40000000000", "invalid-mount-value", "invalid value 40000000000 for mode"),
            ("uid=app", "invalid-mount-value", "invalid value app for uid"),
            ("uid=+1", "invalid-mount-value", "invalid value +1 for uid"),
            ("gid=4294967296", "invalid-mount-value", "invalid value 4294967296 for gid"),
            ("gid=", "invalid-mount-value", "invalid value  for gid"),
        ];
        for (text, code, message) in rows {
            assert_eq!(read(text), Err(MountError::new(code, message)), "{text}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let rows = [
            ("type=cache,required", "unexpected key 'required' for mount type 'cache'"),
            ("Required=1,type=ssh", "unexpected key 'required' for mount type 'bind'"),
            ("type=cache,size=1m", "unexpected key 'size' for mount type 'cache'"),
            ("size=big,type=tmpfs", "unexpected key 'size' for mount type 'bind'"),
            ("gid=1,mode=0700", "mode not allowed for \"bind\" type mounts"),
            ("type=tmpfs,gid=1,uid=1", "uid not allowed for \"tmpfs\" type mounts"),
            ("type=tmpfs,gid=1,sharing=shared", "gid not allowed for \"tmpfs\" type mounts"),
            ("type=secret,from=a,sharing=shared", "secret mount should not have a from"),
            ("type=secret,sharing=shared", "secret mount should not define sharing"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,env=X", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            ("type=tmpfs,sharing=locked", "invalid cache sharing set for tmpfs mount"),
            ("sharing=locked", "invalid cache sharing set for bind mount"),
            ("type=ssh,sharing=locked,source=x", "invalid cache sharing set for ssh mount"),
            ("type=ssh,source=x", "ssh does not support source"),
        ];
        for (text, message) in rows {
            assert_eq!(read(text), Err(MountError::new("invalid-mount", message)), "{text}");
        }
    }

    #[test]
    fn the_source_is_known_before_variables_are() {
        let rows = [
            ("target=/x", None),
            ("from,from=", None),
            ("FROM=Stage,type=$T", text("Stage")),
            ("from=a,size=big,nokey=$!,from=b", text("b")),
            ("from=a$", text("a$")),
            ("\"from=a,b\"", text("a,b")),
        ];
        for (text, wanted) in rows {
            assert_eq!(source_of(text), Ok(wanted), "{text}");
        }
        let message = "'from' doesn't support variable expansion, define alias stage instead";
        for text in ["From=$S", "from=a${S}", "from=a\\$b", "from=$$", "from=$S,from=a"] {
            assert_eq!(source_of(text), Err(MountError::new("mount-from-variable", message)), "{text}");
        }
        let message = "failed to parse csv mounts: EOF";
        assert_eq!(source_of(""), Err(MountError::new("mount-syntax", message)));
    }
}
