//! Sums of gradients by parameter.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Result as CandleResult, Tensor, TensorId, Var};

/// What a step has found so far for every parameter.
pub(super) struct Gradients {
    vars: Vec<Var>,
    at: HashMap<TensorId, usize>,
    sums: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Nothing yet, for these parameters.
    pub(super) fn new(vars: &[Var]) -> Self {
        let at = vars.iter().enumerate().map(|(at, var)| (var.id(), at)).collect();
        Self { vars: vars.to_vec(), at, sums: vec![None; vars.len()] }
    }

    /// Adds to the sum of a parameter.
    pub(super) fn add(&mut self, parameter: TensorId, gradient: Tensor) -> CandleResult<()> {
        let Some(at) = self.at.get(&parameter) else { return Ok(()) };
        let sum = &mut self.sums[*at];
        *sum = Some(match sum.take() {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        });
        Ok(())
    }

    /// [`Gradients::add`] of numbers, as many as the parameter has.
    pub(super) fn add_values(&mut self, parameter: &Tensor, values: Vec<f32>) -> CandleResult<()> {
        let gradient = Tensor::from_vec(values, parameter.shape(), parameter.device())?;
        self.add(parameter.id(), gradient)
    }

    /// Adds all that a graph gave.
    pub(super) fn add_all(&mut self, mut store: GradStore) -> CandleResult<()> {
        for var in self.vars.clone() {
            if let Some(gradient) = store.remove(&var) {
                self.add(var.id(), gradient.detach())?;
            }
        }
        Ok(())
    }

    /// In the order of the parameters; `None` for one that nothing depends on.
    pub(super) fn finish(self) -> Vec<Option<Tensor>> {
        self.sums
    }
}
