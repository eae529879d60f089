//! Folders of Markdown notes, as Obsidian, Hugo and Jekyll keep them.

use std::time::Instant;

use scalingnote::corpus::{ColumnType, TableFormat};
use scalingnote::error::ErrorKind;

use super::{Corpus, digests};

const SQL: &str = "SELECT path AS note_id, title, body, tags AS topics FROM notes";

fn vault(sql: &str) -> Corpus {
    let mut corpus = Corpus::new("vault", sql);
    corpus.options.tables[0].format = Some(TableFormat::Markdown);
    corpus.options.template = "{{ title }}|{{ body }}|{{ topics | join(',') }}".to_owned();
    corpus
}

#[tokio::test]
async fn every_house_style_is_a_note() {
    let corpus = vault(SQL)
        .write("vault/Obsidian.md", "---\ntags: [a, b/c]\naliases:\n  - O\n---\n# On it\n\nText with [[Link|a link]].\n")
        .write("vault/posts/hugo.md", "+++\ntitle = \"Hugo\"\ndate = 2024-10-01\ntags = ['x']\ndraft = false\n+++\n\nWords.\n")
        .write("vault/posts/2024-10-01-jekyll.markdown", "---\r\nlayout: post\r\ntitle:  \"Jekyll: one\"\r\ntags: news me\r\n---\r\nOne.\r\nTwo.\r\n")
        .write("vault/deep/er/plain.md", "\u{feff}Just words.\n")
        .write("vault/list.txt", "- [ ] nothing\n")
        // What is not a note beside them.
        .write("vault/.obsidian/app.json", "{}")
        .write("vault/.trash/old.md", "gone")
        .write("vault/image.png", b"\x89PNG\r\n")
        .write("vault/data.csv", "a,b\n1,2\n");
    let (outcome, rows) = corpus.rows().await;
    let mut texts: Vec<_> =
        rows.into_iter().map(|row| (row.note_id.to_string(), row.text)).collect();
    texts.sort();
    let expected = [
        ("s:Obsidian.md", "On it|Text with [[Link|a link]].|a,b/c"),
        ("s:deep/er/plain.md", "plain|Just words.|"),
        ("s:list.txt", "list|- [ ] nothing|"),
        ("s:posts/2024-10-01-jekyll.markdown", "Jekyll: one|One.\nTwo.|news,me"),
        ("s:posts/hugo.md", "Hugo|Words.|x"),
    ];
    assert_eq!(texts, expected.map(|(id, text)| (id.to_owned(), text.to_owned())));
    let files: Vec<_> = outcome.inputs.iter().map(|input| input.uri.clone()).collect();
    assert!(files.is_sorted() && files.len() == 5, "{files:?}");
    let warned = format!("{:?}", corpus.reporter.events());
    assert!(warned.contains("skipped files without a known ending: 2, e.g."), "{warned}");
}

#[tokio::test]
async fn other_keys_are_columns_of_text_unless_declared() {
    let sql = "SELECT path AS note_id, concat_ws(' ', rating, lang, meta.place) AS body, updated AS updated_at \
        FROM notes WHERE rating > 3 AND NOT coalesce(draft, false) AND NOT array_has(aliases, 'x')";
    let mut corpus = vault(sql)
        .write("vault/a.md", "---\nrating: 007\nlang: no\nupdated: 2024-10-01\nmeta: {place: here}\naliases: y\n---\n")
        .write("vault/b.md", "---\nrating: 4\ndraft: true\naliases: []\n---\nb")
        .write("vault/c.md", "---\nrating: 2\n---\nc")
        .write("vault/d.md", "+++\nrating = 5\naliases = [\"y\", \"z\"]\n+++\nd")
        .write("vault/e.md", "---\nrating: 9\naliases: [x]\n---\n");
    for (name, declared) in [
        ("rating", ColumnType::Integer),
        ("draft", ColumnType::Boolean),
        ("aliases", ColumnType::Strings),
        ("never", ColumnType::Date),
    ] {
        corpus.options.tables[0].schema.insert(name.to_owned(), declared);
    }
    corpus.options.template = "{{ body }}".to_owned();
    let mut texts = corpus.texts().await;
    texts.sort();
    let expected = [("s:a.md", "7 no here"), ("s:d.md", "5")];
    assert_eq!(texts, expected.map(|(id, text)| (id.to_owned(), text.to_owned())));
    // Without the declarations all of it is text, as it was written.
    corpus.options.tables[0].schema.clear();
    corpus.options.sql =
        "SELECT path AS note_id, rating AS body FROM notes WHERE draft = 'true' OR rating = '007'"
            .into();
    let mut texts = corpus.texts().await;
    texts.sort();
    let expected = [("s:a.md", "007"), ("s:b.md", "4")];
    assert_eq!(texts, expected.map(|(id, text)| (id.to_owned(), text.to_owned())));
    // A list here and a text there is refused where it is read, with both files.
    corpus.options.sql = "SELECT path AS note_id, aliases AS body FROM notes".into();
    let told = corpus.fails().await.to_string();
    for piece in ["aliases", "a.md", "b.md"] {
        assert!(told.contains(piece), "{told}");
    }
}

#[tokio::test]
async fn bad_notes_are_rejected_with_file_and_line_and_without_their_text() {
    for (front, line, reason) in [
        ("---\ntitle: a: secret\n---\nx", 2, "not YAML"),
        ("---\na: 1\nb: [secret\n---\nx", 4, "not YAML"),
        ("---\nsecret\n---\nx", 2, "no list of keys and values"),
        ("---\na: secret\na: secret\n---\nx", 3, "a key given twice"),
        ("---\na: &secret [x]\nb: *secret\n---\n", 3, "an alias"),
        ("---\ntags: [[secret]]\n---\n", 1, "tags that are not texts"),
        ("---\ntitle: [secret]\n---\n", 1, "a title that is not a text"),
        ("+++\na = secret\n+++\n", 2, "not TOML"),
        ("+++\ntitle = 'secret'\n", 1, "without a closing +++"),
    ] {
        let mut corpus = vault(SQL).write("vault/good.md", "words").write("vault/bad.md", front);
        let told = format!("{:?}", corpus.fails().await);
        for piece in [&format!("bad.md line {line}"), reason] {
            assert!(told.contains(piece), "{front:?}: {told}");
        }
        assert!(!told.contains("secret"), "{told}");
        corpus.options.max_rejected = 1;
        let (outcome, rows) = corpus.rows().await;
        assert_eq!((rows.len(), outcome.rejections.total()), (1, 1), "{front:?}");
    }
    let mut corpus =
        vault(SQL).write("vault/good.md", "words").write("vault/bad.md", b"a\nb\nsecret \xff");
    assert!(corpus.fails().await.to_string().contains("not UTF-8"));
    corpus.options.tables[0].encoding = Some(scalingnote::corpus::TextEncoding::Latin1);
    assert_eq!(corpus.texts().await.len(), 2);
    // A declaration that a value does not fit.
    let mut corpus = vault(SQL).write("vault/a.md", "---\nday: soon\n---\nx");
    corpus.options.tables[0].schema.insert("day".into(), ColumnType::Date);
    let told = corpus.fails().await.to_string();
    assert!(told.contains("a.md") && told.contains("not of the declared type"), "{told}");
}

#[tokio::test]
async fn a_note_may_be_as_long_as_a_row_and_no_longer() {
    let mut corpus = vault(SQL).write("vault/long.md", "x \u{1}".repeat(5 << 19));
    corpus.options.memory_limit_mib = 256;
    assert_eq!(corpus.texts().await.len(), 1, "7.5 MiB, more as JSON");
    let corpus = corpus.write("vault/long.md", "x ".repeat(5 << 20));
    let error = corpus.fails().await;
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("more than"), "{error}");
}

#[tokio::test]
async fn markdown_is_read_only_where_it_is_said() {
    let mut corpus = vault(SQL)
        .write("vault/README.md", "# Read me")
        .write("vault/a.csv", "note_id,body\n1,x\n");
    corpus.options.tables[0].format = None;
    corpus.options.sql = "SELECT note_id, body FROM notes".into();
    assert_eq!(corpus.texts().await.len(), 1, "a README beside data is not a table");
    let mut corpus = vault(SQL).write("vault/a.md", "words");
    corpus.options.tables[0].format = None;
    corpus.options.tables[0].uri = "vault/a.md".into();
    let told = corpus.fails().await.to_string();
    assert!(told.contains("set format = \"markdown\""), "{told}");
    // One file, whatever it is called; and a glob.
    let mut corpus = vault(SQL).write("vault/NOTES", "words").write("vault/_posts/b.md", "more");
    corpus.options.tables[0].uri = "vault/NOTES".into();
    assert_eq!(corpus.texts().await[0].0, "s:NOTES");
    corpus.options.tables[0].uri = "vault/_posts/*.md".into();
    assert_eq!(corpus.texts().await[0].0, "s:b.md");
    corpus.options.tables[0].quote = Some("'".into());
    assert_eq!(corpus.fails().await.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn folders_are_columns_and_a_join_is_a_join() {
    let sql = "SELECT notes.path AS note_id, notes.body, lang FROM notes JOIN likes USING (path) WHERE likes.n > 1";
    let mut corpus = vault(sql)
        .write("vault/lang=de/a.md", "eins")
        .write("vault/lang=en/b.md", "two")
        .write("likes.csv", "path,n\nlang=de/a.md,1\nlang=en/b.md,2\n");
    corpus.options.tables.push(super::table("likes", "likes.csv"));
    corpus.options.template = "{{ lang }} {{ body }}".to_owned();
    assert_eq!(corpus.texts().await, [("s:lang=en/b.md".to_owned(), "en two".to_owned())]);
}

#[tokio::test]
async fn thousands_of_notes_come_out_the_same_in_any_order_of_writing() {
    let note = |at: usize| {
        (
            format!("vault/{}/{at}.md", at % 50),
            format!("---\ntags: [t{}]\n---\n# Note {at}\n\nAbout {}.\n", at % 7, at % 13),
        )
    };
    let (mut forth, mut back) = (vault(SQL), vault(SQL));
    for at in 0..3_000 {
        let ((name, text), (last, other)) = (note(at), note(2_999 - at));
        forth = forth.write(&name, text);
        back = back.write(&last, other);
    }
    let began = Instant::now();
    let (outcome, rows) = forth.rows().await;
    println!("3,000 notes in {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(rows.len(), 3_000);
    assert_eq!(digests(&outcome), digests(&back.rows().await.0));
}
