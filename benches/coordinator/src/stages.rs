//! What is measured, one after the other.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use quern_recipes::Recipe;
use tempfile::TempDir;

use crate::coordinator::Process;
use crate::figures::{Goal, Table, median, percentile_ms};
use crate::footers::{FILE_ROWS, GROUP_ROWS, write_corpus};
use crate::planning::{plan_far, plan_here};
use crate::postgres::Server;
use crate::workers::{Fleet, Pace, Work};
use crate::{limits, queue, recipe};

/// What a request takes through the slow store.
const LATENCY: Duration = Duration::from_millis(50);
/// Shards per second at which the latency of leases is measured.
const PACE_PER_S: u64 = 1_000;

/// Numbers of connections that PostgreSQL is tried with; the best one counts.
const POOLS: [usize; 4] = [8, 16, 32, 64];

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Files of the corpus.
    pub files: usize,
    /// Simulated workers.
    pub workers: usize,
    /// Shards of the paced phase.
    pub paced: u64,
    /// How often each figure is taken.
    pub rounds: usize,
    /// The curve: how many files, in shards of how many rows.
    pub curve: &'static [(usize, u64)],
}

impl Size {
    /// The paper's: 129M rows in 64,500 shards.
    pub const FULL: Size = Size {
        files: 12_900,
        workers: 2_000,
        paced: 10_000,
        rounds: 3,
        curve: &[(1_290, 2_000), (4_000, 2_000), (12_900, 2_000), (12_900, 200)],
    };
    /// A twentieth of it.
    pub const QUICK: Size =
        Size { files: 645, workers: 100, paced: 500, rounds: 1, curve: &[(65, 2_000), (645, 2_000)] };

    fn shards(&self) -> u64 {
        shards_of(self.files, GROUP_ROWS)
    }
}

fn shards_of(files: usize, shard_rows: u64) -> u64 {
    files as u64 * (FILE_ROWS / shard_rows)
}

/// A bench and the folder in which it works.
pub struct Bench {
    size: Size,
    folder: TempDir,
    compare: bool,
    table: Table,
}

impl Bench {
    /// One in a folder of its own under `folder`.
    ///
    /// # Errors
    /// When there can't be such a folder.
    pub fn new(size: Size, folder: &Path, compare: bool) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-coordinator-").tempdir_in(folder)?;
        // PostgreSQL's user has to come through.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        Ok(Bench { size, folder, compare, table: Table::default() })
    }

    /// Measures everything and prints it.
    ///
    /// # Errors
    /// When something doesn't work. A goal that is missed is no error.
    pub async fn measure(mut self) -> anyhow::Result<()> {
        let recipe = self.corpus(self.size.files, GROUP_ROWS)?;
        self.plan(&recipe).await?;
        self.load(&recipe).await?;
        self.curve().await?;
        self.table.print();
        Ok(())
    }

    /// The recipe of a corpus, which is written when it isn't there yet.
    fn corpus(&self, files: usize, shard_rows: u64) -> anyhow::Result<Case> {
        let folder = self.folder.path().join(format!("{files}-files"));
        let corpus = folder.join("corpus");
        if !corpus.exists() {
            let start = Instant::now();
            write_corpus(&corpus, files)?;
            println!("{files} files of {FILE_ROWS} rows written in {:.1?}", start.elapsed());
        }
        Case::new(folder, shard_rows, shards_of(files, shard_rows))
    }

    async fn plan(&mut self, case: &Case) -> anyhow::Result<()> {
        let (mut here, mut far) = (Vec::new(), Vec::new());
        for _ in 0..self.size.rounds {
            here.push(plan_here(&case.recipe, case.shards).await?.as_secs_f64());
            far.push(plan_far(&case.recipe, case.shards, LATENCY).await?.as_secs_f64());
            println!(
                "planned: {:.2} s here, {:.2} s at {LATENCY:?} per request",
                here[here.len() - 1],
                far[far.len() - 1]
            );
        }
        self.table.add("plan, local", Goal::Below(10.0), median(here), "s");
        self.table.add("plan, 50 ms per request", Goal::Below(60.0), median(far), "s");
        Ok(())
    }

    async fn load(&mut self, case: &Case) -> anyhow::Result<()> {
        let rival = if self.compare { Some(self.rival().await?) } else { None };
        let mut rival_rates = Vec::new();
        let (mut rates, mut p50s, mut p99s) = (Vec::new(), Vec::new(), Vec::new());
        let (mut peaks, mut restarts) = (Vec::new(), Vec::new());
        for _ in 0..self.size.rounds {
            let (p50, p99) = self.pace(case).await?;
            let Loaded { work, peak_mib, restart } = self.exhaust(case).await?;
            println!(
                "{:.0} cycles/s; leases at 1,000 cycles/s: p50 {p50:.1} ms, p99 {p99:.1} ms; peak {peak_mib:.0} MiB; \
                 restart {restart:.2?}",
                work.cycles_per_s()
            );
            rates.push(work.cycles_per_s());
            if let Some(rival) = &rival {
                let rate = rival.exhaust(self.size.workers, case.shards).await?;
                println!("{rate:.0} cycles/s of PostgreSQL over {} connections", rival.connections);
                rival_rates.push(rate);
            }
            p50s.push(p50);
            p99s.push(p99);
            peaks.push(peak_mib);
            restarts.push(restart.as_secs_f64());
        }
        let shards = self.size.shards();
        let rate = median(rates);
        self.table.add("durable lease+commit cycles", Goal::AtLeast(5_000.0), rate, "/s");
        if let Some(rival) = rival {
            let rival_rate = median(rival_rates);
            let what = format!("the same by a PostgreSQL queue, {} connections", rival.connections);
            self.table.note(&what, rival_rate, "/s");
            self.table.note("the coordinator's rate by PostgreSQL's", rate / rival_rate, "×");
        }
        self.table.note("lease at 1,000 cycles/s, p50", median(p50s), "ms");
        self.table.add("lease at 1,000 cycles/s, p99", Goal::Below(50.0), median(p99s), "ms");
        self.table.add("coordinator's memory at most", Goal::Below(300.0), median(peaks), "MiB");
        self.table.add(&format!("restart with {shards} shards done"), Goal::Below(2.0), median(restarts), "s");
        Ok(())
    }

    /// PostgreSQL with the number of connections that suits it best.
    async fn rival(&self) -> anyhow::Result<Rival> {
        let server = Server::start(&self.folder.path().join("postgres"))?;
        let trial = self.size.shards() / 8;
        let mut tried = Vec::new();
        for connections in POOLS {
            let pool = server.pool(connections)?;
            queue::fill(&pool, trial).await?;
            let rate = queue::exhaust(&pool, self.size.workers, trial).await?;
            println!("{rate:.0} cycles/s of PostgreSQL over {connections} connections, {trial} shards");
            tried.push((rate, connections));
        }
        let (_, connections) =
            tried.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).expect("some are tried");
        Ok(Rival { pool: server.pool(connections)?, connections, _server: server })
    }

    /// The latency of leases at a steady pace, p50 and p99 in milliseconds.
    async fn pace(&self, case: &Case) -> anyhow::Result<(f64, f64)> {
        let coordinator = case.start().await?;
        let fleet = Fleet::muster(&coordinator.url, self.size.workers).await?;
        // Every worker has a shard half of the time.
        let hold = Duration::from_secs_f64(self.size.workers as f64 / PACE_PER_S as f64 / 2.0);
        let mut work = fleet.work(self.size.paced, Pace::PerSecond { cycles: PACE_PER_S, hold }).await?;
        drop(fleet);
        coordinator.kill().await?;
        Ok((percentile_ms(&mut work.leases, 0.5), percentile_ms(&mut work.leases, 0.99)))
    }

    /// All shards as fast as possible, and a restart after that.
    async fn exhaust(&self, case: &Case) -> anyhow::Result<Loaded> {
        let coordinator = case.start().await?;
        let fleet = Fleet::muster(&coordinator.url, self.size.workers).await?;
        let before = (coordinator.cpu()?, limits::cpu("self")?);
        let work = fleet.work(case.shards, Pace::AsFastAsPossible).await?;
        let per_cycle_us = |cpu: Duration| cpu.as_secs_f64() * 1e6 / case.shards as f64;
        let own_us = per_cycle_us(coordinator.cpu()? - before.0);
        let load_us = per_cycle_us(limits::cpu("self")? - before.1);
        println!("processor time per cycle: {own_us:.0} µs of the coordinator, {load_us:.0} µs of the load generator");
        coordinator.wait_until(|status| status.phase == "done").await?;
        let peak_mib = coordinator.memory()?.peak;
        drop(fleet);
        coordinator.kill().await?;
        let start = Instant::now();
        let coordinator = Process::start(&case.recipe_path, &case.journal).await?;
        coordinator.wait_until(|status| status.shards_done == case.shards).await?;
        Ok(Loaded { work, peak_mib, restart: start.elapsed() })
    }

    async fn curve(&mut self) -> anyhow::Result<()> {
        let cycles = self.size.shards();
        for &(files, shard_rows) in self.size.curve {
            let case = self.corpus(files, shard_rows)?;
            let mut costs = Vec::new();
            for _ in 0..self.size.rounds {
                let coordinator = case.start().await?;
                let fleet = Fleet::muster(&coordinator.url, self.size.workers).await?;
                let work = fleet.work(case.shards.min(cycles), Pace::AsFastAsPossible).await?;
                costs.push(work.cycle_us());
                let memory = coordinator.memory()?;
                println!("{} shards: {:.0} µs per cycle, {:.0} MiB", case.shards, work.cycle_us(), memory.now);
                drop(fleet);
                coordinator.kill().await?;
            }
            self.table.note(&format!("cost per cycle, {} shards", case.shards), median(costs), "µs");
        }
        Ok(())
    }
}

/// What came of doing all shards.
struct Loaded {
    work: Work,
    peak_mib: f64,
    restart: Duration,
}

/// A queue in PostgreSQL.
struct Rival {
    pool: Pool,
    connections: usize,
    _server: Server,
}

impl Rival {
    async fn exhaust(&self, workers: usize, shards: u64) -> anyhow::Result<f64> {
        queue::fill(&self.pool, shards).await?;
        queue::exhaust(&self.pool, workers, shards).await
    }
}

/// A corpus and its recipe.
struct Case {
    folder: PathBuf,
    recipe: Recipe,
    recipe_path: PathBuf,
    journal: PathBuf,
    shards: u64,
}

impl Case {
    fn new(folder: PathBuf, shard_rows: u64, shards: u64) -> anyhow::Result<Self> {
        let recipe_path = folder.join(format!("{shard_rows}-rows.yaml"));
        let recipe = recipe::write(&recipe_path, &folder, shard_rows)?;
        let journal = folder.join("journal.sqlite");
        Ok(Case { folder, recipe, recipe_path, journal, shards })
    }

    /// A coordinator that has planned the corpus and knows of no run before, neither from a journal nor from what is beside
    /// the output.
    async fn start(&self) -> anyhow::Result<Process> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_called =
                |prefix: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
            if is_called("journal.sqlite") {
                std::fs::remove_file(&path)?;
            } else if is_called("out") {
                std::fs::remove_dir_all(&path)?;
            }
        }
        let coordinator = Process::start(&self.recipe_path, &self.journal).await?;
        coordinator.wait_until(|status| status.shards_total == self.shards).await?;
        Ok(coordinator)
    }
}
