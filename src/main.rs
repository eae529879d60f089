//! The `scalingnote` program; everything is in the library's `cli` module.

fn main() -> std::process::ExitCode {
    scalingnote::cli::main()
}
