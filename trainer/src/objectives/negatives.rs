//! Hard negatives for ITM: drawn from the ITC similarity softmax over the global batch, positives excluded.

use tch::{Kind, Tensor};

/// What LAVIS writes over a positive's similarity.
const EXCLUDED: f64 = -10_000.0;

/// Probability of each row of the global batch as a negative of each local row.
///
/// `similarities [B, G]` with the temperature applied; `positives [B, G]` true where the pair must not be drawn.
pub fn sampling_weights(similarities: &Tensor, positives: &Tensor) -> Tensor {
    similarities.detach().masked_fill(positives, EXCLUDED).softmax(-1, Kind::Float)
}

/// True where a local row and a row of the global batch are the same sample: `[B, G]`.
///
/// A batch that straddles two epochs may hold a row twice; both copies are positives of each other.
pub fn positives(local_rows: &Tensor, global_rows: &Tensor) -> Tensor {
    local_rows.unsqueeze(1).eq_tensor(&global_rows.unsqueeze(0))
}

/// One column per row of `weights [B, G]`, by the inverse of its cumulative sum at that row's uniform in [0, 1).
pub fn draw(weights: &Tensor, uniforms: &[f64]) -> Vec<i64> {
    let (rows, columns) = weights.size2().expect("[B, G]");
    assert_eq!(rows as usize, uniforms.len(), "a uniform per row");
    let flat = weights.detach().to_kind(Kind::Double).contiguous().view(-1);
    let weights = Vec::<f64>::try_from(flat).expect("a vector of doubles");
    weights.chunks(columns as usize).zip(uniforms).map(|(row, &uniform)| draw_one(row, uniform) as i64).collect()
}

fn draw_one(weights: &[f64], uniform: f64) -> usize {
    let target = uniform * weights.iter().sum::<f64>();
    let mut reached = 0.0;
    for (column, weight) in weights.iter().enumerate() {
        reached += weight;
        if reached > target {
            return column;
        }
    }
    // Rounding alone leads here: the last column that can be drawn at all.
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}
