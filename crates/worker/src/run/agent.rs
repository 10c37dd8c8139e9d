//! An ssh agent of the user's, as a step sees it: a socket of the step's own, behind which requests are looked at.
//!
//! A step may see which keys there are and have something signed. It can neither add keys nor remove any, lock the agent
//! or use what else an agent may offer: that would outlive the build. The messages are those of
//! draft-miller-ssh-agent: a length of four bytes (big endian), a byte for the kind, and what belongs to it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use cache::Store;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use solver::RunAgent;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// `SSH_AGENTC_REQUEST_IDENTITIES` and `SSH_AGENTC_SIGN_REQUEST`.
const ALLOWED: [u8; 2] = [11, 13];
/// `SSH_AGENT_FAILURE`.
const FAILURE: [u8; 1] = [5];
/// As OpenSSH: no agent takes or sends more.
const LONGEST_MESSAGE: usize = 256 << 10;

/// A socket that leads to an agent for as long as this lives.
pub(super) struct AgentSocket {
    path: PathBuf,
    serving: JoinHandle<()>,
}

impl AgentSocket {
    /// Makes a socket as `wanted` in the directory of the run, which leads to the agent that listens at `agent`.
    pub(super) fn open(store: &Store, wanted: &RunAgent, agent: &Path) -> io::Result<Self> {
        let path = store.fresh_path();
        let listener = listen(store.run_directory(), &path)?;
        let agent = agent.to_owned();
        let socket = Self { path, serving: tokio::spawn(serve(listener, agent)) };
        if (wanted.uid, wanted.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
            rustix::fs::chown(&socket.path, Some(uid), Some(gid))?;
        }
        rustix::fs::chmod(&socket.path, Mode::from_raw_mode(wanted.mode))?;
        Ok(socket)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        // With the connections, which a process that was started in the step may still hold.
        self.serving.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at `path` in `directory`. The address of a socket holds no more than 107 bytes, which a store may be deeper
/// than.
fn listen(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    let directory = rustix::fs::openat(CWD, directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    UnixListener::bind(short.join(path.file_name().unwrap_or_default()))
}

async fn serve(listener: UnixListener, agent: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            Some(_) = connections.join_next() => continue,
        };
        // What goes wrong in a connection ends it, as an agent would. Whoever has no descriptors left gets none here.
        let Ok((client, _)) = client else { return };
        let agent = agent.clone();
        connections.spawn(async move {
            let agent = UnixStream::connect(&agent).await?;
            forward(client, agent).await
        });
    }
}

/// Hands requests on to the agent and answers back, until either is gone.
async fn forward<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, mut agent: S) -> io::Result<()> {
    while let Some(request) = receive(&mut client).await? {
        let answer = if request.first().is_some_and(|kind| ALLOWED.contains(kind)) {
            send(&mut agent, &request).await?;
            receive(&mut agent).await?.ok_or(io::ErrorKind::UnexpectedEof)?
        } else {
            FAILURE.to_vec()
        };
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
        let forwarding = tokio::spawn(forward(inner, outer));
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
        let refused = FAILURE.to_vec();
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
        let (outer, _agent) = tokio::io::duplex(64);
        client.write_u32(u32::MAX).await.unwrap();
        let error = forward(inner, outer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
