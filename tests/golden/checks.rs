//! Comparison with what is expected, and the account of what was compared.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, bail};
use tch::{Kind, Tensor};

use crate::case::Case;

/// How far a value may be off.
#[derive(Debug, Clone, Copy)]
pub enum Tolerance {
    /// `|a - e| <= abs + rel · |e|`, element by element.
    Elements {
        /// Relative.
        rel: f64,
        /// Absolute.
        abs: f64,
    },
    /// `‖a - e‖ <= rel · ‖e‖ + abs`, of the whole tensor (gradients).
    Norm {
        /// Relative.
        rel: f64,
        /// Absolute.
        abs: f64,
    },
    /// The largest and the mean difference (of pixels, in levels).
    Levels {
        /// Of any element.
        largest: f64,
        /// Of all.
        mean: f64,
    },
    /// Not at all.
    Exact,
}

/// Losses and states: 1e-4 relative, 1e-5 absolute.
pub const STATES: Tolerance = Tolerance::Elements { rel: 1e-4, abs: 1e-5 };

/// Half precision: how much further from fp32 of the same (rounded) weights than the original's own half precision,
/// beside one rounding.
///
/// bf16 rounds to 8 bits, off by up to 2^-9 each time; a layer rounds some ten times, so that tiny models with weights as
/// large as ours' end 1 to 5 % off. The original measures that. quern rounds in other places (fused attention, stacked
/// products), and loses as many bits; which of the two is luckier is chance, twice as unlucky is not.
const HALF_SLACK: f64 = 2.0;
/// One rounding to bf16's 8 bits.
const HALF_ROUNDING: f64 = 1.0 / 512.0;
/// How far off the original itself may be, of the tensor's norm, for a comparison to say anything.
const HALF_WORST: f64 = 0.1;
/// A loss in half precision: the mean of a few log-probabilities whose logits are 1 to 5 % off, to both sides. How far the
/// original's happens to be off, of one number, is no measure.
const HALF_LOSS: Tolerance = Tolerance::Elements { rel: 2e-2, abs: 0.0 };

/// The comparisons of one case.
pub struct Checks<'a> {
    case: &'a Case,
    rows: Vec<Row>,
    compared: BTreeSet<String>,
}

struct Row {
    tensor: String,
    abs: f64,
    rel: f64,
    tolerance: String,
    passed: bool,
}

/// What came out.
pub struct Report {
    case: String,
    rows: Vec<Row>,
    forgotten: Vec<String>,
}

impl<'a> Checks<'a> {
    /// Nothing compared yet.
    pub fn new(case: &'a Case) -> Self {
        Checks { case, rows: Vec::new(), compared: BTreeSet::new() }
    }

    /// The expected tensor `name`, which the caller undertakes to compare.
    pub fn expected(&mut self, name: &str) -> anyhow::Result<&'a Tensor> {
        let tensor = self.case.expected.get(name);
        let tensor = tensor.with_context(|| format!("expected.safetensors has no {name:?}"))?;
        self.compared.insert(name.to_string());
        Ok(tensor)
    }

    /// Compares `actual` with the expected tensor `name`.
    pub fn compare(&mut self, name: &str, actual: &Tensor, tolerance: Tolerance) -> anyhow::Result<()> {
        let expected = self.expected(name)?;
        self.compare_with(name, actual, expected, tolerance)
    }

    /// Compares `actual`, states in the case's precision, with the expected tensor `name`. In half precision
    /// `fp32/NAME` is the measure: quern may not be much further from it than the original is, and then differs from
    /// the original by no more than both distances together.
    pub fn states(&mut self, name: &str, actual: &Tensor) -> anyhow::Result<()> {
        if self.case.kind()? == Kind::Float {
            return self.compare(name, actual, STATES);
        }
        let exact = format!("fp32/{name}");
        let precise = self.expected(&exact)?.to_kind(Kind::Double);
        let distance = (self.expected(name)?.to_kind(Kind::Double) - &precise).norm().double_value(&[]);
        if distance > HALF_WORST * precise.norm().double_value(&[]) {
            bail!("{name}: the original in half precision is too far from fp32 for the case to say anything");
        }
        self.compare(&exact, actual, Tolerance::Norm { rel: HALF_ROUNDING, abs: HALF_SLACK * distance })?;
        self.compare(name, actual, Tolerance::Norm { rel: HALF_ROUNDING, abs: (1.0 + HALF_SLACK) * distance })
    }

    /// Compares `actual`, a loss in the case's precision, with the expected `name`; in half precision with `fp32/NAME` too.
    pub fn loss(&mut self, name: &str, actual: &Tensor) -> anyhow::Result<()> {
        if self.case.kind()? == Kind::Float {
            return self.compare(name, actual, STATES);
        }
        self.compare(name, actual, HALF_LOSS)?;
        self.compare(&format!("fp32/{name}"), actual, HALF_LOSS)
    }

    /// Compares `actual` with `expected`, a reading of the expected tensor `name` (which must be claimed by [`expected`](Checks::expected)).
    pub fn compare_with(
        &mut self,
        name: &str,
        actual: &Tensor,
        expected: &Tensor,
        tolerance: Tolerance,
    ) -> anyhow::Result<()> {
        if actual.size() != expected.size() {
            bail!("{name} has shape {:?}, expected {:?}", actual.size(), expected.size());
        }
        let (actual, expected) =
            (actual.to_kind(Kind::Double).flatten(0, -1), expected.to_kind(Kind::Double).flatten(0, -1));
        // An infinity that is expected must be met; a NaN never passes.
        let error = (&actual - &expected).abs().where_scalarother(&actual.ne_tensor(&expected), 0.0);
        let size = expected.abs();
        let (abs, rel) = if error.numel() == 0 {
            (0.0, 0.0)
        } else {
            (error.max().double_value(&[]), (&error / size.clamp_min(1e-12)).max().double_value(&[]))
        };
        let (passed, tolerance) = match tolerance {
            Tolerance::Exact => (abs == 0.0, "exact".to_string()),
            Tolerance::Elements { rel, abs } => {
                let met = error.isfinite().logical_and(&error.le_tensor(&(&size * rel + abs)));
                let met = met.all().int64_value(&[]) == 1;
                (met, format!("rel {rel:.0e} abs {abs:.0e}"))
            }
            Tolerance::Levels { largest, mean } => {
                let met = abs <= largest && error.mean(Kind::Double).double_value(&[]) <= mean;
                (met, format!("max {largest} mean {mean}"))
            }
            Tolerance::Norm { rel, abs } => {
                let bound = expected.norm().double_value(&[]) * rel + abs;
                (error.norm().double_value(&[]) <= bound, format!("L2 rel {rel:.0e} abs {abs:.0e}"))
            }
        };
        self.rows.push(Row { tensor: name.to_string(), abs, rel, tolerance, passed });
        Ok(())
    }

    /// Compares ids `[B, L]` exactly, but for how many pads follow.
    pub fn compare_ids(&mut self, name: &str, ids: &Tensor, pad: i64) -> anyhow::Result<()> {
        let missing = self.expected(name)?.size()[1] - ids.size()[1];
        let filler = Tensor::full([ids.size()[0], missing.max(0)], pad, (Kind::Int64, ids.device()));
        self.compare(name, &Tensor::cat(&[ids, &filler], 1), Tolerance::Exact)
    }

    /// Closes the account.
    pub fn finish(self) -> Report {
        let forgotten = self.case.expected.keys().filter(|name| !self.compared.contains(*name));
        Report { case: self.case.name(), forgotten: forgotten.cloned().collect(), rows: self.rows }
    }
}

impl Report {
    /// The number of misses; an expected tensor that nothing compared is an error.
    pub fn verdict(&self) -> anyhow::Result<usize> {
        if self.rows.is_empty() {
            bail!("nothing was compared");
        }
        if !self.forgotten.is_empty() {
            bail!("nothing compares the expected tensors {:?}", self.forgotten);
        }
        Ok(self.rows.iter().filter(|row| !row.passed).count())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for Row { tensor, abs, rel, tolerance, passed } in &self.rows {
            let verdict = if *passed { "pass" } else { "MISS" };
            writeln!(out, "{:<20} {tensor:<48} abs {abs:<9.2e} rel {rel:<9.2e} {tolerance:<20} {verdict}", self.case)?;
        }
        Ok(())
    }
}
