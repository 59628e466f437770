//! What a recipe's precision means on a device.

use quern_recipes::Precision;
use tch::{Device, Kind};

/// The kind that a model of this precision computes in on `device`.
pub fn kind_of(precision: Precision, device: Device) -> Kind {
    match precision {
        Precision::Auto if device.is_cuda() => Kind::Half,
        Precision::Auto | Precision::Float => Kind::Float,
        Precision::Half => Kind::Half,
        Precision::BFloat16 => Kind::BFloat16,
    }
}
