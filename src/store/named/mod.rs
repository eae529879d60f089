//! Paths and files that a person names: in a pipeline file, in a recipe, on the command line.

mod file;
mod home;

pub use file::{
    Existing, check_there, open_regular, read_text, read_text_of, read_whole, write_whole,
    write_with,
};
pub use home::{expand, expand_text};
