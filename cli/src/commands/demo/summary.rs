//! The closing table.

use std::fmt::Write;

use quern_proto::StatusReply;
use serde::Serialize;

use super::evaluation::Estimate;
use super::language::Language;
use super::retrieval::{Direction, Retrieval, paired_gain};
use super::truth::Captions;

/// All that the demo found out.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Correct captions before and after.
    pub captions: Captions,
    /// The two trainings.
    pub training: Vec<Training>,
    /// Retrieval after training on kept captions.
    pub kept: Retrieval,
    /// … on raw captions.
    pub raw: Retrieval,
    /// … before any training.
    pub untrained: Retrieval,
    /// Captions and answers after stage 2, one per language model.
    pub language: Vec<Language>,
    /// Stage and seconds.
    pub seconds: Vec<(String, f64)>,
    /// What and where.
    pub outputs: Vec<(String, String)>,
}

/// A training's end.
#[derive(Debug, Serialize)]
pub struct Training {
    name: String,
    step: u64,
    itc: f64,
    itg: f64,
    itm: f64,
}

impl Training {
    /// From the run's last status: stage 1's end.
    pub fn of(name: &str, last: &StatusReply) -> Self {
        let losses = last.stages.first().and_then(|stage1| stage1.last_losses).unwrap_or_default();
        Training { name: name.into(), step: losses.step, itc: losses.itc, itg: losses.itg, itm: losses.itm }
    }
}

impl Summary {
    /// The table, as people read it.
    pub fn table(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a String takes all");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nCorrect captions")?;
        for (label, count) in [
            ("web, raw", &self.captions.raw),
            ("kept by CapFilt", &self.captions.kept),
            ("the first kept", &self.captions.first),
        ] {
            writeln!(text, "  {label:<26} {}   {} of {}", percent(&count.share()), count.correct, count.captions)?;
        }

        writeln!(text, "\nLosses at the last step           itc     itg     itm")?;
        for training in &self.training {
            let label = format!("{} captions, step {}", training.name, training.step);
            writeln!(text, "  {label:<26} {:>7.3} {:>7.3} {:>7.3}", training.itc, training.itg, training.itm)?;
        }

        writeln!(text, "\nRetrieval on {} held-out scenes, % ± standard error", self.kept.n)?;
        writeln!(text, "  {:<26} {:>12} {:>12} {:>12}", "", "R@1", "R@5", "R@10")?;
        for (name, retrieval) in [("kept", &self.kept), ("raw", &self.raw), ("untrained", &self.untrained)] {
            for (way, direction) in
                [("image → text", &retrieval.image_to_text), ("text → image", &retrieval.text_to_image)]
            {
                let label = format!("{name}, {way}");
                let Direction { r1, r5, r10, .. } = direction;
                writeln!(text, "  {label:<26} {:>12} {:>12} {:>12}", percent(r1), percent(r5), percent(r10))?;
            }
        }
        writeln!(text, "\nGain in R@1 of kept over raw captions, paired, percentage points ± standard error")?;
        for (label, gain) in self.gains() {
            writeln!(text, "  {label:<26} {:>12}   {:.1} standard errors", percent(&gain), sigmas(&gain))?;
        }

        self.write_language(text)?;

        writeln!(text, "\nTime in this call (what an earlier one did takes none)")?;
        for (stage, seconds) in &self.seconds {
            writeln!(text, "  {stage:<26} {seconds:>10.1} s")?;
        }
        let total: f64 = self.seconds.iter().map(|(_, seconds)| seconds).sum();
        writeln!(text, "  {:<26} {total:>10.1} s", "together")?;

        writeln!(text, "\nOutputs")?;
        for (what, place) in &self.outputs {
            writeln!(text, "  {what:<26} {place}")?;
        }
        Ok(())
    }

    /// What stage 2 taught the language models to say of the held-out scenes.
    fn write_language(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nStage 2: captions of {} held-out scenes", self.kept.n)?;
        writeln!(text, "  {:<26} {:>12} {:>14} {:>12}", "", "correct, %", "CIDEr", "last loss")?;
        for Language { name, step, lm, trained, untrained, .. } in &self.language {
            for (label, captions, loss) in [
                (format!("{name}, step {step}"), trained, format!("{lm:.3}")),
                (format!("{name}, untrained"), untrained, String::new()),
            ] {
                let (correct, cider) = (percent(&captions.correct.share()), percent(&captions.cider));
                writeln!(text, "{}", format!("  {label:<26} {correct:>12} {cider:>14} {loss:>12}").trim_end())?;
            }
        }
        writeln!(text, "\nStage 2: answers to questions about them")?;
        writeln!(text, "  {:<26} {:>12} {:>14} {:>12}", "", "right, %", "", "guessing, %")?;
        for Language { name, answers, .. } in &self.language {
            for answers in answers {
                let label = format!("{name}, {}", answers.about);
                let (right, count) = (
                    percent(&answers.right.share()),
                    format!("{} of {}", answers.right.correct, answers.right.captions),
                );
                writeln!(text, "  {label:<26} {right:>12} {count:>14} {:>12.1}", 100.0 * answers.guessing)?;
            }
        }
        for language in &self.language {
            writeln!(text, "\nWhat {} says of some of them", language.name)?;
            for said in language.examples() {
                let verdict = if said.correct { "correct" } else { "wrong" };
                writeln!(text, "  {}", said.row)?;
                writeln!(text, "    {} ({verdict})", said.caption)?;
                writeln!(text, "    {} {} (truth: {})", said.prompt, said.answer, said.truth)?;
            }
        }
        Ok(())
    }

    fn gains(&self) -> [(&'static str, Estimate); 3] {
        let ([kept_i, kept_t], [raw_i, raw_t]) =
            ([&self.kept.image_to_text, &self.kept.text_to_image], [&self.raw.image_to_text, &self.raw.text_to_image]);
        [
            ("image → text", paired_gain(&[kept_i], &[raw_i])),
            ("text → image", paired_gain(&[kept_t], &[raw_t])),
            ("both ways", paired_gain(&[kept_i, kept_t], &[raw_i, raw_t])),
        ]
    }
}

fn percent(estimate: &Estimate) -> String {
    format!("{:.1} ± {:.1}", 100.0 * estimate.value, 100.0 * estimate.standard_error)
}

/// The gain in standard errors; without any spread there is nothing to divide by.
fn sigmas(gain: &Estimate) -> f64 {
    if gain.standard_error > 0.0 { gain.value / gain.standard_error } else { 0.0 }
}
