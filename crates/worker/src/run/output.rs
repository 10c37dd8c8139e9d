//! The output of a RUN, as events.

use std::io;
use std::os::fd::OwnedFd;

use solver::{Event, ExecContext, LogStream};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe::Receiver;

use super::redaction::Redaction;

const READ_BYTES: usize = 16 << 10;
/// A line that is longer is passed on in pieces.
const LONGEST_LINE: usize = 64 << 10;

/// Sends everything that comes out of `pipe` as events, whole lines at a time and without secrets, until its end.
pub(super) async fn forward(
    pipe: Option<OwnedFd>,
    stream: LogStream,
    redaction: &Redaction,
    context: &ExecContext,
) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let send = |data| (context.events)(Event::Log { vertex: context.vertex, stream, data });
    lines(Receiver::from_owned_fd(pipe)?, redaction, send).await
}

async fn lines(
    mut reader: impl AsyncRead + Unpin,
    redaction: &Redaction,
    mut send: impl FnMut(Vec<u8>),
) -> io::Result<()> {
    let mut pending = Vec::new();
    loop {
        pending.reserve(READ_BYTES);
        let already = pending.len();
        if reader.read_buf(&mut pending).await? == 0 {
            break;
        }
        let newline = pending[already..].iter().rposition(|byte| *byte == b'\n');
        let end = match newline {
            Some(position) => already + position + 1,
            // No more than a part of a secret waits for the rest of it.
            None if pending.len() > LONGEST_LINE + redaction.held_back() => {
                pending.len() - redaction.held_back()
            }
            None => continue,
        };
        let (shown, length) = redaction.apply(&pending, end);
        pending.drain(..length);
        send(shown);
    }
    if !pending.is_empty() {
        send(redaction.apply(&pending, pending.len()).0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn sent(writes: &[&[u8]]) -> Vec<Vec<u8>> {
        sent_without(&[], writes).await
    }

    async fn sent_without(secrets: &[&[u8]], writes: &[&[u8]]) -> Vec<Vec<u8>> {
        let redaction = Redaction::of(secrets.iter().copied());
        let (reader, mut end) = tokio::io::duplex(1 << 20);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let reading =
            tokio::spawn(async move { lines(reader, &redaction, |data| sender.send(data).unwrap()).await });
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
    async fn a_secret_that_comes_in_parts_is_none_the_less_hidden() {
        let sent_lines = sent_without(&[b"hidden"], &[b"a hid", b"den b\nhid", b"den"]).await;
        assert_eq!(sent_lines, [&b"a **** b\n"[..], b"****"]);
        // At any place of a line that is passed on in pieces.
        for before in [LONGEST_LINE - 6, LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 2] {
            let line = [vec![b'x'; before], b"hidden".to_vec(), vec![b'y'; LONGEST_LINE]].concat();
            let shown = sent_without(&[b"hidden"], &[&line]).await.concat();
            let expected = [vec![b'x'; before], b"****".to_vec(), vec![b'y'; LONGEST_LINE]].concat();
            assert!(shown == expected, "after {before} bytes");
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_sent_in_pieces() {
        let long = vec![b'x'; 3 * LONGEST_LINE];
        let sent = sent(&[&long]).await;
        assert!(sent.len() > 1);
        assert_eq!(sent.concat(), long);
    }
}
