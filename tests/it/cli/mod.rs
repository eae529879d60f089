//! The program's commands, as an operator types them.

mod apart;
pub mod distill;
mod inputs;
mod pack;
mod pairs;
mod program;
mod run;
pub mod train;
mod train_inputs;
