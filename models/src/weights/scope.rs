//! How a model asks for its tensors: a source, and a name prefix in it.

use tch::Tensor;

use super::WeightsError;

/// Where a model's tensors come from: files, an initialiser, a recorder.
pub trait TensorSource {
    /// The tensor `name` of `shape`; each name is taken once.
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError>;
    /// The tensors `names`, each of `shape`, one after the other along the first dimension.
    fn stacked(&self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let parts = names.iter().map(|name| self.tensor(name, shape)).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&parts, 0))
    }
    /// Whether the source holds `name` at all (an initialiser says yes to the native names only).
    fn has(&self, name: &str) -> bool;
    /// Accounts for a stored copy `name` of the tensor `tied_to`, whose value is `value`; absent is fine, different is an error.
    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError>;
}

/// A name prefix in a source.
#[derive(Clone)]
pub struct Scope<'a> {
    source: &'a dyn TensorSource,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// The whole source.
    pub fn root(source: &'a dyn TensorSource) -> Self {
        Scope { source, prefix: String::new() }
    }

    /// The names below `name` (`"a.b"` descends twice; an empty name stays here).
    pub fn sub(&self, name: impl AsRef<str>) -> Scope<'a> {
        Scope { source: self.source, prefix: self.full(name.as_ref()) }
    }

    /// The `index`-th element of the list `name`, as in `layers.3`.
    pub fn item(&self, name: &str, index: usize) -> Scope<'a> {
        self.sub(format!("{name}.{index}"))
    }

    /// Takes the tensor `name` of `shape`.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.source.tensor(&self.full(name), shape)
    }

    /// Takes the tensors `names`, each of `shape`, stacked along the first dimension, so that one product serves all.
    pub fn stacked(&self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let names: Vec<String> = names.iter().map(|name| self.full(name)).collect();
        self.source.stacked(&names, shape)
    }

    /// Whether `name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&self.full(name))
    }

    /// See [`TensorSource::tied`]; both names are relative to the source's root.
    pub fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        self.source.tied(&self.full(name), tied_to, value)
    }

    /// The full name of `name` in the source.
    pub fn full(&self, name: &str) -> String {
        match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => name.to_string(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}.{name}", self.prefix),
        }
    }
}
