//! Which files are a table's: links, markers, tables of other engines, Hive folders, odd names, web addresses.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};

use scalingnote::error::{Error, ErrorKind};
use scalingnote::observe::Event;
use scalingnote::store::Root;
use scalingnote::types::Cancel;

use super::{Corpus, table};
use crate::fixture::proxy::{Fault, Proxy};

const SQL: &str = "SELECT id AS note_id, title FROM notes";

/// A table with one note of this id.
fn note(id: u32) -> String {
    format!("id,title\n{id},note {id}\n")
}

fn corpus(uri: &str) -> Corpus {
    Corpus::new(uri, SQL)
}

async fn ids(corpus: &Corpus) -> Vec<String> {
    corpus.texts().await.into_iter().map(|(id, _)| id).collect()
}

fn warnings(corpus: &Corpus) -> String {
    let events = corpus.reporter.events();
    let told = events.into_iter().filter_map(|(_, event)| match event {
        Event::Warning { message } | Event::Info { message } => Some(message),
        _ => None,
    });
    told.collect::<Vec<_>>().join("\n")
}

#[track_caller]
pub(super) fn says(error: &Error, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dangling_links_are_refused_and_pipes_passed_over() {
    let dangling = corpus("d").write("d/a.csv", note(1));
    symlink("nowhere", dangling.dir.path().join("d/b.csv")).unwrap();
    says(&dangling.fails().await, ErrorKind::Input, &["d/b.csv", "nowhere", "does not exist"]);

    let mut piped = corpus("d").write("d/a.csv", note(1));
    let pipe = piped.dir.path().join("d/pipe.csv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(ids(&piped).await, ["i:1"]);
    assert!(warnings(&piped).contains("pipe.csv"), "{}", warnings(&piped));
    piped.options.tables[0].uri = "d/pipe.csv".into();
    says(&piped.fails().await, ErrorKind::Input, &["pipe.csv", "write them to a file"]);
}

/// A root in the corpus's folder, with the lease of a run.
async fn with_root(corpus: &mut Corpus, at: &str) {
    corpus.root = Root::open(corpus.dir.path().join(at).to_str().unwrap()).unwrap();
    let lease = scalingnote::store::layout::run_lease(1);
    corpus.root.put_if_absent(&lease, "{}".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_not_a_note() {
    let mut inside = corpus(".").write("notes.csv", note(1)).write("out/old.csv", note(2));
    with_root(&mut inside, "out").await;
    assert_eq!(ids(&inside).await, ["i:1"], "the root is left out");
    assert!(warnings(&inside).contains("which is publish.root"), "{}", warnings(&inside));

    let mut equal = corpus("out").write("out/notes.csv", note(1));
    with_root(&mut equal, "out").await;
    for uri in ["out", "./out/*.csv", "out/leases", "out/leases/*.json"] {
        equal.options.tables[0].uri = uri.into();
        let root = equal.dir.path().join("out").display().to_string();
        says(&equal.fails().await, ErrorKind::Input, &[uri, "publish.root", &root]);
    }
    // A folder of one's own in it is not the program's.
    let mut own = corpus("out/notes").write("out/notes/n.csv", note(1));
    with_root(&mut own, "out").await;
    assert_eq!(ids(&own).await, ["i:1"]);

    // The root of another pipeline, and a link into one.
    let mut other = corpus("d").write("d/notes.csv", note(1));
    with_root(&mut other, "d/sub/index").await;
    other.root = Root::in_memory();
    says(&other.fails().await, ErrorKind::Input, &["d/sub/index is a root"]);
    other.options.tables[0].uri = "d/**/*.csv".into();
    assert_eq!(ids(&other).await, ["i:1"], "the glob takes nothing of it");
    other.options.tables[0].uri = "link/*.json".into();
    let leases = other.dir.path().join("d/sub/index/leases");
    symlink(leases, other.dir.path().join("link")).unwrap();
    says(&other.fails().await, ErrorKind::Input, &["d/sub/index is a root"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_other_engines_are_refused_by_name() {
    let export = "export its current rows";
    for (marker, word, way_out) in [
        ("_delta_log/00000000000000000000.json", "a Delta table", "set format = \"delta\""),
        (".hoodie/hoodie.properties", "a Hudi table", export),
        ("metadata/v1.metadata.json", "an Iceberg table", export),
        ("_versions/1.manifest", "a Lance dataset", export),
    ] {
        let mut corpus = corpus("t")
            .write("lake/t/day=1/n.csv", note(1))
            .write(&format!("lake/t/{marker}"), "{}");
        symlink("lake/t/day=1/n.csv", corpus.dir.path().join("one.csv")).unwrap();
        let file = format!("file://{}/lake/t/", corpus.dir.path().display());
        let uris = [
            "lake",
            "lake/t",
            "lake/t/day=1",
            "lake/t/*/*.csv",
            "lake/t/day=1/n.csv",
            "one.csv",
            &file,
        ];
        for uri in uris {
            corpus.options.tables[0].uri = uri.into();
            let error = corpus.fails().await;
            says(&error, ErrorKind::Unsupported, &["lake/t is ", word, way_out]);
        }
    }
    let lance = corpus("d").write("d/n.csv", note(1)).write("d/x.lance/data/0.lance", "x");
    says(&lance.fails().await, ErrorKind::Unsupported, &["x.lance", "a Lance dataset"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_other_hive_folders_are_refused() {
    for (first, second) in [("lang=en", "."), ("a=1/b=1", "b=1/a=1"), ("lang=en", "year=2024")] {
        let corpus = corpus("d/**/*.csv")
            .write(&format!("d/{first}/a.csv"), note(1))
            .write(&format!("d/{second}/b.csv"), note(2));
        says(&corpus.fails().await, ErrorKind::Input, &["a.csv", "b.csv", "column=value"]);
    }
    let same = corpus("d").write("d/x=1/raw/a.csv", note(1)).write("d/x=2/b.csv", note(2));
    assert_eq!(ids(&same).await, ["i:1", "i:2"]);
    // What is fixed in the address is the same for all: it is not a column.
    let fixed = corpus("d/x=1").write("d/x=1/a.csv", note(1)).write("d/x=1/y/b.csv", note(2));
    assert_eq!(ids(&fixed).await, ["i:1", "i:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_files_are_passed_over_unless_named() {
    let mut corpus =
        corpus("d").write("d/a.csv", note(1)).write("d/b.csv", "").write("d/c.jsonl", "");
    assert_eq!(ids(&corpus).await, ["i:1"]);
    let told = warnings(&corpus);
    assert!(
        told.contains("skipped empty files: 2, e.g. file://") && told.contains("d/b.csv"),
        "{told}"
    );
    corpus.options.tables[0].uri = "d/b.csv".into();
    says(&corpus.fails().await, ErrorKind::Input, &["d/b.csv is empty"]);
    corpus.options.tables[0].uri = "d/[bc].*".into();
    says(&corpus.fails().await, ErrorKind::Input, &["d/[bc].*", "only empty files"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_can_be_named() {
    let odd = [
        "a b.csv",
        "ä.csv",
        "100%.csv",
        "a#b.csv",
        "a*.csv",
        "what?.csv",
        "[x].csv",
        "a%20b.csv",
        "q'\"`.csv",
    ];
    for name in odd {
        // Beside it a file that a pattern of this name would take.
        let corpus =
            corpus(name).write(name, note(1)).write("aX.csv", note(2)).write("x.csv", note(3));
        assert_eq!(ids(&corpus).await, ["i:1"], "{name}");
        let (outcome, _) = corpus.rows().await;
        assert_eq!(outcome.inputs.len(), 1);
    }
    let mut all = corpus("d");
    for (id, name) in odd.iter().enumerate() {
        all = all.write(&format!("d/{name}"), note(id as u32));
    }
    assert_eq!(ids(&all).await.len(), odd.len());
    // A folder that looks like a pattern, with one in it.
    let folder = corpus("[d]/*.csv").write("[d]/a.csv", note(1)).write("d/b.csv", note(2));
    assert_eq!(ids(&folder).await, ["i:1"]);
    // In a URI, names are escaped.
    for (name, escaped) in [("a b?.csv", "a%20b%3F.csv"), ("ä%#.csv", "%C3%A4%25%23.csv")] {
        let mut uri = corpus(name).write(name, note(1)).write("a bX.csv", note(2));
        uri.options.tables[0].uri = format!("file://{}/{escaped}", uri.dir.path().display());
        assert_eq!(ids(&uri).await, ["i:1"], "{name}");
    }
    let mut glob = corpus("").write("a1.csv", note(1)).write("b1.csv", note(2));
    glob.options.tables[0].uri = format!("file://{}/a?.csv", glob.dir.path().display());
    assert_eq!(ids(&glob).await, ["i:1"], "`?` is a wildcard in a file URI too");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_matches_nothing_says_why() {
    let mut corpus = corpus("d/*")
        .write("d/sub/a.csv", note(1))
        .write("e/_old/a.csv", note(1))
        .write("e/_b.csv", note(2));
    says(&corpus.fails().await, ErrorKind::Input, &["d/*", "fits folders", "d/*/**"]);
    for (uri, words) in [
        ("d/{a,b}.csv", "no `{a,b}`"),
        ("e", "begin with `.` or `_`"),
        ("none/*.csv", "none does not exist"),
        ("none.csv", "none.csv does not exist"),
        ("d/sub/a.csv/b", "a.csv/b does not exist: "),
        ("d/sub/a.csv/../a.csv", "d/sub/a.csv is a file, not a folder"),
        ("d/sub/a.csv/b/*.csv", "d/sub/a.csv is a file, not a folder"),
        ("d/sub/a.csv/*.csv", "matches no file: "),
        ("d/*/../x", "`..` cannot follow"),
        ("d/[x", "not a valid glob"),
        ("ftp://host/a.csv", "known are s3://"),
        ("s3://key:5ecret@bucket/a.csv", "must not hold credentials"),
        ("az://notes/a.csv?sv=1&sig=5ecret", "AZURE_STORAGE_SAS_TOKEN"),
        ("https://user:5ecret@host/a.csv", "must not hold credentials"),
        ("https://host/notes/", "not a single file"),
        ("https://host/a#5ecret", "write %23"),
    ] {
        corpus.options.tables[0].uri = uri.into();
        let error = corpus.fails().await;
        assert!(error.to_string().contains(words), "{uri}: {error}");
        assert!(!format!("{error:?}").contains("5ecret"), "{error:?}");
    }
    let hidden = Corpus::new("e", SQL).write("e/a.csv", note(1)).write("e/_old/b.csv", note(2));
    assert_eq!(ids(&hidden).await, ["i:1"]);
    assert!(warnings(&hidden).contains("e/_old"), "{}", warnings(&hidden));
}

/// A server of one file that knows the signature, and what it was asked.
async fn signed_server(heads: &'static str) -> (Proxy, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let proxy = Proxy::start("127.0.0.1:1", move |request| {
        seen.lock().unwrap().push(format!("{} {}", request.method, request.target));
        let signed = request.target == "/b//n%2f1.csv?X-Amz-Signature=5ecret&x=%2F";
        Some(match request.method.as_str() {
            // A signature for GET is none for HEAD.
            "HEAD" => Fault::status(heads),
            _ if signed => {
                Fault::Answer { status: "200 OK", headers: String::new(), body: note(1) }
            }
            _ => Fault::Answer {
                status: "403 Forbidden",
                headers: String::new(),
                body: "<Error><Code>AccessDenied</Code></Error>".into(),
            },
        })
    });
    (proxy.await, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_address_is_asked_as_it_stands_and_never_told() {
    for heads in ["403 Forbidden", "405 Method Not Allowed", "400 Bad Request"] {
        let (server, asked) = signed_server(heads).await;
        let address = format!("{}/b//n%2f1.csv", server.url());
        let mut corpus = corpus(&format!("{address}?X-Amz-Signature=5ecret&x=%2F"));
        let (outcome, rows) = corpus.rows().await;
        assert_eq!(rows.len(), 1, "{asked:?}");
        let told =
            serde_json::to_string(&outcome).unwrap() + &format!("{:?}", corpus.reporter.events());
        assert!(told.contains(&address) && !told.contains("5ecret"), "{told}");
        let asked = asked.lock().unwrap().clone();
        assert!(
            asked.iter().all(|line| line.ends_with("?X-Amz-Signature=5ecret&x=%2F")),
            "{asked:?}"
        );

        corpus.options.tables[0].uri = format!("{address}?X-Amz-Signature=5ecret2");
        let error = corpus.fails().await;
        says(&error, ErrorKind::Input, &[&address, "may have expired"]);
        assert!(!format!("{error:?}").contains("5ecret"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_of_one_server_are_two_tables() {
    let server = Proxy::start("127.0.0.1:1", |request| {
        let body = match request.target.as_str() {
            "/download?file=a" => note(1),
            "/download?file=b" => note(2),
            _ => return Some(Fault::status("404 Not Found")),
        };
        let head = request.method == "HEAD";
        Some(match head {
            true => Fault::status("405 Method Not Allowed"),
            false => Fault::Answer { status: "200 OK", headers: String::new(), body },
        })
    })
    .await;
    let uri = |file: &str| format!("{}/download?file={file}", server.url());
    let mut corpus = Corpus::new(
        &uri("a"),
        "SELECT id AS note_id, title FROM notes UNION ALL SELECT id, title FROM more",
    );
    corpus.options.tables.push(table("more", &uri("b")));
    let error = corpus.fails().await;
    says(&error, ErrorKind::Input, &["/download has no known ending", "set format"]);
    for table in &mut corpus.options.tables {
        table.format = Some(scalingnote::corpus::TableFormat::Csv);
    }
    assert_eq!(ids(&corpus).await, ["i:1", "i:2"]);
    corpus.options.tables[1].uri = uri("c");
    says(&corpus.fails().await, ErrorKind::Input, &["/download", "does not exist"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_files_is_that_of_their_paths() {
    let corpus = corpus("d")
        .write("d/b.csv", note(1))
        .write("d/a/z.csv", note(2))
        .write("d/a-1.csv", note(3))
        .write("d/B.csv", note(4));
    let (outcome, _) = corpus.rows().await;
    let names: Vec<&str> =
        outcome.inputs.iter().map(|input| input.uri.rsplit_once("/d/").unwrap().1).collect();
    assert_eq!(names, ["B.csv", "a-1.csv", "a/z.csv", "b.csv"]);
}

/// Folders of many files, so that each costs something if it costs anything.
fn many(dir: &Path, count: usize) {
    for at in 0..count {
        let folder = dir.join(format!("p{}", at / 1000));
        if at % 1000 == 0 {
            std::fs::create_dir_all(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("{at}.csv")), note(at as u32)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_search_of_many_files() {
    let mut corpus = corpus("d");
    many(&corpus.dir.path().join("d"), 3_000);
    let cancel = Cancel::new();
    corpus.cancel = cancel.clone();
    let stopping = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        cancel.cancel();
    });
    let started = std::time::Instant::now();
    assert_eq!(corpus.fails().await.kind(), ErrorKind::Cancelled);
    assert!(started.elapsed() < std::time::Duration::from_secs(1), "{:?}", started.elapsed());
    stopping.await.unwrap();
}
