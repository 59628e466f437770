//! The TCP back end: a full mesh of connections, CPU tensors, one exchange primitive.
//!
//! Every operation is one or two [`exchange`]s: each rank sends at most one tensor to each peer and
//! receives at most one from each, all at the same time, in the calling thread (poll(2)), so that no two ranks
//! can block on each other's full socket buffers. A large sum is a reduce-scatter (rank `r` adds up the r-th
//! piece, in rank order) and a gather: each rank sends 2·(n-1)/n of the data, whatever the world's size.

mod exchange;
mod frame;
mod rendezvous;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use self::exchange::{Exchange, Incoming, Outgoing};
use crate::{Collective, CollectiveError, Operation, Result, sum};

/// Who this rank is and how it finds the others.
#[derive(Debug, Clone)]
pub struct TcpOptions {
    /// This rank.
    pub rank: usize,
    /// `host:port` of every rank, in rank order; its length is the world's size.
    pub addresses: Vec<String>,
    /// The world's generation: a peer with another one is refused.
    pub token: u64,
    /// How long one operation may take, connecting included.
    pub deadline: Duration,
}

/// A world over TCP, for CPU tensors of all kinds that have a fixed element size of up to 8 bytes.
#[derive(Debug)]
pub struct TcpCollective {
    rank: usize,
    deadline: Duration,
    /// One connection per peer; none to oneself.
    links: Vec<Option<TcpStream>>,
    /// How many exchanges were begun; frames carry it, so that ranks out of step notice.
    sequence: Mutex<u64>,
    aborted: AtomicBool,
    /// A byte in here wakes a waiting operation: (write end, read end).
    wake: (UnixStream, UnixStream),
}

impl TcpCollective {
    /// Joins the world: connects to every lower rank and accepts every higher one, within the deadline.
    /// `listener` is bound to what the others know as `addresses[rank]`.
    ///
    /// # Errors
    /// [`Deadline`](CollectiveError::Deadline) names ranks that never arrived; [`StaleToken`](CollectiveError::StaleToken)
    /// says that a peer is in a newer generation.
    pub fn connect(listener: TcpListener, options: TcpOptions) -> Result<TcpCollective> {
        let links = rendezvous::mesh(&listener, &options)?;
        let wake = UnixStream::pair().map_err(|source| CollectiveError::Io {
            what: "creating a socket pair to wake a waiting operation".into(),
            source,
        })?;
        for stream in links.iter().flatten() {
            stream.set_nonblocking(true).map_err(|source| CollectiveError::Io {
                what: "making a peer's connection non-blocking".into(),
                source,
            })?;
        }
        Ok(TcpCollective {
            rank: options.rank,
            deadline: options.deadline,
            links,
            sequence: Mutex::new(0),
            aborted: AtomicBool::new(false),
            wake,
        })
    }

    /// [`all_gather`](Collective::all_gather) on behalf of `operation`, which errors and frames then name.
    pub(crate) fn gather(&self, operation: Operation, local: &Tensor) -> Result<Vec<Tensor>> {
        self.run(operation, |round| {
            sum::check_ragged(operation, local)?;
            let mine = round.prepare(local)?;
            let received = round.exchange(|_| Some(&mine), |_| true, 0)?;
            let gathered = round.with_own(received, &mine)?;
            round.check_trailing(&gathered, &mine)?;
            Ok(gathered)
        })
    }

    /// Runs an operation: checks the state, hands a [`Round`] to `body`, ends the world when it fails.
    fn run<T>(&self, operation: Operation, body: impl FnOnce(&mut Round<'_>) -> Result<T>) -> Result<T> {
        let mut sequence = self.sequence.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.aborted.load(Ordering::Acquire) {
            return Err(CollectiveError::Aborted { operation });
        }
        let _no_grad = tch::no_grad_guard();
        let until = Instant::now() + self.deadline;
        let result = body(&mut Round { world: self, operation, until, sequence: &mut sequence });
        match result {
            Err(usage @ CollectiveError::Usage { .. }) => Err(usage),
            Err(_) if self.aborted.load(Ordering::Acquire) => Err(CollectiveError::Aborted { operation }),
            Err(failure) => {
                self.abort();
                Err(failure)
            }
            done => done,
        }
    }
}

impl Collective for TcpCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.links.len()
    }

    fn all_gather(&self, local: &Tensor) -> Result<Vec<Tensor>> {
        self.gather(Operation::AllGather, local)
    }

    fn all_reduce_sum(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(Operation::AllReduce, |round| {
            tensors.iter().try_for_each(|tensor| sum::check_summable(Operation::AllReduce, tensor))?;
            let signature = sum::signature(tensors);
            let mut out: Vec<Option<Tensor>> = tensors.iter().map(|_| None).collect();
            for (_, members) in sum::by_kind(tensors) {
                let flat = round.prepare(&sum::pack(tensors, &members)?)?;
                let total = round.sum_flat(&flat, signature)?;
                sum::unpack(&total, tensors, &members, &mut out);
            }
            Ok(out.into_iter().map(|tensor| tensor.expect("every tensor is in one group")).collect())
        })
    }

    fn reduce_scatter_sum(&self, parts: &[Tensor]) -> Result<Tensor> {
        self.run(Operation::ReduceScatter, |round| {
            sum::check_parts(Operation::ReduceScatter, parts, self.size())?;
            parts.iter().try_for_each(|part| sum::check_summable(Operation::ReduceScatter, part))?;
            let parts = parts.iter().map(|part| round.prepare(part)).collect::<Result<Vec<_>>>()?;
            round.sum_parts(&parts, sum::signature(&parts))
        })
    }

    fn broadcast(&self, tensors: &[Tensor], root: usize) -> Result<Vec<Tensor>> {
        self.run(Operation::Broadcast, |round| {
            sum::check_root(root, self.size())?;
            let signature = sum::signature(tensors);
            let am_root = root == self.rank;
            let mut out = Vec::with_capacity(tensors.len());
            for tensor in tensors {
                let mine = round.prepare(tensor)?;
                let mut received = round.exchange(|_| am_root.then_some(&mine), |peer| peer == root, signature)?;
                out.push(received[root].take().unwrap_or_else(|| sum::copy(&mine)));
            }
            Ok(out)
        })
    }

    fn all_to_all(&self, parts: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run(Operation::AllToAll, |round| {
            sum::check_exchange_parts(Operation::AllToAll, parts, self.size())?;
            let parts = parts.iter().map(|part| round.prepare(part)).collect::<Result<Vec<_>>>()?;
            let received = round.exchange(|peer| Some(&parts[peer]), |_| true, 0)?;
            let own = &parts[self.rank];
            let received = round.with_own(received, own)?;
            round.check_trailing(&received, own)?;
            Ok(received)
        })
    }

    fn barrier(&self) -> Result<()> {
        self.run(Operation::Barrier, |round| {
            let nothing = Tensor::zeros([0], (Kind::Uint8, Device::Cpu));
            round.exchange(|_| Some(&nothing), |_| true, 0).map(|_| ())
        })
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        // Neither can fail in a way that matters: the pipe's only byte may be there already, and a
        // connection that can't be shut down is closed.
        let _ = std::io::Write::write(&mut &self.wake.0, &[1]);
        for stream in self.links.iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// One operation under way.
struct Round<'a> {
    world: &'a TcpCollective,
    operation: Operation,
    until: Instant,
    sequence: &'a mut u64,
}

impl Round<'_> {
    /// The tensor as it can be sent: on the CPU, without a graph, contiguous, of a kind that frames know.
    fn prepare(&self, tensor: &Tensor) -> Result<Tensor> {
        let usage = |detail| CollectiveError::Usage { operation: self.operation, detail };
        if tensor.device() != Device::Cpu {
            let device = tensor.device();
            return Err(usage(format!("the TCP world moves CPU tensors, this one is on {device:?}")));
        }
        if frame::kind_code(tensor.kind()).is_none() {
            return Err(usage(format!("tensors of kind {:?} can't be sent", tensor.kind())));
        }
        Ok(tensor.detach().contiguous())
    }

    /// Sends `outgoing(peer)` to each peer and receives from each for which `expects` holds, all at once.
    fn exchange<'t>(
        &mut self,
        outgoing: impl Fn(usize) -> Option<&'t Tensor>,
        expects: impl Fn(usize) -> bool,
        signature: u64,
    ) -> Result<Vec<Option<Tensor>>> {
        let sequence = *self.sequence;
        *self.sequence += 1;
        let peers = self.world.links.iter().enumerate().filter_map(|(peer, link)| Some((peer, link.as_ref()?)));
        let mut exchange = Exchange::new(self.operation, self.until, self.world.deadline, &self.world.wake.1);
        for (peer, stream) in peers {
            let out = outgoing(peer).map(|tensor| Outgoing::new(self.operation, sequence, signature, tensor));
            let incoming = expects(peer).then(|| Incoming::new(sequence, signature));
            exchange.add(peer, stream, out, incoming);
        }
        exchange.run(self.world.size())
    }

    /// Puts a copy of this rank's own tensor where it belongs among those of the others.
    fn with_own(&self, received: Vec<Option<Tensor>>, own: &Tensor) -> Result<Vec<Tensor>> {
        Ok(received.into_iter().map(|tensor| tensor.unwrap_or_else(|| sum::copy(own))).collect())
    }

    /// Kinds and trailing shapes must be this rank's own.
    fn check_trailing(&self, received: &[Tensor], own: &Tensor) -> Result<()> {
        for (rank, tensor) in received.iter().enumerate() {
            if tensor.kind() != own.kind() || tensor.dim() != own.dim() || tensor.size()[1..] != own.size()[1..] {
                return Err(CollectiveError::Mismatch {
                    rank,
                    operation: self.operation,
                    expected: format!("{} but for dimension 0", sum::describe(own)),
                    found: sum::describe(tensor),
                });
            }
        }
        Ok(())
    }

    /// The sum over all ranks of what each holds for this one.
    fn sum_parts(&mut self, parts: &[Tensor], signature: u64) -> Result<Tensor> {
        let received = self.exchange(|peer| Some(&parts[peer]), |_| true, signature)?;
        let own = &parts[self.world.rank];
        let addends: Vec<Tensor> =
            received.into_iter().map(|part| part.unwrap_or_else(|| own.shallow_clone())).collect();
        for (rank, addend) in addends.iter().enumerate() {
            if addend.kind() != own.kind() || addend.size() != own.size() {
                return Err(CollectiveError::Mismatch {
                    rank,
                    operation: self.operation,
                    expected: sum::describe(own),
                    found: sum::describe(addend),
                });
            }
        }
        Ok(sum::in_rank_order(&addends))
    }

    /// The sum of a flat tensor `[n]` over all ranks: each adds up its piece, then all pieces are gathered.
    fn sum_flat(&mut self, flat: &Tensor, signature: u64) -> Result<Tensor> {
        let size = self.world.size() as i64;
        let length = flat.numel() as i64;
        let start = |rank: i64| length * rank / size;
        let pieces: Vec<Tensor> =
            (0..size).map(|rank| flat.narrow(0, start(rank), start(rank + 1) - start(rank))).collect();
        let mine = self.sum_parts(&pieces, signature)?;
        let received = self.exchange(|_| Some(&mine), |_| true, signature)?;
        let sums = self.with_own(received, &mine)?;
        Tensor::f_cat(&sums, 0).map_err(sum::torch(self.operation))
    }
}

/// A world of `size` ranks over loopback, for tests: connected, in rank order, to be moved into threads.
///
/// # Errors
/// When a loopback port can't be bound or connected.
pub fn local_world(size: usize, deadline: Duration) -> Result<Vec<TcpCollective>> {
    let bind = |source| CollectiveError::Io { what: "binding a loopback port".into(), source };
    let listeners =
        (0..size).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>().map_err(bind)?;
    let addresses = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.to_string()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(bind)?;
    let ranks: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(rank, listener)| {
            let options = TcpOptions { rank, addresses: addresses.clone(), token: 1, deadline };
            std::thread::spawn(move || TcpCollective::connect(listener, options))
        })
        .collect();
    ranks.into_iter().map(|rank| rank.join().expect("connecting does not panic")).collect()
}
