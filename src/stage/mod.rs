//! (skeleton) stage
