//! How a world comes together: every rank connects to the lower ones and accepts the higher ones.
//!
//! The caller says who it is (magic, token, rank, size), the listener answers with a verdict and its own
//! token. A token is a generation: the side with the older one learns that it is stale and gives up; the side
//! with the newer one goes on trying, since the other may be about to learn of the new generation.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::TcpOptions;
use crate::{CollectiveError, Operation, Result};

const MAGIC: &[u8; 4] = b"QCH1";
const HELLO_BYTES: usize = 20;
const ANSWER_BYTES: usize = 13;
/// How long a connection may take to say who it is: it does so first thing.
const HELLO_PATIENCE: Duration = Duration::from_secs(2);
/// Pause before a peer that is not there yet is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The verdict on a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    Welcome = 0,
    OtherToken = 1,
    OtherWorld = 2,
}

/// Connects this rank with all others: one stream per peer, none for itself.
pub(super) fn mesh(listener: &TcpListener, options: &TcpOptions) -> Result<Vec<Option<TcpStream>>> {
    let size = options.addresses.len();
    if options.rank >= size {
        let detail = format!("rank {} is not in a world of {size}", options.rank);
        return Err(CollectiveError::Usage { operation: Operation::Connect, detail });
    }
    let until = Instant::now() + options.deadline;
    let mut links: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
    for (peer, link) in links.iter_mut().enumerate().take(options.rank) {
        *link = Some(call(peer, options, until)?);
    }
    accept_higher(listener, options, until, &mut links)?;
    Ok(links)
}

/// Calls a lower rank until it welcomes this one.
fn call(peer: usize, options: &TcpOptions, until: Instant) -> Result<TcpStream> {
    loop {
        let verdict = attempt(&options.addresses[peer], options, until);
        match verdict {
            Ok((stream, Verdict::Welcome, _)) => return Ok(stream),
            Ok((_, Verdict::OtherToken, theirs)) if theirs > options.token => {
                return Err(CollectiveError::StaleToken { rank: peer, ours: options.token, theirs });
            }
            Ok((_, Verdict::OtherWorld, _)) => {
                return Err(CollectiveError::Mismatch {
                    rank: peer,
                    operation: Operation::Connect,
                    expected: format!("rank {peer} of a world of {}", options.addresses.len()),
                    found: format!("another place at {}", options.addresses[peer]),
                });
            }
            // Not there yet, or not yet in this generation.
            Ok((_, Verdict::OtherToken, _)) => {}
            Err(error) => tracing::debug!(peer, %error, "the peer can't be reached yet"),
        }
        if Instant::now() + RETRY_PAUSE >= until {
            return Err(CollectiveError::Deadline {
                ranks: vec![peer],
                operation: Operation::Connect,
                waited: options.deadline,
            });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// One call: says hello and hears the answer.
fn attempt(address: &str, options: &TcpOptions, until: Instant) -> std::io::Result<(TcpStream, Verdict, u64)> {
    let stream = TcpStream::connect_timeout(&resolve(address, until)?, left(until)?)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left(until)?))?;
    let mut hello = Vec::with_capacity(HELLO_BYTES);
    hello.extend(MAGIC);
    hello.extend(options.token.to_le_bytes());
    hello.extend((options.rank as u32).to_le_bytes());
    hello.extend((options.addresses.len() as u32).to_le_bytes());
    (&stream).write_all(&hello)?;
    let mut answer = [0; ANSWER_BYTES];
    stream.set_read_timeout(Some(left(until)?))?;
    (&stream).read_exact(&mut answer)?;
    let verdict = [Verdict::Welcome, Verdict::OtherToken, Verdict::OtherWorld]
        .into_iter()
        .find(|verdict| *verdict as u8 == answer[4] && answer[..4] == *MAGIC)
        .ok_or_else(|| std::io::Error::new(ErrorKind::InvalidData, "the answer is not quern's"))?;
    let theirs = u64::from_le_bytes(answer[5..].try_into().expect("eight bytes"));
    Ok((stream, verdict, theirs))
}

/// Accepts until every higher rank is there.
fn accept_higher(
    listener: &TcpListener,
    options: &TcpOptions,
    until: Instant,
    links: &mut [Option<TcpStream>],
) -> Result<()> {
    let io = |what: &str| {
        let what = what.to_string();
        move |source| CollectiveError::Io { what, source }
    };
    listener.set_nonblocking(true).map_err(io("making the world's listener non-blocking"))?;
    loop {
        let missing: Vec<usize> = (options.rank + 1..links.len()).filter(|&rank| links[rank].is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if !readable(listener, until).map_err(io("waiting for higher ranks"))? {
            return Err(CollectiveError::Deadline {
                ranks: missing,
                operation: Operation::Connect,
                waited: options.deadline,
            });
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The caller went away between its call and this accept.
            Err(error) => {
                tracing::debug!(%error, "a caller went away");
                continue;
            }
        };
        match receive(stream, options) {
            Ok(Caller::Welcome(rank, stream)) => links[rank] = Some(stream),
            Ok(Caller::Newer(rank, theirs)) => {
                return Err(CollectiveError::StaleToken { rank, ours: options.token, theirs });
            }
            Ok(Caller::Refused) => {}
            Err(error) => tracing::debug!(%error, "a caller did not introduce itself"),
        }
    }
}

/// Who called.
enum Caller {
    Welcome(usize, TcpStream),
    /// A rank of a newer generation: this one is stale.
    Newer(usize, u64),
    Refused,
}

/// Hears a caller out and answers it.
fn receive(stream: TcpStream, options: &TcpOptions) -> std::io::Result<Caller> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HELLO_PATIENCE))?;
    stream.set_write_timeout(Some(HELLO_PATIENCE))?;
    let mut hello = [0; HELLO_BYTES];
    (&stream).read_exact(&mut hello)?;
    if hello[..4] != *MAGIC {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "the caller is no rank of quern's"));
    }
    let token = u64::from_le_bytes(hello[4..12].try_into().expect("eight bytes"));
    let rank = u32::from_le_bytes(hello[12..16].try_into().expect("four bytes")) as usize;
    let size = u32::from_le_bytes(hello[16..20].try_into().expect("four bytes")) as usize;
    let verdict = if token != options.token {
        tracing::debug!(rank, token, ours = options.token, "refused a rank of another generation");
        Verdict::OtherToken
    } else if size != options.addresses.len() || rank <= options.rank || rank >= size {
        Verdict::OtherWorld
    } else {
        Verdict::Welcome
    };
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    answer.extend(MAGIC);
    answer.push(verdict as u8);
    answer.extend(options.token.to_le_bytes());
    (&stream).write_all(&answer)?;
    Ok(match verdict {
        Verdict::Welcome => Caller::Welcome(rank, stream),
        Verdict::OtherToken if token > options.token => Caller::Newer(rank, token),
        _ => Caller::Refused,
    })
}

/// What is left until the deadline; an error when nothing is.
fn left(until: Instant) -> std::io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The first address of `host:port`. Names are looked up beside, since the system's resolver has no deadline.
fn resolve(address: &str, until: Instant) -> std::io::Result<SocketAddr> {
    if let Ok(literal) = address.parse() {
        return Ok(literal);
    }
    let (sender, receiver) = mpsc::channel();
    let name = address.to_string();
    std::thread::spawn(move || {
        // The receiver may have given up; then nobody wants the answer.
        let _ = sender.send(name.to_socket_addrs().map(|mut found| found.next()));
    });
    let found = receiver.recv_timeout(left(until)?).map_err(|_| std::io::Error::from(ErrorKind::TimedOut))??;
    found.ok_or_else(|| std::io::Error::new(ErrorKind::NotFound, format!("no address for {address}")))
}

/// Waits until somebody calls; false when the deadline comes first.
fn readable(listener: &TcpListener, until: Instant) -> std::io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let mut entry = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, valid during the call.
        match unsafe { libc::poll(&mut entry, 1, timeout_ms) } {
            0 if timeout_ms < i32::MAX => return Ok(false),
            ready if ready > 0 => return Ok(true),
            _ => {
                let error = std::io::Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
