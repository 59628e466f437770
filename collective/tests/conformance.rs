//! One suite for every back end: what [`quern_collective::Collective`] promises, on worlds of 1 to 4 ranks.
//!
//! NCCL needs a GPU per rank. Its tests are marked `ignored` with that reason, so that a run without a GPU
//! shows that NCCL was not exercised; run them with `cargo test -p quern-collective -- --ignored`.

use std::sync::Arc;
use std::time::Duration;

use quern_collective::{Collective, CollectiveError, NcclCollective, Solo, TcpOptions, local_world};
use tch::{Device, Kind, Tensor};

const DEADLINE: Duration = Duration::from_secs(30);

/// Runs `body` on every rank of a world, each in its thread; what it returned, in rank order.
fn on_all<C: Collective + 'static, T: Send + 'static>(
    world: Vec<C>,
    body: impl Fn(&dyn Collective) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let body = Arc::new(body);
    let ranks: Vec<_> = world
        .into_iter()
        .map(|rank| {
            let body = body.clone();
            std::thread::spawn(move || {
                tch::set_num_threads(1);
                body(&rank)
            })
        })
        .collect();
    ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
}

/// A tensor that differs by rank and tag in every element, and rounds when added up.
fn sample(rank: usize, tag: usize, shape: &[i64], kind: Kind, device: Device) -> Tensor {
    let count: i64 = shape.iter().product();
    let base = Tensor::arange(count, (Kind::Double, Device::Cpu));
    let values = (base * 0.37 + (rank * 31 + tag * 7) as f64 * 0.11).sin() * 10.0;
    let values = match kind {
        Kind::Bool => values.gt(0.0),
        Kind::Uint8 => values.abs().to_kind(kind),
        _ => values.to_kind(kind),
    };
    values.reshape(shape).to_device(device)
}

const KINDS: [Kind; 7] = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16, Kind::Int64, Kind::Uint8, Kind::Bool];

/// The whole suite on one rank; `device` is where this back end's tensors live.
fn suite(world: &dyn Collective, device: Device) {
    let (rank, size) = (world.rank(), world.size());
    assert!(rank < size);
    gathers_are_ragged_and_in_rank_order(world, device);
    exchanges_are_ragged(world, device);
    sums_are_the_sum_in_rank_order(world, device);
    sums_are_scattered(world, device);
    broadcasts_come_from_the_root(world, device);
    world.barrier().unwrap();
    results_are_leaves(world, device);
    usage_errors_leave_the_world_alive(world, device);
}

fn gathers_are_ragged_and_in_rank_order(world: &dyn Collective, device: Device) {
    for (tag, kind) in KINDS.into_iter().enumerate() {
        // Rank r has r rows: rank 0 none at all.
        let local = |rank: usize| sample(rank, tag, &[rank as i64, 3, 2], kind, device);
        let gathered = world.all_gather(&local(world.rank())).unwrap();
        assert_eq!(gathered.len(), world.size());
        for (rank, tensor) in gathered.iter().enumerate() {
            assert_eq!((tensor.kind(), tensor.device(), tensor.size()), (kind, device, local(rank).size()));
            assert_eq!(tensor, &local(rank), "{kind:?} of rank {rank}");
        }
    }
    // Views that are not contiguous arrive as what they show.
    let view = |rank: usize| sample(rank, 0, &[3, 5], Kind::Float, device).transpose(0, 1);
    for (rank, tensor) in world.all_gather(&view(world.rank())).unwrap().iter().enumerate() {
        assert_eq!(tensor, &view(rank));
    }
    // Larger than any socket buffer, from all to all at once.
    let large = |rank: usize| sample(rank, 1, &[1_500_000 + rank as i64], Kind::Float, device);
    for (rank, tensor) in world.all_gather(&large(world.rank())).unwrap().iter().enumerate() {
        assert_eq!(tensor, &large(rank));
    }
}

fn exchanges_are_ragged(world: &dyn Collective, device: Device) {
    for kind in KINDS {
        let part = |from: usize, to: usize| sample(from, to, &[((from * 2 + to) % 4) as i64, 5], kind, device);
        let parts: Vec<Tensor> = (0..world.size()).map(|to| part(world.rank(), to)).collect();
        let received = world.all_to_all(&parts).unwrap();
        assert_eq!(received.len(), world.size());
        for (from, tensor) in received.iter().enumerate() {
            let expected = part(from, world.rank());
            assert_eq!((tensor.kind(), tensor.size()), (kind, expected.size()));
            assert_eq!(tensor, &expected);
        }
    }
}

/// The shapes of one sum: sizes that no world divides, a scalar, nothing at all.
const SHAPES: [&[i64]; 5] = [&[7, 11], &[], &[0, 4], &[3], &[100_003]];

fn sums_are_the_sum_in_rank_order(world: &dyn Collective, device: Device) {
    let kinds = [Kind::Float, Kind::Int64, Kind::Double];
    let tensors = |rank: usize| -> Vec<Tensor> {
        let pairs = SHAPES.iter().zip(kinds.iter().cycle()).enumerate();
        pairs.map(|(tag, (shape, kind))| sample(rank, tag, shape, *kind, device)).collect()
    };
    let sums = world.all_reduce_sum(&tensors(world.rank())).unwrap();
    let all: Vec<Vec<Tensor>> = (0..world.size()).map(tensors).collect();
    assert_eq!(sums.len(), SHAPES.len());
    for (index, total) in sums.iter().enumerate() {
        let mut expected = all[0][index].copy();
        for other in &all[1..] {
            expected += &other[index];
        }
        assert_eq!(total.size(), SHAPES[index]);
        assert_eq!(total.kind(), all[0][index].kind());
        if device == Device::Cpu || total.kind() == Kind::Int64 {
            assert_eq!(total, &expected, "tensor {index}");
        } else {
            assert!(total.allclose(&expected, 1e-5, 1e-4, false), "tensor {index}");
        }
        // Bitwise the same everywhere, whatever the back end.
        for (rank, copy) in world.all_gather(&total.reshape([-1])).unwrap().iter().enumerate() {
            assert_eq!(copy, &total.reshape([-1]), "rank {rank} has another sum");
        }
    }
    for (kind, tolerance) in [(Kind::Half, 0.02), (Kind::BFloat16, 0.15)] {
        let total = &world.all_reduce_sum(&[sample(world.rank(), 3, &[33], kind, device)]).unwrap()[0];
        let exact = (0..world.size())
            .map(|rank| sample(rank, 3, &[33], kind, device).to_kind(Kind::Double))
            .reduce(|a, b| a + b)
            .unwrap();
        assert_eq!(total.kind(), kind);
        let error = (total.to_kind(Kind::Double) - exact).abs().max().double_value(&[]);
        assert!(error <= tolerance, "{kind:?}: {error}");
    }
    assert!(world.all_reduce_sum(&[]).unwrap().is_empty());
}

fn sums_are_scattered(world: &dyn Collective, device: Device) {
    let part = |from: usize, to: usize| sample(from, to, &[to as i64 * 3, 4], Kind::Float, device);
    let parts: Vec<Tensor> = (0..world.size()).map(|to| part(world.rank(), to)).collect();
    let total = world.reduce_scatter_sum(&parts).unwrap();
    let mut expected = part(0, world.rank());
    for from in 1..world.size() {
        expected += part(from, world.rank());
    }
    assert_eq!(total.size(), expected.size());
    assert!(total.allclose(&expected, 1e-5, 1e-5, false));
    if device == Device::Cpu {
        assert_eq!(total, expected);
    }
}

fn broadcasts_come_from_the_root(world: &dyn Collective, device: Device) {
    for root in 0..world.size() {
        let tensors = |rank: usize| {
            vec![sample(rank, 5, &[4, 4], Kind::Float, device), sample(rank, 6, &[], Kind::Int64, device)]
        };
        let received = world.broadcast(&tensors(world.rank()), root).unwrap();
        assert_eq!(received, tensors(root));
    }
}

fn results_are_leaves(world: &dyn Collective, device: Device) {
    let local = sample(world.rank(), 2, &[2, 2], Kind::Float, device).set_requires_grad(true);
    let grown = &local * 2.0;
    let gathered = world.all_gather(&grown).unwrap();
    assert!(gathered.iter().all(|tensor| !tensor.requires_grad()));
    assert!(!world.all_reduce_sum(&[grown.shallow_clone()]).unwrap()[0].requires_grad());
    // The own entry is a copy: changing it does not change what was sent.
    let mut own = gathered[world.rank()].shallow_clone();
    let _ = own.zero_();
    assert!(grown.abs().sum(Kind::Float).double_value(&[]) > 0.0);
}

fn usage_errors_leave_the_world_alive(world: &dyn Collective, device: Device) {
    let usage = |result: Result<(), CollectiveError>| {
        assert!(matches!(result, Err(CollectiveError::Usage { .. })), "{result:?}");
    };
    let scalar = sample(0, 0, &[], Kind::Float, device);
    usage(world.all_gather(&scalar).map(drop));
    usage(world.all_to_all(&[]).map(drop));
    usage(world.reduce_scatter_sum(&[]).map(drop));
    usage(world.broadcast(&[], world.size()).map(drop));
    usage(world.all_reduce_sum(&[sample(0, 0, &[2], Kind::Bool, device)]).map(drop));
    world.barrier().unwrap();
}

#[test]
fn solo_conforms() {
    on_all(vec![Solo::new()], |world| suite(world, Device::Cpu));
}

#[test]
fn tcp_conforms_with_1_to_4_ranks() {
    for size in 1..=4 {
        let world = local_world(size, DEADLINE).unwrap();
        assert_eq!(on_all(world, |world| suite(world, Device::Cpu)).len(), size);
    }
}

#[test]
fn an_aborted_world_stays_aborted() {
    let worlds: Vec<Box<dyn Collective>> =
        vec![Box::new(Solo::new()), Box::new(local_world(1, DEADLINE).unwrap().remove(0))];
    for world in worlds {
        world.barrier().unwrap();
        world.abort();
        let again = world.barrier();
        assert!(matches!(again, Err(CollectiveError::Aborted { .. })), "{again:?}");
    }
}

#[test]
fn nccl_is_found_or_the_probe_says_what_is_missing() {
    match quern_collective::probe() {
        Ok(found) => {
            assert!(found.path.is_absolute(), "{found:?}");
            assert!(found.version.starts_with("2."), "{found:?}");
        }
        Err(error) => assert!(matches!(error, CollectiveError::NcclMissing { .. }), "{error}"),
    }
}

#[test]
fn nccl_without_a_gpu_is_an_error_and_not_a_panic() {
    // A device index that no machine has, so that the test means the same with and without GPUs.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = vec![listener.local_addr().unwrap().to_string()];
    let options = TcpOptions { rank: 0, addresses, token: 1, deadline: DEADLINE };
    let error = NcclCollective::connect(listener, options, 4096).map(drop).unwrap_err();
    let fits = matches!(error, CollectiveError::NcclMissing { .. } | CollectiveError::Nccl { .. });
    assert!(fits, "{error}");
}

/// Opens libtorch's CUDA half, as `quern-worker` does first thing; how many devices there are.
fn cuda_devices() -> usize {
    // SAFETY: a constant C string; the library stays open.
    unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

#[test]
#[ignore = "needs a GPU per rank: NCCL is NOT exercised without one"]
fn nccl_conforms_with_one_rank_per_gpu() {
    let devices = cuda_devices();
    assert!(devices > 0, "no CUDA device: NCCL was not exercised");
    for size in 1..=devices.min(4) {
        let listeners: Vec<_> = (0..size).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let ranks: Vec<_> = listeners
            .into_iter()
            .enumerate()
            .map(|(rank, listener)| {
                let options = TcpOptions { rank, addresses: addresses.clone(), token: 1, deadline: DEADLINE };
                std::thread::spawn(move || {
                    let world = NcclCollective::connect(listener, options, rank).unwrap();
                    suite(&world, Device::Cuda(rank));
                    world.barrier().unwrap();
                })
            })
            .collect();
        ranks.into_iter().for_each(|rank| rank.join().expect("a rank panicked"));
    }
}

#[test]
#[ignore = "needs two GPUs: NCCL is NOT exercised without them"]
fn nccl_gives_up_on_a_dead_rank_at_the_deadline() {
    assert!(cuda_devices() > 1, "fewer than two CUDA devices: NCCL was not exercised");
    let deadline = Duration::from_secs(5);
    let listeners: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    let mut worlds: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(rank, listener)| {
            let options = TcpOptions { rank, addresses: addresses.clone(), token: 1, deadline };
            std::thread::spawn(move || NcclCollective::connect(listener, options, rank).unwrap())
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|rank| rank.join().unwrap())
        .collect();
    worlds[1].abort();
    let tensor = Tensor::ones([1024], (Kind::Float, Device::Cuda(0)));
    let error = worlds[0].all_reduce_sum(&[tensor]).map(drop).unwrap_err();
    assert!(matches!(error, CollectiveError::PeerLost { rank: 1, .. } | CollectiveError::Deadline { .. }), "{error}");
    worlds.clear();
}
