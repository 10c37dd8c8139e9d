//! The commands that look after the space that the store takes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cache::{DiskSize, Entry, Filter, PruneOptions, SpaceBounds, Store, Usage};
use jiff::Timestamp;
use serde_json::json;

use crate::arguments::{ListFormat, PruneArguments, UsageArguments};
use crate::images::{columns, store_failure};
use crate::progress::bytes;
use crate::report::Failure;
use crate::session::{Session, blocking};
use crate::settings::{Environment, GarbageCollection};
use crate::values;

/// `rbuild prune`.
pub(crate) async fn prune(
    session: Session,
    root: PathBuf,
    arguments: PruneArguments,
) -> Result<Option<String>, Failure> {
    let options = prune_options(&arguments).map_err(Failure::usage)?;
    let store = session.open_store(root).await?;
    blocking(move || {
        let pruned = store.prune(&options).map_err(|error| store_failure(&error))?;
        Ok(Some(format!(
            "Removed {} snapshots, {} cache records, {} blobs, {} cache mounts\nTotal: {}\n",
            pruned.snapshots,
            pruned.records,
            pruned.blobs,
            pruned.cache_mounts,
            bytes(pruned.freed_bytes)
        )))
    })
    .await
}

fn prune_options(arguments: &PruneArguments) -> Result<PruneOptions, values::Mistake> {
    let size =
        |flag, text: &Option<String>| text.as_ref().map(|text| values::size_bytes(flag, text)).transpose();
    let bounds = SpaceBounds {
        reserved: size("--reserved-space", &arguments.reserved_space)?,
        max_used: size("--max-used-space", &arguments.max_used_space)?,
        min_free: size("--min-free-space", &arguments.min_free_space)?,
    };
    let (texts, until) = without_until(&arguments.filters)?;
    let unused_for = arguments.keep_duration.max(until);
    Ok(PruneOptions { unused_for, filters: all_of(&texts)?.into_iter().collect(), bounds })
}

/// Takes `until=DURATION` out of the filters.
fn without_until(filters: &[String]) -> Result<(Vec<String>, Option<Duration>), values::Mistake> {
    let (mut texts, mut until) = (Vec::new(), None);
    for filter in filters {
        match filter.strip_prefix("until=").or_else(|| filter.strip_prefix("unused-for=")) {
            None => texts.push(filter.clone()),
            Some(_) if until.is_some() => {
                return Err("`--filter until=…` can be given once".to_owned());
            }
            Some(text) => until = Some(values::duration(text.trim_start_matches('='))?),
        }
    }
    Ok((texts, until))
}

/// What several `--filter` ask for together; all there is without any.
fn all_of(texts: &[String]) -> Result<Option<Filter>, values::Mistake> {
    if texts.is_empty() {
        return Ok(None);
    }
    let text = texts.join(",");
    text.parse().map(Some).map_err(|error| format!("invalid value `{text}` for `--filter`: {error}"))
}

/// `rbuild du`.
pub(crate) async fn usage(
    session: Session,
    root: PathBuf,
    arguments: UsageArguments,
) -> Result<Option<String>, Failure> {
    let filter = all_of(&arguments.filters).map_err(Failure::usage)?;
    let store = session.open_store(root).await?;
    blocking(move || {
        let mut usage = store.usage().map_err(|error| store_failure(&error))?;
        if let Some(filter) = filter {
            usage.entries.retain(|(entry, _)| filter.matches(entry));
        }
        // The largest first, as du's readers want it.
        usage.entries.sort_by(|(a, a_size), (b, b_size)| b_size.cmp(a_size).then_with(|| a.id.cmp(&b.id)));
        Ok(Some(match (arguments.format, arguments.verbose) {
            (ListFormat::Json, _) => format!("{}\n", usage_json(&usage)),
            (ListFormat::Table, false) => format!("{}{}", usage_table(&usage.entries), totals(&usage)),
            (ListFormat::Table, true) => {
                let entries: String = usage.entries.iter().map(verbose).collect();
                format!("{entries}{}", totals(&usage))
            }
        }))
    })
    .await
}

fn usage_json(usage: &Usage) -> serde_json::Value {
    let entries: Vec<_> = usage.entries.iter().map(entry_json).collect();
    json!({
        "total_bytes": usage.total_bytes,
        "reclaimable_bytes": usage.reclaimable_bytes,
        "snapshots": usage.snapshots,
        "records": usage.records,
        "blobs": usage.blobs,
        "cache_mounts": usage.cache_mounts,
        "entries": entries,
    })
}

fn entry_json((entry, size): &(Entry, u64)) -> serde_json::Value {
    json!({
        "id": entry.id.to_string(),
        "type": entry.kind.as_str(),
        "parent": entry.parent.map(|parent| parent.to_string()),
        "description": entry.description,
        "size_bytes": size,
        "reclaimable": entry.is_reclaimable(),
        "in_use": entry.in_use,
        "shared": entry.shared,
        "mutable": entry.mutable,
        "last_used": last_used(entry),
    })
}

/// A moment as RFC 3339 has it, in seconds.
fn last_used(entry: &Entry) -> Option<String> {
    Timestamp::from_second(entry.used).ok().map(|time| time.to_string())
}

fn usage_table(entries: &[(Entry, u64)]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let head = ["ID", "RECLAIMABLE", "SIZE", "LAST USED", "DESCRIPTION"].map(str::to_owned).to_vec();
    let row = |(entry, size): &(Entry, u64)| {
        vec![
            short(entry),
            entry.is_reclaimable().to_string(),
            format!("{}{}", bytes(*size), if entry.shared { "*" } else { "" }),
            Timestamp::from_second(entry.used)
                .map_or_else(|_| String::new(), |time| time.strftime("%Y-%m-%d %H:%M").to_string()),
            entry.description.clone(),
        ]
    };
    let cells: Vec<_> = std::iter::once(head).chain(entries.iter().map(row)).collect();
    columns(&cells)
}

/// The name as far as it is needed to tell it; with an asterisk where the thing may still change.
fn short(entry: &Entry) -> String {
    let id = entry.id.to_string();
    let id: String = id.strip_prefix("sha256:").unwrap_or(&id).chars().take(16).collect();
    format!("{id}{}", if entry.mutable { "*" } else { "" })
}

fn verbose((entry, size): &(Entry, u64)) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{:<16}{value}", format!("{name}:"));
    };
    line("ID", &entry.id.to_string());
    if let Some(parent) = entry.parent {
        line("Parent", &parent.to_string());
    }
    line("Type", entry.kind.as_str());
    line("Description", &entry.description);
    line("Mutable", &entry.mutable.to_string());
    line("Reclaimable", &entry.is_reclaimable().to_string());
    line("Shared", &entry.shared.to_string());
    line("Size", &bytes(*size));
    line("Last used", &last_used(entry).unwrap_or_default());
    text.push('\n');
    text
}

fn totals(usage: &Usage) -> String {
    format!(
        "Snapshots:     {}\nCache records: {}\nBlobs:         {}\nCache mounts:  {}\nReclaimable:   {}\n\
         Total:         {}\n",
        usage.snapshots,
        usage.records,
        usage.blobs,
        usage.cache_mounts,
        bytes(usage.reclaimable_bytes),
        bytes(usage.total_bytes)
    )
}

/// `rbuild gc`: what the configuration asks for, now.
pub(crate) async fn collect(session: Session, root: PathBuf) -> Result<Option<String>, Failure> {
    let settings = Environment::garbage_collection()?;
    let store = session.open_store(root).await?;
    blocking(move || {
        let rules = rules(&settings, store.disk_size())?;
        match store.collect(&rules).map_err(|error| store_failure(&error))? {
            Some(pruned) => Ok(Some(format!("Total: {}\n", bytes(pruned.freed_bytes)))),
            None => Ok(None),
        }
    })
    .await
}

/// The rules of the configuration, or those that hold without one.
fn rules(settings: &GarbageCollection, disk: DiskSize) -> Result<Vec<PruneOptions>, Failure> {
    if settings.rules.is_empty() {
        let set = settings.bounds.on(disk);
        return Ok(cache::default_rules(if set == SpaceBounds::default() {
            disk.default_bounds()
        } else {
            set
        }));
    }
    settings
        .rules
        .iter()
        .map(|rule| {
            let filters: Result<Vec<Filter>, _> = rule.filters.iter().map(|text| text.parse()).collect();
            let filters = filters.map_err(|error| {
                Failure::usage(format!("a filter of the configuration is not right: {error}"))
            })?;
            Ok(PruneOptions { unused_for: rule.keep_duration, filters, bounds: rule.bounds.on(disk) })
        })
        .collect()
}

/// Has the store of a build that has ended kept in bounds, by a process of its own that nobody waits for.
pub(crate) fn collect_in_background(store: &Store) {
    let is_wanted = Environment::garbage_collection().is_ok_and(|settings| settings.enabled);
    if !is_wanted || !store.collection_is_due() {
        return;
    }
    // What cannot be started now is started by a later build.
    let _ = start_collection(store.root());
}

fn start_collection(root: &Path) -> std::io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    Command::new(std::env::current_exe()?)
        .arg("--root")
        .arg(root)
        .arg("gc")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C is not meant for it.
        .process_group(0)
        .spawn()
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_several_flags_all_hold() {
        let texts = ["until=24h", "type=regular", "inuse=false"].map(str::to_owned);
        let (texts, until) = without_until(&texts).unwrap();
        assert_eq!(until, Some(Duration::from_secs(86400)));
        assert_eq!(texts, ["type=regular", "inuse=false"]);
        assert!(all_of(&texts).unwrap().is_some() && all_of(&[]).unwrap().is_none());
        let twice = ["until=1h", "until=2h"].map(str::to_owned);
        assert!(without_until(&twice).unwrap_err().contains("once"));
        let error = all_of(&["tpye=regular".to_owned()]).unwrap_err();
        assert!(error.contains("`--filter`") && error.contains("`tpye`"), "{error}");
    }
}
