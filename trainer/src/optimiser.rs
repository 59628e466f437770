//! AdamW (Loshchilov, Hutter 2019) as `torch.optim.AdamW` computes it, with LAVIS' parameter groups.

use quern_recipes::Optimiser;
use tch::{Kind, Tensor, no_grad};

/// Whether a parameter is decayed (LAVIS `Blip2Base.get_optimizer_params`): not vectors, not biases. The temperature,
/// which has no dimension, is.
pub fn decays(name: &str, dimensions: usize) -> bool {
    dimensions != 1 && !name.ends_with(".bias")
}

/// AdamW's hyper-parameters but for the learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the mean.
    pub beta1: f64,
    /// Decay of the mean square.
    pub beta2: f64,
    /// Added to the root, after bias correction.
    pub epsilon: f64,
    /// Decoupled weight decay of the parameters that decay.
    pub weight_decay: f64,
}

impl From<&Optimiser> for AdamWOptions {
    fn from(recipe: &Optimiser) -> Self {
        let Optimiser { beta1, beta2, epsilon, weight_decay, .. } = *recipe;
        AdamWOptions { beta1, beta2, epsilon, weight_decay }
    }
}

/// The optimiser's state: both moments of every parameter and the number of updates.
pub struct AdamW {
    options: AdamWOptions,
    updates: i64,
    slots: Vec<Slot>,
}

/// One parameter's state.
pub struct Slot {
    /// The parameter's name.
    pub name: String,
    /// Exponential mean of the gradient.
    pub exp_avg: Tensor,
    /// Exponential mean of its square.
    pub exp_avg_sq: Tensor,
    weight_decay: f64,
    parameter: Tensor,
}

impl AdamW {
    /// For `parameters`, which it writes into; their order is that of the gradients.
    pub fn new<'a>(options: AdamWOptions, parameters: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Self {
        let grouped = |(name, tensor): (&'a str, &'a Tensor)| (name, tensor, decays(name, tensor.dim()));
        Self::with_groups(options, parameters.into_iter().map(grouped))
    }

    /// As [`AdamW::new`], with the caller's choice of which parameters decay.
    pub fn with_groups<'a>(
        options: AdamWOptions,
        parameters: impl IntoIterator<Item = (&'a str, &'a Tensor, bool)>,
    ) -> Self {
        let slots = parameters.into_iter().map(|(name, parameter, decays)| Slot {
            name: name.to_string(),
            exp_avg: parameter.detach().zeros_like(),
            exp_avg_sq: parameter.detach().zeros_like(),
            weight_decay: if decays { options.weight_decay } else { 0.0 },
            parameter: parameter.detach(),
        });
        AdamW { options, updates: 0, slots: slots.collect() }
    }

    /// One update with `gradients`, in the parameters' order.
    pub fn step(&mut self, gradients: &[Tensor], learning_rate: f64) {
        assert_eq!(gradients.len(), self.slots.len(), "a gradient per parameter");
        self.updates += 1;
        let AdamWOptions { beta1, beta2, epsilon, .. } = self.options;
        let correction1 = 1.0 - beta1.powi(self.updates as i32);
        let correction2_root = (1.0 - beta2.powi(self.updates as i32)).sqrt();
        no_grad(|| {
            for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
                if slot.weight_decay != 0.0 {
                    slot.parameter *= 1.0 - learning_rate * slot.weight_decay;
                }
                let _ = slot.exp_avg.lerp_(gradient, 1.0 - beta1);
                let _ = slot.exp_avg_sq.g_mul_scalar_(beta2).addcmul_(&(gradient * (1.0 - beta2)), gradient);
                let denominator = slot.exp_avg_sq.sqrt() / correction2_root + epsilon;
                let _ = slot.parameter.addcdiv_(&(&slot.exp_avg * (-learning_rate / correction1)), &denominator);
            }
        });
    }

    /// Updates made so far.
    pub fn updates(&self) -> i64 {
        self.updates
    }

    /// Every parameter's state, in order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Takes up a saved state: `moments(name)` gives the parameter's two moments.
    pub fn restore<E>(
        &mut self,
        updates: i64,
        mut moments: impl FnMut(&str, &Tensor) -> Result<(Tensor, Tensor), E>,
    ) -> Result<(), E> {
        for slot in &mut self.slots {
            let (exp_avg, exp_avg_sq) = moments(&slot.name, &slot.parameter)?;
            (slot.exp_avg, slot.exp_avg_sq) = (exp_avg.to_kind(Kind::Float), exp_avg_sq.to_kind(Kind::Float));
        }
        self.updates = updates;
        Ok(())
    }
}
