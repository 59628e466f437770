//! `optimiser_schedule`: LAVIS' learning rates, weight-decay groups, AdamW steps.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use quern_models::qformer::{QFormer, QFormerConfig};
use quern_trainer::optimiser::{AdamW, AdamWOptions, decays};
use quern_trainer::schedule::LavisSchedule;
use serde::Deserialize;
use tch::{Device, Tensor};

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

const RATES: Tolerance = Tolerance::Elements { rel: 1e-12, abs: 0.0 };
const PARAMETERS: Tolerance = Tolerance::Elements { rel: 1e-6, abs: 1e-6 };
/// The groups of the training that quern does: the image encoder is frozen.
const FROZEN_ENCODER: &str = "freeze_vit=True,lr_layer_decay=1.0";

#[derive(Deserialize)]
struct Schedule {
    init_lr: f64,
    min_lr: f64,
    warmup_lr: f64,
    max_epoch: u64,
    warmup_steps: u64,
}

#[derive(Deserialize)]
struct AdamWCase {
    lr_per_step: Vec<f64>,
    betas: Vec<(f64, f64)>,
    eps: f64,
    weight_decay: f64,
    decay_rule: String,
    steps: usize,
}

#[derive(Deserialize)]
struct Group {
    weight_decay: f64,
    params: Vec<String>,
}

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    schedules(case, checks)?;
    groups(case)?;
    adamw(case, checks)
}

fn schedules(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    for (name, schedule) in case.value::<BTreeMap<String, Schedule>>("schedules")? {
        let Schedule { init_lr, min_lr, warmup_lr, max_epoch, warmup_steps } = schedule;
        let schedule = LavisSchedule { init_lr, min_lr, warmup_lr, max_epoch, warmup_steps };
        let rows: Vec<Vec<i64>> = Vec::try_from(case.input(&format!("{name}/epoch_step"))?)?;
        let rates: Vec<f64> = rows.iter().map(|row| schedule.learning_rate(row[0] as u64, row[1] as u64)).collect();
        checks.compare(&format!("{name}/lr"), &Tensor::from_slice(&rates), RATES)?;
    }
    Ok(())
}

/// The groups are lists of names, not tensors: any difference is an error.
fn groups(case: &Case) -> anyhow::Result<()> {
    let path = case.folder.join("param_groups.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let all: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text)?;
    let expected = all.get(FROZEN_ENCODER).with_context(|| format!("{} has no {FROZEN_ENCODER:?}", path.display()))?;
    let expected: Vec<Group> = serde_json::from_value(expected.clone())?;
    let config: QFormerConfig = case.value("model")?;
    let model = QFormer::init(&config, 0, Device::Cpu)?;
    let named = |decayed: bool| -> Vec<&str> {
        let parameters = model.parameters().iter();
        parameters.filter(|(name, tensor)| decays(name, tensor.dim()) == decayed).map(|(name, _)| name).collect()
    };
    let count: usize = expected.iter().map(|group| group.params.len()).sum();
    ensure!(count == model.parameters().len(), "LAVIS has {count} parameters, quern {}", model.parameters().len());
    for group in &expected {
        let found = named(group.weight_decay > 0.0);
        ensure!(found == group.params, "group of decay {}: {found:?}, expected {:?}", group.weight_decay, group.params);
    }
    Ok(())
}

fn adamw(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let AdamWCase { lr_per_step, betas, eps, weight_decay, decay_rule, steps } = case.value("adamw")?;
    ensure!(decay_rule == "ndim>1 decays", "decay_rule is {decay_rule:?}; only \"ndim>1 decays\" is known");
    ensure!(lr_per_step.len() == steps, "{steps} steps, but {} learning rates", lr_per_step.len());
    for (beta1, beta2) in betas {
        let options = AdamWOptions { beta1, beta2, epsilon: eps, weight_decay };
        let names: Vec<String> =
            (0..).map(|index| format!("adamw/param{index}")).take_while(|name| case.input(name).is_ok()).collect();
        let parameters = names.iter().map(|name| Ok(case.input(name)?.copy())).collect::<anyhow::Result<Vec<_>>>()?;
        let grouped = names.iter().zip(&parameters).map(|(name, tensor)| (name.as_str(), tensor, tensor.dim() > 1));
        let mut optimiser = AdamW::with_groups(options, grouped);
        for (step, &learning_rate) in lr_per_step.iter().enumerate() {
            let gradients = (0..parameters.len())
                .map(|index| Ok(case.input(&format!("adamw/step{step}/grad{index}"))?.shallow_clone()))
                .collect::<anyhow::Result<Vec<_>>>()?;
            optimiser.step(&gradients, learning_rate);
            for (index, parameter) in parameters.iter().enumerate() {
                checks.compare(&format!("adamw_b2_{beta2}/step{step}/param{index}"), parameter, PARAMETERS)?;
            }
        }
        for (index, slot) in optimiser.slots().iter().enumerate() {
            checks.compare(&format!("adamw_b2_{beta2}/exp_avg{index}"), &slot.exp_avg, PARAMETERS)?;
            checks.compare(&format!("adamw_b2_{beta2}/exp_avg_sq{index}"), &slot.exp_avg_sq, PARAMETERS)?;
        }
    }
    Ok(())
}
