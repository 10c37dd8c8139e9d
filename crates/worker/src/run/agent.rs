//! An ssh agent of the build, as a step sees it: a socket of the step's own, behind which requests are looked at.
//!
//! A step may see which keys there are and have something signed. It can neither add keys nor remove any, lock the agent
//! or use what else an agent may offer: that would outlive the build. The messages are those of
//! draft-miller-ssh-agent: a length of four bytes (big endian), a byte for the kind, and what belongs to it.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::Store;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use solver::RunAgent;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::one_id;
use crate::ssh;
use crate::{SshAgent, SshKey};

const ALLOWED: [u8; 2] = [ssh::REQUEST_IDENTITIES, ssh::SIGN_REQUEST];
/// As OpenSSH: no agent takes or sends more.
const LONGEST_MESSAGE: usize = 256 << 10;

/// A socket that leads to an agent for as long as this lives.
pub(crate) struct AgentSocket {
    path: PathBuf,
    /// The directory that it is in.
    directory: OwnedFd,
    serving: JoinHandle<()>,
}

impl AgentSocket {
    /// Makes a socket in the directory of the run, which leads to `agent`. It is this user's alone.
    pub(crate) fn open(store: &Store, agent: &SshAgent) -> io::Result<Self> {
        let path = store.fresh_path();
        let run = store.run_directory();
        let directory = rustix::fs::openat(CWD, run, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let listener = UnixListener::bind(short(Path::new("/proc/self"), &directory, &path))?;
        let socket = Self { path, directory, serving: tokio::spawn(serve(listener, agent.clone())) };
        rustix::fs::chmod(&socket.path, Mode::RUSR | Mode::WUSR)?;
        Ok(socket)
    }

    /// Gives it the owner and the mode that a step wants.
    pub(super) fn give(&self, store: &Store, wanted: &RunAgent) -> io::Result<()> {
        let (uid, gid) = one_id::owner(store, (wanted.uid, wanted.gid));
        if (uid, gid) != (0, 0) {
            rustix::fs::chown(&self.path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        rustix::fs::chmod(&self.path, Mode::from_raw_mode(wanted.mode))?;
        Ok(())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An address of it for programs that this process has started.
    pub(crate) fn address(&self) -> PathBuf {
        let process = Path::new("/proc").join(std::process::id().to_string());
        short(&process, &self.directory, &self.path)
    }
}

/// The address of a socket holds no more than 107 bytes, which a store may be deeper than: it is the name in its
/// directory, which a process has open.
fn short(process: &Path, directory: &OwnedFd, path: &Path) -> PathBuf {
    let open = process.join("fd").join(directory.as_raw_fd().to_string());
    open.join(path.file_name().unwrap_or_default())
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        // With the connections, which a process that was started in the step may still hold.
        self.serving.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, agent: SshAgent) {
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            Some(_) = connections.join_next() => continue,
        };
        // What goes wrong in a connection ends it, as an agent would. Whoever has no descriptors left gets none here.
        let Ok((client, _)) = client else { return };
        connections.spawn(connect(client, agent.clone()));
    }
}

/// One connection, until either end is gone.
async fn connect(mut client: UnixStream, agent: SshAgent) -> io::Result<()> {
    match agent {
        SshAgent::Socket(path) => forward(client, Signer::Agent(UnixStream::connect(&path).await?)).await,
        SshAgent::Keys(keys) => forward(client, Signer::Keys(keys)).await,
        SshAgent::RawSocket(path) => {
            let mut agent = UnixStream::connect(&path).await?;
            tokio::io::copy_bidirectional(&mut client, &mut agent).await.map(drop)
        }
    }
}

/// Who answers the requests of a connection.
enum Signer<S> {
    Agent(S),
    Keys(Arc<[SshKey]>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Signer<S> {
    async fn answer(&mut self, request: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Agent(agent) => {
                send(agent, &request).await?;
                receive(agent).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Self::Keys(keys) => {
                let keys = Arc::clone(keys);
                let answer = tokio::task::spawn_blocking(move || ssh::answer(&keys, &request));
                answer.await.map_err(io::Error::other)
            }
        }
    }
}

/// Answers the client's requests until it is gone.
async fn forward<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, mut signer: Signer<S>) -> io::Result<()> {
    while let Some(request) = receive(&mut client).await? {
        let is_allowed = request.first().is_some_and(|kind| ALLOWED.contains(kind));
        let answer = if is_allowed { signer.answer(request).await? } else { vec![ssh::FAILURE] };
        send(&mut client, &answer).await?;
    }
    Ok(())
}

/// The next message; `None` at the end.
async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length? as usize,
    };
    if length > LONGEST_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn send(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&length.to_be_bytes(), message].concat();
    to.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the agent is asked, and what the client hears, of these requests.
    async fn asked(requests: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut client, inner) = tokio::io::duplex(1 << 20);
        let (outer, mut agent) = tokio::io::duplex(1 << 20);
        let forwarding = tokio::spawn(forward(inner, Signer::Agent(outer)));
        let answering = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(request) = receive(&mut agent).await.unwrap() {
                send(&mut agent, &[b"answer to ", request.as_slice()].concat()).await.unwrap();
                seen.push(request);
            }
            seen
        });
        let mut answers = Vec::new();
        for request in requests {
            send(&mut client, request).await.unwrap();
            answers.push(receive(&mut client).await.unwrap().unwrap());
        }
        drop(client);
        forwarding.await.unwrap().unwrap();
        (answering.await.unwrap(), answers)
    }

    #[tokio::test]
    async fn keys_can_be_seen_and_used_and_nothing_else() {
        let (seen, answers) =
            asked(&[b"\x0b", b"\x11key", b"\x13", b"\x0dsign", b"\x16", b"\x1bext", b""]).await;
        assert_eq!(seen, [&b"\x0b"[..], b"\x0dsign"]);
        let refused = vec![ssh::FAILURE];
        let expected = [
            b"answer to \x0b".to_vec(),
            refused.clone(),
            refused.clone(),
            b"answer to \x0dsign".to_vec(),
            refused.clone(),
            refused.clone(),
            refused,
        ];
        assert_eq!(answers, expected);
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_ends_the_connection() {
        let (mut client, inner) = tokio::io::duplex(64);
        client.write_u32(u32::MAX).await.unwrap();
        let error = forward(inner, Signer::Keys(Arc::new([]))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
