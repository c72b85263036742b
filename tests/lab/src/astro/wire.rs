//! Connections that can be cut from within the handling of a request.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::future::{AbortHandle, Abortable, Pending, pending};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Accepts connections whose [`Line`] the handlers get.
pub(crate) struct Port(pub TcpListener);

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    cut: Abortable<Pending<()>>,
    line: Line,
}

/// The way to cut a connection.
#[derive(Clone)]
pub(crate) struct Line {
    cut: AbortHandle,
    reset: Arc<AtomicBool>,
}

impl Line {
    /// Ends the connection, nothing more is written: an orderly TCP close, or a reset.
    pub fn cut(&self, reset: bool) {
        self.reset.store(reset, Ordering::Release);
        self.cut.abort();
    }

    /// Whether it was cut.
    pub fn is_cut(&self) -> bool {
        self.cut.is_aborted()
    }
}

impl Listener for Port {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        // Without it an answer may wait for the client's delayed acknowledgement; slower, not wrong.
        let _ = stream.set_nodelay(true);
        let (handle, registration) = AbortHandle::new_pair();
        let line = Line {
            cut: handle,
            reset: Arc::default(),
        };
        let cut = Abortable::new(pending(), registration);
        (Wire { stream, cut, line }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Port>> for Line {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Line {
        stream.io().line.clone()
    }
}

impl Wire {
    /// The stream, or the error that makes the server drop it.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if Pin::new(&mut self.cut).poll(cx).is_ready() {
            if self.line.reset.load(Ordering::Acquire) {
                self.stream.set_zero_linger()?;
            }
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Pin::new(&mut self.stream))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_shutdown(cx)
    }
}
