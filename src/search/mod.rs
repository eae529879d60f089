//! (skeleton) search
