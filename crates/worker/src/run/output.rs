//! The output of a RUN, as events.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use solver::{Event, ExecContext, LogStream};
use tokio::sync::oneshot;

use super::redaction::Redaction;

/// What a pipe holds.
const READ_BYTES: usize = 64 << 10;
/// A line that is longer is passed on in pieces.
const LONGEST_LINE: usize = 64 << 10;

/// Sends everything that comes out of `pipe` as events, whole lines at a time and without secrets, until its end. A
/// carriage return ends a line too: what follows is written over it.
///
/// It is read by a thread of its own, on which the sink of events may block: then the pipe fills, and the process waits.
pub(super) async fn forward(
    pipe: Option<OwnedFd>,
    stream: LogStream,
    redaction: &Arc<Redaction>,
    context: &ExecContext,
) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let (redaction, vertex, events) = (Arc::clone(redaction), context.vertex, Arc::clone(&context.events));
    let (ended, end) = oneshot::channel();
    // Not one of the runtime's: all of those might be waiting for the reader of the output.
    std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        let result = lines(File::from(pipe), &redaction, |data| events(Event::Log { vertex, stream, data }));
        // Nobody waits for a step that was given up.
        let _ = ended.send(result);
    })?;
    end.await.unwrap_or_else(|_| Err(io::Error::other("the reader has panicked")))
}

fn lines(mut reader: impl Read, redaction: &Redaction, mut send: impl FnMut(Vec<u8>)) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let already = pending.len();
        pending.extend_from_slice(&buffer[..count]);
        let line_end = pending[already..].iter().rposition(|byte| matches!(byte, b'\n' | b'\r'));
        let end = match line_end {
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
    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;

    fn sent(writes: &[&[u8]]) -> Vec<Vec<u8>> {
        sent_without(&[], writes)
    }

    fn sent_without(secrets: &[&[u8]], writes: &[&[u8]]) -> Vec<Vec<u8>> {
        let redaction = Redaction::of(secrets.iter().copied());
        let (reader, mut end) = io::pipe().unwrap();
        let (sender, receiver) = mpsc::channel();
        let reading =
            std::thread::spawn(move || lines(reader, &redaction, |data| sender.send(data).unwrap()));
        let mut sent = Vec::new();
        for write in writes {
            end.write_all(write).unwrap();
            if write.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
                sent.push(receiver.recv().unwrap());
            }
        }
        drop(end);
        reading.join().unwrap().unwrap();
        sent.extend(receiver.try_iter());
        sent
    }

    #[test]
    fn whole_lines_are_sent_as_they_come() {
        let sent = sent(&[b"one\ntw", b"o\nthree\n", b"10%\r20%\r30", b"%\r\n", b"\xff\0four"]);
        assert_eq!(sent, [&b"one\n"[..], b"two\nthree\n", b"10%\r20%\r", b"30%\r\n", b"\xff\0four"]);
    }

    #[test]
    fn a_secret_that_comes_in_parts_is_none_the_less_hidden() {
        let sent_lines = sent_without(&[b"hidden"], &[b"a hid", b"den b\nhid", b"den"]);
        assert_eq!(sent_lines, [&b"a **** b\n"[..], b"****"]);
        // At any place of a line that is passed on in pieces.
        for before in [LONGEST_LINE - 6, LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 2] {
            let line = [vec![b'x'; before], b"hidden".to_vec(), vec![b'y'; LONGEST_LINE]].concat();
            let shown = sent_without(&[b"hidden"], &[&line]).concat();
            let expected = [vec![b'x'; before], b"****".to_vec(), vec![b'y'; LONGEST_LINE]].concat();
            assert!(shown == expected, "after {before} bytes");
        }
    }

    #[test]
    fn a_line_without_end_is_sent_in_pieces() {
        let long = vec![b'x'; 3 * LONGEST_LINE];
        let sent = sent(&[&long]);
        assert!(sent.len() > 1);
        assert_eq!(sent.concat(), long);
    }
}
