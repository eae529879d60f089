//! A web server that sends us on: a root's files come from the host that was named, a table's from wherever they lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use scalingnote::error::{Error, ErrorKind};
use scalingnote::snapshot;
use scalingnote::store::Root;

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::proxy::{Fault, Proxy};

fn to(location: String) -> Fault {
    let headers = format!("Location: {location}\r\n");
    Fault::Answer { status: "302 Found", headers, body: String::new() }
}

fn text(body: &str) -> Fault {
    Fault::Answer { status: "200 OK", headers: String::new(), body: body.to_owned() }
}

/// The error with its causes.
fn whole(error: &Error) -> String {
    format!("{error:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_not_read_from_another_host() {
    let asked = Arc::new(AtomicU32::new(0));
    let inner = Arc::clone(&asked);
    // What only this machine can reach, say.
    let other = Proxy::start("127.0.0.1:9", move |_| {
        inner.fetch_add(1, Ordering::SeqCst);
        Some(text("{\"secret\": true}"))
    })
    .await;
    let (target, second) = (other.url(), other.url());
    let server = Proxy::start("127.0.0.1:9", move |request| {
        Some(to(format!("{target}{}?sig=abcdef", request.target)))
    })
    .await;
    let root = Root::open(&server.url()).unwrap();
    let hosts = [server.url(), second].map(|url| url.trim_start_matches("http://").to_owned());
    for error in [
        root.get("snapshots/00000000000000000001.json").await.unwrap_err(),
        root.get_range("indexes/a", 0..8).await.unwrap_err(),
        root.size("indexes/a").await.unwrap_err(),
        root.index_page("snapshots").await.unwrap_err(),
        snapshot::newest(&root).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Input, "{error:?}");
        let told = whole(&error);
        assert!(told.contains("another host") && told.contains("name that other host"), "{told}");
        assert!(hosts.iter().all(|host| told.contains(host.as_str())), "{told}");
        assert!(!told.contains("abcdef"), "{told}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "the other host was never asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_may_be_moved_on_its_own_host() {
    let server = Proxy::start("127.0.0.1:9", |request| match request.target.as_str() {
        "/old/snapshots/1" => Some(to("/new/1".to_owned())),
        "/new/1" => Some(text("moved")),
        _ => Some(to(request.target.clone())),
    })
    .await;
    let root = Root::open(&format!("{}/old", server.url())).unwrap();
    assert_eq!(root.get("snapshots/1").await.unwrap(), "moved");
    let circle = root.get("snapshots/2").await.unwrap_err();
    assert!(whole(&circle).contains("redirects in a loop"), "{circle:?}");
}

/// Downloads are elsewhere; that host is not told the address that sent us, which may be signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_lie_elsewhere_and_its_signature_stays() {
    let place = Place::new();
    let notes: Vec<String> =
        (0..20).map(|id| format!("{{\"id\": {id}, \"body\": \"note {id}\"}}")).collect();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("notes.jsonl"), notes.join("\n")).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = listener.local_addr().unwrap();
    let bytes = notes.join("\n");
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let heads = Arc::clone(&seen);
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 1 << 16];
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
            let body = if head.starts_with("HEAD") { "" } else { &*bytes };
            heads.lock().unwrap().push_str(&head);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nLast-Modified: Tue, 14 Nov 2023 22:13:50 GMT\r\n\
                 Connection: close\r\n\r\n{body}",
                bytes.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let server =
        Proxy::start("127.0.0.1:9", move |_| Some(to(format!("http://{elsewhere}/notes.jsonl"))))
            .await;
    let uri = format!("{}/notes.jsonl?sig=verysecret", server.url());
    let pipeline = PipelineFile { root: "root", ..PipelineFile::default() };
    place.write("p.toml", pipeline.text());
    let mut command = place.command("run p.toml --quiet");
    command.env("SCALINGNOTE__CORPUS__TABLES__0__URI", uri);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serving.abort();
    let heads = seen.lock().unwrap().clone();
    assert!(heads.contains("GET /notes.jsonl"), "{heads}");
    assert!(!heads.contains("verysecret") && !heads.to_lowercase().contains("referer"), "{heads}");
}
