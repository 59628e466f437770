//! From encoded images to the pixels that the models see: decoded on a few threads, results in the order of the rows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use quern_capfilt::{RowOutcome, decode_row};
use quern_corpus::images::{CropRounding, Evaluation, Geometry, RgbImage};
use quern_corpus::reader::RawRow;
use quern_models::preprocessor::{PreprocessorConfig, Resize};
use quern_recipes::ImageLimits;

/// Threads that decode at most.
const MAX_THREADS: usize = 4;

/// The evaluation transform that a model's preprocessor asks for.
pub(crate) fn evaluation(preprocessor: &PreprocessorConfig) -> Evaluation {
    let geometry = match preprocessor.resize {
        Resize::ShortestSide { size, crop } => {
            Geometry::ShortestSide { size, crop, rounding: CropRounding::HuggingFace }
        }
        Resize::Squash { width, height } => Geometry::Squash { width, height },
    };
    Evaluation { geometry, mean: preprocessor.mean, std: preprocessor.std }
}

/// What a row's image is put to before it is decoded in this process; an error is what becomes of the row.
pub type Trial<'a> = &'a (dyn Fn(&RawRow) -> Result<(), RowOutcome> + Sync);

/// Decodes every row's image and makes of it what `prepare` makes; a row without a decodable image gets the outcome that
/// says so.
pub(crate) fn decode_rows<T: Send>(
    rows: &[RawRow],
    limits: &ImageLimits,
    trial: Trial<'_>,
    prepare: impl Fn(&RawRow, &RgbImage) -> Result<T, RowOutcome> + Sync,
) -> Vec<Result<T, RowOutcome>> {
    let decode = |row: &RawRow| {
        // Only a row that has an image can be put to a trial.
        row.image().map_err(RowOutcome::without_image)?;
        trial(row)?;
        decode_row(row, limits).and_then(|image| prepare(row, &image))
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    in_order(rows, cores.min(MAX_THREADS), decode)
}

/// `work` on every item, on at most `threads` threads, results in the order of the items.
fn in_order<I: Sync, T: Send>(items: &[I], threads: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some((at, item)) = take(items, next) {
                    sender.send((at, work(item))).expect("the receiver outlives the scope");
                }
            });
        }
    });
    drop(sender);
    let mut done: Vec<(usize, T)> = receiver.into_iter().collect();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The next item that no thread has taken.
fn take<'a, I>(items: &'a [I], next: &AtomicUsize) -> Option<(usize, &'a I)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    items.get(at).map(|item| (at, item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..50).collect();
        let expected: Vec<usize> = items.iter().map(|item| item * 2).collect();
        for threads in [0, 1, 2, 3, 100] {
            assert_eq!(in_order(&items, threads, |&item| item * 2), expected);
        }
        assert_eq!(in_order(&[] as &[usize], 4, |&item| item), [0usize; 0]);
    }

    #[test]
    fn a_slow_item_does_not_change_the_order() {
        let last_is_done = Barrier::new(2);
        // Items 1 and 2 are done by the other thread before item 0 ends.
        let results = in_order(&[0, 1, 2], 2, |&item| {
            if item != 1 {
                last_is_done.wait();
            }
            item
        });
        assert_eq!(results, [0, 1, 2]);
    }
}
