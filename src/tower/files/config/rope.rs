//! Rotary positions as a `config.json` has them, in the spelling of any release of transformers.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::tower::files::fields::Fields;

/// The base of all families but Gemma's.
const THETA: f64 = 10_000.0;

/// Rotary frequencies of a kind of layers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RopeFields {
    pub(super) theta: f64,
    /// Divisors, `[head_dim / 2]`.
    pub(super) factors: Option<Vec<f32>>,
    /// Factor of cosines and sines.
    pub(super) scale: f32,
    /// Longest position, where it is shorter than the model's.
    pub(super) longest: Option<usize>,
}

/// Those of layers that see everything.
///
/// # Errors
/// Unsupported for scaling that is not computed; Corrupt for an impossible number.
pub(super) fn full(fields: Fields<'_>, head_dim: usize) -> Result<RopeFields> {
    let all = scaling(fields)?;
    // Since version 5 of transformers each kind of layer may have parameters of its own.
    let rope = match all {
        Some(all) => all.object("full_attention")?.or(Some(all)),
        None => None,
    };
    read(fields, rope, fields.number("rope_theta")?.unwrap_or(THETA), head_dim)
}

/// The base of sliding layers that have their own.
///
/// # Errors
/// Unsupported where they are scaled, too.
pub(super) fn sliding(fields: Fields<'_>, head_dim: usize) -> Result<f64> {
    let own = match scaling(fields)? {
        Some(all) => all.object("sliding_attention")?,
        None => None,
    };
    let theta = fields.number("rope_local_base_freq")?.unwrap_or(THETA);
    let rope = read(fields, own, theta, head_dim)?;
    if rope.factors.is_some() {
        return Err(Error::unsupported("RoPE scaling of sliding layers is not supported"));
    }
    Ok(rope.theta)
}

fn scaling(fields: Fields<'_>) -> Result<Option<Fields<'_>>> {
    Ok(match fields.object("rope_parameters")? {
        Some(rope) => Some(rope),
        None => fields.object("rope_scaling")?,
    })
}

fn read(
    fields: Fields<'_>,
    rope: Option<Fields<'_>>,
    theta: f64,
    head_dim: usize,
) -> Result<RopeFields> {
    let nothing = Map::new();
    let rope = rope.unwrap_or(Fields(&nothing));
    for from in [fields, rope] {
        if from.number("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(Error::unsupported("partial_rotary_factor other than 1 is not supported"));
        }
    }
    let theta = rope.number("rope_theta")?.unwrap_or(theta);
    if !(theta.is_finite() && theta > 1.0) {
        return Err(Error::corrupt(format!("a RoPE base of {theta} is impossible")));
    }
    let plain = RopeFields { theta, factors: None, scale: 1.0, longest: None };
    let kind = ["rope_type", "type"].into_iter().find_map(|key| rope.get(key)?.as_str());
    let positive = |key: &str| match rope.number(key)? {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(Error::corrupt(format!("rope_scaling lacks a positive {key}"))),
    };
    let half = head_dim / 2;
    match kind.unwrap_or("default") {
        "default" => Ok(plain),
        "linear" => {
            Ok(RopeFields { factors: Some(vec![positive("factor")? as f32; half]), ..plain })
        }
        "llama3" => {
            let factor = positive("factor")?;
            let (low, high) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
            if high <= low {
                return Err(Error::corrupt("high_freq_factor is not above low_freq_factor"));
            }
            let trained = positive("original_max_position_embeddings")?;
            let divisor = |pair: usize| {
                let frequency = theta.powf(-2.0 * pair as f64 / head_dim as f64);
                // Periods of the rotation that fit in the length it was trained for.
                let turns = trained * frequency / std::f64::consts::TAU;
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            };
            Ok(RopeFields { factors: Some((0..half).map(divisor).collect()), ..plain })
        }
        "longrope" | "su" => longrope(fields, rope, plain, half),
        other => Err(Error::unsupported(format!(
            "RoPE scaling of type {other:?} is not supported (default, linear, llama3 and longrope are)"
        ))),
    }
}

/// LongRoPE (arXiv 2402.13753) up to the length that the model had at first: beyond, the divisors are others for all of
/// a text's tokens, and no vector of a longer text would be comparable with one of a shorter.
fn longrope(
    fields: Fields<'_>,
    rope: Fields<'_>,
    plain: RopeFields,
    half: usize,
) -> Result<RopeFields> {
    let original = "original_max_position_embeddings";
    let original = match rope.positive(original)? {
        Some(original) => original,
        None => fields.count(original)?,
    };
    let wrong = || Error::corrupt("short_factor of rope_scaling is not a list of positive numbers");
    let factors = rope.get("short_factor").and_then(Value::as_array).ok_or_else(wrong)?;
    let factors: Vec<f32> =
        factors.iter().filter_map(Value::as_f64).map(|factor| factor as f32).collect();
    if factors.len() != half || !factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
        return Err(wrong());
    }
    let stretched = match rope.number("factor")? {
        Some(factor) => factor,
        None => fields.count("max_position_embeddings")? as f64 / original as f64,
    };
    let scale = match rope.number("attention_factor")? {
        Some(scale) => scale,
        None if stretched <= 1.0 => 1.0,
        None => (1.0 + stretched.ln() / (original as f64).ln()).sqrt(),
    };
    let scale = scale as f32;
    Ok(RopeFields { factors: Some(factors), scale, longest: Some(original), ..plain })
}
