//! The coverage-guided fuzzer: libFuzzer over the same targets as the mutation tests. tests/fuzz/README.md says how to run
//! it.
//!
//! `SCALINGNOTE_FUZZ` names the target; with `SCALINGNOTE_FUZZ_SEEDS` its valid files are first written into that folder.

#![no_main]

#[expect(dead_code, unused_imports, reason = "the mutation tests use the rest")]
mod targets;

use std::cell::RefCell;

use libfuzzer_sys as _;

use targets::{Target, Watch, fuzz_one, target};

#[global_allocator]
static WATCH: Watch = Watch;

fn chosen() -> Box<dyn Target> {
    let kind = std::env::var("SCALINGNOTE_FUZZ").expect("SCALINGNOTE_FUZZ names a target");
    target(&kind)
}

/// libFuzzer calls it before it reads the corpus. The crate's own would stop at every panic, also at those that are
/// turned into errors at a border.
// SAFETY: the name is libFuzzer's, and it is defined once.
#[unsafe(export_name = "LLVMFuzzerInitialize")]
pub extern "C" fn initialize(_: *const i32, _: *const *const *const u8) -> i32 {
    if let Some(folder) = std::env::var_os("SCALINGNOTE_FUZZ_SEEDS") {
        for (at, seed) in chosen().seeds().iter().enumerate() {
            let path = std::path::Path::new(&folder).join(format!("seed-{at}"));
            std::fs::write(path, seed).expect("the folder of the corpus can be written");
        }
    }
    // Panics that are caught say nothing; the one that is not is told by fuzz_one's caller below.
    std::panic::set_hook(Box::new(|_| {}));
    0
}

// SAFETY: the name is the one that libfuzzer-sys looks for, and it is defined once.
#[unsafe(no_mangle)]
#[expect(improper_ctypes_definitions, reason = "both sides are Rust, as libfuzzer-sys has it")]
pub extern "C" fn rust_fuzzer_test_input(input: &[u8]) -> i32 {
    thread_local! {
        static TARGET: RefCell<Option<Box<dyn Target>>> = const { RefCell::new(None) };
    }
    TARGET.with(|slot| {
        let mut slot = slot.borrow_mut();
        let target = slot.get_or_insert_with(chosen);
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            fuzz_one(target.as_mut(), input);
        }));
        if let Err(words) = judged {
            let said = words.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| words.downcast_ref::<&str>().copied());
            eprintln!("FOUND: {}", said.unwrap_or("a panic"));
            std::process::abort();
        }
    });
    0
}
