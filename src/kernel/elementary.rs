//! Functions of one number that become vector code inside a [`Kernel`](super::simd::Kernel); the standard library's are a call each.

/// The function in the middle of a layer's second half: on the one product, or on the gate, `f(gate) * up`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x` times the normal distribution up to `x`.
    Gelu,
    /// The same by a hyperbolic tangent.
    GeluTanh,
    /// The positive part.
    Relu,
    /// `x` times the logistic function of `x`.
    Silu,
}

/// e^x within 2 ulp.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: a number this large has no room for a fraction, so a sum with it is rounded to a whole number, which then
    /// stands in its lowest bits. Converting to an integer instead keeps compilers from making vector code.
    const WHOLE: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    // ln 2 in two parts, so that the remainder keeps its bits.
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    value * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// The normal distribution up to x, and its density there, both within 2e-7: Abramowitz and Stegun 7.1.26.
#[inline(always)]
pub fn normal(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let p = 1.061_405_4 * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let beyond = 0.5 * p * t * bell;
    let up_to = if x < 0.0 { beyond } else { 1.0 - beyond };
    (up_to, bell * 0.398_942_3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_has_no_numbers_for_what_is_none() {
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY) > 1e38);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_is_accurate() {
        for at in -8600..8700 {
            let x = at as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "{x}");
        }
    }

    #[test]
    fn the_normal_distribution_is_accurate() {
        let bell = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        // The integral of the density from -12 on, where it is 1e-33, by Simpson's rule: its error is below 1e-9.
        let (mut exact, mut last) = (0.0, -12.0);
        for at in -1200..1200 {
            let x = at as f32 * 0.01;
            let (up_to, density) = normal(x);
            let wide = f64::from(x);
            exact +=
                (wide - last) / 6.0 * (bell(last) + 4.0 * bell((last + wide) / 2.0) + bell(wide));
            last = wide;
            assert!((f64::from(up_to) - exact).abs() < 3e-7, "{x}: {up_to} {exact}");
            assert!((f64::from(density) - bell(wide)).abs() < 3e-7, "{x}: {density}");
        }
    }
}
