//! Who gets work, over the wire: a machine that keeps failing, one that is too small.

use quern_coordinator::{Coordinator, VERSION};
use quern_proto::control_request::Command;
use quern_proto::lease_reply::Work;
use quern_proto::*;
use tonic::{Code, Status};

use crate::harness::{STAGE1, Site, Worker, client, code, introduction, phase};

const GIB: u64 = 1 << 30;

async fn register(coordinator: &Coordinator, name: &str, host: &str, memory_bytes: u64) -> Result<Worker, Status> {
    let mut client = client(coordinator).await;
    let request = RegisterRequest { host: host.into(), memory_bytes, ..introduction(name, VERSION) };
    let reply = client.register(request).await?.into_inner();
    Ok(Worker { client, credentials: reply.credentials })
}

async fn allow(coordinator: &Coordinator, name: &str) -> Result<(), Status> {
    let command = Some(Command::Allow(Allow { name: name.into() }));
    let request = ControlRequest { command, ..ControlRequest::default() };
    client(coordinator).await.control(request).await.map(|_| ())
}

#[tokio::test]
async fn a_machine_that_keeps_failing_is_denied_work_until_it_is_allowed() {
    let site = Site::new(&format!("  worker_failures: 1\n{STAGE1}"));
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let mut bob = register(&coordinator, "bob-1", "bad", 0).await.unwrap();
    let lease = bob.shard().await;
    bob.fail(&lease, false).await.unwrap();
    let done = alice.shard().await;
    assert!(alice.commit(&done, "d").await.unwrap().accepted);
    let lease = bob.shard().await;
    bob.fail(&lease, false).await.unwrap();

    let status = phase(&coordinator, "stage1").await;
    let denied: Vec<_> = status.denied.iter().map(|denied| denied.place.as_str()).collect();
    assert_eq!(denied, ["bad/cpu"]);
    let states: Vec<_> = status.workers.iter().map(|worker| (&*worker.name, &*worker.state)).collect();
    assert_eq!(states, [("alice", "alive"), ("bob-1", "denied")]);
    assert!(status.workers[1].reason.contains("scripted"), "{:?}", status.workers[1]);
    assert!(bob.heartbeat(&[]).await.unwrap().drain);
    assert!(matches!(bob.work().await, Ok(Work::Wait(_))));
    let refused = register(&coordinator, "bob-2", "bad", 0).await.map(|_| ());
    assert!(refused.as_ref().unwrap_err().message().contains("quern allow bad/cpu"), "{refused:?}");
    assert_eq!(code(refused), Code::PermissionDenied);

    assert_eq!(code(allow(&coordinator, "good").await), Code::NotFound);
    allow(&coordinator, "bad").await.unwrap();
    assert!(!bob.heartbeat(&[]).await.unwrap().drain);
    assert!(matches!(bob.work().await, Ok(Work::World(_))));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_device_that_is_too_small_waits_and_the_status_says_why() {
    let site = Site::new("  min_device_memory_gib: {capfilt: 8}\n");
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut small = register(&coordinator, "small", "one", 4 * GIB).await.unwrap();
    assert!(matches!(small.work().await, Ok(Work::Wait(_))));
    let status = client(&coordinator).await.status(StatusRequest::default()).await.unwrap().into_inner();
    assert!(status.explanation.contains("4.0 GiB of the 8.0 GiB"), "{}", status.explanation);
    let mut large = register(&coordinator, "large", "two", 16 * GIB).await.unwrap();
    large.shard().await;
    coordinator.shutdown().await;
}
