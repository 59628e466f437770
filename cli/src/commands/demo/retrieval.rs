//! Retrieval on held-out scenes, as `quern-worker eval retrieval` measures it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::evaluation::{Estimate, evaluate, only};
use crate::outcome::Failure;

/// What `quern-worker eval retrieval --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Pairs.
    pub n: usize,
    /// Training steps; none: untrained.
    pub step: Option<u64>,
    /// An image looks for its text.
    pub image_to_text: Direction,
    /// A text looks for its image.
    pub text_to_image: Direction,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Share of queries whose answer is first.
    #[serde(rename = "R@1")]
    pub r1: Estimate,
    /// Among the first 5.
    #[serde(rename = "R@5")]
    pub r5: Estimate,
    /// Among the first 10.
    #[serde(rename = "R@10")]
    pub r10: Estimate,
    /// Rank of each query's answer, from 1.
    pub ranks: Vec<u32>,
}

impl Retrieval {
    /// Evaluates a checkpoint of the recipe in `recipe`, or its untrained model.
    pub async fn measure(recipe: &Path, checkpoint: Option<&str>, held_out: &str) -> Result<Self, Failure> {
        let recipe = recipe.display().to_string();
        let mut arguments = vec!["eval", "retrieval", "--rerank", "0", "--recipe", &recipe, "--dataset", held_out];
        if let Some(checkpoint) = checkpoint {
            arguments.extend(["--checkpoint", checkpoint]);
        }
        only(evaluate(arguments).await?)
    }
}

/// How much more often `better` has the answer first than `worse`, over the same queries: the mean of the paired
/// differences. Several directions of one pair are averaged first, since they are not independent.
pub fn paired_gain(better: &[&Direction], worse: &[&Direction]) -> Estimate {
    let hit = |direction: &Direction, query: usize| f64::from(u8::from(direction.ranks[query] == 1));
    let mean_hit = |directions: &[&Direction], query: usize| {
        directions.iter().map(|direction| hit(direction, query)).sum::<f64>() / directions.len() as f64
    };
    let queries = better.iter().chain(worse).map(|direction| direction.ranks.len()).min().unwrap_or(0);
    let differences: Vec<f64> = (0..queries).map(|query| mean_hit(better, query) - mean_hit(worse, query)).collect();
    let n = queries.max(2) as f64;
    let value = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|difference| (difference - value).powi(2)).sum::<f64>() / (n - 1.0);
    Estimate { value, standard_error: (variance / n).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(ranks: &[u32]) -> Direction {
        let none = Estimate { value: 0.0, standard_error: 0.0 };
        Direction { r1: none, r5: none, r10: none, ranks: ranks.to_vec() }
    }

    #[test]
    fn a_gain_is_a_mean_of_paired_differences() {
        let gain = paired_gain(&[&direction(&[1, 1, 1, 2])], &[&direction(&[2, 1, 2, 2])]);
        assert_eq!(gain.value, 0.5);
        assert!((gain.standard_error - (1.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn directions_of_one_pair_are_averaged_first() {
        let (all, none) = (direction(&[1, 1]), direction(&[3, 3]));
        let gain = paired_gain(&[&all, &none], &[&none, &none]);
        assert_eq!((gain.value, gain.standard_error), (0.5, 0.0));
    }

    #[test]
    fn the_workers_report_is_read() {
        let json = r#"{"n": 2, "step": 400,
            "image_to_text": {"R@1": {"value": 0.5, "standard_error": 0.1}, "R@5": {"value": 1.0, "standard_error": 0.0},
                "R@10": {"value": 1.0, "standard_error": 0.0}, "median_rank": 1.5, "ranks": [1, 2]},
            "text_to_image": {"R@1": {"value": 0.5, "standard_error": 0.1}, "R@5": {"value": 1.0, "standard_error": 0.0},
                "R@10": {"value": 1.0, "standard_error": 0.0}, "median_rank": 1.5, "ranks": [2, 1]}}"#;
        let report: Retrieval = serde_json::from_str(json).unwrap();
        assert_eq!((report.n, report.step, report.text_to_image.ranks), (2, Some(400), vec![2, 1]));
    }
}
