//! Scripted faults of the TCP world: whoever dies, lingers, is late or stale, the others get an error that
//! names the rank, and get it in time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use quern_collective::{Collective, CollectiveError, Operation, TcpCollective, TcpOptions, local_world};
use tch::{Device, Kind, Tensor};

/// Long enough that no test passes by waiting for it.
const LONG: Duration = Duration::from_secs(60);
/// What must not take [`LONG`] takes less than this, also on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn options(rank: usize, addresses: &[String], token: u64, deadline: Duration) -> TcpOptions {
    TcpOptions { rank, addresses: addresses.to_vec(), token, deadline }
}

fn rows(count: i64) -> Tensor {
    Tensor::ones([count, 4], (Kind::Float, Device::Cpu))
}

#[test]
fn a_peer_that_dies_before_its_part_is_named_at_once() {
    let mut world = local_world(3, LONG).unwrap();
    let start = Instant::now();
    drop(world.remove(1));
    let waiting: Vec<_> = world
        .into_iter()
        .map(|rank| std::thread::spawn(move || rank.all_gather(&rows(2)).map(drop).unwrap_err()))
        .collect();
    for rank in waiting {
        let error = rank.join().unwrap();
        // The first to notice leaves, so the other may lose it instead of the dead one.
        assert!(matches!(error, CollectiveError::PeerLost { operation: Operation::AllGather, .. }), "{error}");
    }
    assert!(start.elapsed() < SOON);
}

#[test]
fn a_peer_that_dies_in_the_middle_of_a_frame_is_named() {
    let (first, first_address) = listener();
    let (_second, second_address) = listener();
    let addresses = [first_address.clone(), second_address];
    let rank0 = std::thread::spawn(move || {
        let world = TcpCollective::connect(first, options(0, &addresses, 9, LONG)).unwrap();
        let error = world.all_gather(&rows(2)).map(drop).unwrap_err();
        (error, world.barrier().unwrap_err())
    });
    // A rank 1 that shakes hands, sends the first ten bytes of its frame, and dies.
    let mut stream = TcpStream::connect(first_address).unwrap();
    let mut hello = b"QCH1".to_vec();
    hello.extend(9u64.to_le_bytes());
    hello.extend(1u32.to_le_bytes());
    hello.extend(2u32.to_le_bytes());
    stream.write_all(&hello).unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4], 0, "welcome");
    stream.write_all(b"QCF1\x01\x06\x02\x00\x00\x00").unwrap();
    drop(stream);
    let (error, later) = rank0.join().unwrap();
    assert!(matches!(error, CollectiveError::PeerLost { rank: 1, .. }), "{error}");
    assert!(matches!(later, CollectiveError::Aborted { operation: Operation::Barrier }), "{later}");
}

#[test]
fn a_peer_that_sends_what_is_no_frame_is_refused() {
    let mut world = local_world(2, LONG).unwrap();
    let rank1 = world.pop().unwrap();
    let rank0 = world.pop().unwrap();
    let start = Arc::new(Barrier::new(2));
    let other = start.clone();
    let summing = std::thread::spawn(move || {
        other.wait();
        rank1.all_reduce_sum(&[rows(3)]).map(drop).unwrap_err()
    });
    start.wait();
    let error = rank0.all_gather(&rows(3)).map(drop).unwrap_err();
    let other = summing.join().unwrap();
    // Both see the other's operation, or that the other has left because of it.
    let fits =
        |error: &CollectiveError| matches!(error, CollectiveError::Mismatch { .. } | CollectiveError::PeerLost { .. });
    assert!(fits(&error) && fits(&other), "{error}; {other}");
    assert!([&error, &other].iter().any(|error| matches!(error, CollectiveError::Mismatch { .. })));
}

#[test]
fn tensors_that_do_not_fit_are_a_mismatch_on_some_rank() {
    for case in 0..3 {
        let world = local_world(2, LONG).unwrap();
        let ranks: Vec<_> = world
            .into_iter()
            .map(|world| {
                std::thread::spawn(move || {
                    let rank = world.rank() as i64;
                    match case {
                        0 => world.all_gather(&Tensor::ones([2, 3 + rank], (Kind::Float, Device::Cpu))).map(drop),
                        1 => world.all_reduce_sum(&[Tensor::ones([3 + rank], (Kind::Float, Device::Cpu))]).map(drop),
                        _ => {
                            let kind = if rank == 0 { Kind::Float } else { Kind::Double };
                            world.broadcast(&[Tensor::ones([3], (kind, Device::Cpu))], 0).map(drop)
                        }
                    }
                })
            })
            .collect();
        let errors: Vec<_> = ranks.into_iter().filter_map(|rank| rank.join().unwrap().err()).collect();
        assert!(
            errors.iter().any(|error| matches!(error, CollectiveError::Mismatch { .. })),
            "case {case}: {errors:?}"
        );
    }
}

#[test]
fn a_peer_that_is_alive_but_does_nothing_ends_at_the_deadline() {
    let mut world = local_world(3, SHORT).unwrap();
    let idle = world.pop().unwrap();
    let waiting: Vec<_> =
        world.into_iter().map(|rank| std::thread::spawn(move || rank.barrier().unwrap_err())).collect();
    let errors: Vec<_> = waiting.into_iter().map(|rank| rank.join().unwrap()).collect();
    drop(idle);
    let late = |error: &CollectiveError| matches!(error, CollectiveError::Deadline { ranks, operation: Operation::Barrier, waited } if ranks == &[2] && *waited == SHORT);
    assert!(errors.iter().any(late), "{errors:?}");
}

#[test]
fn a_peer_that_does_not_take_its_data_ends_at_the_deadline() {
    let mut world = local_world(2, SHORT).unwrap();
    let _idle = world.pop().unwrap();
    // More than the socket buffers hold.
    let error = world[0].broadcast(&[rows(4_000_000)], 0).map(drop).unwrap_err();
    assert!(matches!(&error, CollectiveError::Deadline { ranks, .. } if ranks == &[1]), "{error}");
}

#[test]
fn a_peer_that_never_arrives_is_named_from_both_sides() {
    let (low, low_address) = listener();
    let (_gone, gone_address) = listener();
    let (high, high_address) = listener();
    drop(_gone);
    let addresses = [low_address, gone_address, high_address];
    let accepting = {
        let options = options(0, &addresses, 1, SHORT);
        std::thread::spawn(move || TcpCollective::connect(low, options).unwrap_err())
    };
    let calling = TcpCollective::connect(high, options(2, &addresses, 1, SHORT)).unwrap_err();
    let accepting = accepting.join().unwrap();
    for error in [accepting, calling] {
        let named =
            matches!(&error, CollectiveError::Deadline { ranks, operation: Operation::Connect, .. } if ranks == &[1]);
        assert!(named, "{error}");
    }
}

#[test]
fn the_stale_side_learns_that_it_is_stale() {
    // A stale caller: rank 1 still has generation 4.
    let (low, low_address) = listener();
    let (high, high_address) = listener();
    let addresses = [low_address, high_address];
    let newer = {
        let options = options(0, &addresses, 5, SHORT);
        std::thread::spawn(move || TcpCollective::connect(low, options).unwrap_err())
    };
    let error = TcpCollective::connect(high, options(1, &addresses, 4, LONG)).unwrap_err();
    assert!(matches!(error, CollectiveError::StaleToken { rank: 0, ours: 4, theirs: 5 }), "{error}");
    let waited = newer.join().unwrap();
    assert!(matches!(&waited, CollectiveError::Deadline { ranks, .. } if ranks == &[1]), "{waited}");

    // A stale listener: rank 0 still has generation 4.
    let (low, low_address) = listener();
    let (high, high_address) = listener();
    let addresses = [low_address, high_address];
    let stale = {
        let options = options(0, &addresses, 4, LONG);
        std::thread::spawn(move || TcpCollective::connect(low, options).unwrap_err())
    };
    let waited = TcpCollective::connect(high, options(1, &addresses, 5, SHORT)).unwrap_err();
    assert!(matches!(&waited, CollectiveError::Deadline { ranks, .. } if ranks == &[0]), "{waited}");
    let error = stale.join().unwrap();
    assert!(matches!(error, CollectiveError::StaleToken { rank: 1, ours: 4, theirs: 5 }), "{error}");
}

#[test]
fn a_late_peer_and_a_stranger_do_not_keep_a_world_from_forming() {
    let (low, low_address) = listener();
    let (high, high_address) = listener();
    let addresses = [low_address.clone(), high_address];
    // A stranger calls first and says something else.
    let mut stranger = TcpStream::connect(&low_address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: quern\r\n\r\n").unwrap();
    // A rank of the generation before calls next.
    let mut stale = TcpStream::connect(&low_address).unwrap();
    let mut hello = b"QCH1".to_vec();
    hello.extend(6u64.to_le_bytes());
    hello.extend(1u32.to_le_bytes());
    hello.extend(2u32.to_le_bytes());
    stale.write_all(&hello).unwrap();
    let first = {
        let options = options(0, &addresses, 7, LONG);
        std::thread::spawn(move || TcpCollective::connect(low, options).unwrap().barrier())
    };
    let mut answer = [0; 13];
    stale.read_exact(&mut answer).unwrap();
    assert_eq!((answer[4], u64::from_le_bytes(answer[5..].try_into().unwrap())), (1, 7), "refused, and told why");
    let second = TcpCollective::connect(high, options(1, &addresses, 7, LONG)).unwrap();
    second.barrier().unwrap();
    first.join().unwrap().unwrap();
}

#[test]
fn abort_wakes_everybody() {
    let mut world = local_world(3, LONG).unwrap();
    let start = Instant::now();
    let idle = world.pop().unwrap();
    let world: Vec<Arc<TcpCollective>> = world.into_iter().map(Arc::new).collect();
    let waiting: Vec<_> =
        world.iter().cloned().map(|rank| std::thread::spawn(move || rank.barrier().unwrap_err())).collect();
    world[0].abort();
    let errors: Vec<_> = waiting.into_iter().map(|rank| rank.join().unwrap()).collect();
    assert!(matches!(errors[0], CollectiveError::Aborted { .. }), "{}", errors[0]);
    // Rank 1 only sees that rank 0 left.
    assert!(matches!(errors[1], CollectiveError::PeerLost { rank: 0, .. }), "{}", errors[1]);
    assert!(start.elapsed() < SOON);
    drop(idle);
}
