//! `/metrics`: the status in Prometheus' text format. Names: `quern_`, base units, `_total` for what only rises.

use std::fmt::Write;

use quern_proto::{StatusReply, StepLosses};

/// The format's media type.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What `quern_run_phase` may say.
const PHASES: [&str; 7] = ["planning", "capfilt", "stage1", "stage2", "done", "failed", "cancelled"];

/// The states of a worker.
const WORKER_STATES: [&str; 4] = ["alive", "denied", "draining", "lost"];

/// All metrics of all runs at this moment; `run` says which run a sample is of.
pub(crate) fn exposition(statuses: &[StatusReply]) -> String {
    let mut page = Page::default();
    for status in statuses {
        page.run = status.run_id.clone();
        add(&mut page, status);
    }
    page.text()
}

fn add(page: &mut Page, status: &StatusReply) {
    let run = [("name", &*status.name), ("version", crate::VERSION)];
    page.gauge("quern_run_info", "The runs that this coordinator carries out.", [(run.as_slice(), 1.0)]);
    let phases = PHASES.map(|phase| ([("phase", phase)], f64::from(u8::from(phase == status.phase))));
    page.gauge("quern_run_phase", "1 for the phase that the run is at.", of(&phases));
    let paused = f64::from(u8::from(!status.paused.is_empty()));
    page.gauge("quern_run_paused", "1 while an operator has paused the run.", [([].as_slice(), paused)]);

    let shards = [
        ([("state", "pending")], status.shards_pending as f64),
        ([("state", "leased")], status.shards_leased as f64),
        ([("state", "done")], status.shards_done as f64),
        ([("state", "quarantined")], status.shards_quarantined as f64),
    ];
    page.gauge("quern_shards", "Shards by state.", of(&shards));
    page.gauge("quern_rows", "Rows of the plan.", [([].as_slice(), status.rows_total as f64)]);
    let in_flight = [([].as_slice(), status.rows_in_flight as f64)];
    page.gauge("quern_rows_in_flight", "Rows that live attempts are through with.", in_flight);
    let settled = [
        ([("outcome", "kept")], status.rows_kept as f64),
        ([("outcome", "passed")], status.rows_passed as f64),
        ([("outcome", "quarantined")], status.rows_quarantined as f64),
    ];
    page.counter("quern_rows_settled_total", "Rows that are settled, by what became of them.", of(&settled));

    let workers = WORKER_STATES
        .map(|state| ([("state", state)], status.workers.iter().filter(|worker| worker.state == state).count() as f64));
    page.gauge("quern_workers", "Workers by state; of those that were lost, the last ones.", of(&workers));
    let silent: Vec<_> = (status.workers.iter().filter(|worker| worker.state != "lost"))
        .map(|worker| ([("worker", &*worker.id), ("name", &*worker.name)], worker.silent_ms as f64 / 1e3))
        .collect();
    page.gauge("quern_worker_silent_seconds", "For how long a worker has been silent.", of(&silent));

    let stages = |value: fn(&quern_proto::StageStatus) -> u64| {
        let values = status.stages.iter().map(|stage| ([("stage", &*stage.stage)], value(stage) as f64));
        values.collect::<Vec<_>>()
    };
    page.gauge("quern_training_step", "Steps that a stage has done.", of(&stages(|stage| stage.step)));
    page.gauge("quern_training_steps", "Steps that a stage is to do.", of(&stages(|stage| stage.steps)));
    let reported = || status.stages.iter().filter_map(|stage| Some((&*stage.stage, stage.last_losses.as_ref()?)));
    let losses: Vec<_> = reported()
        .flat_map(|(stage, losses)| {
            objectives(losses).into_iter().map(move |(name, loss)| ([("stage", stage), ("objective", name)], loss))
        })
        .collect();
    page.gauge("quern_training_loss", "The last reported step's loss, by objective.", of(&losses));
    let rates: Vec<_> = reported().map(|(stage, losses)| ([("stage", stage)], losses.lr)).collect();
    page.gauge("quern_training_learning_rate", "The last reported step's learning rate.", of(&rates));
    let times: Vec<_> = reported().map(|(stage, losses)| ([("stage", stage)], losses.seconds)).collect();
    page.gauge("quern_training_step_seconds", "The last reported step's duration.", of(&times));

    let generation = [([].as_slice(), status.world_generation as f64)];
    page.gauge("quern_world_generation", "The training world's generation; 0: there is none.", generation);
    let incarnation = [([].as_slice(), status.incarnation as f64)];
    page.counter(
        "quern_coordinator_starts_total",
        "Times that a coordinator took this run's journal over.",
        incarnation,
    );
}

fn objectives(losses: &StepLosses) -> Vec<(&'static str, f64)> {
    match losses.lm {
        Some(lm) => vec![("lm", lm)],
        None => vec![("itc", losses.itc), ("itg", losses.itg), ("itm", losses.itm)],
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Samples with labels of a fixed number, as those of any.
fn of<'a, const N: usize>(samples: &'a [([(&'a str, &'a str); N], f64)]) -> impl Iterator<Item = (Labels<'a>, f64)> {
    samples.iter().map(|(labels, value)| (labels.as_slice(), *value))
}

/// Metric families in the order in which they were first told, each with the samples of all runs.
#[derive(Default)]
struct Page {
    /// The run whose samples are being told.
    run: String,
    families: Vec<Family>,
}

struct Family {
    name: String,
    /// The `# HELP` and `# TYPE` lines.
    header: String,
    samples: String,
}

impl Page {
    fn gauge<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        self.add(name, "gauge", help, samples);
    }

    fn counter<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        self.add(name, "counter", help, samples);
    }

    fn add<'a>(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        let run = format!("run=\"{}\"", escaped(&self.run));
        let family = self.family(name, kind, help);
        for (labels, value) in samples {
            let labels = labels.iter().map(|(label, value)| format!(",{label}=\"{}\"", escaped(value)));
            writeln!(family.samples, "{name}{{{run}{}}} {value}", labels.collect::<String>())
                .expect("a String takes all");
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Family {
        let known = self.families.iter().position(|family| family.name == name);
        let index = known.unwrap_or_else(|| {
            let header = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            self.families.push(Family { name: name.into(), header, samples: String::new() });
            self.families.len() - 1
        });
        &mut self.families[index]
    }

    fn text(self) -> String {
        self.families.into_iter().map(|family| family.header + &family.samples).collect()
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use quern_proto::{StageStatus, WorkerStatus};

    use super::*;

    #[test]
    fn the_status_is_told_in_prometheus_text_format() {
        let losses = StepLosses { step: 7, itc: 1.5, itg: 2.0, itm: 0.5, lr: 1e-4, seconds: 0.25, lm: None };
        let status = StatusReply {
            run_id: "r1".into(),
            name: "my \"run\"\\".into(),
            phase: "stage1".into(),
            shards_done: 3,
            rows_kept: 20,
            incarnation: 2,
            stages: vec![StageStatus {
                stage: "stage1".into(),
                step: 7,
                steps: 9,
                last_losses: Some(losses),
                ..StageStatus::default()
            }],
            workers: vec![WorkerStatus {
                id: "w3".into(),
                name: "host".into(),
                state: "alive".into(),
                silent_ms: 1_500,
                ..WorkerStatus::default()
            }],
            ..StatusReply::default()
        };
        let other = StatusReply { run_id: "r2".into(), ..StatusReply::default() };
        let page = exposition(&[status, other]);
        for line in [
            r#"quern_run_info{run="r1",name="my \"run\"\\",version="0.1.0"} 1"#,
            r#"quern_run_phase{run="r1",phase="stage1"} 1"#,
            r#"quern_run_phase{run="r1",phase="capfilt"} 0"#,
            r#"quern_run_paused{run="r1"} 0"#,
            r#"quern_run_paused{run="r2"} 0"#,
            r#"quern_shards{run="r1",state="done"} 3"#,
            "# TYPE quern_rows_settled_total counter",
            r#"quern_rows_settled_total{run="r1",outcome="kept"} 20"#,
            r#"quern_worker_silent_seconds{run="r1",worker="w3",name="host"} 1.5"#,
            r#"quern_training_loss{run="r1",stage="stage1",objective="itg"} 2"#,
            r#"quern_training_learning_rate{run="r1",stage="stage1"} 0.0001"#,
            r#"quern_coordinator_starts_total{run="r1"} 2"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
        assert_eq!(page.matches("# TYPE quern_shards gauge").count(), 1, "a family is told once:\n{page}");
    }
}
