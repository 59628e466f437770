//! A coordinator that was started with a recipe.

use futures::StreamExt;
use quern_coordinator::{ServeError, ServeOptions, serve};
use quern_proto::lease_reply::Work;
use quern_proto::*;
use quern_recipes::Recipe;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{LEASE_MS, STAGE1, STAGE2, Site, Worker, client, code, introduction, mill, phase};

#[tokio::test]
async fn a_run_without_training_goes_from_plan_to_manifest() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    let planned = phase(&coordinator, "capfilt").await;
    assert_eq!((planned.shards_total, planned.rows_total, planned.shards_pending), (2, 20, 2));

    let mut watch = client(&coordinator).await.watch(StatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().phase, "capfilt");

    let mut worker = Worker::register(&coordinator, "alice").await;
    let mut digests = Vec::new();
    while let Work::Shard(lease) = worker.work().await.unwrap() {
        assert_eq!((lease.dataset.as_str(), lease.row_start, lease.rows), ("toy", 0, 10));
        assert!(worker.commit(&lease, &format!("d{}", digests.len())).await.unwrap().accepted);
        digests.push(lease.shard);
    }
    assert_eq!(digests, ["toy-00000-000000000", "toy-00001-000000000"]);

    let outcome = coordinator.finished().await;
    assert!(outcome.succeeded, "{}", outcome.message);
    assert_eq!((outcome.status.rows_passed, outcome.status.shards_done), (20, 2));
    let manifest = site.manifest().expect("the manifest is written before the run is done");
    let parts = manifest["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    assert_eq!((&parts[0]["shard"], &parts[0]["digest"]), (&"toy-00000-000000000".into(), &"d0".into()));
    assert_eq!(manifest["totals"]["passed"], 20);

    // The watch ends with the run; a worker that asks now hears so.
    let last = watch.map(|status| status.unwrap()).fold(None, async |_, status| Some(status)).await.unwrap();
    assert_eq!(last.phase, "done");
    assert!(matches!(worker.work().await, Ok(Work::Finished(Finished { succeeded: true, .. }))));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn offers_are_taken_once_and_only_from_their_holder() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let mut bob = Worker::register(&coordinator, "bob").await;
    let lease = alice.shard().await;
    assert_eq!(alice.shard().await, lease, "the same lease while it is held");

    assert_eq!(code(bob.commit(&lease, "d").await), Code::FailedPrecondition);
    assert_eq!(code(alice.commit(&ShardLease { rows: 9, ..lease.clone() }, "d").await), Code::InvalidArgument);
    for name in ["data/../../etc.parquet", "elsewhere/x.parquet", "data/another-d.parquet", ""] {
        let part =
            PartSummary { data: name.into(), digest: "d".into(), rows: 10, passed: 10, ..PartSummary::default() };
        assert_eq!(code(alice.commit_part(&lease, part).await), Code::InvalidArgument, "{name:?}");
    }
    assert!(alice.commit(&lease, "d").await.unwrap().accepted);
    assert!(alice.commit(&lease, "d").await.unwrap().accepted, "the answer got lost: the same offer again");
    let another = alice.commit(&lease, "e").await.unwrap();
    assert!(!another.accepted && another.reason.contains("accepted before"), "{another:?}");

    let mut impostor = Worker { client: client(&coordinator).await, credentials: bob.credentials.clone() };
    impostor.credentials.as_mut().unwrap().secret = "guess".into();
    assert_eq!(code(impostor.work().await), Code::Unauthenticated);
    impostor.credentials = None;
    assert_eq!(code(impostor.work().await), Code::Unauthenticated);
    let refused = client(&coordinator).await.register(introduction("old", "0.0.0")).await;
    assert!(refused.as_ref().unwrap_err().message().contains("0.0.0"), "{refused:?}");
    assert_eq!(code(refused), Code::InvalidArgument);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_silent_worker_loses_its_lease_and_its_late_commit() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let mut bob = Worker::register(&coordinator, "bob").await;
    let lost = alice.shard().await;
    let kept = bob.shard().await;
    site.clock.advance(LEASE_MS / 2 + 1);
    assert_eq!(bob.heartbeat(&[&kept]).await.unwrap().revoked_shards, [""; 0]);
    site.clock.advance(LEASE_MS / 2);
    coordinator.tick().await;
    assert!(bob.commit(&kept, "b").await.unwrap().accepted);
    assert_eq!(code(alice.commit(&lost, "a").await), Code::NotFound);
    assert_eq!(code(alice.heartbeat(&[&lost]).await), Code::NotFound);

    let mut alice = Worker::register(&coordinator, "alice").await;
    assert_eq!(code(alice.commit(&lost, "a").await), Code::FailedPrecondition);
    assert_eq!(alice.heartbeat(&[&lost]).await.unwrap().revoked_shards, std::slice::from_ref(&lost.shard));
    let again = alice.shard().await;
    assert_eq!(again.shard, lost.shard);
    assert!(again.token.unwrap().epoch > lost.token.unwrap().epoch);
    assert!(alice.commit(&again, "a").await.unwrap().accepted);
    assert!(coordinator.finished().await.succeeded);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_in_the_manifest_with_its_reason() {
    let site = Site::new("");
    std::fs::write(site.folder.path().join("corpus/2.parquet"), "this is no parquet file").unwrap();
    let coordinator = site.serve().await;
    let planned = phase(&coordinator, "capfilt").await;
    assert_eq!((planned.shards_total, planned.shards_quarantined), (3, 1));
    let mut worker = Worker::register(&coordinator, "alice").await;
    let first = worker.shard().await;
    worker.fail(&first, true).await.unwrap();
    assert_eq!(code(worker.fail(&first, true).await), Code::FailedPrecondition);
    let second = worker.shard().await;
    worker.fail(&second, false).await.unwrap();
    let retried = worker.shard().await;
    assert_eq!(retried.shard, second.shard);
    assert!(worker.commit(&retried, "d").await.unwrap().accepted);
    let outcome = coordinator.finished().await;
    assert!(outcome.succeeded);
    assert_eq!((outcome.status.shards_quarantined, outcome.status.rows_quarantined), (2, 10));
    assert_eq!(outcome.status.quarantined_shards[0].reason, "scripted");
    let manifest = site.manifest().unwrap();
    let given_up = manifest["quarantined_shards"].as_array().unwrap();
    assert_eq!(given_up.len(), 2);
    assert_eq!((&given_up[0]["shard"], &given_up[0]["reason"]), (&first.shard.into(), &"scripted".into()));
    assert_eq!((&given_up[1]["file"], &given_up[1]["rows"]), (&"2.parquet".into(), &0.into()));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_restarted_coordinator_goes_on_where_the_journal_stands() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let mut bob = Worker::register(&coordinator, "bob").await;
    let done = alice.shard().await;
    assert!(alice.commit(&done, "d0").await.unwrap().accepted);
    let held = bob.shard().await;
    let before = coordinator.status().borrow().clone();
    site.clock.advance(LEASE_MS - 1);
    coordinator.shutdown().await;

    let coordinator = site.serve().await;
    let after = coordinator.status().borrow().clone();
    assert_eq!((after.shards_done, after.shards_leased, after.incarnation), (1, 1, before.incarnation + 1));
    assert!(after.version > before.version);
    // Every lease has a full term again, and its token is still good.
    site.clock.advance(LEASE_MS - 1);
    coordinator.tick().await;
    alice.move_to(&coordinator).await;
    bob.move_to(&coordinator).await;
    assert!(alice.commit(&done, "d0").await.unwrap().accepted, "its answer got lost in the crash");
    assert!(bob.commit(&held, "d1").await.unwrap().accepted);
    assert!(coordinator.finished().await.succeeded);
    let manifest = site.manifest().unwrap();
    coordinator.shutdown().await;

    // A finished run stays finished, and the same journal serves no other run.
    let coordinator = site.serve().await;
    assert!(coordinator.finished().await.succeeded);
    assert_eq!(site.manifest().unwrap(), manifest);
    coordinator.shutdown().await;
    let other = Recipe { seed: site.recipe.seed + 1, ..site.recipe.clone() };
    let options = ServeOptions::new(other, "127.0.0.1:0", site.journal());
    let refused = serve(options).await.err().unwrap().to_string();
    assert!(refused.contains("is of another run: its recipe hash is"), "{refused}");
}

#[tokio::test]
async fn a_port_or_journal_in_use_is_said_in_one_sentence() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    let listen = coordinator.address().to_string();
    let refused = serve(ServeOptions { listen: listen.clone(), ..site.options() }).await.err().unwrap();
    assert!(matches!(refused, ServeError::Listen { .. }));
    assert!(refused.to_string().starts_with(&format!("can't listen on {listen}: ")), "{refused}");
    let refused = serve(site.options()).await.err().unwrap().to_string();
    assert!(refused.starts_with("another coordinator works with the journal"), "{refused}");
    coordinator.shutdown().await;
}

#[tokio::test]
async fn an_unplannable_corpus_fails_the_run_until_it_is_mended() {
    let site = Site::new("");
    let corpus = site.folder.path().join("corpus");
    let aside = site.folder.path().join("aside");
    std::fs::rename(&corpus, &aside).unwrap();
    std::fs::create_dir(&corpus).unwrap();
    let coordinator = site.serve().await;
    let outcome = coordinator.finished().await;
    assert!(!outcome.succeeded && outcome.message.contains("no *.parquet file"), "{}", outcome.message);
    let mut worker = Worker::register(&coordinator, "alice").await;
    assert!(matches!(worker.work().await, Ok(Work::Finished(Finished { succeeded: false, .. }))));
    coordinator.shutdown().await;

    std::fs::remove_dir(&corpus).unwrap();
    std::fs::rename(&aside, &corpus).unwrap();
    let coordinator = site.serve().await;
    assert_eq!(phase(&coordinator, "capfilt").await.shards_total, 2);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_training_world_survives_the_loss_of_a_rank() {
    let site = Site::new(STAGE1);
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let mut bob = Worker::register(&coordinator, "bob").await;
    let mut carol = Worker::register(&coordinator, "carol").await;
    mill(&mut alice).await;
    phase(&coordinator, "stage1").await;
    assert!(site.manifest().is_some(), "the manifest is there before training begins");

    assert_eq!(alice.work().await.unwrap(), Work::World(WorldInvitation { generation: 1 }));
    assert!(matches!(alice.join(1).await, Ok(join_world_reply::Outcome::Wait(_))));
    assert!(coordinator.status().borrow().explanation.contains("1 of 2 ranks have joined"));
    let of_bob = bob.seat(1).await;
    let of_alice = alice.seat(1).await;
    assert_eq!((of_alice.rank, of_bob.rank), (0, 1));
    assert_eq!(of_alice.addresses, ["alice:1", "bob:1"]);
    assert!(matches!(carol.work().await, Ok(Work::Wait(_))));

    alice.report(&of_alice, 3).await.unwrap();
    assert_eq!(code(bob.report(&of_bob, 3).await), Code::PermissionDenied);
    assert!(alice.checkpoint(&of_alice, 3, false).await.unwrap().accepted);
    assert!(alice.checkpoint(&of_alice, 3, false).await.unwrap().accepted, "the same offer again");
    assert!(!alice.checkpoint(&of_alice, 2, false).await.unwrap().accepted);
    let status = coordinator.status().borrow().clone();
    assert_eq!((status.step, status.steps, status.checkpoint.as_str()), (3, 10, "stage1/step-000003"));

    // Bob goes away; carol takes his place, and training resumes from the checkpoint.
    bob.drain().await.unwrap();
    assert!(bob.heartbeat(&[]).await.unwrap().drain);
    assert_eq!(alice.heartbeat(&[]).await.unwrap().world_generation, 2);
    assert_eq!(code(alice.checkpoint(&of_alice, 6, false).await), Code::FailedPrecondition);
    assert_eq!(code(bob.work().await), Code::FailedPrecondition);
    assert_eq!(code(alice.join(1).await), Code::FailedPrecondition);
    assert!(matches!(alice.join(2).await, Ok(join_world_reply::Outcome::Wait(_))));
    let of_carol = carol.seat(2).await;
    let of_alice = alice.seat(2).await;
    assert_eq!(of_carol.addresses, ["alice:1", "carol:1"]);
    assert_eq!((of_carol.checkpoint.as_str(), of_carol.step), ("stage1/step-000003", 3));

    // The coordinator is restarted in between; the world doesn't notice.
    coordinator.shutdown().await;
    let coordinator = site.serve().await;
    alice.move_to(&coordinator).await;
    alice.report(&of_alice, 9).await.unwrap();
    assert!(alice.checkpoint(&of_alice, 10, true).await.unwrap().accepted);
    let outcome = coordinator.finished().await;
    assert!(outcome.succeeded, "{}", outcome.message);
    assert_eq!((outcome.status.checkpoint.as_str(), outcome.status.step), ("stage1/step-000010", 10));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn stage_2_follows_stage_1_with_ranks_and_checkpoints_of_its_own() {
    let site = Site::new(&format!("{STAGE1}{STAGE2}"));
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let mut bob = Worker::register(&coordinator, "bob").await;
    mill(&mut alice).await;
    phase(&coordinator, "stage1").await;
    assert!(matches!(alice.join(1).await, Ok(join_world_reply::Outcome::Wait(_))));
    bob.seat(1).await;
    let of_alice = alice.seat(1).await;
    assert_eq!((of_alice.stage.as_str(), of_alice.stage1_checkpoint.as_str()), ("stage1", ""));
    alice.report(&of_alice, 10).await.unwrap();
    assert!(alice.checkpoint(&of_alice, 10, true).await.unwrap().accepted);
    assert!(alice.checkpoint(&of_alice, 10, true).await.unwrap().accepted, "the same offer again");

    phase(&coordinator, "stage2").await;
    assert_eq!(alice.heartbeat(&[]).await.unwrap().world_generation, 2);
    let of_bob = bob.seat(2).await;
    assert_eq!((of_bob.stage.as_str(), of_bob.addresses.len(), of_bob.checkpoint.as_str()), ("stage2", 1, ""));
    assert_eq!(of_bob.stage1_checkpoint, "stage1/step-000010");
    assert!(matches!(alice.work().await, Ok(Work::Wait(_))), "stage 2 has one rank");
    bob.report(&of_bob, 2).await.unwrap();
    assert!(bob.checkpoint(&of_bob, 2, false).await.unwrap().accepted);
    let status = coordinator.status().borrow().clone();
    assert_eq!((status.step, status.steps, status.checkpoint.as_str()), (2, 4, "stage2/step-000002"));
    let losses: Vec<_> = status.stages.iter().map(|stage| stage.last_losses.unwrap()).collect();
    assert_eq!((losses[0].itc, losses[0].lm, losses[1].itc, losses[1].lm), (3.0, None, 0.0, Some(2.5)));
    assert_eq!((status.stages[0].step, status.stages[0].checkpoint.as_str()), (10, "stage1/step-000010"));

    // Bob goes away; alice goes on from stage 2's checkpoint.
    bob.drain().await.unwrap();
    let of_alice = alice.seat(3).await;
    assert_eq!((of_alice.stage.as_str(), of_alice.checkpoint.as_str()), ("stage2", "stage2/step-000002"));
    assert!(alice.checkpoint(&of_alice, 4, true).await.unwrap().accepted);
    let outcome = coordinator.finished().await;
    assert!(outcome.succeeded, "{}", outcome.message);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn an_unwritable_output_delays_the_manifest_and_says_so() {
    let site = Site::new("");
    // A file where the output's folder should be: nothing can be written there.
    std::fs::write(site.folder.path().join("out"), "in the way").unwrap();
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut worker = Worker::register(&coordinator, "alice").await;
    mill(&mut worker).await;
    let mut status = coordinator.status();
    let said = |status: &StatusReply| status.explanation.starts_with("The manifest can't be written: ");
    status.wait_for(said).await.unwrap();
    std::fs::remove_file(site.folder.path().join("out")).unwrap();
    assert!(coordinator.finished().await.succeeded);
    assert!(site.manifest().is_some());
    coordinator.shutdown().await;
}

#[tokio::test]
async fn health_is_served_and_a_watch_does_not_hold_up_the_end() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    let channel = Channel::from_shared(coordinator.url()).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: "quern.v1.Coordinator".into() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    let mut watch = client(&coordinator).await.watch(StatusRequest::default()).await.unwrap().into_inner();
    watch.next().await.unwrap().unwrap();
    coordinator.shutdown().await;
    while let Some(Ok(_)) = watch.next().await {}
}
