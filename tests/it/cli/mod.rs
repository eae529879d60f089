//! The program's commands, as an operator types them.

mod apart;
mod compare;
mod distill;
mod doctor;
mod explain;
mod golden;
mod init;
mod inputs;
mod messages;
mod named;
mod pack;
mod pairs;
mod program;
mod rollback;
mod run;
mod served;
mod sets;
mod stdout;
mod taught;
mod train;
mod train_inputs;
mod whiten;
