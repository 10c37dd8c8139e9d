//! Waiting for memory before another RUN starts.

use solver::{Event, ExecContext};

use crate::WorkerError;
use crate::local::Pauses;

/// Waits until `available` tells at least `reserve_bytes`. Where it tells nothing, there is nothing to wait for.
pub(crate) async fn wait<F>(
    reserve_bytes: u64,
    mut available: impl FnMut() -> F,
    context: &ExecContext,
) -> Result<(), WorkerError>
where
    F: Future<Output = Result<Option<u64>, WorkerError>>,
{
    let mut pauses = Pauses::default();
    while let Some(available_bytes) = available().await?.filter(|available| *available < reserve_bytes) {
        if pauses.is_first() {
            let vertex = context.vertex;
            (context.events)(Event::WaitingForMemory { vertex, available_bytes, reserve_bytes });
        }
        pauses.next(context).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use solver::{EventSink, GraphBuilder, Op, VertexMeta};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Waits for 100 bytes while there is as much as `figures` tell, one after the other; gives what was told.
    async fn wait_for(
        figures: &[Option<u64>],
        cancel: &CancellationToken,
    ) -> (Result<(), WorkerError>, Vec<u64>, usize) {
        let vertex = GraphBuilder::default().add(Op::Scratch, Vec::new(), VertexMeta::default()).unwrap();
        let told: Arc<Mutex<Vec<u64>>> = Arc::default();
        let kept = Arc::clone(&told);
        let events: EventSink = Arc::new(move |event| match event {
            Event::WaitingForMemory { available_bytes, reserve_bytes: 100, .. } => {
                kept.lock().unwrap().push(available_bytes);
            }
            other => panic!("{other:?}"),
        });
        let context = ExecContext { vertex, cancel: cancel.clone(), events };
        let mut asked = 0;
        let available = || {
            let figure = figures[asked.min(figures.len() - 1)];
            asked += 1;
            std::future::ready(Ok(figure))
        };
        let result = wait(100, available, &context).await;
        let told = told.lock().unwrap().clone();
        (result, told, asked)
    }

    #[tokio::test]
    async fn a_wait_is_told_once_and_ends_with_enough() {
        let (result, told, asked) =
            wait_for(&[Some(10), Some(99), Some(20), Some(100)], &CancellationToken::new()).await;
        assert!(result.is_ok());
        assert_eq!((told, asked), (vec![10], 4));
    }

    #[tokio::test]
    async fn enough_or_unknown_is_no_wait() {
        for figure in [Some(100), None] {
            let (result, told, asked) = wait_for(&[figure], &CancellationToken::new()).await;
            assert!(result.is_ok());
            assert_eq!((told, asked), (vec![], 1));
        }
    }

    #[tokio::test]
    async fn a_cancelled_build_waits_no_longer() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let (result, told, _) = wait_for(&[Some(1)], &cancel).await;
        assert!(matches!(result, Err(WorkerError::Cancelled)));
        assert_eq!(told, [1]);
    }
}
