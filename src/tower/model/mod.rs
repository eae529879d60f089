//! What the engines share: the model that they load, and what they make of its states.

pub(crate) mod apart;
pub(crate) mod architecture;
pub(crate) mod encoder_config;
pub(crate) mod encoder_weights;
pub(crate) mod head;
pub(crate) mod layer_weights;
pub(crate) mod pool;
pub(crate) mod rope;
pub(crate) mod shape;
