//! The output of a RUN, as events.

use std::io;
use std::os::fd::OwnedFd;

use solver::{Event, ExecContext, LogStream};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe::Receiver;

const READ_BYTES: usize = 16 << 10;
/// A line that is longer is passed on in pieces.
const LONGEST_LINE: usize = 64 << 10;

/// Sends everything that comes out of `pipe` as events, whole lines at a time, until its end.
pub(super) async fn forward(
    pipe: Option<OwnedFd>,
    stream: LogStream,
    context: &ExecContext,
) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let send = |data| (context.events)(Event::Log { vertex: context.vertex, stream, data });
    lines(Receiver::from_owned_fd(pipe)?, send).await
}

async fn lines(mut reader: impl AsyncRead + Unpin, mut send: impl FnMut(Vec<u8>)) -> io::Result<()> {
    let mut pending = Vec::new();
    loop {
        pending.reserve(READ_BYTES);
        let already = pending.len();
        if reader.read_buf(&mut pending).await? == 0 {
            break;
        }
        let newline = pending[already..].iter().rposition(|byte| *byte == b'\n');
        if let Some(position) = newline {
            let rest = pending.split_off(already + position + 1);
            send(std::mem::replace(&mut pending, rest));
        } else if pending.len() > LONGEST_LINE {
            send(std::mem::take(&mut pending));
        }
    }
    if !pending.is_empty() {
        send(pending);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn sent(writes: &[&[u8]]) -> Vec<Vec<u8>> {
        let (reader, mut end) = tokio::io::duplex(1 << 20);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let reading = tokio::spawn(async move { lines(reader, |data| sender.send(data).unwrap()).await });
        let mut sent = Vec::new();
        for write in writes {
            end.write_all(write).await.unwrap();
            if write.contains(&b'\n') {
                sent.push(receiver.recv().await.unwrap());
            }
        }
        drop(end);
        reading.await.unwrap().unwrap();
        while let Some(data) = receiver.recv().await {
            sent.push(data);
        }
        sent
    }

    #[tokio::test]
    async fn whole_lines_are_sent_as_they_come() {
        let sent = sent(&[b"one\ntw", b"o\nthree\n", b"\xff\0four"]).await;
        assert_eq!(sent, [&b"one\n"[..], b"two\nthree\n", b"\xff\0four"]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_sent_in_pieces() {
        let long = vec![b'x'; 3 * LONGEST_LINE];
        let sent = sent(&[&long]).await;
        assert!(sent.len() > 1);
        assert_eq!(sent.concat(), long);
    }
}
