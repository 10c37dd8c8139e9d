//! `--volume`, `--mount` and `--tmpfs`.

use std::path::{Path, PathBuf};

use sandbox::{MountKind, MountSpec};

use crate::values::{Mistake, size_bytes};

/// `--volume PATH:TARGET[:OPTIONS]`. As with docker a name without a slash is that of a volume, which there are not here.
pub(super) fn volume(text: &str, here: &Path) -> Result<MountSpec, Mistake> {
    let wrong = |problem: &str| format!("invalid value `{text}` for `--volume`: {problem}");
    let mut parts = text.split(':');
    let (Some(source), Some(to), options, None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong("it should be `PATH:TARGET[:ro]`"));
    };
    if !source.contains('/') && !matches!(source, "." | "..") {
        return Err(wrong(&format!("volumes with names are not supported; a directory is `./{source}`")));
    }
    let mut read_only = false;
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" | "readonly" => read_only = true,
            // Labels of SELinux, and hints for other systems, mean nothing here.
            "" | "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            other => return Err(wrong(&format!("`{other}` is not supported"))),
        }
    }
    let target = target(to).map_err(|problem| wrong(&problem))?;
    let source = source_of(source, here).map_err(|problem| wrong(&problem))?;
    Ok(MountSpec { target, kind: MountKind::Bind { source, read_only } })
}

/// `--mount KEY=VALUE,…`.
pub(super) fn mount(text: &str, here: &Path) -> Result<MountSpec, Mistake> {
    let wrong = |problem: &str| format!("invalid value `{text}` for `--mount`: {problem}");
    let (mut kind, mut source, mut to) = ("volume", None, None);
    let (mut read_only, mut size) = (false, None);
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
        let needed = || value.ok_or_else(|| wrong(&format!("`{key}` needs a value")));
        match key {
            "type" => kind = needed()?,
            "source" | "src" => source = Some(needed()?),
            "target" | "dst" | "destination" => to = Some(needed()?),
            "readonly" | "ro" => {
                let on = frontend::go_bool(value.unwrap_or("true"));
                read_only = on.ok_or_else(|| wrong(&format!("`{key}` is on or off")))?;
            }
            "tmpfs-size" => size = Some(size_bytes("tmpfs-size", needed()?)?),
            "tmpfs-mode" if value.is_some_and(|mode| mode.trim_start_matches('0') == "1777") => {}
            "bind-propagation" if matches!(value, Some("private" | "rprivate")) => {}
            other => return Err(wrong(&format!("`{other}` is not supported"))),
        }
    }
    let to = to.ok_or_else(|| wrong("it has no `target`"))?;
    let target = target(to).map_err(|problem| wrong(&problem))?;
    let kind = match (kind, source) {
        ("bind", Some(source)) => {
            MountKind::Bind { source: source_of(source, here).map_err(|problem| wrong(&problem))?, read_only }
        }
        ("bind", None) => return Err(wrong("it has no `source`")),
        ("tmpfs", None) => MountKind::Tmpfs { size_bytes: size, read_only },
        ("tmpfs", Some(_)) => return Err(wrong("a tmpfs has no `source`")),
        (other, _) => {
            return Err(wrong(&format!("the type `{other}` is not supported: `bind` and `tmpfs` are")));
        }
    };
    Ok(MountSpec { target, kind })
}

/// `--tmpfs TARGET[:OPTIONS]`.
pub(super) fn tmpfs(text: &str) -> Result<MountSpec, Mistake> {
    let wrong = |problem: &str| format!("invalid value `{text}` for `--tmpfs`: {problem}");
    let (to, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut read_only) = (None, false);
    for option in options.split(',') {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(size_bytes("size", value)?),
            Some(("mode", mode)) if mode.trim_start_matches('0') == "1777" => {}
            None if option == "ro" => read_only = true,
            None if matches!(option, "" | "rw" | "nodev" | "nosuid" | "exec") => {}
            _ => return Err(wrong(&format!("`{option}` is not supported"))),
        }
    }
    let target = target(to).map_err(|problem| wrong(&problem))?;
    Ok(MountSpec { target, kind: MountKind::Tmpfs { size_bytes: size, read_only } })
}

fn target(text: &str) -> Result<PathBuf, Mistake> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(format!("the target `{text}` is not absolute"));
    }
    if path.components().count() < 2 {
        return Err("nothing can be mounted at the root".to_owned());
    }
    Ok(path)
}

/// A path of this machine, which has to be there: what docker makes of one that is not has surprised people enough.
fn source_of(text: &str, here: &Path) -> Result<PathBuf, Mistake> {
    let path = here.join(text);
    match path.metadata() {
        Ok(_) => Ok(path),
        Err(error) => Err(format!("cannot find `{}`: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, target: &str, read_only: bool) -> MountSpec {
        let kind = MountKind::Bind { source: source.into(), read_only };
        MountSpec { target: target.into(), kind }
    }

    #[test]
    fn volumes() {
        let read = |text| volume(text, Path::new("/usr"));
        assert_eq!(read("/etc:/x"), Ok(bind("/etc", "/x", false)));
        assert_eq!(read("./bin:/x/y:ro,z"), Ok(bind("/usr/./bin", "/x/y", true)));
        for (text, problem) in [
            (
                "data:/x",
                "invalid value `data:/x` for `--volume`: volumes with names are not supported; a directory is `./data`",
            ),
            ("/etc", "invalid value `/etc` for `--volume`: it should be `PATH:TARGET[:ro]`"),
            ("/etc:x", "invalid value `/etc:x` for `--volume`: the target `x` is not absolute"),
            ("/etc:/", "invalid value `/etc:/` for `--volume`: nothing can be mounted at the root"),
            ("/etc:/x:U", "invalid value `/etc:/x:U` for `--volume`: `U` is not supported"),
            (
                "/no/such:/x",
                "invalid value `/no/such:/x` for `--volume`: cannot find `/no/such`: No such file or directory (os error 2)",
            ),
        ] {
            assert_eq!(read(text), Err(problem.to_owned()));
        }
    }

    #[test]
    fn mounts() {
        let read = |text| mount(text, Path::new("/usr"));
        assert_eq!(read("type=bind,src=bin,dst=/x,readonly"), Ok(bind("/usr/bin", "/x", true)));
        assert_eq!(read("type=bind,source=/etc,target=/x,ro=false"), Ok(bind("/etc", "/x", false)));
        let tmpfs = |size_bytes, read_only| {
            Ok(MountSpec { target: "/t".into(), kind: MountKind::Tmpfs { size_bytes, read_only } })
        };
        assert_eq!(read("type=tmpfs,destination=/t,tmpfs-size=1m"), tmpfs(Some(1 << 20), false));
        assert_eq!(super::tmpfs("/t:size=1k,ro"), tmpfs(Some(1024), true));
        assert_eq!(super::tmpfs("/t"), tmpfs(None, false));
        for (text, problem) in [
            ("source=a,target=/x", "the type `volume` is not supported: `bind` and `tmpfs` are"),
            ("type=bind,target=/x", "it has no `source`"),
            ("type=tmpfs", "it has no `target`"),
            ("type=bind,source=/etc,target=/x,U=1", "`U` is not supported"),
            ("type=bind,source,target=/x", "`source` needs a value"),
        ] {
            assert_eq!(read(text), Err(format!("invalid value `{text}` for `--mount`: {problem}")));
        }
    }
}
