//! Bodies that break, or stop.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

/// A body in steps.
#[derive(Debug, Default)]
pub(super) struct ScriptedBody(pub(super) VecDeque<Step>);

#[derive(Debug)]
pub(super) enum Step {
    Send(Bytes),
    /// The connection breaks.
    Break,
    /// Nothing more ever comes.
    Stall,
    /// Nothing comes for a while.
    Pause(Pin<Box<tokio::time::Sleep>>),
}

impl ScriptedBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(VecDeque::from([Step::Send(bytes)]))
    }

    pub(super) fn empty() -> Self {
        Self::default()
    }
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        while let Some(Step::Pause(pause)) = self.0.front_mut() {
            std::task::ready!(pause.as_mut().poll(context));
            self.0.pop_front();
        }
        match self.0.pop_front() {
            None | Some(Step::Pause(_)) => Poll::Ready(None),
            Some(Step::Send(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Step::Break) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            Some(Step::Stall) => {
                self.0.push_front(Step::Stall);
                // Nobody is woken: the connection ends with the client or with the registry.
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}
