//! The program's commands, as an operator types them.

mod apart;
mod distill;
mod inputs;
mod messages;
mod pack;
mod pairs;
mod program;
mod rollback;
mod run;
mod sets;
mod train;
mod train_inputs;
