use object_store::memory::InMemory;

use super::*;
use crate::corpus::source::find::pattern::parts;
use crate::error::ErrorKind;
use crate::store::layout::{manifest, run_lease};

/// A bucket of these objects; a name that ends in `=` is empty.
async fn bucket(names: &[&str]) -> Arc<dyn ObjectStore> {
    let store = InMemory::new();
    for name in names {
        let (name, bytes) = name.strip_suffix('=').map_or((*name, "x"), |name| (name, ""));
        store.put(&ObjectPath::parse(name).unwrap(), bytes.into()).await.unwrap();
    }
    Arc::new(store)
}

struct Asked {
    store: Arc<dyn ObjectStore>,
    root: Option<&'static str>,
    limits: Limits,
    cancel: Cancel,
}

impl Asked {
    fn of(store: &Arc<dyn ObjectStore>) -> Self {
        let limits = Limits { names: 100, files: 50, depth: 10 };
        Self { store: Arc::clone(store), root: None, limits, cancel: Cancel::new() }
    }

    async fn search(&self, path: &str) -> Result<Search> {
        let search = RemoteSearch {
            store: &self.store,
            base: &Url::parse("s3://bucket/").unwrap(),
            parts: &parts(path, true).unwrap(),
            is_folder: path.ends_with('/'),
            shown: &format!("s3://bucket/{path}"),
            root: self.root,
            limits: self.limits,
            cancel: &self.cancel,
        };
        search.run().await
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let search = self.search(path).await.unwrap();
        search.files.iter().map(|file| file.meta.location.to_string()).collect()
    }

    async fn refusal(&self, path: &str) -> Error {
        self.search(path).await.err().unwrap_or_else(|| panic!("{path} must be refused"))
    }
}

#[tokio::test]
async fn objects_prefixes_and_globs_follow_the_rules_of_folders() {
    let store = bucket(&[
        "n/a.csv",
        "n/_a.csv",
        "n/.b.csv",
        "n/_SUCCESS",
        "n/d/c.csv",
        "n/_temporary/0/x.csv",
        "n/_day=1/e.csv",
        "nn/a.csv",
        "n/100%.csv",
        "n/a b?.csv",
        "n/[x].csv",
        "n/x.csv",
    ])
    .await;
    let asked = Asked::of(&store);
    let all = [
        "n/100%.csv",
        "n/[x].csv",
        "n/_day=1/e.csv",
        "n/a b?.csv",
        "n/a.csv",
        "n/d/c.csv",
        "n/x.csv",
    ];
    assert_eq!(asked.names("n").await, all);
    assert_eq!(asked.names("n/").await, all);
    assert_eq!(asked.names("n/a.csv").await, ["n/a.csv"]);
    assert_eq!(asked.names("n/[ax].csv").await, ["n/a.csv", "n/x.csv"]);
    assert_eq!(asked.names("n/[x].csv").await, ["n/[x].csv"], "as it stands, where it exists");
    assert_eq!(asked.names("n/?a.csv").await, ["n/_a.csv"]);
    assert_eq!(asked.names("*/a.csv").await, ["n/a.csv", "nn/a.csv"]);
    assert_eq!(
        asked.names("n/**/?.csv").await,
        ["n/_day=1/e.csv", "n/a.csv", "n/d/c.csv", "n/x.csv"]
    );
    assert_eq!(asked.names("n/100%25.csv").await, ["n/100%.csv"]);
    assert_eq!(asked.names("n/a%20b%3F.csv").await, ["n/a b?.csv"]);
    let search = asked.search("n/").await.unwrap();
    assert_eq!((search.hidden.count, search.named), (3, false));
    let urls: Vec<&str> = search.files.iter().map(|file| file.url.as_str()).collect();
    assert!(urls.contains(&"s3://bucket/n/100%25.csv"), "{urls:?}");
    assert!(urls.contains(&"s3://bucket/n/a%20b%3F.csv"), "{urls:?}");
    let error = asked.refusal("n/none").await;
    assert!(error.to_string().contains("matches no object"), "{error}");
}

#[tokio::test]
async fn an_empty_object_of_the_folders_name_is_its_marker() {
    let store = bucket(&["n=", "n/a.csv", "alone.csv="]).await;
    let asked = Asked::of(&store);
    assert_eq!(asked.names("n").await, ["n/a.csv"]);
    assert_eq!(asked.names("alone.csv").await, ["alone.csv"], "who reads it says that it is empty");
}

#[tokio::test]
async fn partitions_are_the_folders_below_what_is_fixed() {
    let store = bucket(&["t/x=1/y=2/a.parquet"]).await;
    let asked = Asked::of(&store);
    for (path, expected) in [
        ("t", vec!["x=1", "y=2"]),
        ("t/x=1", vec!["y=2"]),
        ("t/x=*/*/a.parquet", vec!["x=1", "y=2"]),
        ("t/x=1/y=2/a.parquet", vec![]),
    ] {
        assert_eq!(asked.search(path).await.unwrap().files[0].folders, expected, "{path}");
    }
}

#[tokio::test]
async fn tables_of_other_engines_are_refused_from_every_side() {
    for marker in
        ["_delta_log/0.json", ".hoodie/x", "metadata/v1.metadata.json", "_versions/1.manifest"]
    {
        let marker = format!("lake/t/{marker}");
        let store = bucket(&["lake/t/d=1/a.parquet", "other/b.parquet", &marker]).await;
        let asked = Asked::of(&store);
        for path in [
            "lake",
            "lake/t",
            "lake/t/d=1",
            "lake/t/*/*.parquet",
            "lake/t/d=1/a.parquet",
            "**/*.parquet",
        ] {
            let error = asked.refusal(path).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{path}: {error}");
            assert!(error.to_string().contains("s3://bucket/lake/t is "), "{path}: {error}");
        }
        assert_eq!(asked.names("other").await, ["other/b.parquet"]);
        assert_eq!(asked.names("o*/*.parquet").await, ["other/b.parquet"]);
    }
}

#[tokio::test]
async fn what_is_published_is_not_a_note() {
    let (lease, manifest) = (format!("x/out/{}", run_lease(1)), format!("x/out/{}", manifest(1)));
    let store = bucket(&["x/a.json", "x/out/mine/b.json", &lease, &manifest]).await;
    let mut asked = Asked::of(&store);
    for path in ["x", "x/out", "x/out/leases", "x/out/**/*.json"] {
        let error = asked.refusal(path).await;
        assert!(error.to_string().contains("s3://bucket/x/out is a root"), "{path}: {error}");
    }
    assert_eq!(asked.names("x/*.json").await, ["x/a.json"]);
    assert_eq!(asked.names("x/out/mine").await, ["x/out/mine/b.json"]);
    asked.root = Some("x/out");
    assert_eq!(asked.names("x").await, ["x/a.json"]);
    assert!(asked.search("x").await.unwrap().left_out_root);
    for path in ["x/out", "x/out/leases", "x/out/*/*.json"] {
        let error = asked.refusal(path).await;
        assert!(error.to_string().contains("publish.root, s3://bucket/x/out"), "{path}: {error}");
    }
    assert_eq!(asked.names("x/out/mine").await, ["x/out/mine/b.json"]);
    asked.root = Some("");
    assert_eq!(asked.names("x/out/mine").await, ["x/out/mine/b.json"]);
}

#[tokio::test]
async fn limits_and_cancellation_stop_it() {
    let store = bucket(&["n/a.csv", "n/b.csv", "n/c.csv"]).await;
    let mut asked = Asked::of(&store);
    asked.limits.names = 2;
    assert!(asked.refusal("n").await.to_string().contains("more than 2 objects"));
    asked.limits = Limits { names: 100, files: 2, ..asked.limits };
    assert!(asked.refusal("n").await.to_string().contains("2 files"));
    asked.cancel.cancel();
    assert_eq!(asked.refusal("n").await.kind(), ErrorKind::Cancelled);
}
