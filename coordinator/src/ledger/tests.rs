//! The ledger over a journal that fails when it is told to, with time that stands still unless told to go on.

use quern_machine::{
    Call, Caller, Finished, PartSummary, Refusal, Registration, ShardId, ShardPlan, ShardToken, Work, WorkerId,
};

use super::*;
use crate::clock::ScriptedClock;
use crate::journal::{Journal, MemoryJournal};
use crate::secrets;

const CONFIG: Config = Config::new(100, 3);

struct Bench {
    journal: MemoryJournal,
    clock: Arc<ScriptedClock>,
    opened: Opened,
}

impl Bench {
    fn open(journal: MemoryJournal) -> Self {
        let clock = Arc::new(ScriptedClock::default());
        let describe = Describe { run_id: "r".into(), name: "n".into(), output: "o".into() };
        let take = |known: &Machine| Ok(Taken { incarnation: known.incarnation().next(), behind: false });
        let (journal_now, clock_now) = (Box::new(journal.clone()), clock.clone());
        let opening =
            Opening { config: CONFIG, journal: journal_now, clock: clock_now, describe, take: Box::new(take) };
        Bench { journal, clock, opened: open(opening).unwrap() }
    }

    /// As a process that is killed and started again over the same journal.
    fn restart(self) -> Self {
        let Bench { journal, opened: Opened { ledger, thread, .. }, .. } = self;
        drop(ledger);
        thread.join().unwrap();
        Bench::open(journal)
    }

    async fn tell(&self, event: Event) -> Result<Answer, CallError> {
        self.opened.ledger.tell(event).await
    }

    async fn plan(&self, shards: &[&str]) {
        let plan = |name: &&str| ShardPlan {
            shard: ShardId((*name).into()),
            dataset: "toy".into(),
            file: "f".into(),
            row_start: 0,
            rows: 10,
        };
        let shards = shards.iter().map(plan).collect();
        self.tell(Event::Planned { shards, unreadable: Vec::new() }).await.unwrap();
    }

    async fn register(&self) -> WorkerId {
        match self.tell(registration()).await {
            Ok(Answer::Registered { worker, .. }) => worker,
            other => panic!("{other:?}"),
        }
    }

    async fn call(&self, worker: WorkerId, call: Call) -> Result<Answer, CallError> {
        let caller = Caller { worker, secret: secrets::digest("secret") };
        self.tell(Event::Call { caller, call }).await
    }

    async fn lease(&self, worker: WorkerId) -> (ShardId, ShardToken) {
        match self.call(worker, Call::Lease).await {
            Ok(Answer::Work(Work::Shard { plan, token, .. })) => (plan.shard, token),
            other => panic!("{other:?}"),
        }
    }

    async fn commit(&self, worker: WorkerId, shard: &ShardId, token: ShardToken) -> Result<Answer, CallError> {
        let part = PartSummary {
            data: Some(format!("data/{shard}-d.parquet")),
            quarantine: None,
            digest: "d".into(),
            rows: 10,
            kept: 10,
            passed: 0,
            quarantined: 0,
            bytes: 1,
            ..PartSummary::default()
        };
        self.call(worker, Call::Commit { shard: shard.clone(), token, part }).await
    }

    /// The journal is tried anew at a tick.
    async fn tick(&self) -> Result<Answer, CallError> {
        self.tell(Event::Tick { now_ms: 0 }).await
    }

    fn status(&self) -> StatusReply {
        self.opened.status.borrow().clone()
    }
}

fn registration() -> Event {
    Event::Register(Registration {
        name: "w".into(),
        device: "cpu".into(),
        address: "w:1".into(),
        secret: secrets::digest("secret"),
        host: String::new(),
        memory_bytes: 0,
    })
}

fn is_unavailable(answer: &Result<Answer, CallError>) -> bool {
    matches!(answer, Err(CallError::Unavailable(_)))
}

#[tokio::test]
async fn the_status_of_many_workers_is_shown_though_nobody_calls_any_more() {
    let mut bench = Bench::open(MemoryJournal::default());
    for _ in 0..200 {
        bench.register().await;
    }
    let shown = bench.opened.status.wait_for(|status| status.workers.len() == 200);
    tokio::time::timeout(std::time::Duration::from_secs(10), shown).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_append_undoes_what_was_decided_and_nobody_hears_of_it() {
    let bench = Bench::open(MemoryJournal::default());
    bench.plan(&["a"]).await;
    let worker = bench.register().await;
    bench.journal.set_full(true);
    let answer = bench.call(worker, Call::Lease).await;
    assert!(is_unavailable(&answer), "{answer:?}");
    assert!(bench.status().explanation.contains("full"), "{}", bench.status().explanation);
    assert_eq!(bench.status().shards_leased, 0, "the lease that wasn't durable is undone");

    // Members are kept alive meanwhile, and nothing else happens.
    let heard = bench.call(worker, Call::Heartbeat { progress: Vec::new(), warm: Default::default() }).await;
    assert!(matches!(heard, Ok(Answer::Heard { .. })), "{heard:?}");
    bench.clock.advance(10_000);
    assert!(is_unavailable(&bench.tick().await));
    assert!(is_unavailable(&bench.tell(registration()).await));

    // Space returns: the same incarnation goes on, and the long outage has cost nobody its membership.
    bench.journal.set_full(false);
    assert_eq!(bench.tick().await, Ok(Answer::Noted));
    let (shard, token) = bench.lease(worker).await;
    assert_eq!((shard.0.as_str(), token.incarnation.0, token.epoch.0), ("a", 1, 1));
    assert_eq!(bench.commit(worker, &shard, token).await, Ok(Answer::Accepted));
    assert!(!bench.status().explanation.contains("full"));
}

#[tokio::test]
async fn a_torn_append_is_settled_by_the_journal() {
    let bench = Bench::open(MemoryJournal::default());
    bench.plan(&["a", "b"]).await;
    let worker = bench.register().await;
    let (shard, token) = bench.lease(worker).await;
    // The commit's record is in the journal, but the sync fails: the worker hears UNAVAILABLE and asks again.
    bench.journal.fail_after(0, true);
    let answer = bench.commit(worker, &shard, token).await;
    assert!(is_unavailable(&answer), "{answer:?}");
    assert_eq!(bench.tick().await, Ok(Answer::Noted));
    assert_eq!(bench.commit(worker, &shard, token).await, Ok(Answer::Accepted));
    assert_eq!(bench.status().shards_done, 1);
    let commits = bench.journal.lines().into_iter().filter(|line| line.contains("shard_committed")).count();
    assert_eq!(commits, 1, "accepted once");
}

#[tokio::test]
async fn a_crash_between_append_and_answer_loses_nothing() {
    let bench = Bench::open(MemoryJournal::default());
    bench.plan(&["a", "b"]).await;
    let worker = bench.register().await;
    let (shard, token) = bench.lease(worker).await;
    bench.commit(worker, &shard, token).await.unwrap();
    // The worker never heard: it asks the restarted coordinator again.
    let bench = bench.restart();
    assert_eq!(bench.commit(worker, &shard, token).await, Ok(Answer::Accepted));
    let (shard, token) = bench.lease(worker).await;
    assert_eq!((shard.0.as_str(), token.incarnation.0, token.epoch.0), ("b", 2, 2));
    // Nor had it heard of this lease.
    let bench = bench.restart();
    assert_eq!(bench.lease(worker).await, (shard, token));
}

#[tokio::test]
async fn after_a_recovery_every_lease_has_a_full_term() {
    let bench = Bench::open(MemoryJournal::default());
    bench.plan(&["a"]).await;
    let worker = bench.register().await;
    let (shard, token) = bench.lease(worker).await;
    bench.clock.advance(99);
    let bench = bench.restart();
    bench.clock.advance(99);
    assert_eq!(bench.commit(worker, &shard, token).await, Ok(Answer::Accepted));
}

#[tokio::test]
async fn silence_costs_the_lease_and_the_membership() {
    let bench = Bench::open(MemoryJournal::default());
    bench.plan(&["a"]).await;
    let worker = bench.register().await;
    let (shard, token) = bench.lease(worker).await;
    bench.clock.advance(100);
    let answer = bench.commit(worker, &shard, token).await;
    assert_eq!(answer, Err(CallError::Refused(Refusal::NotAMember(worker))));
    assert_eq!(bench.status().shards_pending, 1);
}

#[tokio::test]
async fn calls_that_wait_together_share_a_sync() {
    let bench = Bench::open(MemoryJournal::default());
    bench.plan(&["a"]).await;
    let before = bench.journal.appends();
    let calls = 200;
    let answers = futures::future::join_all((0..calls).map(|_| bench.tell(registration()))).await;
    assert!(answers.iter().all(Result::is_ok));
    let registered = bench.journal.lines().iter().filter(|line| line.contains("worker_registered")).count();
    assert_eq!(registered, calls);
    let appends = bench.journal.appends() - before;
    assert!(appends < calls as u64, "{appends} syncs for {calls} calls");
}

#[tokio::test]
async fn heartbeats_are_not_journalled() {
    let bench = Bench::open(MemoryJournal::default());
    bench.plan(&["a"]).await;
    let worker = bench.register().await;
    let before = (bench.journal.appends(), bench.journal.lines());
    for _ in 0..10 {
        bench.clock.advance(60);
        bench.call(worker, Call::Heartbeat { progress: Vec::new(), warm: Default::default() }).await.unwrap();
    }
    assert_eq!((bench.journal.appends(), bench.journal.lines()), before);
}

#[tokio::test]
async fn chores_are_asked_for_once_and_again_after_a_restart() {
    let mut bench = Bench::open(MemoryJournal::default());
    assert!(matches!(bench.opened.jobs.recv().await, Some(Job::Plan)));
    bench.plan(&["a"]).await;
    let worker = bench.register().await;
    let (shard, token) = bench.lease(worker).await;
    bench.clock.advance(60);
    bench.commit(worker, &shard, token).await.unwrap();
    let Some(Job::KeepAcceptances { first: 0, acceptances }) = bench.opened.jobs.recv().await else {
        panic!("what was accepted is to be written first")
    };
    assert_eq!(acceptances.len(), 1);
    bench.tell(Event::AcceptancesKept { count: 1 }).await.unwrap();
    let Some(Job::WriteManifest { shards, slowest, .. }) = bench.opened.jobs.recv().await else {
        panic!("no manifest is asked for")
    };
    assert_eq!(shards.len(), 1);
    let took: Vec<_> = slowest.iter().map(|time| (&time.shard, time.took_ms, time.attempts)).collect();
    assert_eq!(took, [(&shard, 60, 1)]);
    bench.tell(Event::ChoreDelayed { reason: "No network".into() }).await.unwrap();
    assert!(bench.opened.jobs.try_recv().is_err(), "asked for once");
    assert_eq!(bench.status().explanation, "No network; trying again.");
    let mut bench = bench.restart();
    let again = bench.opened.jobs.recv().await;
    assert!(
        matches!(again, Some(Job::WriteManifest { slowest: known, .. }) if known == slowest),
        "the journal knows it"
    );
    bench.tell(Event::ManifestWritten).await.unwrap();
    let answer = bench.call(worker, Call::Lease).await;
    assert!(matches!(answer, Ok(Answer::Work(Work::Finished(Finished { succeeded: true, .. })))), "{answer:?}");
}

#[tokio::test]
async fn watchers_see_every_change_and_versions_rise_over_restarts() {
    let bench = Bench::open(MemoryJournal::default());
    let mut status = bench.opened.status.clone();
    bench.plan(&["a"]).await;
    assert!(status.has_changed().unwrap());
    let planned = status.borrow_and_update().clone();
    assert_eq!((planned.phase.as_str(), planned.shards_pending), ("capfilt", 1));
    bench.clock.advance(1);
    bench.tick().await.unwrap();
    assert!(!status.has_changed().unwrap(), "time alone is no change");
    bench.register().await;
    let registered = status.borrow_and_update().clone();
    assert!(registered.version > planned.version);
    assert!(bench.restart().status().version > registered.version);
}

#[tokio::test]
async fn a_start_over_a_snapshot_reads_no_further_back_and_comes_to_the_same() {
    let mut take = |known: &Machine| Ok(Taken { incarnation: known.incarnation().next(), behind: false });
    let mut journal = MemoryJournal::default();
    for start in 1..4 {
        let bench = Bench::open(journal);
        if start == 1 {
            bench.plan(&["a", "b", "c", "d", "e", "f", "g"]).await;
        }
        let worker = bench.register().await;
        let (shard, token) = bench.lease(worker).await;
        bench.commit(worker, &shard, token).await.unwrap();
        bench.lease(worker).await;
        let Bench { journal: used, opened: Opened { ledger, thread, .. }, .. } = bench;
        drop(ledger);
        thread.join().unwrap();
        journal = used;

        let known = journal.lines().len() as u64;
        let over_all = Keeper::open(CONFIG, Box::new(journal.without_snapshot()), 1, 7, &mut take).unwrap();
        drop(Keeper::open(CONFIG, Box::new(journal.clone()), 1, 7, &mut take).unwrap());
        assert_eq!(journal.snapshot().unwrap().unwrap().records(), known, "start {start}");
        // A start was added to the records, which the snapshot doesn't have.
        let over_snapshot = Keeper::open(CONFIG, Box::new(journal.clone()), 10, 7, &mut take).unwrap();
        assert_eq!(journal.snapshot().unwrap().unwrap().records(), known, "one record is not worth another");
        let (mut all, snapshot) = (over_all.machine().clone(), over_snapshot.machine());
        let second = journal.lines().pop().unwrap();
        all.absorb(&serde_json::from_str(&second).unwrap());
        assert_eq!(&all, snapshot, "start {start}");
    }
}
