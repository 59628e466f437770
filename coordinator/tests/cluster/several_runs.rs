//! A coordinator to which recipes are handed in: what it keeps, and how its runs share the workers.

use futures::StreamExt;
use quern_coordinator::Coordinator;
use quern_proto::lease_reply::Work;
use quern_proto::*;
use quern_recipes::Recipe;
use tonic::{Code, Status};

use crate::harness::{LEASE_MS, Site, Worker, cancelled, client, code, introduction, mill};
use quern_coordinator::VERSION;

async fn submit(coordinator: &Coordinator, recipe: &Recipe) -> Result<SubmitReply, Status> {
    let request = SubmitRequest { recipe_json: recipe.to_json() };
    Ok(client(coordinator).await.submit(request).await?.into_inner())
}

/// Hands a recipe in and waits for its plan; the run's id.
async fn planned(coordinator: &Coordinator, recipe: &Recipe) -> String {
    let run = submit(coordinator, recipe).await.unwrap().run_id;
    reached(coordinator, &run, "capfilt").await;
    run
}

/// Waits until a run is at `phase`.
async fn reached(coordinator: &Coordinator, run: &str, phase: &str) -> StatusReply {
    let mut watch = client(coordinator).await.watch(StatusRequest { run: run.into() }).await.unwrap().into_inner();
    while let Some(status) = watch.next().await {
        let status = status.unwrap();
        if status.phase == phase {
            return status;
        }
    }
    panic!("run {run} ended before {phase}");
}

async fn status(coordinator: &Coordinator, run: &str) -> Result<StatusReply, Status> {
    Ok(client(coordinator).await.status(StatusRequest { run: run.into() }).await?.into_inner())
}

async fn list(coordinator: &Coordinator) -> Vec<RunSummary> {
    client(coordinator).await.list_runs(ListRunsRequest {}).await.unwrap().into_inner().runs
}

async fn control(coordinator: &Coordinator, run: &str, command: control_request::Command) -> Result<(), Status> {
    let request = ControlRequest { run: run.into(), command: Some(command) };
    client(coordinator).await.control(request).await.map(|_| ())
}

fn run_of(worker: &Worker) -> &str {
    &worker.credentials.as_ref().unwrap().run
}

#[tokio::test]
async fn a_worker_waits_until_a_recipe_is_handed_in() {
    let site = Site::new("");
    let coordinator = site.serve_submitted().await;
    let mut client = client(&coordinator).await;
    let idle = client.register(introduction("alice", VERSION)).await.unwrap().into_inner();
    assert!(idle.wait.is_some() && idle.more && idle.credentials.is_none(), "{idle:?}");
    let nothing = status(&coordinator, "").await;
    assert!(nothing.as_ref().unwrap_err().message().contains("quern submit"), "{nothing:?}");
    assert_eq!(code(nothing), Code::NotFound);

    let run = planned(&coordinator, &site.recipe).await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    assert_eq!(run_of(&alice), run);
    mill(&mut alice).await;
    reached(&coordinator, &run, "done").await;
    assert!(site.manifest().is_some());
    assert!(matches!(alice.work().await, Ok(Work::Finished(Finished { succeeded: true, .. }))));
    let idle = client.register(introduction("alice", VERSION)).await.unwrap().into_inner();
    assert!(idle.wait.is_some(), "the only run is over: {idle:?}");
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_recipe_that_comes_again_is_the_same_run() {
    let site = Site::new("");
    let coordinator = site.serve_submitted().await;
    let first = submit(&coordinator, &site.recipe).await.unwrap();
    assert!(!first.known);
    let again = submit(&coordinator, &site.recipe).await.unwrap();
    assert_eq!((again.known, &again.run_id), (true, &first.run_id));
    assert_eq!(list(&coordinator).await.len(), 1);

    let elsewhere = Recipe { output: "/elsewhere".into(), ..site.recipe.clone() };
    let refused = submit(&coordinator, &elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("whose output is"), "{refused}");
    let invalid = Recipe { datasets: Vec::new(), ..site.recipe.clone() };
    assert_eq!(code(submit(&coordinator, &invalid).await), Code::InvalidArgument);
    coordinator.shutdown().await;

    let coordinator = site.serve().await;
    let refused = submit(&coordinator, &site.recipe).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--state"), "{refused}");
    coordinator.shutdown().await;
}

#[tokio::test]
async fn workers_go_where_they_are_needed() {
    let site = Site::new("");
    let coordinator = site.serve_submitted().await;
    let first = planned(&coordinator, &site.recipe_of("first", 1)).await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let mut bob = Worker::register(&coordinator, "bob").await;
    let of_alice = alice.shard().await;
    let of_bob = bob.shard().await;

    // A second run comes. Nobody is taken from the first one's work; a new worker joins the run that lacks it.
    let second = planned(&coordinator, &site.recipe_of("second", 2)).await;
    assert!(alice.commit(&of_alice, "d").await.unwrap().accepted);
    let carol = Worker::register(&coordinator, "carol").await;
    assert_eq!((run_of(&alice), run_of(&bob), run_of(&carol)), (&*first, &*first, &*second));

    // Alice would wait for bob's shard; the second run can use two.
    let released = match alice.work().await {
        Ok(Work::Released(released)) => released,
        other => panic!("a release expected: {other:?}"),
    };
    assert!(released.reason.contains("second"), "{released:?}");
    assert_eq!(code(alice.work().await), Code::FailedPrecondition, "she has left the first run");
    let mut alice = Worker::register(&coordinator, "alice").await;
    assert_eq!(run_of(&alice), second);
    let of_second = alice.shard().await;
    assert_eq!(of_second.shard, of_alice.shard, "the same corpus in another run");

    // Credentials are of one run: the same worker's id in another one is somebody else.
    let mut mixed = Worker { client: client(&coordinator).await, credentials: bob.credentials.clone() };
    mixed.credentials.as_mut().unwrap().run = second.clone();
    assert_eq!(code(mixed.commit(&of_second, "d").await), Code::Unauthenticated);
    mixed.credentials.as_mut().unwrap().run = "none".into();
    assert_eq!(code(mixed.commit(&of_second, "d").await), Code::NotFound);

    assert!(bob.commit(&of_bob, "d").await.unwrap().accepted);
    reached(&coordinator, &first, "done").await;
    assert!(matches!(bob.work().await, Ok(Work::Finished(_))));
    let runs = list(&coordinator).await;
    let seen: Vec<_> = runs.iter().map(|run| (&*run.name, &*run.phase, run.rows_done)).collect();
    assert_eq!(seen, [("first", "done", 20), ("second", "capfilt", 0)]);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_paused_run_lends_its_workers() {
    let site = Site::new("");
    let coordinator = site.serve_submitted().await;
    let first = planned(&coordinator, &site.recipe_of("first", 1)).await;
    let second = planned(&coordinator, &site.recipe_of("second", 2)).await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    assert_eq!(run_of(&alice), first);
    let pause = control_request::Command::Pause(Pause { reason: "for the night".into() });
    control(&coordinator, "first", pause).await.unwrap();
    assert!(matches!(alice.work().await, Ok(Work::Released(_))));
    let alice = Worker::register(&coordinator, "alice").await;
    assert_eq!(run_of(&alice), second);
    control(&coordinator, &first, control_request::Command::Resume(Resume {})).await.unwrap();
    let bob = Worker::register(&coordinator, "bob").await;
    assert_eq!(run_of(&bob), first);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn runs_are_meant_by_id_name_or_order() {
    let site = Site::new("");
    let coordinator = site.serve_submitted().await;
    let first = planned(&coordinator, &site.recipe_of("twin", 1)).await;
    let second = planned(&coordinator, &site.recipe_of("twin", 2)).await;
    let third = planned(&coordinator, &site.recipe_of("single", 3)).await;
    let meant = async |said: &str| status(&coordinator, said).await.map(|status| status.run_id);
    assert_eq!(meant("single").await.unwrap(), third);
    assert_eq!(meant(&second[..12]).await.unwrap(), second);
    assert_eq!(meant("").await.unwrap(), first, "the first that is not over");
    let refused = meant("twin").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("may mean 2 runs"), "{refused}");
    assert_eq!(code(meant("nobody").await), Code::NotFound);

    control(&coordinator, &first, cancelled()).await.unwrap();
    assert_eq!(meant("").await.unwrap(), second);
    assert_eq!(status(&coordinator, &first).await.unwrap().phase, "cancelled");
    control(&coordinator, &second, cancelled()).await.unwrap();
    control(&coordinator, &third, cancelled()).await.unwrap();
    assert_eq!(meant("").await.unwrap(), third, "all are over: the last");
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_restarted_coordinator_goes_on_with_all_runs() {
    let site = Site::new("");
    let coordinator = site.serve_submitted().await;
    let first = planned(&coordinator, &site.recipe_of("first", 1)).await;
    site.clock.advance(1);
    let second = planned(&coordinator, &site.recipe_of("second", 2)).await;
    control(&coordinator, &first, cancelled()).await.unwrap();
    let mut alice = Worker::register(&coordinator, "alice").await;
    let lease = alice.shard().await;
    let before = list(&coordinator).await;
    site.clock.advance(LEASE_MS - 1);
    coordinator.shutdown().await;

    let coordinator = site.serve_submitted().await;
    let after = list(&coordinator).await;
    let kept = |runs: &[RunSummary]| {
        runs.iter().map(|run| (run.run_id.clone(), run.phase.clone(), run.submitted_ms)).collect::<Vec<_>>()
    };
    assert_eq!(kept(&after), kept(&before));
    assert_eq!((&*after[0].phase, &*after[1].run_id), ("cancelled", &*second));
    alice.move_to(&coordinator).await;
    assert!(alice.commit(&lease, "d").await.unwrap().accepted, "her lease was kept");
    mill(&mut alice).await;
    reached(&coordinator, &second, "done").await;
    coordinator.shutdown().await;
}

/// What `Logs` says, until it ends.
async fn logs(coordinator: &Coordinator, request: LogsRequest) -> Vec<LogLine> {
    let lines = client(coordinator).await.logs(request).await.unwrap().into_inner();
    lines.map(|line| line.unwrap()).collect().await
}

#[tokio::test]
async fn logs_tell_what_workers_and_coordinator_wrote() {
    let site = Site::new("");
    let coordinator = site.serve_submitted().await;
    let run = planned(&coordinator, &site.recipe).await;
    let mut alice = Worker::register(&coordinator, "alice").await;
    let line = LogLine {
        name: "alice".into(),
        level: "info".into(),
        text: "models loaded".into(),
        number: 1,
        ..LogLine::default()
    };
    let heartbeat =
        HeartbeatRequest { credentials: alice.credentials.clone(), log: vec![line], ..HeartbeatRequest::default() };
    alice.client.heartbeat(heartbeat.clone()).await.unwrap();
    // Its answer got lost: the same lines again.
    alice.client.heartbeat(heartbeat).await.unwrap();
    let of_alice = logs(&coordinator, LogsRequest { worker: "alice".into(), ..LogsRequest::default() }).await;
    assert_eq!(of_alice.len(), 1, "{of_alice:?}");
    assert_eq!((&*of_alice[0].worker, &*of_alice[0].text), ("w1", "models loaded"));

    // Who follows reads on until the run's end, and hears of that too.
    let following = logs(&coordinator, LogsRequest { run: run.clone(), follow: true, ..LogsRequest::default() });
    let (lines, ()) = tokio::join!(following, async {
        tokio::task::yield_now().await;
        control(&coordinator, &run, cancelled()).await.unwrap();
    });
    let texts: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
    assert!(texts[0].contains("(alice) on cpu joined") && texts.contains(&"models loaded"), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("cancel (enough)")), "{texts:?}");
    let last = logs(&coordinator, LogsRequest { last: 1, ..LogsRequest::default() }).await;
    assert_eq!(last.len(), 1);
    coordinator.shutdown().await;
}
