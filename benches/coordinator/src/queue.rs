//! What a user would take instead of the coordinator: a queue in PostgreSQL, `FOR UPDATE SKIP LOCKED`.
//!
//! It keeps the same facts of the same number of shards. A lease and a commit are a transaction each, durable when they
//! return. It has no heartbeats to serve, no members, no status, and its connections are fewer than its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use deadpool_postgres::Pool;
use futures::future::join_all;
use tokio::task::JoinSet;

/// The first `shards` shards of the bench's corpus.
const TABLES: &str = "
    drop table if exists shards;
    create table shards (
        shard text primary key, dataset text not null, file text not null, row_start bigint not null,
        rows bigint not null, state smallint not null default 0, attempt bigint not null default 0, worker text,
        until timestamptz, data text, digest text, passed bigint, bytes bigint
    );
    create index pending on shards (shard) where state = 0;
";

const FILL: &str = "
    insert into shards (shard, dataset, file, row_start, rows)
    select format('laion-%s-%s', lpad((n / 5)::text, 5, '0'), lpad((n % 5 * 2000)::text, 9, '0')), 'laion',
        format('%s/%s.parquet', lpad((n / 5000)::text, 3, '0'), lpad((n / 5)::text, 5, '0')), n % 5 * 2000, 2000
    from generate_series(0, $1::bigint - 1) as n";

const LEASE: &str = "
    update shards set state = 1, attempt = attempt + 1, worker = $1, until = now() + interval '30 s'
    where shard = (select shard from shards where state = 0 order by shard limit 1 for update skip locked)
    returning shard, attempt, dataset, file, row_start, rows";

const COMMIT: &str = "
    update shards set state = 2, until = null, data = $3, digest = $4, passed = $5, bytes = $6
    where shard = $1 and attempt = $2 and state = 1";

/// Fills the queue with `shards` shards.
///
/// # Errors
/// When the server refuses.
pub async fn fill(pool: &Pool, shards: u64) -> anyhow::Result<()> {
    let client = pool.get().await?;
    client.batch_execute(TABLES).await?;
    client.execute(FILL, &[&(shards as i64)]).await?;
    client.batch_execute("vacuum analyze shards").await?;
    Ok(client.batch_execute("checkpoint").await?)
}

/// Makes the pool's connections and has each prepare its statements.
///
/// # Errors
/// When the server refuses.
async fn warm(pool: &Pool) -> anyhow::Result<()> {
    let clients: Vec<_> = join_all((0..pool.status().max_size).map(|_| pool.get())).await;
    for client in clients {
        let client = client?;
        client.prepare_cached(LEASE).await?;
        client.prepare_cached(COMMIT).await?;
    }
    Ok(())
}

/// Has `workers` workers do all of the queue's `shards` shards as fast as possible; returns the shards per second.
///
/// # Errors
/// When the server refuses, or a shard isn't done once.
pub async fn exhaust(pool: &Pool, workers: usize, shards: u64) -> anyhow::Result<f64> {
    warm(pool).await?;
    let taken = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut running = JoinSet::new();
    for worker in 0..workers {
        running.spawn(work(pool.clone(), format!("w{worker}"), shards, Arc::clone(&taken)));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    let took = start.elapsed();
    let done = pool.get().await?.query_one("select count(*) from shards where state = 2 and attempt = 1", &[]).await?;
    ensure!(done.get::<_, i64>(0) as u64 == shards, "not every shard is done once");
    Ok(shards as f64 / took.as_secs_f64())
}

async fn work(pool: Pool, worker: String, shards: u64, taken: Arc<AtomicU64>) -> anyhow::Result<()> {
    while taken.fetch_add(1, Ordering::Relaxed) < shards {
        let (shard, attempt, rows) = lease(&pool, &worker).await?;
        let digest = format!("{attempt:0>64}");
        let data = format!("data/{shard}-{digest}.parquet");
        let client = pool.get().await?;
        let statement = client.prepare_cached(COMMIT).await?;
        let changed = client.execute(&statement, &[&shard, &attempt, &data, &digest, &rows, &1_000_000_i64]).await?;
        ensure!(changed == 1, "the commit of {shard} is refused");
    }
    Ok(())
}

async fn lease(pool: &Pool, worker: &str) -> anyhow::Result<(String, i64, i64)> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(LEASE).await?;
    let leased = client.query_opt(&statement, &[&worker]).await?.context("there is no shard left")?;
    Ok((leased.get("shard"), leased.get("attempt"), leased.get("rows")))
}
