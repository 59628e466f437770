//! A pass that is taken up again: what may be retried or added when, and what becomes of a shard by it.

use std::collections::{BTreeMap, BTreeSet};

use quern_machine::*;

fn carry_out(machine: &mut Machine, event: &Event) -> Result<Answer, Refusal> {
    let decision = machine.decide(event);
    decision.records.iter().for_each(|record| machine.absorb(record));
    machine.invariants().expect("the invariants hold");
    decision.after_durable
}

fn plan(name: &str, file: &str, rows: u64) -> ShardPlan {
    ShardPlan { shard: ShardId(name.into()), dataset: "d".into(), file: file.into(), row_start: 0, rows }
}

/// A part with so many of its ten rows in quarantine.
fn part(shard: &str, digest: &str, reasons: &[(&str, u64)]) -> PartSummary {
    let reasons: BTreeMap<String, u64> = reasons.iter().map(|(reason, rows)| ((*reason).into(), *rows)).collect();
    let quarantined: u64 = reasons.values().sum();
    let name = |folder: &str, rows: u64| (rows > 0).then(|| format!("{folder}/{shard}-{digest}.parquet"));
    PartSummary {
        data: name("data", 10 - quarantined),
        quarantine: name("quarantine", quarantined),
        digest: digest.into(),
        rows: 10,
        kept: 10 - quarantined,
        quarantined,
        reasons,
        ..PartSummary::default()
    }
}

/// A machine with one worker, two shards and an unreadable file; both attempts of a shard may fail.
fn machine(config: Config) -> (Machine, Caller) {
    let mut machine = Machine::new(config);
    let start = Event::Start { now_ms: 0, resume: true, incarnation: Incarnation(1), behind: false };
    carry_out(&mut machine, &start).unwrap();
    let shards = vec![plan("a", "1", 10), plan("b", "2", 10)];
    let unreadable = vec![UnreadableFile { shard: plan("c", "3", 0), reason: "no parquet".into() }];
    carry_out(&mut machine, &Event::Planned { shards, unreadable }).unwrap();
    let registration = Registration {
        name: "w".into(),
        device: "cpu".into(),
        address: "h:1".into(),
        secret: SecretDigest("s".into()),
        host: "h".into(),
        memory_bytes: 0,
    };
    let Ok(Answer::Registered { worker, .. }) = carry_out(&mut machine, &Event::Register(registration)) else {
        panic!("not let in");
    };
    (machine, Caller { worker, secret: SecretDigest("s".into()) })
}

fn call(machine: &mut Machine, caller: &Caller, call: Call) -> Result<Answer, Refusal> {
    carry_out(machine, &Event::Call { caller: caller.clone(), call })
}

/// The shard that the worker is given, and which of its rows.
fn lease(machine: &mut Machine, caller: &Caller) -> (ShardId, ShardToken, Option<Box<Redo>>) {
    match call(machine, caller, Call::Lease) {
        Ok(Answer::Work(Work::Shard { plan, token, redo, .. })) => (plan.shard, token, redo),
        other => panic!("{other:?}"),
    }
}

fn commit(machine: &mut Machine, caller: &Caller, digest: &str, reasons: &[(&str, u64)]) -> ShardToken {
    let (shard, token, _) = lease(machine, caller);
    let part = part(&shard.0, digest, reasons);
    assert_eq!(call(machine, caller, Call::Commit { shard, token, part }), Ok(Answer::Accepted));
    token
}

fn fail(machine: &mut Machine, caller: &Caller, permanent: bool) {
    let (shard, token, _) = lease(machine, caller);
    call(machine, caller, Call::Fail { shard, token, reason: "x".into(), permanent }).unwrap();
}

fn finish(machine: &mut Machine) {
    let count = machine.unkept_acceptances().len() as u64;
    if let Some(Chore::KeepAcceptances { first }) = machine.chore() {
        carry_out(machine, &Event::AcceptancesKept { count: first + count }).unwrap();
    }
    assert_eq!(machine.chore(), Some(Chore::WriteManifest));
    carry_out(machine, &Event::ManifestWritten).unwrap();
    assert_eq!(machine.end(), Some(&End::Done));
}

fn retry(machine: &mut Machine, reasons: &[&str]) -> Result<Answer, Refusal> {
    let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
    carry_out(machine, &Event::Control(Control::Retry { reasons }))
}

/// A run that is done: `a` with two rows in quarantine, `b` with none.
fn done(config: Config) -> (Machine, Caller) {
    let (mut machine, caller) = machine(config);
    commit(&mut machine, &caller, "a1", &[("read/fetch_timeout", 1), ("decode/truncated", 1)]);
    commit(&mut machine, &caller, "b1", &[]);
    finish(&mut machine);
    (machine, caller)
}

#[test]
fn a_retried_shard_is_given_out_with_its_part_and_takes_a_new_one() {
    let (mut machine, caller) = done(Config::new(1_000, 2));
    retry(&mut machine, &["fetch_timeout"]).unwrap();
    assert_eq!((machine.end(), machine.status().totals.done), (None, 1));
    let (shard, token, redo) = lease(&mut machine, &caller);
    let redo = redo.expect("of some rows alone");
    assert_eq!((shard.0.as_str(), redo.part.digest.as_str()), ("a", "a1"));
    assert_eq!(redo.reasons, BTreeSet::from(["fetch_timeout".into()]));
    let part = part("a", "a2", &[("decode/truncated", 1)]);
    let offer = Call::Commit { shard, token, part: part.clone() };
    assert_eq!(call(&mut machine, &caller, offer.clone()), Ok(Answer::Accepted));
    assert_eq!(call(&mut machine, &caller, offer), Ok(Answer::Accepted), "its answer got lost");
    finish(&mut machine);
    let totals = machine.status().totals;
    assert_eq!((totals.rows_done, totals.rows_kept, totals.rows_quarantined), (20, 19, 1));
    assert!(machine.settled_shards().iter().any(|shard| shard.outcome == Settled::Done(part.clone())));
}

#[test]
fn when_nothing_comes_of_it_the_shard_is_what_it_was() {
    for permanent in [false, true] {
        let (mut machine, caller) = done(Config::new(1_000, 2));
        let before = (machine.status().totals, machine.settled_shards());
        retry(&mut machine, &["read/fetch_timeout"]).unwrap();
        fail(&mut machine, &caller, permanent);
        if !permanent {
            assert_eq!(machine.end(), None);
            fail(&mut machine, &caller, permanent);
        }
        finish(&mut machine);
        assert_eq!((machine.status().totals, machine.settled_shards()), before);
        retry(&mut machine, &["read/fetch_timeout"]).expect("it can be tried again");
    }
}

#[test]
fn a_late_offer_of_the_part_before_is_stale() {
    let (mut machine, caller) = machine(Config::new(1_000, 2));
    let token = commit(&mut machine, &caller, "a1", &[("read/fetch_timeout", 1)]);
    retry(&mut machine, &["fetch_timeout"]).unwrap();
    let part = part("a", "a1", &[("read/fetch_timeout", 1)]);
    let late = call(&mut machine, &caller, Call::Commit { shard: ShardId("a".into()), token, part });
    assert!(matches!(late, Err(Refusal::StaleAttempt { .. })), "{late:?}");
}

#[test]
fn a_shard_that_was_given_up_is_done_from_the_beginning() {
    let (mut machine, caller) = machine(Config::new(1_000, 2));
    fail(&mut machine, &caller, true);
    commit(&mut machine, &caller, "b1", &[]);
    finish(&mut machine);
    retry(&mut machine, &["given_up"]).unwrap();
    let (shard, token, redo) = lease(&mut machine, &caller);
    assert_eq!((shard.0.as_str(), redo), ("a", None));
    let part = part("a", "a1", &[]);
    assert_eq!(call(&mut machine, &caller, Call::Commit { shard, token, part }), Ok(Answer::Accepted));
    finish(&mut machine);
    let totals = machine.status().totals;
    // The file that can't be read has no rows to retry.
    assert_eq!((totals.done, totals.quarantined, totals.rows_quarantined), (2, 1, 0));
}

#[test]
fn what_there_is_to_retry_is_said_when_it_is_something_else() {
    let (mut machine, _) = done(Config::new(1_000, 2));
    let refused = retry(&mut machine, &["decode/fetch_timeout", "nonsense"]).unwrap_err();
    let expected = "no row is in quarantine for decode/fetch_timeout, nonsense; what there is: decode/truncated, \
                    read/fetch_timeout";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn captions_that_are_trained_on_are_not_added_to() {
    let config = Config { stage1: Some(StageConfig { ranks: 1, steps: 10 }), ..Config::new(1_000, 2) };
    let (mut machine, caller) = machine(config);
    commit(&mut machine, &caller, "a1", &[("read/fetch_timeout", 1)]);
    retry(&mut machine, &["fetch_timeout"]).expect("nothing is trained yet");
    commit(&mut machine, &caller, "a2", &[("read/fetch_timeout", 1)]);
    commit(&mut machine, &caller, "b1", &[]);
    let writing = retry(&mut machine, &["fetch_timeout"]).unwrap_err();
    assert!(writing.to_string().contains("its manifest is being written"), "{writing}");
    carry_out(&mut machine, &Event::AcceptancesKept { count: 3 }).unwrap();
    carry_out(&mut machine, &Event::ManifestWritten).unwrap();
    let training = retry(&mut machine, &["fetch_timeout"]).unwrap_err();
    assert!(training.to_string().contains("it trains on its captions"), "{training}");
    let added = Event::Extended { shards: vec![plan("d", "4", 10)], unreadable: Vec::new() };
    assert!(matches!(carry_out(&mut machine, &added), Err(Refusal::NotNow { .. })));
}

#[test]
fn new_files_and_mended_ones_are_added_once() {
    let (mut machine, caller) = done(Config::new(1_000, 2));
    let nothing = Event::Extended {
        shards: vec![plan("a", "1", 10)],
        unreadable: vec![UnreadableFile { shard: plan("c", "3", 0), reason: "no parquet".into() }],
    };
    carry_out(&mut machine, &nothing).unwrap();
    assert_eq!(machine.end(), Some(&End::Done));

    let added = Event::Extended {
        shards: vec![plan("a", "1", 10), plan("c", "3", 10), plan("d", "4", 10)],
        unreadable: vec![UnreadableFile { shard: plan("e", "5", 0), reason: "no parquet".into() }],
    };
    carry_out(&mut machine, &added).unwrap();
    carry_out(&mut machine, &added).unwrap();
    let totals = machine.status().totals;
    assert_eq!((totals.shards, totals.rows, totals.done, totals.quarantined), (5, 40, 2, 1));
    commit(&mut machine, &caller, "c1", &[]);
    commit(&mut machine, &caller, "d1", &[]);
    finish(&mut machine);
    assert_eq!(machine.status().totals.done, 4);
}

/// A backup from before a retry meets what was accepted since, and its part's files are gone.
#[test]
fn a_journal_that_is_behind_takes_the_later_part() {
    let (mut machine, _) = done(Config::new(1_000, 2));
    let start = Event::Start { now_ms: 9, resume: true, incarnation: Incarnation(5), behind: true };
    carry_out(&mut machine, &start).unwrap();
    assert_eq!(machine.chore(), Some(Chore::ReadAcceptances));
    let unread = retry(&mut machine, &["truncated"]).unwrap_err();
    assert!(unread.to_string().contains("is being read"), "{unread}");
    let accepted = |shard: &str, digest, file: &str| Acceptance::Part {
        shard: ShardId(shard.into()),
        file: file.into(),
        part: part(shard, digest, &[]),
    };
    // The latest come first; a shard of this name was of another file when the corpus was cut otherwise.
    let acceptances = vec![accepted("a", "a3", "1"), accepted("a", "a2", "1"), accepted("b", "b9", "9")];
    carry_out(&mut machine, &Event::AcceptancesRead { acceptances }).unwrap();
    let digests = machine.settled_shards().into_iter().filter_map(|shard| match shard.outcome {
        Settled::Done(part) => Some(part.digest),
        Settled::Quarantined { .. } => None,
    });
    assert_eq!(digests.collect::<Vec<_>>(), ["a3", "b1"]);
    assert_eq!((machine.end(), machine.status().totals.rows_quarantined), (Some(&End::Done), 0));
}
