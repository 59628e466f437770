//! A shard's rows on their way through captioner and ranker.
//!
//! A thread of its own reads the rows and decodes their images, a group ahead of the device. The device encodes a group
//! when there is room for its first caption, writes captions in lanes that are filled again and again across groups, and
//! ranks a group when all of its captions are written. Groups leave in their order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use bytes::Bytes;
use quern_capfilt::{PartRow, RowOutcome, embedded};
use quern_corpus::reader::RawRow;
use quern_models::blip::BlipSlots;
use quern_models::generate::SlotSampler;
use quern_models::memory::filled;
use quern_models::preprocessor::PreprocessorConfig;
use tch::Tensor;
use tracing::{Span, info_span};

use crate::captioner::Captioner;
use crate::engine::{Engine, Models};
use crate::pixels::{Trial, decode_rows, evaluation};
use crate::rank::{Captioned, rank};

/// Decoded groups that wait for the device.
const DECODED_AHEAD: usize = 1;

/// An image as the two models see it, `[3, S, S]` each, and as the part carries it.
struct Pixels {
    captioner: Vec<f32>,
    ranker: Vec<f32>,
    embedded: Option<Bytes>,
}

/// Rows with their decoded images, or with what becomes of them without.
type Decoded = Vec<(RawRow, Result<Pixels, RowOutcome>)>;

/// The row with the image that its part carries, instead of the one that was decoded.
fn with_embedded((mut row, mut decoded): (RawRow, Result<Pixels, RowOutcome>)) -> (RawRow, Result<Pixels, RowOutcome>) {
    row.image = decoded.as_mut().ok().and_then(|pixels| pixels.embedded.take());
    (row, decoded)
}

/// What is under way.
pub(crate) struct Flow<'a> {
    engine: &'a Engine,
    models: &'a Models,
    sampler: SlotSampler<BlipSlots<'a>>,
    /// In order; the first is the one that leaves next.
    groups: VecDeque<Group>,
    /// The number of rows before the first group.
    left: usize,
    waiting: VecDeque<Waiting>,
}

/// An encoded image that waits for lanes.
struct Waiting {
    /// The number of its row in the shard.
    row: usize,
    /// The row's key.
    key: u64,
    /// `[1, N, D]`
    states: Tensor,
}

/// Rows that are encoded and ranked together.
struct Group {
    rows: Vec<RawRow>,
    places: Vec<Place>,
    /// As the ranker sees them, `[B, 3, S, S]`; none when no image could be decoded.
    pixels: Option<Tensor>,
    /// Images whose captions are not written yet.
    open: usize,
    /// Open while captions are written.
    captioning: Span,
}

/// What is known of a row.
enum Place {
    Failed(RowOutcome),
    Open,
    Captioned(Vec<Vec<i64>>),
}

impl<'a> Flow<'a> {
    /// Nothing under way yet, of `count` rows.
    pub fn new(engine: &'a Engine, models: &'a Models, count: usize) -> Self {
        let sampler = models.captioner.sampler(count.max(1));
        Flow { engine, models, sampler, groups: VecDeque::new(), left: 0, waiting: VecDeque::new() }
    }

    /// Takes all rows, each put to `trial` before it is decoded; shows to `each`, in order, what becomes of them. Once `stop`
    /// is raised, it returns without the rest.
    pub fn run(
        self,
        rows: impl Iterator<Item = RawRow> + Send,
        trial: Trial<'_>,
        stop: &AtomicBool,
        each: &mut impl FnMut(PartRow),
    ) {
        let (limits, group_rows) = (&self.engine.limits, (self.engine.config.batch_images as usize).max(1));
        let preprocessors = [&self.models.captioner.preprocessor, &self.models.ranker.preprocessor];
        let [for_captioner, for_ranker] = preprocessors.map(evaluation);
        let embed = self.engine.config.embed_images;
        let span = Span::current();
        thread::scope(|scope| {
            let (sender, groups) = sync_channel(DECODED_AHEAD);
            scope.spawn(move || {
                let _inside = span.enter();
                let mut rows = rows.peekable();
                while rows.peek().is_some() {
                    let group: Vec<RawRow> = rows.by_ref().take(group_rows).collect();
                    let decoding = info_span!("decode", rows = group.len() as i64).entered();
                    let decoded = decode_rows(&group, limits, trial, |row, image| {
                        Ok(Pixels {
                            captioner: for_captioner.apply(image).1,
                            ranker: for_ranker.apply(image).1,
                            embedded: embedded(row, image, embed)?,
                        })
                    });
                    drop(decoding);
                    if sender.send(group.into_iter().zip(decoded).map(with_embedded).collect()).is_err() {
                        break; // nobody works on them any more
                    }
                }
            });
            self.work(groups, stop, each);
        });
    }

    /// Takes all groups, in order.
    fn work(mut self, decoded: Receiver<Decoded>, stop: &AtomicBool, each: &mut impl FnMut(PartRow)) {
        let mut rows = 0;
        let mut more = true;
        while !stop.load(Ordering::Relaxed) {
            // Waiting for the next group instead of going on without it: what shares a batch must not hang on time.
            while more && self.waiting.is_empty() && self.sampler.room() > 0 {
                match decoded.recv() {
                    Ok(group) => {
                        let first = rows;
                        rows += group.len();
                        self.take(group, first);
                    }
                    Err(_) => {
                        more = false;
                        self.sampler.close();
                    }
                }
            }
            self.admit();
            for (row, captions) in self.sampler.step() {
                self.captioned(row, captions);
            }
            while self.groups.front().is_some_and(|group| group.open == 0) {
                let group = self.groups.pop_front().expect("there is one");
                self.left += group.rows.len();
                self.leave(group, each);
            }
            if !more && self.groups.is_empty() {
                break;
            }
        }
    }

    /// Encodes a group, whose first row is the `first`-th.
    fn take(&mut self, decoded: Decoded, first: usize) {
        let Models { captioner, ranker } = self.models;
        let (rows, decoded): (Vec<RawRow>, Vec<_>) = decoded.into_iter().unzip();
        let captioning = info_span!("caption", rows = rows.len() as i64);
        let mut group = Group { places: Vec::new(), pixels: None, open: 0, captioning, rows };
        if decoded.iter().any(Result::is_ok) {
            let places: Vec<Option<&Pixels>> = decoded.iter().map(|image| image.as_ref().ok()).collect();
            let pixels = self.batch(&captioner.preprocessor, &places, |pixels| &pixels.captioner);
            group.pixels = Some(self.batch(&ranker.preprocessor, &places, |pixels| &pixels.ranker));
            let states = group.captioning.in_scope(|| captioner.encode(&pixels));
            for (at, _) in decoded.iter().enumerate().filter(|(_, image)| image.is_ok()) {
                let (key, states) = (group.rows[at].id.key(), states.narrow(0, at as i64, 1));
                self.waiting.push_back(Waiting { row: first + at, key, states });
            }
        }
        group.places = decoded.into_iter().map(|image| image.map_or_else(Place::Failed, |_| Place::Open)).collect();
        group.open = group.places.iter().filter(|place| matches!(place, Place::Open)).count();
        self.groups.push_back(group);
    }

    /// Begins the captions of as many images as there is room for.
    fn admit(&mut self) {
        let count = self.waiting.len().min(self.sampler.room());
        if count == 0 {
            return;
        }
        let images: Vec<Waiting> = self.waiting.drain(..count).collect();
        let rows: Vec<usize> = images.iter().map(|image| image.row).collect();
        let states = Tensor::cat(&images.iter().map(|image| &image.states).collect::<Vec<_>>(), 0);
        let mut draw = |image: usize, copy, step| Captioner::draw(self.engine.seed, images[image].key, copy, step);
        self.sampler.admit(&rows, &states, &mut draw);
    }

    fn captioned(&mut self, row: usize, captions: Vec<Vec<i64>>) {
        let at = row - self.left;
        // Every group but the shard's last has as many rows as the first.
        let group_rows = self.groups[0].rows.len();
        let group = &mut self.groups[at / group_rows];
        group.places[at % group_rows] = Place::Captioned(captions);
        group.open -= 1;
        if group.open == 0 {
            group.captioning = Span::none();
        }
    }

    /// Ranks a group's captions and shows what becomes of its rows.
    fn leave(&self, group: Group, each: &mut impl FnMut(PartRow)) {
        let Models { captioner, ranker } = self.models;
        let Group { rows, places, pixels, .. } = group;
        let ranking = info_span!("rank", rows = rows.len() as i64).entered();
        let mut captioned = Vec::new();
        for (image, (place, row)) in places.iter().zip(&rows).enumerate() {
            if let Place::Captioned(captions) = place {
                let written = captions.iter().map(|ids| captioner.text(ids)).collect();
                captioned.push(Captioned { image, written, web: row.caption.as_deref() });
            }
        }
        let ranked = match &pixels {
            Some(pixels) => rank(ranker, &ranker.embed_images(pixels), captioned, self.engine.config.keep as usize),
            None => Vec::new(),
        };
        drop(ranking);
        let mut ranked = ranked.into_iter();
        for (row, place) in rows.into_iter().zip(places) {
            let outcome = match place {
                Place::Failed(failed) => failed,
                Place::Captioned(captions) => {
                    self.engine.count(&captions);
                    ranked.next().expect("every captioned row is ranked")
                }
                Place::Open => unreachable!("a group leaves when no caption is open"),
            };
            each(self.engine.part_row(row, outcome));
        }
    }

    /// Images as one tensor, `[B, 3, S, S]`; an empty place is zeros.
    fn batch(
        &self,
        preprocessor: &PreprocessorConfig,
        decoded: &[Option<&Pixels>],
        of: fn(&Pixels) -> &[f32],
    ) -> Tensor {
        let (width, height) = preprocessor.output_size();
        let size = [decoded.len() as i64, 3, i64::from(height), i64::from(width)];
        let (pixels, ()) = filled(&size, |pixels| {
            for (out, place) in pixels.chunks_exact_mut(3 * width as usize * height as usize).zip(decoded) {
                match place {
                    Some(place) => out.copy_from_slice(of(place)),
                    None => out.fill(0.0),
                }
            }
        });
        pixels.to_device(self.engine.device)
    }
}
