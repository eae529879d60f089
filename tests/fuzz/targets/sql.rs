//! SQL from outside: conditions of searches, and a pipeline's query.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::Schema;

use scalingnote::corpus::{RowFilter, TableOptions, TypeRule};
use scalingnote::error::Result;
use scalingnote::store::Root;
use scalingnote::types::Cancel;

use super::prepared::{corpus, prepared};
use super::{CANARY, Target, block_on};

/// A condition on the stored columns of notes.
pub struct Condition {
    notes: RecordBatch,
}

impl Condition {
    pub fn new() -> Self {
        let rows = 20;
        let texts = (0..rows).map(|row| format!("{CANARY} {row}"));
        let mut topics = ListBuilder::new(StringBuilder::new());
        for row in 0..rows {
            topics.append_value([Some("tax"), (row % 2 == 0).then_some("home")]);
        }
        let flags = (0..rows).map(|row| (row % 3 > 0).then_some(row % 2 == 0));
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("title", Arc::new(StringArray::from_iter_values(texts)), true),
            ("likes", Arc::new(Int64Array::from_iter_values(0..rows)), true),
            ("topics", Arc::new(topics.finish()), true),
            ("flag", Arc::new(BooleanArray::from_iter(flags)), true),
        ];
        Self { notes: RecordBatch::try_from_iter_with_nullable(columns).unwrap() }
    }
}

impl Target for Condition {
    fn seeds(&self) -> Vec<Vec<u8>> {
        [
            "likes > 3 AND (title LIKE '%1' OR NOT flag) AND topics IS NOT NULL",
            "CASE WHEN flag THEN likes BETWEEN 1 AND 5 ELSE coalesce(likes, 0) IN (1, -2, 3) END",
            "array_has_any(topics, ['home', 'food']) OR array_length(make_array(title, lower(title))) = 2",
            "CAST(likes AS DOUBLE) / 2 = 3.5 OR likes::VARCHAR ~ '^[0-9]{1,2}$' OR (likes - 1) * 2 = 4",
            "EXTRACT(YEAR FROM DATE '2024-10-01') = 2024 AND substring(title FROM 1 FOR 2) <> 'x'",
            "((((likes + 1) % 7) = 3) BETWEEN false AND true) IS NOT FALSE",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    }

    fn read(&mut self, data: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(data);
        let filter = RowFilter::compile(&text, &self.notes.schema());
        let named = |error: scalingnote::error::Error| error.context("a condition");
        let filter = filter.map_err(named)?;
        let read: &Schema = filter.columns();
        let schema = self.notes.schema();
        let at = read.fields().iter().map(|field| schema.index_of(field.name()).unwrap());
        let notes = self.notes.project(&at.collect::<Vec<_>>()).unwrap();
        filter.evaluate(&notes, &Cancel::new()).map(drop).map_err(named)
    }

    fn names(&self) -> Vec<String> {
        vec!["a condition".to_owned()]
    }
}

/// The query of a pipeline.
pub struct Query {
    folder: tempfile::TempDir,
}

impl Query {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: i64| format!("{id},{CANARY} {id},{}\n", id % 3);
        let text: String = (0..3).map(row).collect();
        std::fs::write(folder.path().join("notes.csv"), format!("id,text,score\n{text}")).unwrap();
        Self { folder }
    }
}

impl Target for Query {
    fn seeds(&self) -> Vec<Vec<u8>> {
        [
            "select id as note_id, text as body from notes where score > 0 and text is not null",
            "with n as (select id, text, case when score = 1 then 'a' else 'b' end as t from notes) select id as note_id, t || text as body from n",
            "select id as note_id, max(text) as body from (notes) group by id union all select 9, 'x'",
            "select n.id as note_id, m.text as body from notes n left join notes m on n.id = m.id order by n.id limit 2",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    }

    fn read(&mut self, data: &[u8]) -> Result<()> {
        let (table, sql) = (TableOptions::new("notes", "notes.csv"), String::from_utf8_lossy(data));
        let options = corpus(table, sql.into_owned(), TypeRule::Exact);
        block_on(prepared(&options, self.folder.path(), &Root::in_memory())).map(drop)
    }

    fn names(&self) -> Vec<String> {
        vec![
            "notes.csv".to_owned(),
            "corpus".to_owned(),
            "rejected, corpus.max_rejected".to_owned(),
        ]
    }
}
