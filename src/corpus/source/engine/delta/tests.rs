use std::path::Path;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::displayable;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use super::*;
use crate::corpus::session::session;
use crate::observe::Silent;
use crate::store::StorageOptions;
use crate::types::Cancel;

/// A table with the columns `id`, `body` and `lang`, in folders by the last; its log is written by hand.
struct Lake(tempfile::TempDir);

impl Lake {
    fn new(features: &[&str]) -> Self {
        let lake = Self(tempfile::tempdir().unwrap());
        let field = |name: &str, of: &str| json!({"name": name, "type": of, "nullable": true, "metadata": {}});
        let fields = [field("id", "long"), field("body", "string"), field("lang", "string")];
        let schema = json!({"type": "struct", "fields": fields}).to_string();
        let protocol = match features {
            [] => json!({"minReaderVersion": 1, "minWriterVersion": 2}),
            features => json!({
                "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features
            }),
        };
        let metadata = json!({
            "id": "5fba94ed-9794-4965-ba6e-6ee3c0d22af9", "format": {"provider": "parquet", "options": {}},
            "schemaString": schema, "partitionColumns": ["lang"], "configuration": {}, "createdTime": 0
        });
        lake.commit(0, &[json!({"protocol": protocol}), json!({"metaData": metadata})]);
        lake
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn commit(&self, version: u64, actions: &[Value]) {
        let log = self.path().join("notes/_delta_log");
        std::fs::create_dir_all(&log).unwrap();
        let lines: String = actions.iter().map(|action| format!("{action}\n")).collect();
        std::fs::write(log.join(format!("{version:020}.json")), lines).unwrap();
    }

    /// Writes a file of notes with these ids; gives the action that adds it.
    fn file(&self, lang: &str, ids: &[i64]) -> Value {
        let bodies: Vec<String> = ids.iter().map(|id| format!("note {id}")).collect();
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(ids.to_vec())) as _),
            ("body", Arc::new(StringArray::from(bodies)) as _),
        ])
        .unwrap();
        let name = format!("lang={lang}/{}.parquet", ids[0]);
        let path = self.path().join("notes").join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let stats = json!({
            "numRecords": ids.len(), "minValues": {"id": ids.iter().min()}, "maxValues": {"id": ids.iter().max()},
            "nullCount": {"id": 0, "body": 0}
        });
        json!({"add": {
            "path": name, "partitionValues": {"lang": lang}, "size": path.metadata().unwrap().len(),
            "modificationTime": 0, "dataChange": true, "stats": stats.to_string()
        }})
    }

    async fn opened(&self, version: Option<u64>) -> Result<(SessionContext, InputFile)> {
        let context = session(256)?;
        let mut table = TableOptions::new("notes", "notes");
        table.version = version;
        let (storage, cancel) = (StorageOptions::default(), Cancel::new());
        let mut finder = Finder::new(self.path(), &storage, None, &cancel, &Silent);
        let (engine, input) = open(&context, &table, &mut finder, None).await?;
        context.register_table("notes", engine.provider).unwrap();
        Ok((context, input))
    }
}

async fn ids(context: &SessionContext, sql: &str) -> Vec<i64> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values());
    ids.copied().collect()
}

async fn plan(context: &SessionContext, sql: &str) -> String {
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    displayable(plan.as_ref()).indent(true).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_a_filter_rules_out_and_columns_that_nobody_asks_for_are_not_read() {
    let lake = Lake::new(&[]);
    lake.commit(
        1,
        &[lake.file("en", &[1, 2]), lake.file("en", &[100, 101]), lake.file("zh", &[3])],
    );
    let (context, _) = lake.opened(None).await.unwrap();
    for (sql, wanted, read, unread) in [
        (
            "SELECT id FROM notes WHERE lang = 'zh'",
            vec![3],
            &["zh/3."][..],
            &["en/1.", "en/100."][..],
        ),
        (
            "SELECT id FROM notes WHERE id >= 100 ORDER BY id",
            vec![100, 101],
            &["en/100."],
            &["en/1.", "zh/3."],
        ),
        (
            "SELECT id FROM notes ORDER BY id",
            vec![1, 2, 3, 100, 101],
            &["en/1.", "en/100.", "zh/3."],
            &[],
        ),
    ] {
        let plan = plan(&context, sql).await;
        assert!(read.iter().all(|file| plan.contains(file)), "{sql}\n{plan}");
        assert!(!unread.iter().any(|file| plan.contains(file)), "{sql}\n{plan}");
        assert!(!plan.contains("body"), "{sql}\n{plan}");
        assert_eq!(ids(&context, sql).await, wanted, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_stays_at_its_version_while_others_write() {
    let lake = Lake::new(&[]);
    let first = lake.file("en", &[1]);
    lake.commit(1, std::slice::from_ref(&first));
    let (context, input) = lake.opened(None).await.unwrap();
    assert_eq!((input.version, input.size), (Some(1), first["add"]["size"].as_u64().unwrap()));
    let removed = json!({"remove": {"path": first["add"]["path"], "dataChange": true, "deletionTimestamp": 0}});
    lake.commit(2, &[removed, lake.file("zh", &[2])]);
    assert_eq!(ids(&context, "SELECT id FROM notes").await, [1]);
    let (newest, input) = lake.opened(None).await.unwrap();
    assert_eq!(input.version, Some(2));
    assert_eq!(input.read.as_deref(), Some("version 2 of a Delta table, in 1 file"));
    let batches = newest.sql("SELECT * FROM notes").await.unwrap().collect().await.unwrap();
    let shown = pretty_format_batches(&batches).unwrap().to_string();
    assert!(shown.contains("| 2  | note 2 | zh   |"), "{shown}");
    let (pinned, input) = lake.opened(Some(1)).await.unwrap();
    assert_eq!(input.version, Some(1));
    assert_eq!(ids(&pinned, "SELECT id FROM notes").await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_named() {
    let lake = Lake::new(&["typeWidening"]);
    lake.commit(1, &[lake.file("en", &[1])]);
    let error = lake.opened(None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("typeWidening"), "{error}");
    let error = Lake::new(&[]).opened(Some(7)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    assert!(error.to_string().contains("at version 7"), "{error}");
    let lake = Lake::new(&[]);
    std::fs::remove_dir_all(lake.path().join("notes/_delta_log")).unwrap();
    let error = lake.opened(None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    assert!(error.to_string().contains("cannot be read as a Delta table"), "{error}");
}
