//! The loop of a server on a thread of its own.

use std::future::Future;
use std::net::TcpListener;

use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Does `serve` with each connection, all side by side, until `stopped`.
pub(crate) fn accept<F>(listener: TcpListener, stopped: oneshot::Receiver<()>, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a thread can have a runtime");
    listener.set_nonblocking(true).expect("a socket can be set non-blocking");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("the listener is bound");
        let accept = async {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        };
        tokio::select! {
            () = accept => {}
            _ = stopped => {}
        }
    });
}
