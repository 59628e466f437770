//! What a coordinator knows again when its disk is lost or set back, and what becomes of one that another has replaced.

use std::path::Path;

use quern_coordinator::{Coordinator, RebuildError, Rebuilt, ServeOptions, back_up, rebuild, serve};
use quern_proto::{ShardLease, World};
use tonic::Code;

use crate::harness::{LEASE_MS, STAGE1, Site, Worker, code, mill, phase};

/// The part that a worker commits, as a file.
fn write_part(site: &Site, lease: &ShardLease, digest: &str) {
    let folder = site.folder.path().join("out/data");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{}-{digest}.parquet", lease.shard)), "a part").unwrap();
}

/// Lets time pass until `files` batches of acceptances are written.
async fn until_kept(site: &Site, coordinator: &Coordinator, files: usize) {
    let folder = site.folder.path().join("out.coordinators/acceptances");
    let written = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    site.clock.advance(LEASE_MS / 2);
    while written() < files {
        coordinator.tick().await;
    }
}

/// A coordinator whose first shard was made by a worker, accepted as `d0` and written down.
async fn with_one_acceptance(site: &Site, has_file: bool) -> (Coordinator, Worker) {
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let lease = alice.shard().await;
    if has_file {
        write_part(site, &lease, "d0");
    }
    assert!(alice.commit(&lease, "d0").await.unwrap().accepted);
    until_kept(site, &coordinator, 1).await;
    (coordinator, alice)
}

async fn rebuilt(site: &Site, journal: &Path) -> Result<Rebuilt, RebuildError> {
    rebuild(&site.recipe.output, None, journal).await
}

#[tokio::test]
async fn a_lost_disk_costs_only_what_nobody_wrote_down() {
    let site = Site::new("");
    let (coordinator, mut alice) = with_one_acceptance(&site, true).await;
    let second = alice.shard().await;
    assert_eq!(second.token.unwrap().incarnation, 1);
    coordinator.shutdown().await;

    let there = rebuilt(&site, &site.journal()).await.unwrap_err();
    assert!(matches!(there, RebuildError::JournalThere { .. }), "{there}");
    std::fs::remove_file(site.journal()).unwrap();
    let Rebuilt { shards, done, recipe } = rebuilt(&site, &site.journal()).await.unwrap();
    assert_eq!((shards, done, &*recipe), (2, 1, &site.recipe));

    // The rebuilding was incarnation 2. The old worker is a stranger, and what it holds is void.
    let coordinator = site.serve().await;
    alice.move_to(&coordinator).await;
    assert_eq!(code(alice.commit(&second, "d1").await), Code::NotFound);
    let mut bob = Worker::register(&coordinator, "bob").await;
    let left = bob.shard().await;
    assert_eq!((left.shard.as_str(), left.token.unwrap().incarnation), (second.shard.as_str(), 3));
    assert!(bob.commit(&left, "d1").await.unwrap().accepted);
    let outcome = coordinator.finished().await;
    assert!(outcome.succeeded, "{}", outcome.message);
    assert_eq!(outcome.status.rows_passed, 20);
    let manifest = site.manifest().unwrap();
    let digests: Vec<_> = manifest["parts"].as_array().unwrap().iter().map(|part| &part["digest"]).collect();
    assert_eq!(digests, ["d0", "d1"]);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn what_is_accepted_but_gone_is_done_again() {
    let site = Site::new("");
    let (coordinator, _) = with_one_acceptance(&site, false).await;
    coordinator.shutdown().await;
    let journal = site.folder.path().join("new.journal");
    assert_eq!(rebuilt(&site, &journal).await.unwrap().done, 0, "its file is not in the output");
}

#[tokio::test]
async fn the_acceptances_of_another_recipe_are_none_of_ours() {
    let site = Site::new("");
    let (coordinator, _) = with_one_acceptance(&site, true).await;
    coordinator.shutdown().await;
    let mut other = site.recipe.clone();
    other.seed += 1;
    let journal = site.folder.path().join("new.journal");
    assert_eq!(rebuild(&site.recipe.output, Some(other), &journal).await.unwrap().done, 0);
}

#[tokio::test]
async fn an_output_without_a_recipe_says_what_to_give() {
    let site = Site::new("");
    let error = rebuilt(&site, &site.journal()).await.unwrap_err().to_string();
    assert!(error.contains("no recipe is kept beside") && error.contains("give the recipe's file"), "{error}");
    assert!(!site.journal().exists());
    let elsewhere = site.folder.path().join("elsewhere");
    let error = rebuild(elsewhere.to_str().unwrap(), Some(site.recipe.clone()), &site.journal()).await.unwrap_err();
    assert!(matches!(error, RebuildError::OtherOutput { .. }), "{error}");
}

#[tokio::test]
async fn a_restored_backup_knows_what_was_accepted_since_while_old_workers_commit() {
    let site = Site::new("");
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let slow = alice.shard().await;
    let backup = site.folder.path().join("backup.journal");
    back_up(&site.journal(), &backup).unwrap();

    // After the backup: alice falls silent, bob makes both shards.
    site.clock.advance(LEASE_MS + 1);
    coordinator.tick().await;
    let mut bob = Worker::register(&coordinator, "bob").await;
    let other = bob.shard().await;
    write_part(&site, &other, "b");
    assert!(bob.commit(&other, "b").await.unwrap().accepted);
    let again = bob.shard().await;
    assert_ne!(again.shard, other.shard);
    until_kept(&site, &coordinator, 1).await;
    coordinator.shutdown().await;

    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", site.journal().display()));
    }
    std::fs::copy(&backup, site.journal()).unwrap();
    let coordinator = site.serve().await;
    coordinator.status().wait_for(|status| status.shards_done == 1).await.unwrap();
    bob.move_to(&coordinator).await;
    assert_eq!(code(bob.commit(&again, "b").await), Code::NotFound, "it came after the backup");
    alice.move_to(&coordinator).await;
    // Her attempt is live in the backup: it has a full term again, and its part is as good as any.
    assert_eq!(again.shard, slow.shard);
    assert!(alice.commit(&slow, "a").await.unwrap().accepted);
    let mut carol = Worker::register(&coordinator, "carol").await;
    mill(&mut carol).await;
    let outcome = coordinator.finished().await;
    assert!(outcome.succeeded, "{}", outcome.message);
    let manifest = site.manifest().unwrap();
    let parts = manifest["parts"].as_array().unwrap();
    assert_eq!((parts.len(), &manifest["totals"]["passed"]), (2, &20.into()));
    let of_bob = parts.iter().find(|part| part["shard"] == other.shard.as_str()).unwrap();
    assert_eq!(of_bob["digest"], "b");
    coordinator.shutdown().await;
}

/// Writes the checkpoint of a step into the output and commits it as rank 0.
async fn checkpoint(site: &Site, worker: &mut Worker, world: &World, step: u64, last: bool) {
    let folder = site.folder.path().join(format!("out/stage1/step-{step:06}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("state.json"), "{}").unwrap();
    assert!(worker.checkpoint(world, step, last).await.unwrap().accepted);
}

/// Two workers in the world of stage 1, the one of rank 0 first, once the shards that are left are made.
async fn in_stage1(coordinator: &Coordinator, names: [&str; 2]) -> (Worker, Worker, World) {
    let mut first = Worker::register(coordinator, names[0]).await;
    let mut second = Worker::register(coordinator, names[1]).await;
    mill(&mut first).await;
    let generation = phase(coordinator, "stage1").await.world_generation;
    first.join(generation).await.unwrap();
    let world = second.seat(generation).await;
    if world.rank == 0 {
        return (second, first, world);
    }
    let world = first.seat(generation).await;
    (first, second, world)
}

#[tokio::test]
async fn training_goes_on_from_the_last_checkpoint_that_was_written_down() {
    let site = Site::new(STAGE1);
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let (mut leader, _other, world) = in_stage1(&coordinator, ["alice", "bob"]).await;
    checkpoint(&site, &mut leader, &world, 4, false).await;
    until_kept(&site, &coordinator, 2).await;
    coordinator.shutdown().await;
    // The parts are gone, too: they are made again, and training goes on from where it was.
    std::fs::remove_file(site.journal()).unwrap();
    assert_eq!(rebuilt(&site, &site.journal()).await.unwrap().done, 0);
    let coordinator = site.serve().await;
    let (_leader, _other, world) = in_stage1(&coordinator, ["carol", "dave"]).await;
    assert_eq!((world.step, world.checkpoint.as_str()), (4, "stage1/step-000004"));
    assert_eq!(world.incarnation, 3);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_stage_whose_last_checkpoint_was_written_down_still_ends() {
    let site = Site::new(STAGE1);
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let (mut leader, _other, world) = in_stage1(&coordinator, ["alice", "bob"]).await;
    checkpoint(&site, &mut leader, &world, 4, false).await;
    until_kept(&site, &coordinator, 2).await;
    checkpoint(&site, &mut leader, &world, 10, true).await;
    assert!(coordinator.finished().await.succeeded);
    coordinator.shutdown().await;
    std::fs::remove_file(site.journal()).unwrap();
    rebuilt(&site, &site.journal()).await.unwrap();
    let coordinator = site.serve().await;
    let (mut leader, _other, world) = in_stage1(&coordinator, ["carol", "dave"]).await;
    assert_eq!(world.step, 4, "the last stretch is trained again");
    checkpoint(&site, &mut leader, &world, 10, true).await;
    let outcome = coordinator.finished().await;
    assert!(outcome.succeeded, "{}", outcome.message);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn of_two_coordinators_on_one_output_the_older_one_ends() {
    let mut site = Site::new("");
    // How often it looks.
    site.recipe.cluster.lease_ms = 400;
    let older = site.serve().await;
    phase(&older, "capfilt").await;
    let mut alice = Worker::register(&older, "alice").await;
    let lease = alice.shard().await;

    let journal = site.folder.path().join("another.journal");
    let options = ServeOptions::new(site.recipe.clone(), "127.0.0.1:0", journal);
    let newer = serve(ServeOptions { clock: site.clock.clone(), ..options }).await.unwrap();
    let superseded = older.superseded().await;
    assert_eq!(superseded.newer.0, 2);
    assert!(superseded.to_string().contains("works on") && superseded.to_string().contains("out now"), "{superseded}");
    // It serves nobody any more, and writes no manifest.
    older.shutdown().await;
    assert!(alice.commit(&lease, "a").await.is_err());

    phase(&newer, "capfilt").await;
    let mut bob = Worker::register(&newer, "bob").await;
    mill(&mut bob).await;
    let outcome = newer.finished().await;
    assert!(outcome.succeeded, "{}", outcome.message);
    let manifest = site.manifest().unwrap();
    assert!(manifest["parts"].as_array().unwrap().iter().all(|part| part["digest"] == "d"));
    newer.shutdown().await;
}
