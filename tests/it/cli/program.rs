//! The program itself: exit codes, what goes to stdout and stderr, signals.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::program::program;

fn pipeline() -> String {
    PipelineFile::titles("notes.csv", "out").text()
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.toml"), pipeline()).unwrap();
    std::fs::write(folder.path().join("bad.toml"), pipeline().replace("model", "modle")).unwrap();
    std::fs::write(folder.path().join("notes.csv"), "id,title\n").unwrap();
    folder
}

#[test]
fn exit_codes_and_streams() {
    let folder = folder();
    // (arguments, exit code, a piece of stdout, a piece of stderr)
    for (line, code, out, err) in [
        ("config check p.toml", 0, "p.toml is fine: 1 table, tower fake:8", ""),
        (
            "config check bad.toml",
            2,
            "",
            "error: bad.toml:9:1: unknown key `modle` in [tower]; did you mean `model`?",
        ),
        ("config check none.toml", 2, "", "caused by: No such file"),
        (
            "config show p.toml --set tower.max_tokens=9",
            0,
            "max_tokens = 9  # --set tower.max_tokens",
            "",
        ),
        ("run p.toml --deadline 5", 2, "", "write e.g. 90s, 45m, 2h or 1h30m"),
        ("run p.toml --override recall", 2, "", "--reason"),
        (
            "run p.toml --override recall --override drift --reason x",
            2,
            "",
            "give each override its own reason",
        ),
        ("run p.toml --override recal --reason x", 2, "", "recall"),
        ("run bad.toml", 2, "", "unknown key `modle`"),
        ("plan bad.toml", 2, "", "unknown key `modle`"),
        ("task p.toml --task a", 2, "", "--plan"),
        ("purge p.toml --note-id 42", 2, "", "`42` is not a note id: i:42 is the integer 42"),
        ("purge p.toml", 2, "", "no note is named"),
        ("snapshot list nowhere", 1, "", "there is no root nowhere"),
        ("search notes.csv x", 1, "", "notes.csv is a file; name the folder of a root"),
        ("search p.toml x --snapshot newest", 2, "", "expected a snapshot number"),
        ("snapshot diff p.toml one 2", 2, "", "expected a snapshot number"),
        ("run p.toml --deadline 1ms", 2, "", "`1ms` has milliseconds"),
        ("search nowhere text -k 0", 2, "", "0 is not in 1..=10000"),
        ("frobnicate", 2, "", "unrecognized subcommand"),
        ("", 2, "", "Usage: scalingnote"),
        ("--version", 0, concat!("scalingnote ", env!("CARGO_PKG_VERSION")), ""),
        ("--help", 0, "Exit codes:", ""),
        ("schema nothing", 2, "", "possible values"),
    ] {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = run(folder.path(), &arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}\n{stdout}\n{stderr}");
        assert!(stdout.contains(out), "{line}\n{stdout}");
        assert!(stderr.contains(err), "{line}\n{stderr}");
        if code == 0 {
            assert!(stderr.is_empty(), "{line}: a success says nothing on stderr\n{stderr}");
        } else {
            assert!(stdout.is_empty(), "{line}: a failure says nothing on stdout\n{stdout}");
            assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
        }
    }
    assert!(!folder.path().join("out").exists(), "nothing of this writes");
}

/// A file may be checked where it does not run, so what is missing here is a warning.
#[test]
fn a_check_names_what_a_run_here_would_miss() {
    let folder = folder();
    for (set, missing) in [
        ("tower.model=./gone.gguf", Some("[tower]: model \"./gone.gguf\"")),
        ("tower.adapter=gone", Some("[tower]: adapter: there is nothing at")),
        ("tower.model=hf:no/such", None),
        ("corpus.tables=[{name=\"notes\",uri=\"gone.csv\"}]", Some("gone.csv")),
    ] {
        let output = run(folder.path(), &["config", "check", "p.toml", "--set", set]);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{set}\n{stdout}\n{stderr}");
        match missing {
            Some(missing) => assert!(stderr.contains(missing), "{set}\n{stderr}"),
            None => assert!(stderr.is_empty(), "{set}\n{stderr}"),
        }
    }
    // What no machine could do is an error.
    std::fs::write(folder.path().join("there"), "").unwrap();
    let output =
        run(folder.path(), &["config", "check", "p.toml", "--set", "tower.tokenizer=there"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("a fake tower takes neither"));
}

#[test]
fn a_file_is_upgraded_where_it_lies_or_elsewhere() {
    let folder = folder();
    let path = folder.path();
    let gpu = pipeline()
        .replace("[publish]", "[encode] # on the card\ndevices = [\"cuda:0\"]\n[publish]");
    std::fs::write(path.join("gpu.toml"), &gpu).unwrap();
    let says = |line: &str, code: i32, pieces: &[&str]| {
        let output = run(path, &line.split(' ').collect::<Vec<_>>());
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        for piece in pieces {
            assert!(said.contains(piece), "{line}: {said} should contain {piece}");
        }
        text(&output.stdout)
    };
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    let change = "  encode.token_budget: 4096 in version 1, 65536 in version 2 (the embedding space stays); ";

    says("config check p.toml", 0, &["is fine", "  corpus.types: \"guessed\" in version 1"]);
    let settled = "config check p.toml --set corpus.types=guessed --set tower.defaults=none \
                   --set index.builder=usearch";
    says(settled, 0, &["is fine", "version 2 would change nothing in it"]);
    says("config check gpu.toml", 0, &["`scalingnote config upgrade gpu.toml`", change]);
    says("config upgrade gpu.toml --dry-run", 0, &["gpu.toml would become version 2", change]);
    let pinned = says("config upgrade gpu.toml --output -", 0, &[change]);
    says("config upgrade gpu.toml --output p.toml", 1, &["p.toml cannot be written", "exists"]);
    says("config upgrade bad.toml", 2, &["did you mean `model`"]);
    says("config upgrade gpu.toml --output none/x.toml", 1, &["none/x.toml cannot be written"]);
    assert_eq!((read("gpu.toml"), read("p.toml")), (gpu.clone(), pipeline()));
    std::fs::create_dir(path.join("sub")).unwrap();
    let warning = "warning: relative paths in sub/new.toml start at its own folder";
    says("config upgrade gpu.toml --new-defaults --output sub/new.toml", 0, &[warning, change]);
    assert_eq!(read("sub/new.toml"), gpu.replace("version = 1", "version = 2"));

    // Through a link, with the permissions as they are.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::os::unix::fs::symlink("gpu.toml", path.join("link.toml")).unwrap();
        std::fs::set_permissions(path.join("gpu.toml"), PermissionsExt::from_mode(0o640)).unwrap();
        says(
            "config upgrade link.toml",
            0,
            &["link.toml is version 2 now; today's values", change],
        );
        let file = std::fs::symlink_metadata(path.join("gpu.toml")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(path.join("link.toml")).unwrap().is_symlink());
        assert_eq!(read("gpu.toml"), pinned);
        assert!(
            pinned.contains("card\ntoken_budget = 4096 # as in version 1\ndevices"),
            "{pinned}"
        );
        says("config upgrade gpu.toml", 0, &["gpu.toml is version 2 already"]);
        let checked = says("config check gpu.toml", 0, &["is fine"]);
        assert!(!checked.contains("version 2"), "{checked}");
    }
}

/// Most users never pay for clusters; who asks for one is told how to get it.
#[cfg(not(feature = "cluster"))]
#[test]
fn without_the_feature_clusters_are_explained() {
    let folder = folder();
    for line in [
        "cluster scheduler",
        "cluster executor --scheduler 127.0.0.1:50050",
        "run p.toml --cluster df://127.0.0.1:50050",
    ] {
        let output = run(folder.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(text(&output.stderr).contains("--features cluster"), "{line}");
    }
    let wrong = run(folder.path(), &["run", "p.toml", "--cluster", "http://127.0.0.1"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("HOST:PORT"), "{}", text(&wrong.stderr));
}

#[test]
fn the_environment_names_the_pipeline_and_overrides_it() {
    let folder = folder();
    let output = program(folder.path())
        .args(["config", "show", "--json"])
        .env("SCALINGNOTE_PIPELINE", "p.toml")
        .env("SCALINGNOTE__TOWER__MAX_TOKENS", "33")
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["pipeline"]["tower"]["max_tokens"], 33);
    assert_eq!(
        json["origins"]["tower.max_tokens"],
        "environment variable SCALINGNOTE__TOWER__MAX_TOKENS"
    );
}

#[test]
fn errors_are_json_where_asked() {
    let folder = folder();
    let output = run(folder.path(), &["--log-format", "json", "config", "check", "none.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let line: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["kind"], "Usage");
    assert_eq!(line["exit_code"], 2);
    assert!(line["caused_by"][0].as_str().unwrap().contains("No such file"));
}

#[test]
fn colour_is_only_where_it_belongs() {
    let folder = folder();
    let plain = run(folder.path(), &["config", "check", "bad.toml"]);
    assert!(!text(&plain.stderr).contains('\u{1b}'), "a pipe gets no colour");
    let forced = run(folder.path(), &["--color", "always", "config", "check", "bad.toml"]);
    assert!(text(&forced.stderr).starts_with("\u{1b}[1;31merror: \u{1b}[0m"));
    let usage = run(folder.path(), &["--color=always", "nonsense"]);
    assert!(text(&usage.stderr).contains('\u{1b}'), "usage errors obey --color too");
}

#[test]
fn completions_know_subcommands_and_flags() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(folder.path(), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        for word in ["snapshot", "deadline", "override", "plan-only"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    // bash parses what it is given.
    if let Ok(mut bash) = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn() {
        let script = run(folder.path(), &["completions", "bash"]).stdout;
        std::io::Write::write_all(&mut bash.stdin.take().unwrap(), &script).unwrap();
        assert!(bash.wait().unwrap().success());
    } else {
        println!("skipped: no bash here to parse the completions");
    }
}

#[test]
fn schemas_are_json_and_can_be_written_all_at_once() {
    let folder = folder();
    let output = run(folder.path(), &["schema", "--out", "schemas"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let written: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert!(written.len() >= 4, "{written:?}");
    for path in written {
        let file = std::fs::read(folder.path().join(&path)).unwrap();
        let schema: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert!(schema["properties"].is_object(), "{path}");
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap();
        let name = name.strip_suffix(".schema.json").unwrap();
        assert_eq!(run(folder.path(), &["schema", name]).stdout, file, "{name}");
    }
}

/// A server that takes connections and never answers.
#[cfg(target_os = "linux")]
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[cfg(target_os = "linux")]
fn waiting(folder: &Path, line: &str) -> std::process::Child {
    let arguments = line.split(' ');
    program(folder).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[cfg(unix)]
fn signal(child: &std::process::Child, signal: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

/// True once the process has installed its handler: before that the signal's default would kill it.
#[cfg(unix)]
fn listens(child: &std::process::Child) -> bool {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    let mask = u64::from_str_radix(caught.trim(), 16).unwrap_or(0);
    // SIGINT is 2, SIGTERM 15.
    mask & (1 << 1) != 0 && mask & (1 << 14) != 0
}

#[cfg(unix)]
fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_true() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_first_signal_asks_and_the_second_stops_at_once() {
    let folder = folder();
    let (_server, url) = silent();
    let line = format!("run p.toml --quiet --set corpus.tables.0.uri={url}/notes.csv");
    let mut child = waiting(folder.path(), &line);
    wait_until("it listens", || listens(&child));
    signal(&child, "-TERM");
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("note: stopping") && line.contains("resumes"), "{line}");
    assert!(child.try_wait().unwrap().is_none(), "it is still finishing");
    signal(&child, "-INT");
    wait_until("it is gone", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[cfg(target_os = "linux")]
#[test]
fn what_has_nothing_to_finish_stops_at_the_first_signal() {
    let folder = folder();
    let (_server, url) = silent();
    let mut child = waiting(folder.path(), &format!("snapshot show {url}/root 1"));
    wait_until("it listens", || listens(&child));
    signal(&child, "-INT");
    wait_until("it is gone", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
