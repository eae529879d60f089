//! Paired bootstrap: is one system better than another, or were the queries kind?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::report::Evaluation;
use crate::dataset::SplitMix64;
use crate::error::{Error, Result};

/// Differences of a query below this are the digits that writing and reading lose.
const ROUNDING: f64 = 1e-12;

/// How the interval is taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapOptions {
    /// Resamples of the queries.
    pub samples: usize,
    /// Probability mass inside the interval.
    pub confidence: f64,
    /// Decides which queries are drawn.
    pub seed: u64,
}

impl Default for BootstrapOptions {
    fn default() -> Self {
        Self { samples: 10_000, confidence: 0.95, seed: 42 }
    }
}

impl BootstrapOptions {
    fn check(&self) -> Result<()> {
        if self.samples == 0 || !(0.0..1.0).contains(&self.confidence) {
            return Err(Error::config(
                "bootstrap needs samples above 0 and a confidence in [0, 1)",
            ));
        }
        Ok(())
    }
}

/// One measure of two systems over the same queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Measure name, as [`super::Measures::named`] gives it.
    pub measure: String,
    /// Mean of the first system.
    pub first: f64,
    /// Mean of the second system.
    pub second: f64,
    /// `second - first`.
    pub difference: f64,
    /// Lower end of the percentile interval of the difference.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Whether the interval leaves out 0.
    pub significant: bool,
}

/// Refuses systems that cannot be compared.
///
/// # Errors
/// Input, where the two did not judge the same queries, or one alone ignores identical ids.
pub fn check_same_queries(first: &Evaluation, second: &Evaluation) -> Result<()> {
    let same = first.per_query.len() == second.per_query.len()
        && first.per_query.iter().zip(&second.per_query).all(|(a, b)| a.query == b.query);
    let (one, other) = (&first.system, &second.system);
    if !same || first.per_query.is_empty() {
        return Err(Error::input(format!("{one} and {other} did not judge the same queries")));
    }
    if first.ignore_identical_ids != second.ignore_identical_ids {
        return Err(Error::input(format!(
            "only one of {one} and {other} ignores documents with the query's own id: evaluate both with \
             --ignore-identical-ids, or both without"
        )));
    }
    Ok(())
}

/// The mean of paired differences with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// Mean of `second - first`.
    pub difference: f64,
    /// Lower end of the percentile interval of the mean.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One measure of two systems over the same queries, in the same order: the mean difference, and its percentile
/// interval over queries drawn with replacement. The same options give the same draws.
///
/// # Errors
/// Config for options out of range; Internal unless both have a value for each of at least one query.
pub fn paired(first: &[f64], second: &[f64], options: &BootstrapOptions) -> Result<Paired> {
    options.check()?;
    let n = first.len();
    if n == 0 || n != second.len() {
        return Err(Error::internal("two systems without a value for each query cannot be paired"));
    }
    // Equal rankings differ by the last digits that a file keeps, and nobody means those.
    let differences = first.iter().zip(second).map(|(a, b)| b - a);
    let differences: Vec<f64> =
        differences.map(|d| if d.abs() < ROUNDING { 0.0 } else { d }).collect();
    let mut rng = SplitMix64::new(options.seed);
    let mut means: Vec<f64> = (0..options.samples)
        .map(|_| (0..n).map(|_| differences[rng.below(n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - options.confidence) / 2.0;
    let quantile = |p: f64| means[((p * (means.len() - 1) as f64).round()) as usize];
    let difference = differences.iter().sum::<f64>() / n as f64;
    Ok(Paired { difference, low: quantile(tail), high: quantile(1.0 - tail) })
}

/// Compares two systems measure by measure by resampling queries with replacement, both systems on the same draw.
///
/// # Errors
/// Input, where the two did not judge the same queries; Config, for options out of range.
pub fn compare(
    first: &Evaluation,
    second: &Evaluation,
    options: &BootstrapOptions,
) -> Result<Vec<Comparison>> {
    options.check()?;
    check_same_queries(first, second)?;
    let names = first.mean.named().map(|(name, _)| name);
    let mut rows = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let values = |of: &Evaluation| -> Vec<f64> {
            of.per_query.iter().map(|query| query.measures.named()[at].1).collect()
        };
        let Paired { difference, low, high } = paired(&values(first), &values(second), options)?;
        rows.push(Comparison {
            measure: name.to_owned(),
            first: first.mean.named()[at].1,
            second: second.mean.named()[at].1,
            difference,
            low,
            high,
            significant: low > 0.0 || high < 0.0,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::measures::{Measures, QueryMeasures};
    use super::*;

    fn evaluation(values: &[f64]) -> Evaluation {
        let per_query: Vec<QueryMeasures> = values
            .iter()
            .enumerate()
            .map(|(at, v)| QueryMeasures {
                query: format!("{at:03}"),
                measures: Measures { ndcg_10: *v, ..Measures::default() },
            })
            .collect();
        Evaluation {
            set: "s".into(),
            system: "x".into(),
            queries: values.len(),
            without_relevant: 0,
            ignore_identical_ids: false,
            mean: Measures::mean(per_query.iter().map(|q| &q.measures)),
            contrastive_entropy: None,
            per_query,
        }
    }

    #[test]
    fn the_interval_has_the_width_theory_gives() {
        let mut rng = SplitMix64::new(1);
        let first: Vec<f64> = (0..400).map(|_| rng.unit()).collect();
        let second: Vec<f64> = first.iter().map(|v| v + 0.02 + 0.1 * rng.normal()).collect();
        let against = |second: &[f64]| {
            compare(&evaluation(&first), &evaluation(second), &BootstrapOptions::default())
        };
        let rows = against(&second).unwrap();
        let row = &rows[0];
        // Standard error 0.1 / sqrt(400) = 0.005; the interval is +- 1.96 of it.
        assert!(((row.high - row.low) - 2.0 * 1.96 * 0.005).abs() < 0.002, "{row:?}");
        assert!(row.low < row.difference && row.difference < row.high && row.significant);
        assert_eq!(rows, against(&second).unwrap());
        assert!(!against(&first).unwrap()[0].significant);
        let rounded: Vec<f64> = first.iter().map(|v| v + 1e-17 + v * 1e-16).collect();
        assert!(!against(&rounded).unwrap()[0].significant);
        assert!(against(&first[1..]).is_err());
        let ignoring = Evaluation { ignore_identical_ids: true, ..evaluation(&second) };
        let said = check_same_queries(&evaluation(&first), &ignoring).unwrap_err().to_string();
        assert!(said.contains("--ignore-identical-ids"), "{said}");
    }
}
