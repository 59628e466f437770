//! Scripts of events as text: what the machine makes of each, as tables in `tests/tables/*.txt`.
//!
//! A line `> …` is an event. Below it stand the records that it makes true, `(…)` around those that are not journalled,
//! and after `=` or `!` the answer or refusal. `QUERN_REWRITE=1 cargo test --release -p quern-machine` writes what the
//! machine does now: read the difference.

use std::fmt::Write as _;
use std::path::Path;

use quern_machine::*;
use serde_json::Value;

struct Bench {
    machine: Machine,
    config: Config,
    journal: Vec<String>,
}

impl Bench {
    fn new(settings: &str) -> Self {
        let mut config = Config::new(100, 2);
        for setting in settings.split_whitespace() {
            let (key, value) = setting.split_once('=').expect("a setting is key=value");
            let value: u32 = value.parse().expect("a setting is a number");
            match key {
                "lease_ms" => config.lease_ms = value.into(),
                "attempts" => config.attempts = value,
                "worker_failures" => config.worker_failures = value,
                // In GiB, as the recipe says it.
                "capfilt_gib" => config.memory.capfilt_bytes = u64::from(value) << 30,
                "stage1_gib" => config.memory.stage1_bytes = u64::from(value) << 30,
                "evaluate" => config.evaluate = value > 0,
                "export" => config.export = value > 0,
                "ranks" => config.stage1 = Some(StageConfig { ranks: value, steps: 10 }),
                "ranks2" => config.stage2 = Some(StageConfig { ranks: value, steps: 5 }),
                _ => panic!("unknown setting {key}"),
            }
        }
        Bench { machine: Machine::new(config), config, journal: Vec::new() }
    }

    /// Carries out one line; returns what is to be seen of it.
    fn line(&mut self, line: &str) -> String {
        match line {
            "explain" => format!("{}\n", self.machine.explain()),
            "status" => show_status(&self.machine.status()),
            "stages" => self.machine.status().stages.iter().map(show_stage).collect(),
            "chore" => format!("{:?}\n", self.machine.chore()),
            "restart" => {
                let mut machine = Machine::new(self.config);
                for record in &self.journal {
                    machine.absorb(&serde_json::from_str(record).expect("a journalled record reads back"));
                }
                let now_ms = 1000;
                self.machine = machine;
                let incarnation = self.machine.incarnation().next();
                self.decide(&Event::Start { now_ms, resume: true, incarnation, behind: false })
            }
            _ => {
                let event = event(line, self.machine.incarnation().next());
                self.decide(&event)
            }
        }
    }

    fn decide(&mut self, event: &Event) -> String {
        let Decision { records, after_durable } = self.machine.decide(event);
        let mut seen = String::new();
        for record in &records {
            self.machine.absorb(record);
            let json = serde_json::to_value(record).expect("a record is JSON");
            let shown = show_record(&json);
            if record.is_durable() {
                self.journal.push(json.to_string());
                writeln!(seen, "{shown}").unwrap();
            } else {
                writeln!(seen, "({shown})").unwrap();
            }
        }
        self.machine.invariants().unwrap_or_else(|violation| panic!("{violation}\nafter {event:?}"));
        match after_durable {
            Ok(Answer::Noted) => {}
            Ok(answer) => writeln!(seen, "= {}", show_answer(&answer)).unwrap(),
            Err(refusal) => writeln!(seen, "! {refusal}").unwrap(),
        }
        seen
    }
}

fn secret_of(worker: WorkerId) -> SecretDigest {
    SecretDigest(format!("secret of {worker}"))
}

fn event(line: &str, next: Incarnation) -> Event {
    let words: Vec<&str> = line.split_whitespace().collect();
    let rest = |n: usize| words[n..].join(" ");
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("{word} is no number in {line}"));
    match words[0] {
        // `start AT [behind]`
        "start" => Event::Start {
            now_ms: number(words[1]),
            resume: true,
            incarnation: next,
            behind: words.contains(&"behind"),
        },
        "kept" => Event::AcceptancesKept { count: number(words[1]) },
        "tick" => Event::Tick { now_ms: number(words[1]) },
        "manifest" => Event::ManifestWritten,
        "plan" => planned(&words[1..]),
        "captions" => Event::CaptionsFound { rows: number(words[1]) },
        "chore-failed" => Event::ChoreFailed { cause: rest(1) },
        "chore-delayed" => Event::ChoreDelayed { reason: rest(1) },
        "pause" => Event::Control(Control::Pause { reason: rest(1) }),
        "resume" => Event::Control(Control::Resume),
        "cancel" => Event::Control(Control::Cancel { reason: rest(1) }),
        "send-away" => Event::Control(Control::Drain {
            worker: WorkerId(number(words[1].strip_prefix('w').expect("send-away wN REASON"))),
            reason: rest(2),
        }),
        "allow" => Event::Control(Control::Allow { name: words[1].into() }),
        // `register NAME wN [on HOST] [with GIB]`
        "register" => {
            let said = |word: &str| words.iter().position(|other| *other == word).map(|at| words[at + 1]);
            Event::Register(Registration {
                name: words[1].into(),
                device: "cpu".into(),
                address: format!("{}:1", words[1]),
                secret: secret_of(WorkerId(number(words[2].strip_prefix('w').expect("register NAME wN")))),
                host: said("on").unwrap_or_default().into(),
                memory_bytes: said("with").map_or(0, |gib| number(gib) << 30),
            })
        }
        worker => {
            let intruder = worker.strip_prefix("false-");
            let id = WorkerId(number(intruder.unwrap_or(worker).strip_prefix('w').expect("wN")));
            let secret = if intruder.is_some() { SecretDigest("guessed".into()) } else { secret_of(id) };
            Event::Call { caller: Caller { worker: id, secret }, call: call(&words[1..]) }
        }
    }
}

fn planned(words: &[&str]) -> Event {
    let (mut shards, mut unreadable) = (Vec::new(), Vec::new());
    for word in words {
        let (name, rows) = word.split_once(':').expect("SHARD:ROWS");
        let plan = |name: &str, rows| ShardPlan {
            shard: ShardId(name.into()),
            dataset: "toy".into(),
            file: format!("{name}.parquet"),
            row_start: 0,
            rows,
        };
        match name.strip_prefix('!') {
            Some(name) => unreadable.push(UnreadableFile { shard: plan(name, 0), reason: rows.into() }),
            None => shards.push(plan(name, rows.parse().expect("ROWS is a number"))),
        }
    }
    Event::Planned { shards, unreadable }
}

/// `a@1.3`: shard a, incarnation 1, epoch 3.
fn attempt(word: &str) -> (ShardId, ShardToken) {
    let (shard, token) = word.split_once('@').expect("SHARD@INCARNATION.EPOCH");
    let (incarnation, number) = pair(token);
    (ShardId(shard.into()), ShardToken { incarnation: Incarnation(incarnation), epoch: Epoch(number) })
}

fn pair(word: &str) -> (u64, u64) {
    let (first, second) = word.split_once('.').expect("INCARNATION.NUMBER");
    (first.parse().expect("a number"), second.parse().expect("a number"))
}

fn world(word: &str) -> WorldToken {
    let (incarnation, generation) = pair(word);
    WorldToken { incarnation: Incarnation(incarnation), generation: Generation(generation) }
}

fn call(words: &[&str]) -> Call {
    let rest = |n: usize| words[n..].join(" ");
    let number = |word: &str| word.parse::<u64>().expect("a number");
    match words[0] {
        "lease" => Call::Lease,
        // `heartbeat [SHARD@TOKEN=ROWS …] [warm:WORK …]`
        "heartbeat" => Call::Heartbeat {
            warm: words[1..].iter().filter_map(|word| Warmth::named(word.strip_prefix("warm:")?)).collect(),
            progress: words[1..]
                .iter()
                .filter(|word| !word.starts_with("warm:"))
                .map(|word| {
                    let (shard_and_token, rows) = word.split_once('=').expect("SHARD@TOKEN=ROWS");
                    let (shard, token) = attempt(shard_and_token);
                    ShardProgress { shard, token, rows_done: number(rows) }
                })
                .collect(),
        },
        "commit" => {
            let (shard, token) = attempt(words[1]);
            Call::Commit { part: part(&shard, words[2], words[3]), shard, token }
        }
        "fail" => {
            let (shard, token) = attempt(words[1]);
            let permanent = words[2] == "permanently";
            Call::Fail { shard, token, reason: rest(2 + usize::from(permanent)), permanent }
        }
        // `commit-task TASK INCARNATION.EPOCH DIGEST`, `fail-task TASK INCARNATION.EPOCH REASON`
        "commit-task" => {
            let (path, digest) = (format!("{}.json", words[1]), words[3].into());
            let result = TaskResult { path, digest, summary: String::new() };
            Call::CommitTask { task: task(words[1]), token: task_token(words[2]), result }
        }
        "fail-task" => Call::FailTask { task: task(words[1]), token: task_token(words[2]), reason: rest(3) },
        "join" => Call::JoinWorld { generation: Generation(number(words[1])) },
        "steps" => {
            let losses = Losses::Stage1 { itc: 3.0, itg: 2.0, itm: 0.5 };
            let losses = StepLosses { step: number(words[2]), losses, lr: 0.0, seconds: 1.0 };
            Call::ReportSteps { token: world(words[1]), losses }
        }
        // `checkpoint TOKEN STEP DIGEST [last]` of stage 1, `checkpoint2 …` of stage 2.
        "checkpoint" | "checkpoint2" => Call::CommitCheckpoint {
            token: world(words[1]),
            checkpoint: Checkpoint {
                step: number(words[2]),
                path: format!("stage{}/step-{:0>6}", if words[0].ends_with('2') { 2 } else { 1 }, words[2]),
                digest: words[3].into(),
            },
            last: words.get(4) == Some(&"last"),
        },
        "leave" => Call::LeaveWorld { token: world(words[1]), reason: rest(2) },
        "drain" => Call::Drain { reason: rest(1) },
        other => panic!("unknown call {other}"),
    }
}

fn task(word: &str) -> Task {
    Task::named(word).expect("evaluate or export")
}

fn task_token(word: &str) -> ShardToken {
    let (incarnation, epoch) = pair(word);
    ShardToken { incarnation: Incarnation(incarnation), epoch: Epoch(epoch) }
}

/// `7/2/1`: kept, passed, quarantined.
fn part(shard: &ShardId, counts: &str, digest: &str) -> PartSummary {
    let counts: Vec<u64> = counts.split('/').map(|count| count.parse().expect("a count")).collect();
    let [kept, passed, quarantined] = counts[..] else { panic!("KEPT/PASSED/QUARANTINED") };
    let name = |folder: &str, rows| (rows > 0).then(|| format!("{folder}/{shard}-{digest}.parquet"));
    PartSummary {
        data: name("data", kept + passed),
        quarantine: name("quarantine", quarantined),
        digest: digest.into(),
        rows: kept + passed + quarantined,
        kept,
        passed,
        quarantined,
        bytes: 1,
        ..PartSummary::default()
    }
}

fn show_status(status: &Status) -> String {
    let mut shown = format!(
        "{} attempts live, {} of them second; {} second ones begun, {} won\n",
        status.attempts_live, status.second_live, status.second.begun, status.second.won
    );
    for worker in &status.workers {
        let doing = if worker.doing.is_empty() { "nothing" } else { &worker.doing };
        let reason = if worker.reason.is_empty() { String::new() } else { format!(" ({})", worker.reason) };
        writeln!(shown, "{} {} {}: {doing}{reason}", worker.worker, worker.name, worker.state).unwrap();
    }
    for TaskStatus { task, result } in &status.tasks {
        let came = result.as_ref().map_or("not done", |result| &result.path);
        writeln!(shown, "{}: {came}", task.name()).unwrap();
    }
    for DeniedPlace { place, reason } in &status.denied {
        writeln!(shown, "denied: {place} ({reason})").unwrap();
    }
    shown
}

fn show_stage(stage: &StageStatus) -> String {
    let StageStatus { stage, step, steps, checkpoint, .. } = stage;
    let checkpoint = checkpoint.as_ref().map_or("no checkpoint", |checkpoint| checkpoint.path.as_str());
    format!("{}: step {step} of {steps}, {checkpoint}\n", stage.name())
}

fn show_record(json: &Value) -> String {
    let fields = json.as_object().expect("a record is an object");
    let name = fields["record"].as_str().expect("a record has a name");
    let mut shown = name.to_owned();
    let mut keys: Vec<_> = fields.keys().filter(|key| *key != "record").collect();
    keys.sort();
    for key in keys {
        let value = match (name, key.as_str(), &fields[key]) {
            ("planned", "shards", Value::Array(shards)) => {
                shards.iter().map(|shard| shard["shard"].as_str().expect("a name")).collect::<Vec<_>>().join(",")
            }
            (_, "result", result) => result["digest"].as_str().expect("a digest").into(),
            (_, "part", part) => part["digest"].as_str().expect("a digest").into(),
            (_, "secret" | "device" | "losses", _) => continue,
            (_, _, Value::String(text)) => format!("{text:?}"),
            (_, _, other) => other.to_string(),
        };
        write!(shown, " {key}={value}").unwrap();
    }
    shown
}

fn show_answer(answer: &Answer) -> String {
    match answer {
        Answer::Work(Work::Shard { plan, token, without_part, .. }) => {
            let others = if *without_part > 0 { format!(" beside or after {without_part}") } else { String::new() };
            format!("shard {}@{}.{}{others}", plan.shard, token.incarnation, token.epoch)
        }
        Answer::Work(Work::Task { task, token, stage, checkpoint, .. }) => {
            let (incarnation, epoch) = (token.incarnation, token.epoch);
            format!("{} @{incarnation}.{epoch} with {} of {}", task.name(), checkpoint.path, stage.name())
        }
        Answer::Work(work) => format!("{work:?}"),
        Answer::Registered { worker, incarnation } => format!("{worker} of incarnation {incarnation}"),
        Answer::Heard { drain, pause, revoked, world } => {
            let world = world.map_or(0, |generation| generation.0);
            let revoked: Vec<_> = revoked.iter().map(ShardId::to_string).collect();
            let pause = if *pause { " pause" } else { "" };
            format!("heard drain={drain} revoked=[{}] world={world}{pause}", revoked.join(","))
        }
        Answer::Seat(Seat::Taken { token, rank, addresses, stage, checkpoint, stage1 }) => {
            let beginning = match stage1 {
                Some(stage1) => format!("the beginning after {}", stage1.path),
                None => "the beginning".into(),
            };
            let from = checkpoint.as_ref().map_or(beginning, |checkpoint| checkpoint.path.clone());
            let (incarnation, generation) = (token.incarnation, token.generation);
            let addresses = addresses.join(",");
            let stage = stage.name();
            format!("{stage}: rank {rank} of [{addresses}] in world {incarnation}.{generation} from {from}")
        }
        Answer::Seat(seat) => format!("{seat:?}"),
        other => format!("{other:?}"),
    }
}

/// Carries out a script; returns it with what the machine does now.
fn carry_out(script: &str) -> String {
    let mut lines = script.lines();
    let mut bench = None;
    let mut out = String::new();
    for line in &mut lines {
        if let Some(settings) = line.strip_prefix("config") {
            bench = Some(Bench::new(settings));
            writeln!(out, "{line}").unwrap();
        } else if let Some(command) = line.strip_prefix("> ") {
            let bench = bench.as_mut().expect("a script begins with its config");
            writeln!(out, "{line}").unwrap();
            out.push_str(&bench.line(command));
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

#[test]
fn scripts_do_what_their_tables_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4, "the tables are missing");
    for file in files {
        let script = std::fs::read_to_string(&file).unwrap();
        let now = carry_out(&script);
        if std::env::var_os("QUERN_REWRITE").is_some() {
            std::fs::write(&file, now).unwrap();
        } else {
            assert_eq!(now, script, "{} differs; see the header of tests/tables.rs", file.display());
        }
    }
}
