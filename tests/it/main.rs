//! All integration tests: one binary, so that the dependencies are linked once.

mod index;
