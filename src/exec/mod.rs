//! (skeleton) exec
