//! One exchange: at most one frame to and one from every peer, all at once, until done or too late.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tch::Tensor;

use super::frame::{self, HEAD_BYTES, Head};
use crate::{CollectiveError, Operation, Result};

/// A frame on its way out.
pub(super) struct Outgoing<'a> {
    head: Vec<u8>,
    payload: &'a [u8],
    sent: usize,
}

impl<'a> Outgoing<'a> {
    pub fn new(operation: Operation, sequence: u64, signature: u64, tensor: &'a Tensor) -> Self {
        let head = frame::encode(operation, sequence, signature, tensor);
        Outgoing { head, payload: frame::bytes(tensor), sent: 0 }
    }

    fn done(&self) -> bool {
        self.sent == self.head.len() + self.payload.len()
    }

    /// Sends as much as the socket takes.
    fn advance(&mut self, mut stream: &TcpStream) -> std::io::Result<()> {
        while !self.done() {
            let rest = match self.sent.checked_sub(self.head.len()) {
                Some(position) => &self.payload[position..],
                None => &self.head[self.sent..],
            };
            match stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A frame on its way in.
pub(super) struct Incoming {
    sequence: u64,
    signature: u64,
    /// Head, then dimensions.
    front: Vec<u8>,
    head: Option<Head>,
    tensor: Option<Tensor>,
    filled: usize,
    done: bool,
}

/// Why a frame did not come in.
enum Refusal {
    Connection(std::io::Error),
    Frame { expected: String, found: String },
}

impl Incoming {
    pub fn new(sequence: u64, signature: u64) -> Self {
        let front = vec![0; HEAD_BYTES];
        Incoming { sequence, signature, front, head: None, tensor: None, filled: 0, done: false }
    }

    /// Reads as much as the socket has of this frame, never a byte of the next.
    fn advance(&mut self, operation: Operation, mut stream: &TcpStream) -> std::result::Result<(), Refusal> {
        while !self.done {
            let target = match &mut self.tensor {
                Some(tensor) => frame::bytes_mut(tensor),
                None => &mut self.front[..],
            };
            if self.filled < target.len() {
                match stream.read(&mut target[self.filled..]) {
                    Ok(0) => return Err(Refusal::Connection(ErrorKind::UnexpectedEof.into())),
                    Ok(count) => self.filled += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(Refusal::Connection(error)),
                }
            }
            self.turn(operation)?;
        }
        Ok(())
    }

    /// Goes on to the next part of the frame when one is full.
    fn turn(&mut self, operation: Operation) -> std::result::Result<(), Refusal> {
        let refused = |found| Refusal::Frame { expected: format!("a frame of {operation}"), found };
        match (&self.tensor, &self.head) {
            (Some(tensor), _) => self.done = self.filled == frame::byte_length(tensor),
            (None, _) if self.filled < self.front.len() => {}
            (None, None) => {
                let head = self.front[..].try_into().expect("the head's length");
                let head = frame::decode(head).map_err(refused)?;
                self.check(operation, &head)?;
                self.front.resize(HEAD_BYTES + 8 * head.dimensions, 0);
                self.head = Some(head);
                // A scalar has no dimensions to wait for.
                if self.filled == self.front.len() {
                    self.turn(operation)?;
                }
            }
            (None, Some(head)) => {
                let tensor = frame::allocate(head, &self.front[HEAD_BYTES..]).map_err(refused)?;
                self.filled = 0;
                self.done = frame::byte_length(&tensor) == 0;
                self.tensor = Some(tensor);
            }
        }
        Ok(())
    }

    /// The peer must be in the same operation as this rank.
    fn check(&self, operation: Operation, head: &Head) -> std::result::Result<(), Refusal> {
        if (head.operation, head.sequence) != (operation, self.sequence) {
            return Err(Refusal::Frame {
                expected: format!("{operation}, exchange {}", self.sequence),
                found: format!("{}, exchange {}", head.operation, head.sequence),
            });
        }
        if head.signature != self.signature {
            return Err(Refusal::Frame {
                expected: "tensors of this rank's count, kinds and shapes".into(),
                found: "others".into(),
            });
        }
        Ok(())
    }
}

struct Peer<'a> {
    rank: usize,
    stream: &'a TcpStream,
    outgoing: Option<Outgoing<'a>>,
    incoming: Option<Incoming>,
}

impl Peer<'_> {
    fn wants_write(&self) -> bool {
        self.outgoing.as_ref().is_some_and(|frame| !frame.done())
    }

    fn wants_read(&self) -> bool {
        self.incoming.as_ref().is_some_and(|frame| !frame.done)
    }

    fn done(&self) -> bool {
        !self.wants_write() && !self.wants_read()
    }

    /// Moves what can be moved in both directions.
    fn advance(&mut self, operation: Operation) -> Result<()> {
        let lost = |error: std::io::Error| CollectiveError::PeerLost {
            rank: self.rank,
            operation,
            detail: match error.kind() {
                ErrorKind::UnexpectedEof => "it closed the connection".into(),
                _ => error.to_string(),
            },
        };
        // Reading first: a peer that died has perhaps said all that was asked of it.
        if let Some(frame) = &mut self.incoming {
            frame.advance(operation, self.stream).map_err(|refusal| match refusal {
                Refusal::Connection(error) => lost(error),
                Refusal::Frame { expected, found } => {
                    CollectiveError::Mismatch { rank: self.rank, operation, expected, found }
                }
            })?;
        }
        if let Some(frame) = &mut self.outgoing {
            frame.advance(self.stream).map_err(lost)?;
        }
        Ok(())
    }
}

/// All frames of one exchange.
pub(super) struct Exchange<'a> {
    operation: Operation,
    until: Instant,
    deadline: Duration,
    wake: &'a UnixStream,
    peers: Vec<Peer<'a>>,
}

impl<'a> Exchange<'a> {
    /// An exchange without peers yet. `deadline` is what errors report, `until` when it ends.
    pub fn new(operation: Operation, until: Instant, deadline: Duration, wake: &'a UnixStream) -> Self {
        Exchange { operation, until, deadline, wake, peers: Vec::new() }
    }

    pub fn add(
        &mut self,
        rank: usize,
        stream: &'a TcpStream,
        outgoing: Option<Outgoing<'a>>,
        incoming: Option<Incoming>,
    ) {
        self.peers.push(Peer { rank, stream, outgoing, incoming });
    }

    /// Runs it to the end: what came in, by rank.
    pub fn run(mut self, size: usize) -> Result<Vec<Option<Tensor>>> {
        loop {
            for peer in self.peers.iter_mut().filter(|peer| !peer.done()) {
                peer.advance(self.operation)?;
            }
            if self.peers.iter().all(Peer::done) {
                break;
            }
            self.wait()?;
        }
        let mut received: Vec<Option<Tensor>> = (0..size).map(|_| None).collect();
        for peer in self.peers {
            received[peer.rank] = peer.incoming.and_then(|frame| frame.tensor);
        }
        Ok(received)
    }

    /// Sleeps until a socket is ready, the world is aborted or the deadline has passed.
    fn wait(&self) -> Result<()> {
        let mut waiting: Vec<libc::pollfd> = vec![poll_entry(self.wake, libc::POLLIN)];
        for peer in self.peers.iter().filter(|peer| !peer.done()) {
            let read = if peer.wants_read() { libc::POLLIN } else { 0 };
            let write = if peer.wants_write() { libc::POLLOUT } else { 0 };
            waiting.push(poll_entry(peer.stream, read | write));
        }
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let ranks = self.peers.iter().filter(|peer| !peer.done()).map(|peer| peer.rank).collect();
            return Err(CollectiveError::Deadline { ranks, operation: self.operation, waited: self.deadline });
        }
        let timeout_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
        // SAFETY: the array is valid for its length during the call.
        let ready = unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, timeout_ms) };
        if ready < 0 {
            let source = std::io::Error::last_os_error();
            if source.kind() != ErrorKind::Interrupted {
                return Err(CollectiveError::Io { what: "waiting for the peers' sockets".into(), source });
            }
        }
        match waiting[0].revents {
            0 => Ok(()),
            _ => Err(CollectiveError::Aborted { operation: self.operation }),
        }
    }
}

fn poll_entry(file: &impl AsRawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 }
}
