//! `quern-worker calibrate`: how fast this machine's device captions and ranks the rows that are sent, for `quern plan`.
//!
//! The models are loaded, a few images warm them up, and then the rows go through the real engine as those of a shard
//! do, again and again, until a shard of the size asked for is done or the time is over.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use quern_capfilt::calibration::{Answer, Basis, Calibration, PartBytes, Request};
use quern_capfilt::{PartRow, Provenance, RowOutcome, filter};
use quern_capfilt_engine::{Engine, EngineError};
use quern_corpus::reader::RawRow;
use tch::Device;

use crate::torch;

/// Images that go first.
const WARM_UP_IMAGES: usize = 8;
/// How many times the measurement's time they may take.
const WARM_UP_PATIENCE: u32 = 5;

/// Receives a request, measures, answers.
///
/// # Errors
/// When no request came. That nothing could be measured is an answer.
pub fn run(device: &str) -> Result<(), String> {
    let (request, rows) =
        Request::receive(&mut io::stdin().lock()).map_err(|error| format!("no request came: {error}"))?;
    let answer = calibrate(device, &request, &rows).map_or_else(Answer::Failed, Answer::Calibrated);
    println!("{}", serde_json::to_string(&answer).expect("an answer is plain data"));
    Ok(())
}

fn calibrate(device: &str, request: &Request, rows: &[RawRow]) -> Result<Calibration, String> {
    let recipe = &request.recipe;
    let capfilt = recipe.capfilt.as_ref().ok_or("the recipe has no `capfilt` section")?;
    let few = rows.len().min(WARM_UP_IMAGES);
    if few == 0 {
        return Err("no image of the sample can be decoded".into());
    }
    let device = torch::device(device)?;
    // OpenMP counts threads per calling thread.
    tch::set_num_threads(recipe.cluster.threads as i32);
    let engine = Engine::load(capfilt, &recipe.limits, recipe.seed, device).map_err(|error| error.to_string())?;

    let limit = Duration::from_secs_f64(request.seconds);
    let patience = limit * WARM_UP_PATIENCE;
    let warm_up = timed(&engine, &rows[..few], few, patience).map_err(|error| error.to_string())?;
    if warm_up.left.len() < few {
        let (device, seconds) = (torch::device_name(device), patience.as_secs());
        return Err(format!("{few} images take {device} more than {seconds} s; give a throughput with --throughput"));
    }
    let shard_rows = usize::try_from(request.shard_rows).unwrap_or(usize::MAX).max(1);
    let shard = timed(&engine, rows, shard_rows, limit).map_err(|error| error.to_string())?;

    let measured = measured(&warm_up, &shard, shard_rows, (capfilt.batch_images as usize).max(1));
    let outcomes = if measured.basis == Basis::FewImages { warm_up.outcomes } else { shard.outcomes };
    let different = outcomes.len() as u64;
    let outcomes = filter(outcomes, recipe);
    let kept = outcomes.iter().filter(|row| matches!(row.outcome, RowOutcome::Kept { .. })).count();
    let provenance = Provenance { models: engine.model_digests().clone(), ..Provenance::default() };
    let part_bytes = PartBytes::of(outcomes, &provenance).map_err(|error| error.to_string())?;
    let written = engine.written();
    Ok(Calibration {
        device: torch::device_name(device),
        hardware: hardware(device),
        threads: recipe.cluster.threads,
        images_per_second: measured.images as f64 / measured.time.as_secs_f64(),
        basis: measured.basis,
        images: measured.images as u64,
        seconds: measured.time.as_secs_f64(),
        different_images: different,
        tokens_per_caption: written.tokens as f64 / written.captions.max(1) as f64,
        kept_share: kept as f64 / different.max(1) as f64,
        part_bytes,
    })
}

/// How rows went through the engine.
struct Timed {
    begun: Instant,
    /// When each row left, in order.
    left: Vec<Instant>,
    /// What became of the rows, each once.
    outcomes: Vec<PartRow>,
}

/// Sends `rows` through the engine again and again, until `count` have left or the time is over.
fn timed(engine: &Engine, rows: &[RawRow], count: usize, limit: Duration) -> Result<Timed, EngineError> {
    let stop = AtomicBool::new(false);
    let (done, is_done) = channel::<()>();
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            if is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        let mut timed = Timed { begun: Instant::now(), left: Vec::new(), outcomes: Vec::new() };
        let ended = engine.run_shard(rows.iter().cycle().take(count).cloned(), count, &|_| Ok(()), stop, |row| {
            timed.left.push(Instant::now());
            if timed.outcomes.len() < rows.len() {
                timed.outcomes.push(row);
            }
        });
        drop(done);
        ended.map(|()| timed)
    })
}

/// What a throughput is computed from.
#[derive(Debug, PartialEq)]
struct Measured {
    basis: Basis,
    images: usize,
    time: Duration,
}

/// Rows leave in groups of `group_rows`: where a shard is not done, what counts is the time between the first group's end and
/// the last one's.
fn measured(warm_up: &Timed, shard: &Timed, shard_rows: usize, group_rows: usize) -> Measured {
    let since = |from: Instant, left: &[Instant]| left.last().map_or(Duration::ZERO, |last| last.duration_since(from));
    match shard.left.len() {
        rows if rows == shard_rows => {
            Measured { basis: Basis::WholeShard, images: rows, time: since(shard.begun, &shard.left) }
        }
        rows if rows > group_rows => Measured {
            basis: Basis::FullLanes,
            images: rows - group_rows,
            time: since(shard.left[group_rows - 1], &shard.left),
        },
        _ => {
            Measured { basis: Basis::FewImages, images: warm_up.left.len(), time: since(warm_up.begun, &warm_up.left) }
        }
    }
}

/// The name of the product that the device is.
fn hardware(device: Device) -> String {
    match device {
        Device::Cuda(index) => {
            let devices = quern_collective::cuda::devices().unwrap_or_default();
            devices.get(index).map_or_else(|| "a GPU".into(), |device| device.name.clone())
        }
        _ => processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
    }
}

/// The processor, as Linux tells it; not every one has a name.
fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "a processor without a name".into(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that left so many seconds after the beginning.
    fn timed(left: &[u64]) -> Timed {
        let begun = Instant::now();
        let left = left.iter().map(|seconds| begun + Duration::from_secs(*seconds)).collect();
        Timed { begun, left, outcomes: Vec::new() }
    }

    #[test]
    fn a_whole_shard_counts_from_its_beginning_and_a_part_of_it_from_its_first_group() {
        let warm_up = timed(&[4, 4]);
        let of = |left: &[u64]| measured(&warm_up, &timed(left), 6, 2);
        let seconds = Duration::from_secs;
        let whole = Measured { basis: Basis::WholeShard, images: 6, time: seconds(9) };
        assert_eq!(of(&[5, 5, 7, 7, 9, 9]), whole);
        assert_eq!(of(&[5, 5, 7, 7]), Measured { basis: Basis::FullLanes, images: 2, time: seconds(2) });
        for too_few in [&[][..], &[5, 5]] {
            assert_eq!(of(too_few), Measured { basis: Basis::FewImages, images: 2, time: seconds(4) });
        }
    }

    #[test]
    fn a_processor_is_called_by_its_name() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n"), "Some CPU @ 2 GHz");
        assert_eq!(processor("BogoMIPS : 1\n"), "a processor without a name");
    }
}
