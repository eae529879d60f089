//! The `scalingnote` program; everything is in the library's `cli` module.

fn main() -> std::process::ExitCode {
    // Here and not in the library: another commit then compiles these lines again, and nothing else.
    scalingnote::cli::main(option_env!("SCALINGNOTE_COMMIT"))
}
