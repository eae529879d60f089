//! (skeleton) schema
