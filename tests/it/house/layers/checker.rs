//! The checker itself: every rule must fail on a made-up breach and pass on its lawful twin.
use super::*;

fn whats(file: &str, source: &str) -> Vec<String> {
    check_source(file, source).into_iter().map(|b| format!("{}: {}", b.line, b.what)).collect()
}

#[track_caller]
fn assert_breach(file: &str, source: &str, expected: &str) {
    let found = whats(file, source);
    assert!(found.iter().any(|what| what.contains(expected)), "{found:?} lacks {expected}");
}

#[track_caller]
fn assert_lawful(file: &str, source: &str) {
    assert_eq!(whats(file, source), [""; 0]);
}

#[test]
fn imports_go_down_only() {
    assert_lawful("index/build.rs", "use crate::{error::Result, types::{Cancel, hash}};");
    assert_breach(
        "index/build.rs",
        "use crate::stage::Plan;",
        "1: `index` imports up from `stage`",
    );
    assert_breach("index/build.rs", "use crate::{error::Result,\n stage::Plan};", "2: `index`");
    assert_breach("types/note.rs", "fn f() -> crate::store::Root { x }", "up from `store`");
    assert_breach("error.rs", "use crate::types::NoteId;", "up from `types`");
    assert_breach("store/mod.rs", "pub(crate) use crate::cli;", "up from `cli`");
}

#[test]
fn imports_never_go_sideways() {
    assert_breach("index/mod.rs", "use crate::tower::Tower;", "sideways from `tower`");
    assert_breach("exec/tasks/local.rs", "use crate::serve::State;", "sideways from `serve`");
    assert_lawful("index/mod.rs", "use crate::index::build::Builder; use self::audit::walk;");
}

#[test]
fn super_is_resolved() {
    assert_breach("index/mod.rs", "use super::tower::Tower;", "sideways from `tower`");
    assert_breach("index/build.rs", "use super::super::stage::Plan;", "up from `stage`");
    assert_lawful("index/build.rs", "use super::audit::walk; use super::*;");
    assert_lawful("index/build.rs", "#[cfg(test)] mod tests { use super::super::Index; }");
    assert_breach(
        "index/build.rs",
        "mod inner { use super::super::super::stage::Plan; }",
        "up from `stage`",
    );
}

#[test]
fn comments_and_strings_do_not_count() {
    assert_lawful("index/mod.rs", "// use crate::stage::Plan;\n/* crate::cli /* nested */ */");
    assert_lawful("index/mod.rs", "const A: &str = \"crate::cli \\\" todo!()\";");
    assert_lawful("index/mod.rs", "const A: &str = r#\"use clap::Parser; \" x.unwrap()\"#;");
    assert_lawful("index/mod.rs", "fn f<'a>(x: &'a str) -> char { '\"' } // \"");
    assert_breach("index/mod.rs", "fn f<'a>() { let c = '\\''; crate::cli::main() }", "up from");
}

#[test]
fn fences_hold() {
    assert_breach("index/mod.rs", "use candle_core::Tensor;", "`candle_core` may be named only");
    assert_breach("corpus/mod.rs", "fn f() { candle_nn::ops::x() }", "`candle_nn`");
    assert_lawful("tower/forward.rs", "use candle_core::Tensor;");
    assert_lawful("train/mod.rs", "use candle_nn::Optimizer;");
    assert_breach("exec/tasks/local.rs", "use datafusion::prelude::*;", "`datafusion`");
    assert_breach("stage/mod.rs", "use datafusion_common::X;", "`datafusion_common`");
    assert_lawful("exec/ballista.rs", "use datafusion::prelude::*; use ballista::X;");
    assert_lawful("corpus/sql.rs", "use datafusion::{prelude::*, sql};");
    assert_breach("search/mod.rs", "use ::usearch::Index;", "`usearch`");
    assert_breach("search/mod.rs", "use usearch as u;", "`usearch`");
    assert_lawful("search/mod.rs", "use crate::index::usearch::Wrapper; let usearch = 1;");
    assert_breach("config/mod.rs", "#[derive(clap::Parser)] struct A;", "`clap`");
    assert_breach("stage/mod.rs", "use {indicatif::ProgressBar};", "`indicatif`");
    assert_lawful("stage/mod.rs", "use clapper::X;");
}

#[test]
fn panics_need_a_reason() {
    assert_breach("types/a.rs", "fn f() { x.unwrap(); }", "`.unwrap()` without");
    assert_lawful("types/a.rs", "fn f() {\n // n was checked above\n x.unwrap();\n}");
    assert_lawful("types/a.rs", "fn f() { x.unwrap(); } // n was checked above");
    assert_lawful("types/a.rs", "fn f() { x.unwrap_or(1); p.expect(b'(')?; }");
    assert_breach("types/a.rs", "fn f() { x.expect(\"ok\"); }", "`.expect()` must say why");
    assert_lawful("types/a.rs", "fn f() { x.expect(\"a digest has 32 bytes\"); }");
    assert_breach("types/a.rs", "fn f() { panic!(\"no\") }", "`panic!` without");
    assert_lawful("types/a.rs", "fn f() {\n// the match above is whole\nunreachable!()\n}");
    assert_lawful("types/a.rs", "fn f() { unreachable!(\"the match above is whole\") }");
    assert_breach("types/a.rs", "fn f() { unreachable!() }", "`unreachable!` without");
    assert_breach("types/a.rs", "// later\nfn f() { todo!() }", "`todo!`");
    assert_lawful("types/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { x.unwrap() } }");
    assert_breach("types/a.rs", "#[cfg(test)]\nmod t { }\nfn f() { x.unwrap() }", "3: ");
    assert_breach("types/a.rs", "#[cfg(not(test))]\nmod t { fn f() { x.unwrap() } }", "2: ");
    assert_lawful("types/a.rs", "#[test]\nfn f() { x.unwrap() }");
}

#[test]
fn a_module_declared_for_tests_is_test_code() {
    let sources = |declaration: &str| {
        [
            ("tower/mod.rs".to_owned(), declaration.to_owned()),
            ("tower/testing.rs".to_owned(), "fn f() { x.unwrap() }".to_owned()),
            ("tower/testing/deep.rs".to_owned(), "fn f() { x.unwrap() }".to_owned()),
        ]
    };
    assert_eq!(check_sources(&sources("#[cfg(test)]\npub(crate) mod testing;")), []);
    let elsewhere = "#[cfg(test)]\n#[path = \"testing.rs\"]\npub(crate) mod tests;";
    assert_eq!(check_sources(&sources(elsewhere)), []);
    assert_eq!(check_sources(&sources("mod testing;")).len(), 2);
    assert_eq!(check_sources(&sources("#[cfg(test)] mod other; mod testing;")).len(), 2);
}

#[test]
fn keys_are_spelled_by_the_layout_alone() {
    assert_breach("stage/a.rs", "fn f() { x.strip_prefix(\"runs/\"); }", "store::layout");
    assert_breach("snapshot/a.rs", "const A: &str = \"snapshots/{n}.json\";", "store::layout");
    assert_lawful("store/layout/keys.rs", "const A: &str = \"runs/\";");
    assert_lawful("stage/a.rs", "#[cfg(test)] mod tests { const A: &str = \"runs/x\"; }");
    assert_lawful("stage/a.rs", "const A: &str = \"no runs/ here\"; // runs/");
}

#[test]
fn no_circle_inside_a_folder() {
    let circles = |sources: &[(&str, &str)]| -> Vec<String> {
        let sources: Vec<(String, String)> = sources
            .iter()
            .map(|(file, source)| ((*file).to_owned(), (*source).to_owned()))
            .collect();
        check_sources(&sources).into_iter().map(|breach| breach.what).collect()
    };
    let (a, b) = ("use super::b::B; pub struct A;", "use crate::index::a::A; pub struct B;");
    let found = circles(&[("index/a.rs", a), ("index/b.rs", b)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("a -> b -> a"), "{found:?}");
    assert_eq!(circles(&[("index/a.rs", a), ("index/b.rs", "pub struct B;")]), [""; 0]);

    // What `mod.rs` passes on counts for the file that defines it, and passing on is not an import.
    let face = ("index/mod.rs", "mod a; mod b; pub use a::A; pub(crate) use self::b::B as Bee;");
    let b = ("index/b.rs", "pub struct B;");
    assert_eq!(circles(&[face, ("index/a.rs", "use crate::index::Bee;"), b]), [""; 0]);
    let found = circles(&[
        face,
        ("index/a.rs", "fn f() { crate::index::Bee::new() }"),
        ("index/b.rs", "use super::A;"),
    ]);
    assert!(found.len() == 1 && found[0].contains("a -> b -> a"), "{found:?}");
    // A definition in `mod.rs` makes it a file like the others.
    let found = circles(&[
        ("index/mod.rs", "mod a; use a::A; pub struct Face(A);"),
        ("index/a.rs", "use super::Face; pub struct A;"),
    ]);
    assert!(found.len() == 1 && found[0].contains("a -> mod -> a"), "{found:?}");

    // A folder inside a folder is one room of it; tests do not count.
    let found = circles(&[
        ("index/deep/one.rs", "use crate::index::b::B;"),
        ("index/deep/two.rs", "pub struct Two;"),
        ("index/b.rs", "use super::deep::two::Two;"),
    ]);
    assert!(found.len() == 1 && found[0].contains("b -> deep -> b"), "{found:?}");
    let test = "pub struct B; #[cfg(test)] mod tests { use super::super::a::A; }";
    let a = "use super::b::B; pub struct A;";
    assert_eq!(circles(&[("index/a.rs", a), ("index/b.rs", test)]), [""; 0]);
}

#[test]
fn training_waits_for_a_device_in_one_place() {
    for read in ["t.to_scalar::<f32>()", "t.and_then(Tensor::to_vec1)", "t.to_device(&Device::Cpu)"]
    {
        let source = format!("fn f() {{ {read}; }}");
        assert_breach("train/optimizer.rs", &source, "only train/tensors waits for a device");
        assert_lawful("train/tensors.rs", &source);
        assert_lawful("tower/tensor.rs", &source);
        assert_lawful("train/optimizer.rs", &format!("#[cfg(test)] mod tests {{ {source} }}"));
    }
    assert_lawful("train/step.rs", "fn f() { t.to_device(device); t.to_vec(); } // to_scalar");
}

#[test]
fn unsafe_needs_safety() {
    assert_breach("index/a.rs", "fn f() { unsafe { g() } }", "SAFETY");
    assert_lawful("index/a.rs", "fn f() {\n // SAFETY: g has no precondition.\n unsafe { g() }\n}");
    assert_breach("index/a.rs", "unsafe impl Send for A {}", "SAFETY");
}

#[test]
fn only_the_command_line_prints() {
    assert_breach("exec/tasks/local.rs", "fn f() { println!(\"x\") }", "only `cli` prints");
    assert_lawful("cli/mod.rs", "fn f() { eprintln!(\"x\") }");
}

#[test]
fn files_stay_small_and_modules_have_a_layer() {
    assert_breach("index/a.rs", &"fn f() {}\n".repeat(501), "501 lines");
    assert_lawful("index/a.rs", &"fn f() {}\n".repeat(500));
    assert_breach("misc/a.rs", "fn f() {}", "`misc` has no layer");
    assert_breach("helpers.rs", "fn f() {}", "`helpers` has no layer");
}

#[test]
fn top_level_and_machine_paths() {
    assert_eq!(check_top_level(["src", ".ci", "Cargo.toml"]), []);
    assert_eq!(check_top_level(["src", "scripts"]).len(), 1);
    assert_eq!(check_top_level([".env"]).len(), 1);
    for path in machine_paths() {
        assert_eq!(check_text("a.toml", &format!("root = \"{path}x\"")).len(), 1);
        assert_eq!(check_text("a.toml", &format!("root = \"..{path}x\"")), []);
    }
}
