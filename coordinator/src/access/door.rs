//! The door: connections come in as long as there are places, speak TLS if asked to, and begin to ask within a time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use quern_proto::Rotating;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::guard::Visitor;
use super::{Counts, Limits};
use crate::runs::Stopping;

/// Bytes that HTTP/2 begins with.
const PREFACE_BYTES: usize = 24;
/// How long nobody is let in when the system has no means left for it.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What lets connections in.
pub(crate) struct Door {
    pub listener: TcpListener,
    pub tls: Option<Rotating<Arc<ServerConfig>>>,
    pub limits: Limits,
    pub counts: Arc<Counts>,
}

impl Door {
    /// Lets connections in until the server stops, then waits until their calls have ended.
    pub async fn serve(self, router: Router, mut stopping: Stopping) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let mut visits = JoinSet::new();
        loop {
            let came = tokio::select! {
                came = self.listener.accept() => came,
                Some(_) = visits.join_next() => continue,
                () = stopped(&mut stopping) => break,
            };
            let (stream, address) = match came {
                Ok(came) => came,
                Err(error) if is_the_connections(&error) => continue,
                Err(error) => {
                    tracing::warn!("no connection can be accepted: {error}");
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.counts.crowded_out.add();
                continue;
            };
            let visit = Visit {
                address,
                acceptor: self.tls.as_ref().map(|tls| TlsAcceptor::from((*tls.now()).clone())),
                limits: self.limits,
                place: Place::take(place, &self.counts),
                stopping: stopping.clone(),
            };
            visits.spawn(visit.carry_out(stream, router.clone()));
        }
        drop(self.listener);
        while visits.join_next().await.is_some() {}
    }
}

/// Waits until the server stops, or the coordinator is dropped.
async fn stopped(stopping: &mut Stopping) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Errors of accept(2) that concern only the connection that would have come.
fn is_the_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A place among the open connections; it is free again when this is dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    counts: Arc<Counts>,
}

impl Place {
    fn take(permit: OwnedSemaphorePermit, counts: &Arc<Counts>) -> Self {
        counts.open.add();
        Place { _permit: permit, counts: Arc::clone(counts) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.open.take_off();
    }
}

/// One connection.
struct Visit {
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    limits: Limits,
    place: Place,
    stopping: Stopping,
}

impl Visit {
    async fn carry_out(mut self, stream: TcpStream, router: Router) {
        let until = Instant::now() + self.limits.opening;
        // It only makes answers later when it fails.
        let _ = stream.set_nodelay(true);
        match self.acceptor.take() {
            None => self.answer(Opening::new(stream, until), router).await,
            Some(acceptor) => {
                let shaken = tokio::select! {
                    shaken = tokio::time::timeout_at(until, acceptor.accept(stream)) => shaken,
                    () = stopped(&mut self.stopping) => return,
                };
                match shaken {
                    Ok(Ok(stream)) => self.answer(Opening::new(stream, until), router).await,
                    refused => {
                        self.place.counts.bad_handshakes.add();
                        let why = refused.map_or("it took too long".into(), |failed| match failed {
                            Err(error) => error.to_string(),
                            Ok(_) => unreachable!("a good handshake is answered"),
                        });
                        tracing::debug!("TLS with {} failed: {why}", self.address);
                    }
                }
            }
        }
    }

    async fn answer(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
        let limits = self.limits;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.opening);
        builder.http1().max_buf_size((limits.header_bytes as usize).max(8 << 10));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_bytes)
            .keep_alive_interval(limits.silence)
            .keep_alive_timeout(limits.silence);
        let visitor = Arc::new(Visitor::new(self.address, limits.calls));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&visitor));
            // A router is always ready.
            router.clone().call(request)
        });
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut self.stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("the connection of {} ended: {error}", self.address);
        }
    }
}

/// A connection that must begin to ask by a time: by then it has sent as many bytes as HTTP/2 begins with, or has been
/// answered. After that the protocols' own limits hold.
struct Opening<S> {
    stream: S,
    until: Option<Pin<Box<Sleep>>>,
    read_bytes: usize,
}

impl<S> Opening<S> {
    fn new(stream: S, until: Instant) -> Self {
        Opening { stream, until: Some(Box::pin(sleep_until(until))), read_bytes: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.until.is_some() {
            self.read_bytes += buffer.filled().len() - before;
            if self.read_bytes >= PREFACE_BYTES {
                self.until = None;
            }
        }
        let Some(until) = self.until.as_mut().filter(|_| polled.is_pending()) else { return polled };
        match until.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "it asked for nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.until = None;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.until = None;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
