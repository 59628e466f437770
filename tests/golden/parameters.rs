//! `parameter_count`: how many parameters a model of a public config has.

use quern_models::presets::Model;
use serde_json::Value;
use tch::Tensor;

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let model: Model = case.value("model")?;
    let parameters = model.parameters(&case.value::<Value>("config")?)?;
    checks.compare("parameters", &Tensor::from_slice(&[parameters]), Tolerance::Exact)
}
