//! A root and a corpus behind a plain web server: Python's `http.server`, which lists by index pages and knows no ranges.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use scalingnote::error::ErrorKind;
use scalingnote::snapshot;
use scalingnote::store::Root;

use crate::fixture::checkout::Checkout;
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::program::program;
use crate::fixture::proxy::{Fault, Proxy};
use crate::fixture::server::Served;
use crate::fixture::support::{notes, publish, store_content, unit_vectors};

/// Serves `folder` on a free port of the loopback.
fn web_server(folder: &Path) -> Served {
    let python = std::env::var_os("SCALINGNOTE_PYTHON").unwrap_or("python3".into());
    let mut command = Command::new(python);
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]);
    Served::start(command.current_dir(folder))
}

fn scalingnote(folder: &Path, line: &[&str]) -> Output {
    program(folder).args(line).env("XDG_CACHE_HOME", folder).output().unwrap()
}

fn expect(folder: &Path, line: &[&str]) -> String {
    let output = scalingnote(folder, line);
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn hits(json: &str) -> Value {
    serde_json::from_str::<Value>(json).unwrap()["hits"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_behind_a_web_server_is_searched_shown_and_verified() {
    let checkout = Checkout::new();
    let folder = checkout.path();
    expect(folder, &["run", "pipelines/quickstart.toml"]);
    let local = checkout.root();
    let server = web_server(&local);
    let url = format!("http://{}", server.address);
    let query = "memory is used after it has been released";
    let search = |root: &str| expect(folder, &["search", root, query, "--json"]);
    let expected = hits(&search(local.to_str().unwrap()));
    assert!(!expected.as_array().unwrap().is_empty());
    assert_eq!(hits(&search(&url)), expected);
    assert!(expect(folder, &["snapshot", "list", &url]).contains('1'));
    let shown = expect(folder, &["snapshot", "show", &url]);
    assert_eq!(shown, expect(folder, &["snapshot", "show", local.to_str().unwrap()]));
    expect(folder, &["snapshot", "verify", &url]);

    // Nothing can be written to it.
    let root = Root::open(&url).unwrap();
    let refused = root.put_if_absent("runs/a", "x".into()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let gc = scalingnote(folder, &["snapshot", "gc", &url]);
    assert_eq!(gc.status.code(), Some(2), "{}", String::from_utf8_lossy(&gc.stderr));

    // It can be copied from.
    let dry = expect(folder, &["snapshot", "copy", &url, "copied", "--dry-run"]);
    assert!(dry.contains("would send"), "{dry}");
    expect(folder, &["snapshot", "copy", &url, "copied"]);
    assert_eq!(hits(&search("copied")), expected);

    // A server that lists nothing: the error says so, and the number is the way round.
    let silent = Proxy::start(&url, |request| {
        let lists = request.target.ends_with("/snapshots/") || request.method == "PROPFIND";
        lists.then(|| Fault::status("403 Forbidden"))
    });
    let proxy = silent.await;
    let silent = proxy.url();
    let error = snapshot::newest(&Root::open(&silent).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("--snapshot N"), "{error}");
    let by_number = expect(folder, &["search", &silent, query, "--json", "--snapshot", "1"]);
    assert_eq!(hits(&by_number), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reads_every_file_of_a_remote_root_once() {
    let place = Place::new();
    let root = Root::open(place.path("root").to_str().unwrap()).unwrap();
    let content = store_content(&root, &notes(&unit_vectors(300, 32, 5)), 2).await;
    let manifest = publish(&root, None, content, "run 1").await;
    let server = web_server(&place.path("root"));
    let proxy = Proxy::start(&server.address.to_string(), |_| None).await;
    let url = proxy.url();
    let checked = expect(place.folder(), &["snapshot", "verify", &url, "--sample", "0", "--json"]);
    let checked: Value = serde_json::from_str(&checked).unwrap();
    assert!(checked["canaries"].as_u64().unwrap() > 0, "{checked}");
    let seen = proxy.seen();
    for file in manifest.content.files() {
        let is_read = |path: &str| path.trim_start_matches('/') == file.path;
        let reads = seen.iter().filter(|one| one.method == "GET" && is_read(&one.target)).count();
        assert_eq!(reads, 1, "{}", file.path);
    }
    let cache = std::fs::read_dir(place.path("scalingnote/snapshots")).unwrap();
    assert_eq!(cache.count(), 0, "nothing is left behind");
    // A damaged file is told with all others.
    let index = manifest.content.files().find(|file| file.path.ends_with(".usearch")).unwrap();
    std::fs::write(place.path("root").join(&index.path), "x").unwrap();
    let told = scalingnote(place.folder(), &["snapshot", "verify", &url, "--sample", "0"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stderr).contains(&index.path), "{told:?}");
}

#[test]
fn what_writes_refuses_a_web_server_at_once() {
    // Nothing answers there: a request would be repeated for most of a minute.
    let url = "http://127.0.0.1:9/notes";
    let place = Place::new();
    place.write_notes(0..8, |id| format!("note {id}"));
    place.write("a.toml", PipelineFile { root: "a", ..PipelineFile::default() }.text());
    place.write("web.toml", PipelineFile { root: url, ..PipelineFile::default() }.text());
    place.expect(0, "run a.toml");
    let began = Instant::now();
    let plan = "--plan 20260101T000000Z-0badcafe";
    for line in [
        "run web.toml",
        "plan web.toml",
        "plan web.toml --brief",
        "plan web.toml --shares",
        &format!("task web.toml {plan} --stage encode"),
        &format!("publish web.toml {plan}"),
        &format!("purge {url} --note-id i:1"),
        &format!("purge {url} --note-id i:1 --lift"),
        &format!("purge {url} --scan"),
        &format!("snapshot copy a {url}"),
        &format!("snapshot copy a {url} --dry-run"),
        "snapshot copy a.toml web.toml",
        &format!("snapshot rollback {url} 1 --reason why"),
        &format!("snapshot repair {url}"),
        &format!("snapshot gc {url}"),
        &format!("snapshot sign {url}"),
    ] {
        // A pipeline file names no such root in the first place.
        match line.contains("web.toml") {
            true => place.says(2, line, &["`publish.root` starts with `http://`; known are"]),
            false => place.says(2, line, &[url, "can only be read", "a folder, or s3://"]),
        }
    }
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
}

#[test]
fn notes_come_from_a_web_server() {
    let checkout = Checkout::new();
    let folder = checkout.path();
    let server = web_server(&folder.join(".cache/notes"));
    let uri = format!("corpus.tables.0.uri=http://{}/cwe-699.csv", server.address);
    expect(folder, &["run", "pipelines/quickstart.toml", "--set", &uri]);
    let report = expect(folder, &["run", "pipelines/quickstart.toml", "--set", &uri, "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["corpus"]["notes_unchanged"], crate::fixture::checkout::NOTES);
    let gone = format!("corpus.tables.0.uri=http://{}/no.csv", server.address);
    let missing = scalingnote(folder, &["run", "pipelines/quickstart.toml", "--set", &gone]);
    let told = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(1), "{told}");
    assert!(told.contains("no.csv"), "{told}");
}
