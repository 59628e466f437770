//! Each field refuses what it can't hold, by its name, and lets through what workers and operators say.

use proptest::prelude::*;
use quern_proto::{PartSummary, ShardProgress};

use super::*;

const SHARD: &str = "toy-00001-000000000";

fn refused(message: &impl Valid) -> String {
    match message.check() {
        Err(CallError::Malformed(said)) => said,
        other => panic!("a refusal was expected: {other:?}"),
    }
}

fn registration() -> RegisterRequest {
    RegisterRequest {
        name: "worker-0 (höst)".into(),
        device: "cuda:0".into(),
        version: "0.1.0".into(),
        address: "10.0.0.1:4000".into(),
        ..RegisterRequest::default()
    }
}

fn commit(data: &str, quarantine: &str) -> CommitRequest {
    let part =
        PartSummary { data: data.into(), quarantine: quarantine.into(), digest: "d0".into(), ..PartSummary::default() };
    CommitRequest { shard: SHARD.into(), part: Some(part), ..CommitRequest::default() }
}

#[test]
fn what_workers_say_is_let_through() {
    registration().check().unwrap();
    for address in ["worker-0:1", "[::1]:65535", "a.b.svc:7077"] {
        RegisterRequest { address: address.into(), ..registration() }.check().unwrap();
    }
    commit(&format!("data/{SHARD}-0a9.parquet"), "").check().unwrap();
    commit("", &format!("quarantine/{SHARD}-0a9.parquet")).check().unwrap();
    CommitCheckpointRequest { path: "stage1/step-000200".into(), digest: "d".into(), ..Default::default() }
        .check()
        .unwrap();
}

#[test]
fn a_registration_names_the_field_that_cannot_be() {
    let long = "x".repeat(254);
    for (broken, field) in [
        (RegisterRequest { name: long.clone(), ..registration() }, "`name`"),
        (RegisterRequest { name: "a\nb".into(), ..registration() }, "`name`"),
        (RegisterRequest { device: String::new(), ..registration() }, "`device`"),
        (RegisterRequest { device: "cuda 0".into(), ..registration() }, "`device`"),
        (RegisterRequest { version: long.clone(), ..registration() }, "`version`"),
        (RegisterRequest { address: "host".into(), ..registration() }, "`address`"),
        (RegisterRequest { address: "host:0".into(), ..registration() }, "`address`"),
        (RegisterRequest { address: "host:65536".into(), ..registration() }, "`address`"),
        (RegisterRequest { address: "a/b:1".into(), ..registration() }, "`address`"),
        (RegisterRequest { address: "[nothing]:1".into(), ..registration() }, "`address`"),
    ] {
        let said = refused(&broken);
        assert!(said.starts_with(field), "{said}");
    }
}

#[test]
fn no_name_of_a_file_leads_out_of_the_output() {
    for name in [
        "../data/x.parquet".to_owned(),
        "/etc/passwd".into(),
        format!("data/../{SHARD}-1.parquet"),
        format!("data/{SHARD}-../../1.parquet"),
        format!("data//{SHARD}-1.parquet"),
        format!("data/{SHARD}-1.parquet/"),
        format!("data/{SHARD}.parquet"),
        format!("data/{SHARD}-.parquet"),
        format!("data/{SHARD}-1.parquet\0"),
        format!("data\\{SHARD}-1.parquet"),
        format!("quarantine/{SHARD}-1.parquet"),
        "data/other-00000-000000000-1.parquet".into(),
    ] {
        let said = refused(&commit(&name, ""));
        assert!(said.starts_with("`part.data`"), "{name}: {said}");
    }
    assert!(refused(&commit("", &format!("data/{SHARD}-1.parquet"))).starts_with("`part.quarantine`"));
    for path in ["", "/stage1/x", "stage1/../../x", "stage1//x", ".", "stage1/x y"] {
        let offer = CommitCheckpointRequest { path: path.into(), digest: "d".into(), ..Default::default() };
        assert!(refused(&offer).starts_with("`path`"), "{path}");
    }
}

#[test]
fn too_much_is_refused() {
    let line = |text: usize| LogLine { level: "info".into(), text: "x".repeat(text), ..LogLine::default() };
    let heartbeat = |log| HeartbeatRequest { log, ..HeartbeatRequest::default() };
    heartbeat(vec![line(LINE); 3]).check().unwrap();
    assert!(refused(&heartbeat(vec![line(LINE + 1)])).starts_with("`log.text`"));
    assert!(refused(&heartbeat(vec![line(1); LINES + 1])).starts_with("`log`"));
    assert!(refused(&heartbeat(vec![LogLine { level: "loud".into(), ..line(1) }])).starts_with("`log.level`"));
    let progress = vec![ShardProgress { shard: "a/b".into(), ..ShardProgress::default() }];
    assert!(refused(&HeartbeatRequest { progress, ..HeartbeatRequest::default() }).starts_with("`progress.shard`"));
    assert!(refused(&SubmitRequest { recipe_json: "x".repeat(RECIPE + 1) }).starts_with("`recipe_json`"));
    let credentials = Some(Credentials { worker: "w1".into(), secret: "s".repeat(129), run: String::new() });
    let said = refused(&LeaseRequest { credentials });
    assert!(said.starts_with("`credentials.secret`") && !said.contains("ss"), "{said}");
}

proptest! {
    #[test]
    fn a_name_that_is_let_through_lies_in_its_folder(name in "(data/)?[-./a-z0-9]{0,40}(toy-00001-000000000)?[-./a-z0-9]{0,12}(\\.parquet)?") {
        if !name.is_empty() && commit(&name, "").check().is_ok() {
            let file = name.strip_prefix("data/").unwrap();
            prop_assert!(!file.contains('/') && !file.contains("..") && file.starts_with(SHARD));
        }
    }
}
