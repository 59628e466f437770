//! Learning rates: per-step warm-up and cosine (BLIP-2 §4.1), and LAVIS' schedule, which steps its cosine per epoch.

use quern_recipes::Optimiser;

/// Learning rate at `step`, counted from 0, of `steps`: linear from `warmup_lr` to `peak_lr` over `warmup_steps`, then
/// half a cosine down to `min_lr`, which the last step has.
pub fn warmup_cosine(options: &Optimiser, step: u64, steps: u64) -> f64 {
    let Optimiser { peak_lr, warmup_lr, min_lr, warmup_steps, .. } = *options;
    if step < warmup_steps {
        return warmup_lr + (peak_lr - warmup_lr) * step as f64 / warmup_steps as f64;
    }
    let last = steps.saturating_sub(1);
    let span = last.saturating_sub(warmup_steps).max(1);
    let progress = ((step - warmup_steps) as f64 / span as f64).min(1.0);
    half_cosine(peak_lr, min_lr, progress)
}

/// LAVIS' `LinearWarmupCosineLRScheduler`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LavisSchedule {
    /// Learning rate after warm-up.
    pub init_lr: f64,
    /// Learning rate that the cosine falls towards.
    pub min_lr: f64,
    /// Learning rate at step 0 of epoch 0.
    pub warmup_lr: f64,
    /// Epochs of the cosine.
    pub max_epoch: u64,
    /// Steps of warm-up; it is cut off when epoch 0 is shorter.
    pub warmup_steps: u64,
}

impl LavisSchedule {
    /// Warm-up in epoch 0 alone; from epoch 1 on a cosine that moves once per epoch.
    pub fn learning_rate(&self, epoch: u64, step: u64) -> f64 {
        if epoch == 0 {
            let risen = (self.init_lr - self.warmup_lr) * step as f64 / self.warmup_steps.max(1) as f64;
            return (self.warmup_lr + risen).min(self.init_lr);
        }
        half_cosine(self.init_lr, self.min_lr, epoch as f64 / self.max_epoch as f64)
    }
}

/// From `high` at progress 0 to `low` at 1.
fn half_cosine(high: f64, low: f64, progress: f64) -> f64 {
    (high - low) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()) + low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_the_minimum() {
        let options = Optimiser { warmup_steps: 10, ..Optimiser::default() };
        let rate = |step| warmup_cosine(&options, step, 101);
        assert_eq!(rate(0), options.warmup_lr);
        assert_eq!(rate(10), options.peak_lr);
        assert!((rate(100) - options.min_lr).abs() < 1e-18);
        assert!((rate(55) - (options.peak_lr + options.min_lr) / 2.0).abs() < 1e-18);
        assert!((0..10).all(|step| rate(step) < rate(step + 1)));
        assert!((10..100).all(|step| rate(step) > rate(step + 1)));
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_never_leaves_it() {
        let options = Optimiser { warmup_steps: 100, ..Optimiser::default() };
        assert!((0..20).all(|step| warmup_cosine(&options, step, 20) < options.peak_lr));
    }
}
