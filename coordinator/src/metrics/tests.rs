use std::collections::{BTreeMap, BTreeSet};

use quern_proto::{QuarantineReason, StageStatus, StatusReply, StepLosses, TaskStatus, WorkerStatus};

use super::*;
use crate::access::Counts;

/// A status with something of everything.
fn status() -> StatusReply {
    let losses = StepLosses { step: 7, itc: 1.5, itg: 2.0, itm: 0.5, lr: 1e-4, seconds: 0.25, lm: None };
    let stage =
        StageStatus { stage: "stage1".into(), step: 7, steps: 9, last_losses: Some(losses), ..StageStatus::default() };
    let worker = WorkerStatus {
        id: "w3".into(),
        name: "host".into(),
        state: "alive".into(),
        silent_ms: 1_500,
        ..WorkerStatus::default()
    };
    StatusReply {
        run_id: "r1".into(),
        name: "my \"run\"\\".into(),
        phase: "stage1".into(),
        shards_done: 3,
        rows_kept: 20,
        incarnation: 2,
        attempts_live: 3,
        attempts_speculative: 1,
        quarantine: vec![QuarantineReason { stage: "decode".into(), reason: "truncated".into(), rows: 4 }],
        tasks: vec![TaskStatus { task: "export".into(), done: true, ..TaskStatus::default() }],
        stages: vec![stage],
        workers: vec![worker],
        ..StatusReply::default()
    }
}

/// The whole page of these runs.
fn page(statuses: &[StatusReply]) -> String {
    let mut page = Page::default();
    CoordinatorMetrics::start().tell(&mut page);
    Counts::default().tell(&mut page);
    for status in statuses {
        tell_run(&mut page, status, &RunMetrics::new("nowhere".into()));
    }
    page.text()
}

#[test]
fn the_status_is_told_in_prometheus_text_format() {
    let other = StatusReply { run_id: "r2".into(), ..StatusReply::default() };
    let page = page(&[status(), other]);
    for line in [
        r#"quern_run_info{run="r1",name="my \"run\"\\",version="0.1.0"} 1"#,
        r#"quern_run_phase{run="r1",phase="stage1"} 1"#,
        r#"quern_run_phase{run="r1",phase="evaluate"} 0"#,
        r#"quern_run_paused{run="r1"} 0"#,
        r#"quern_run_paused{run="r2"} 0"#,
        r#"quern_shards{run="r1",state="done"} 3"#,
        r#"quern_attempts{run="r1",kind="first"} 2"#,
        "# TYPE quern_rows_settled_total counter",
        r#"quern_rows_settled_total{run="r1",outcome="kept"} 20"#,
        r#"quern_rows_quarantined_total{run="r1",stage="decode",reason="truncated"} 4"#,
        r#"quern_worker_silent_seconds{run="r1",worker="w3",name="host"} 1.5"#,
        r#"quern_training_loss{run="r1",stage="stage1",objective="itg"} 2"#,
        r#"quern_training_learning_rate{run="r1",stage="stage1"} 0.0001"#,
        r#"quern_task_done{run="r1",task="export"} 1"#,
        r#"quern_coordinator_starts_total{run="r1"} 2"#,
        r#"quern_lease_duration_seconds_bucket{run="r2",le="+Inf"} 0"#,
        r#"quern_grpc_requests_total{method="Lease",code="OK"} 0"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
    }
    assert_eq!(page.matches("# TYPE quern_shards gauge").count(), 1, "a family is told once:\n{page}");
}

/// What the reference and the page say of a metric: its type and its labels.
type Described = BTreeMap<String, (String, BTreeSet<String>)>;

/// Rows of the reference's tables: `` | `name` | type | `label`, `label` | unit | meaning | ``.
fn documented() -> Described {
    let text = include_str!("../../../docs/reference/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let described = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, unit, meaning] = cells[..] else { panic!("{row} has not five cells") };
        assert!(!unit.is_empty() && !meaning.is_empty(), "{row} has an empty cell");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels))
    });
    described.collect()
}

/// What a page shows.
fn exposed(page: &str) -> Described {
    let mut found = Described::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            found.insert(name.into(), (kind.into(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let sample = line.split(['{', ' ']).next().unwrap();
            let mut families = ["", "_bucket", "_sum", "_count"].iter().filter_map(|end| sample.strip_suffix(end));
            let family = families.find(|name| found.contains_key(*name)).expect(line).to_owned();
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            found.get_mut(&family).unwrap().1.extend(names.filter(|name| name != "le"));
        }
    }
    found
}

#[test]
fn the_reference_describes_what_is_exposed_and_nothing_else() {
    let (documented, exposed) = (documented(), exposed(&page(&[status()])));
    for (name, what) in &exposed {
        assert_eq!(documented.get(name), Some(what), "{name} is exposed so; docs/reference/metrics.md says otherwise");
    }
    let gone: Vec<_> = documented.keys().filter(|name| !exposed.contains_key(*name)).collect();
    assert!(gone.is_empty(), "docs/reference/metrics.md describes what is not exposed: {gone:?}");
}
