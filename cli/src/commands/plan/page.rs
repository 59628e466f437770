//! A plan for people: sections of aligned lines, 80 columns wide.

use std::fmt::Write;

use quern_capfilt::calibration::{Basis, Calibration};
use quern_capfilt::visible;
use quern_recipes::Recipe;

use super::Plan;
use super::figures::{bytes, grouped, percent, significant, time};
use super::survey::{Captions, DatasetSurvey};

const WIDTH: usize = 80;
/// Files that can't be read and are named.
const NAMED_FILES: usize = 5;

/// The whole plan.
pub fn page(plan: &Plan, recipe: &Recipe) -> String {
    let mut page = Page::default();
    page.line(&format!("Plan of {} (recipe hash {})", visible(&plan.name), &plan.recipe_hash[..12]));
    datasets(&mut page, &plan.datasets);
    samples(&mut page, &plan.datasets);
    capfilt(&mut page, plan, recipe);
    output(&mut page, plan, recipe);
    training(&mut page, plan);
    page.text
}

fn datasets(page: &mut Page, datasets: &[DatasetSurvey]) {
    page.title("Data sets");
    let sum = |of: fn(&DatasetSurvey) -> u64| datasets.iter().map(of).sum::<u64>();
    let row = |name: &str, captions: &str, [files, rows, size, shards]: [u64; 4]| {
        let figures = [grouped(files), grouped(rows), bytes(size as f64), grouped(shards)];
        [vec![name.to_owned(), captions.to_owned()], figures.to_vec()].concat()
    };
    let mut rows = vec![["name", "captions", "files", "rows", "bytes", "shards"].map(String::from).to_vec()];
    for dataset in datasets {
        let figures = [dataset.files, dataset.rows, dataset.bytes, dataset.shards];
        rows.push(row(&dataset.name, captions(dataset.captions), figures));
    }
    if datasets.len() > 1 {
        rows.push(row("together", "", [sum(|d| d.files), sum(|d| d.rows), sum(|d| d.bytes), sum(|d| d.shards)]));
    }
    page.table(&rows, 2);
    for dataset in datasets {
        page.said(&dataset.name, &columns(dataset));
        if dataset.rows < dataset.rows_in_files {
            let (taken, all) = (grouped(dataset.rows), grouped(dataset.rows_in_files));
            page.said(&dataset.name, &format!("{taken} of {all} rows are taken (max_rows); bytes are all files'"));
        }
        for file in dataset.unreadable.iter().take(NAMED_FILES) {
            page.said(&dataset.name, &format!("can't read {}: {}", visible(&file.file), visible(&file.reason)));
        }
        if dataset.unreadable.len() > NAMED_FILES {
            let more = dataset.unreadable.len() - NAMED_FILES;
            page.said(&dataset.name, &format!("can't read {} more files; --json names them", grouped(more as u64)));
        }
    }
}

fn captions(captions: Captions) -> &'static str {
    match captions {
        Captions::CapFilt => "CapFilt",
        Captions::Kept => "kept",
        Captions::EarlierRun => "earlier run's",
    }
}

fn columns(dataset: &DatasetSurvey) -> String {
    if dataset.columns.is_empty() {
        return "no rows".into();
    }
    let readable = dataset.files - dataset.unreadable.len() as u64;
    let columns = dataset.columns.iter().map(|column| {
        let files =
            if column.files < readable { format!(" in {} files", grouped(column.files)) } else { String::new() };
        format!("{} in `{}` ({}){files}", column.role, visible(&column.name), visible(&column.holds))
    });
    columns.collect::<Vec<_>>().join(", ")
}

fn samples(page: &mut Page, datasets: &[DatasetSurvey]) {
    page.title("Sample, drawn by key over all shards, read and decoded here");
    let mut rows =
        vec![["name", "rows", "usable", "quarantined", "per image", "median", "rows/s"].map(String::from).to_vec()];
    let sampled = || datasets.iter().filter_map(|dataset| Some((dataset, dataset.sample.as_ref()?)));
    for (dataset, sample) in sampled() {
        rows.push(vec![
            dataset.name.clone(),
            grouped(sample.rows),
            grouped(sample.usable),
            percent(sample.rows - sample.usable, sample.rows),
            bytes(sample.image_bytes),
            format!("{}×{}", sample.width, sample.height),
            significant(sample.rows as f64 / sample.seconds.max(1e-6)),
        ]);
    }
    page.table(&rows, 1);
    for (dataset, sample) in sampled() {
        for failed in &sample.quarantined {
            let rows = if failed.rows == 1 { "1 row".into() } else { format!("{} rows", grouped(failed.rows)) };
            let (stage, reason) = (&failed.stage, &failed.reason);
            page.said(&dataset.name, &format!("{rows}: {stage}, {reason}: {}", visible(&failed.detail)));
        }
    }
}

fn capfilt(page: &mut Page, plan: &Plan, recipe: &Recipe) {
    let Some(capfilt) = &plan.capfilt else { return };
    page.title("CapFilt");
    page.said("images", &format!("{} of {} rows", grouped(capfilt.images), grouped(capfilt.rows)));
    match (&plan.throughput, &plan.not_calibrated) {
        (Some(throughput), _) => {
            let speed = significant(throughput.images_per_second);
            let how = throughput.calibration.as_ref().map_or_else(|| "as --throughput says".into(), measured);
            page.said("throughput", &format!("{speed} images/s per worker, {how}"));
            if let Some(calibration) = &throughput.calibration {
                page.said("captions", &written(calibration, recipe));
            }
        }
        (None, Some(reason)) => page.said("throughput", &format!("not measured: {}", visible(reason))),
        (None, None) => {}
    }
    if let (Some(device_hours), Some(hours)) = (capfilt.device_hours, capfilt.hours) {
        page.said("device-hours", &significant(device_hours));
        let workers = if capfilt.workers == 1 { "1 worker".into() } else { format!("{} workers", capfilt.workers) };
        let idle = if u64::from(capfilt.workers) > capfilt.shards {
            format!("; there are only {} shards, so some have nothing to do", grouped(capfilt.shards))
        } else {
            String::new()
        };
        page.said("time", &format!("{} on {workers}{idle}", time(hours)));
    }
    match &capfilt.cost {
        Some(cost) => page.said("cost", &format!("{} {} for the device-hours", money(cost.amount), cost.currency)),
        None if capfilt.device_hours.is_some() => page.said("cost", "the recipe names no cluster.price"),
        None => {}
    }
}

fn measured(calibration: &Calibration) -> String {
    let Calibration { device, hardware, threads, images, seconds, different_images, basis, .. } = calibration;
    let threads = match (device.as_str(), threads) {
        ("cpu", 1) => ", 1 thread".into(),
        ("cpu", threads) => format!(", {threads} threads"),
        _ => String::new(),
    };
    let basis = match basis {
        Basis::WholeShard => "a whole shard",
        Basis::FullLanes => "the middle of a shard",
        Basis::FewImages => "the first few, too slow for more: a rough figure",
    };
    let different =
        if different_images < images { format!(" ({} different)", grouped(*different_images)) } else { String::new() };
    format!(
        "measured on {device} ({}{threads}): {} images{different} in {} s, {basis}",
        visible(hardware),
        grouped(*images),
        significant(*seconds),
    )
}

fn written(calibration: &Calibration, recipe: &Recipe) -> String {
    let tokens = significant(calibration.tokens_per_caption);
    let filters = recipe.capfilt.as_ref().is_some_and(|capfilt| capfilt.filters != Default::default());
    let kept = percent((calibration.kept_share * 1e6).round() as u64, 1_000_000);
    match filters {
        true => format!("{tokens} tokens each; {kept} of images keep one after the filters"),
        false => format!("{tokens} tokens each"),
    }
}

fn money(amount: f64) -> String {
    if amount >= 100.0 { grouped(amount.round() as u64) } else { format!("{amount:.2}") }
}

fn output(page: &mut Page, plan: &Plan, recipe: &Recipe) {
    if recipe.captions.is_some() {
        return;
    }
    page.title("Output");
    match &plan.output {
        Some(output) => {
            let embed = recipe.capfilt.as_ref().is_some_and(|capfilt| capfilt.embed_images.is_on());
            let images = if embed { "images embedded" } else { "without images" };
            let (rows, size) = (grouped(output.rows), bytes(output.bytes as f64));
            page.said("captions", &format!("about {size} of parquet with {rows} rows, {images}"));
        }
        None => page.said("captions", "its size is known only when captions were written to measure the throughput"),
    }
}

fn training(page: &mut Page, plan: &Plan) {
    if plan.training.is_empty() {
        return;
    }
    page.title("Training");
    for stage in &plan.training {
        let (images, rows) = (grouped(stage.images), grouped(stage.rows));
        let (steps, batch, epochs) = (grouped(stage.steps), grouped(stage.batch.into()), significant(stage.epochs));
        let name = if stage.stage == "stage2" { "stage 2" } else { "stage 1" };
        let earlier = if plan.datasets.iter().any(|dataset| dataset.captions == Captions::EarlierRun) {
            ", if the earlier run kept them all"
        } else {
            ""
        };
        page.said(
            name,
            &format!("{images} images ({steps} steps of {batch}): {epochs} epochs of {rows} rows{earlier}"),
        );
    }
    page.said("time", "not estimated: training is not measured here");
}

/// Lines of text.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        writeln!(self.text, "{}", line.trim_end()).expect("a String takes all");
    }

    fn title(&mut self, title: &str) {
        self.line("");
        self.line(title);
    }

    /// What there is to say of something, wrapped.
    fn said(&mut self, of: &str, said: &str) {
        let indent = 2 + 12.max(of.chars().count()) + 2;
        let mut line = format!("  {of:<12}  ");
        let mut is_begun = false;
        for word in said.split_whitespace() {
            let longer = line.chars().count() + usize::from(is_begun) + word.chars().count();
            if is_begun && longer > WIDTH {
                self.line(&line);
                (line, is_begun) = (" ".repeat(indent), false);
            }
            if is_begun {
                line.push(' ');
            }
            line.push_str(word);
            is_begun = true;
        }
        self.line(&line);
    }

    /// Cells in columns, the first `left` of them aligned to the left.
    fn table(&mut self, rows: &[Vec<String>], left: usize) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column < left {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            });
            self.line(&format!("  {}", cells.collect::<Vec<_>>().join("  ")));
        }
    }
}
