//! Files of HTTP servers.
//!
//! A file lies alone in a snapshot. What its server said of it is kept in the store as the record of a key that is made
//! of its URL and its name: so it goes away with the snapshot, and only what one still has is asked about.

use std::fs::File;
use std::path::{Path, PathBuf};

use cache::tree::{Attributes, FileContent, Hashing, Timestamp, TreeWriter};
use cache::{EntryKind, RecordDetails, RecordKey, Replace, Snapshot};
use oci::Digest;
use registry::{FetchRequest, Fetched, Validators, redacted};
use solver::{CacheKey, Event, ExecContext, HttpOp};

use super::{RemoteError, Remotes};
use crate::WorkerError;
use crate::local::{blocking, write_snapshot};

/// What a file gets that comes without a mode.
const MODE: u32 = 0o600;
/// The largest file that is taken. More than any that people build with, and less than would fill most disks.
const MAX_BYTES: u64 = 64 << 30;
const TOKEN_SECRET: &str = "HTTP_AUTH_TOKEN_";
const HEADER_SECRET: &str = "HTTP_AUTH_HEADER_";

/// A file as its server has it at present.
#[derive(Debug, Clone)]
pub(super) struct CurrentFile {
    /// There if it is in the store.
    pub(super) snapshot: Option<Snapshot>,
    pub(super) digest: Digest,
}

/// A file that is in the store.
#[derive(Debug, Clone)]
struct StoredFile {
    snapshot: Snapshot,
    digest: Digest,
    validators: Validators,
}

impl Remotes {
    /// The file as it is at present: the one in the store, or the one that a cache which lies elsewhere knows of, if the
    /// server says that it is still the same.
    pub(super) async fn current_file(
        &self,
        op: &HttpOp,
        context: &ExecContext,
    ) -> Result<CurrentFile, WorkerError> {
        let url = redacted(&op.url);
        let policy = &self.sources.policy;
        if let Some(locked) = &policy.locked {
            let digest = locked.files.get(&url).cloned();
            let digest = digest.ok_or(RemoteError::NotLocked { source_name: url })?;
            return Ok(CurrentFile { snapshot: None, digest });
        }
        let file = self.present_file(op, context).await?;
        self.sources.found().files.insert(url, file.digest.clone());
        Ok(file)
    }

    /// When the server said that the file, which has been fetched, was last changed: in seconds since 1970.
    pub(crate) fn modified_at(&self, op: &HttpOp) -> Result<Option<i64>, WorkerError> {
        Ok(self.stored_file(op)?.and_then(|stored| stored.validators.modified_seconds()))
    }

    async fn present_file(&self, op: &HttpOp, context: &ExecContext) -> Result<CurrentFile, WorkerError> {
        let stored = self.stored_file(op)?;
        if let Some(StoredFile { snapshot, digest, .. }) =
            stored.clone().filter(|_| self.sources.policy.offline)
        {
            return Ok(CurrentFile { snapshot: Some(snapshot), digest });
        }
        let known = match &stored {
            Some(stored) => Some((stored.digest.clone(), stored.validators.clone())),
            None => {
                self.imports.parts(&CacheKey(validators_key(op).0)).await.and_then(|parts| known_of(&parts))
            }
        };
        let (digest, validators) = known.unzip();
        match (self.fetch(op, validators.unwrap_or_default(), context).await?, digest) {
            (Some(file), _) => {
                let StoredFile { snapshot, digest, .. } = self.keep(op, file, stored).await?;
                Ok(CurrentFile { snapshot: Some(snapshot), digest })
            }
            (None, Some(digest)) => {
                Ok(CurrentFile { snapshot: stored.map(|stored| stored.snapshot), digest })
            }
            (None, None) => unreachable!("without validators nothing is unchanged"),
        }
    }

    /// The file that has the digest `expected`. No server is asked if it is in the store.
    pub(super) async fn file_of(
        &self,
        op: &HttpOp,
        expected: Option<&Digest>,
        context: &ExecContext,
    ) -> Result<Snapshot, WorkerError> {
        let CurrentFile { snapshot, digest: expected } = match expected.cloned() {
            Some(digest) => CurrentFile { snapshot: None, digest },
            None => self.present_file(op, context).await?,
        };
        if let Some(snapshot) = snapshot {
            return Ok(snapshot);
        }
        let stored = self.stored_file(op)?;
        if let Some(stored) = stored.as_ref().filter(|stored| stored.digest == expected) {
            return Ok(stored.snapshot);
        }
        let file = self.fetch(op, Validators::default(), context).await?;
        let file = file.expect("without validators nothing is unchanged");
        if expected != file.digest {
            let url = redacted(&op.url);
            return Err(RemoteError::DigestMismatch { url, actual: file.digest, expected }.into());
        }
        Ok(self.keep(op, file, stored).await?.snapshot)
    }

    /// Fetches the file, unless it is the one that the validators are of.
    async fn fetch(
        &self,
        op: &HttpOp,
        known: Validators,
        context: &ExecContext,
    ) -> Result<Option<NewFile>, WorkerError> {
        self.may_fetch(&op.url)?;
        let mut request =
            FetchRequest { url: op.url.clone(), authorization: None, known, limit_bytes: MAX_BYTES };
        request.authorization = request.host().and_then(|host| self.authorization(&host));
        let path = self.store.fresh_path();
        let failed = |source| RemoteError::Write { path: path.clone(), source };
        let mut file = tokio::fs::File::create_new(&path).await.map_err(failed)?;
        let on_bytes = |current, total| {
            let name = format!("fetching {}", op.name);
            (context.events)(Event::Progress { vertex: context.vertex, name, current, total });
        };
        let fetched = self.client.fetch(&request, &mut file, &on_bytes).await.map_err(RemoteError::from)?;
        Ok(match fetched {
            Fetched::Unchanged => None,
            Fetched::File { digest, validators, .. } => Some(NewFile { path, digest, validators }),
        })
    }

    /// The value of `Authorization` for a host. A token wins over a header where there are both, as with BuildKit.
    fn authorization(&self, host: &str) -> Option<String> {
        let token = self.secret_text(&format!("{TOKEN_SECRET}{host}")).map(|token| format!("Bearer {token}"));
        token.or_else(|| self.secret_text(&format!("{HEADER_SECRET}{host}")))
    }

    /// Puts a file into the store. If it is the one that is there, that one stays.
    async fn keep(
        &self,
        op: &HttpOp,
        file: NewFile,
        stored: Option<StoredFile>,
    ) -> Result<StoredFile, WorkerError> {
        let (store, op) = (self.store.clone(), op.clone());
        blocking(move || {
            let snapshot = match stored {
                Some(stored) if stored.digest == file.digest => stored.snapshot,
                _ => write_snapshot(&store, None, |writer, _| {
                    file.place(writer, &Path::new("/").join(&op.name))?;
                    Ok(writer.finish()?)
                })?,
            };
            let details = RecordDetails {
                description: format!("file of {}", redacted(&op.url)),
                kind: EntryKind::Regular,
                parts: parts_of(&op, &file),
            };
            store.save(&validators_key(&op), &details, &snapshot, Replace::Yes)?;
            // What cannot be removed goes away with the run's directory.
            let _ = std::fs::remove_file(&file.path);
            Ok(StoredFile { snapshot, digest: file.digest, validators: file.validators })
        })
        .await
    }

    /// The file that was last fetched from the URL, if the store still has it.
    fn stored_file(&self, op: &HttpOp) -> Result<Option<StoredFile>, WorkerError> {
        let key = validators_key(op);
        let Some(snapshot) = self.store.lookup(&key)? else { return Ok(None) };
        let Some(parts) = self.store.record_parts(&key)? else { return Ok(None) };
        Ok(known_of(&parts).map(|(digest, validators)| StoredFile { snapshot, digest, validators }))
    }
}

/// A file that was fetched.
struct NewFile {
    path: PathBuf,
    digest: Digest,
    validators: Validators,
}

impl NewFile {
    /// Puts it at `target`, alone in its tree.
    fn place(&self, writer: &TreeWriter, target: &Path) -> Result<(), WorkerError> {
        // Without a time of its own it gets the same at each place and time.
        let seconds = self.validators.modified_seconds().unwrap_or(0);
        let mtime = Some(Timestamp { seconds, nanoseconds: 0 });
        let attributes = Attributes { mode: MODE, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        let path = || self.path.clone();
        let file = File::open(&self.path).map_err(|source| RemoteError::Write { path: path(), source })?;
        writer.file(target, FileContent::Fd(&file), &attributes, Hashing::Skip)?;
        Ok(())
    }
}

const URL: &str = "url";
const DIGEST: &str = "digest";
const ETAG: &str = "etag";
const LAST_MODIFIED: &str = "last-modified";

/// What is kept of a file, beside its snapshot.
fn parts_of(op: &HttpOp, file: &NewFile) -> Vec<(String, String)> {
    let mut parts = vec![(URL, redacted(&op.url)), (DIGEST, file.digest.to_string())];
    parts.extend(file.validators.etag.clone().map(|etag| (ETAG, etag)));
    parts.extend(file.validators.last_modified.clone().map(|time| (LAST_MODIFIED, time)));
    parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What [`parts_of`] says of a file.
fn known_of(parts: &[(String, String)]) -> Option<(Digest, Validators)> {
    let part = |name: &str| parts.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let digest = part(DIGEST)?.parse().ok()?;
    Some((digest, Validators { etag: part(ETAG), last_modified: part(LAST_MODIFIED) }))
}

/// The key under which the file of a URL is kept: `rbuild http 1`, and the URL and the name, each after its length in
/// eight bytes, little-endian.
pub(crate) fn validators_key(op: &HttpOp) -> RecordKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"rbuild http 1");
    for text in [&op.url, &op.name] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    RecordKey(*hasher.finalize().as_bytes())
}
