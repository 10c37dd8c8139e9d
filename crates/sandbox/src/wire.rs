//! What the calling side and the init say to each other over their socket: length-prefixed JSON, and the system call
//! filter as raw bytes after the specification, perhaps with a descriptor.
//!
//! The two sides are always the same executable, so that the form needs no versions.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::emulation::ElfFormat;
use crate::{Kept, ProcessSpec, TerminalSize};

/// No message comes near this; a longer one is a bug on the other side.
const MAX_MESSAGE_BYTES: u32 = 1 << 30;

/// What the init is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Become a process.
    Run {
        /// Which.
        spec: Box<ProcessSpec>,
        /// What the calling side knows of the machine.
        surroundings: Surroundings,
        /// Whether the init is in a network namespace that was made for it, in which no device is up.
        has_new_network: bool,
        /// The size of its terminal, if it is to have one.
        terminal: Option<TerminalSize>,
        /// How the program is executed.
        execution: Execution,
    },
    /// Tell what works here.
    Probe,
    /// Become another program of the machine; nothing is answered unless that fails. It is asked when the guard knows the
    /// process, which ends by itself if the calling side is gone before.
    Execute {
        /// Its path.
        #[serde(with = "raw_path")]
        program: PathBuf,
        /// All arguments, with the name.
        arguments: Vec<String>,
    },
    /// Tell whether programs of the format are executed here.
    Executes(ElfFormat),
    /// After [`Self::Executes`]: move into a user namespace.
    MakeNamespace,
    /// After [`Self::MakeNamespace`]: register this emulator there, and send the namespace and its handlers.
    Register(RawPath),
}

/// A path of any bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RawPath(#[serde(with = "raw_path")] pub(crate) PathBuf);

impl From<PathBuf> for RawPath {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

/// How the program is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Execution {
    /// As it is.
    Direct,
    /// In a user namespace that is sent after the system call filter.
    InNamespace,
    /// By the emulator at [`EMULATOR`] if it is of this format.
    Emulated(ElfFormat),
}

/// Where an emulator is shown that is started with the program.
pub(crate) const EMULATOR: &str = "/dev/.emulator";

/// What the calling side knows of the machine.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    /// Whether the process is in a user namespace that lacks some of the machine's ids.
    pub(crate) in_user_namespace: bool,
    /// Whether `setgroups(2)` is forbidden in it.
    pub(crate) groups_denied: bool,
}

/// What the init says once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The next thing is the program. With a terminal, a byte follows that has the descriptor of its other side.
    Ready {
        /// The mount points that had to be made, parents before children.
        stubs: Vec<Stub>,
        /// What is not the sandbox's own.
        kept: Vec<Kept>,
    },
    /// A step failed.
    Failed {
        /// Which, in words.
        step: String,
        /// What about; empty for nothing in particular.
        #[serde(with = "raw_path")]
        path: PathBuf,
        /// The error number.
        errno: i32,
    },
    /// What works here.
    Probed(Probed),
    /// Whether programs of the format are executed here.
    Executes(bool),
    /// The init is in a user namespace without ids.
    NamespaceMade,
    /// The namespace and its handlers come next.
    Registered,
}

/// What works here; an error number says what does not.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Probed {
    /// A fresh `/proc`.
    pub(crate) fresh_proc: Option<i32>,
    /// A fresh `/sys` with the host's network.
    pub(crate) fresh_sys: Option<i32>,
    /// `mount_setattr(2)`.
    pub(crate) mount_setattr: Option<i32>,
    /// Mounting anything at all.
    pub(crate) mount: Option<i32>,
    /// Setting the host name.
    pub(crate) host_name: Option<i32>,
    /// Installing a system call filter.
    pub(crate) seccomp: Option<i32>,
}

/// A mount point that had to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stub {
    /// Its path in the root file system, without links.
    #[serde(with = "raw_path")]
    pub(crate) path: PathBuf,
    /// Whether it is a directory.
    pub(crate) is_directory: bool,
}

/// Sends one message.
pub(crate) fn send<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    send_bytes(&mut to, &serde_json::to_vec(message).map_err(io::Error::other)?)
}

/// Receives one message.
pub(crate) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    serde_json::from_slice(&receive_bytes(&mut from)?).map_err(io::Error::other)
}

/// Sends bytes with their length.
pub(crate) fn send_bytes(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= MAX_MESSAGE_BYTES);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(bytes.len() + 4);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(bytes);
    to.write_all(&message)
}

/// Receives bytes with their length.
pub(crate) fn receive_bytes(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_ne_bytes(length);
    if length > MAX_MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Sends a few bytes, and perhaps a descriptor, over a socket.
pub(crate) fn send_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> rustix::io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives no more than `bytes` holds, and the descriptor that came with it. Gives how many bytes there were; none at
/// the end.
pub(crate) fn receive_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
}

/// Receives a descriptor that has to come.
pub(crate) fn receive_one_descriptor(from: &UnixStream) -> io::Result<OwnedFd> {
    let (_, descriptor) = receive_descriptor(from.as_fd(), &mut [0])?;
    descriptor.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Bytes as a string of the characters U+0000 to U+00FF: JSON knows no bytes, and most of them are ASCII.
fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn from_text<E: serde::de::Error>(text: &str) -> Result<Vec<u8>, E> {
    text.chars().map(|character| u8::try_from(character).map_err(E::custom)).collect()
}

/// A path of any bytes.
pub(crate) mod raw_path {
    use super::{Deserialize, OsStrExt, OsString, OsStringExt, Path, PathBuf, from_text, to_text};

    pub(crate) fn serialize<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_text(path.as_os_str().as_bytes()))
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(from_text(&String::deserialize(from)?)?).into())
    }
}

/// Paths of any bytes.
pub(crate) mod raw_paths {
    use super::{Deserialize, OsStrExt, OsString, OsStringExt, PathBuf, Serialize, from_text, to_text};

    pub(crate) fn serialize<S: serde::Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        paths.iter().map(|path| to_text(path.as_os_str().as_bytes())).collect::<Vec<_>>().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| Ok(OsString::from_vec(from_text(text)?).into())).collect()
    }
}

/// Bytes.
pub(crate) mod raw_bytes {
    use super::{Deserialize, from_text, to_text};

    pub(crate) fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_text(bytes))
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from_text(&String::deserialize(from)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_survive() {
        let stub = Stub {
            path: PathBuf::from(OsString::from_vec(b"/a\xFF\"\n\xC3\xA9".to_vec())),
            is_directory: true,
        };
        let mut buffer = Vec::new();
        send(&mut buffer, &stub).unwrap();
        send_bytes(&mut buffer, b"raw").unwrap();
        let mut from = buffer.as_slice();
        assert_eq!(receive::<Stub>(&mut from).unwrap(), stub);
        assert_eq!(receive_bytes(&mut from).unwrap(), b"raw");
        assert!(receive_bytes(&mut from).is_err());
    }
}
