//! What is said of mistakes, word for word: about data, about SQL, about a file of settings.

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

/// A pipeline with tables `Notes` and `tags`.
fn place() -> Place {
    let place = Place::new();
    let text = PipelineFile::titles("notes.csv", "root")
        .text()
        .replace("name = \"notes\"", "name = \"Notes\"")
        .replace("[tower]", "[[corpus.tables]]\nname = \"tags\"\nuri = \"tags.csv\"\n[tower]");
    place.write("p.toml", text);
    place.write("notes.csv", "id,title,Größe (cm),last name\n1,a,3,x\n2,b,4,y\n");
    place.write("tags.csv", "tag\nred\n");
    place
}

/// What stands on stderr.
#[track_caller]
fn stderr(place: &Place, code: i32, arguments: &[&str]) -> String {
    let output = place.command("").args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn sql(place: &Place, code: i32, sql: &str) -> String {
    stderr(place, code, &["run", "p.toml", "-q", "--set", &format!("corpus.sql={sql}")])
}

#[test]
fn sql_that_names_what_is_not_there() {
    let place = place();
    for (select, said) in [
        (
            "select id as note_id, title from notes",
            "corpus.sql: no table named notes; did you mean \"Notes\", in double quotes? Without them a name is \
             read in small letters (tables: \"Notes\", tags)\n",
        ),
        (
            "select id as note_id, title from 'notes.csv'",
            "corpus.sql: no table named \"notes.csv\"; did you mean \"Notes\", in double quotes? Without them a name \
             is read in small letters (tables: \"Notes\", tags)\n",
        ),
        (
            "select id as note_id, titel as title from \"Notes\"",
            "corpus.sql: no column named titel; did you mean title? (columns: id, title, \"Größe (cm)\", \
             \"last name\")\n",
        ),
        (
            "select id as note_id, größe as title from \"Notes\"",
            "corpus.sql: no column named \"größe\"; did you mean \"Größe (cm)\", in double quotes? Without them a \
             name is read in small letters (columns: id, title, \"Größe (cm)\", \"last name\")\n",
        ),
        (
            "select id, title from \"Notes\"",
            "column `note_id` is missing (corpus.sql must return it); the query returns `id`, `title`; nearest is `id`: \
             write id AS note_id if it is meant\n",
        ),
    ] {
        assert_eq!(sql(&place, 2, select), format!("error: --set corpus.sql: {said}"), "{select}");
    }
    // Each way out works.
    let good =
        "select id as note_id, \"last name\" as title from \"Notes\" where \"Größe (cm)\" > 1";
    assert_eq!(sql(&place, 0, good), "");
    let good = "select id as note_id, title from \"Notes\" cross join tags";
    assert_eq!(sql(&place, 0, good), "");
}

#[test]
fn what_the_corpus_does_not_fit_has_its_place_in_the_file() {
    let place = place();
    let whole = std::fs::read_to_string(place.path("p.toml")).unwrap();
    let whole = whole.replace("from notes", "from \\\"Notes\\\"");
    for (written, instead, code, said) in [
        ("title from", "titel from", 2, "3:7: corpus.sql: no column named titel; did you mean"),
        ("select", "selec", 2, "3:7: `corpus.sql` cannot be parsed: expected an SQL statement"),
        ("id as", "cast(title as bigint) as", 1, "3:7: corpus of notes.csv, tags.csv: reading the"),
        ("{{ title }}", "{{ titel }}", 2, "4:12: column `titel` is missing (corpus.template reads"),
        ("{{ title }}", "{{ title | up }}", 2, "4:12: corpus.template: unknown filter"),
        ("template", "stored_columns = [\"a\"]\ntemplate", 2, "4:19: column `a` is missing"),
        ("\"notes.csv\"", "\"none*.csv\"", 1, "7:7: table `Notes`: none*.csv matches no file"),
        ("\"tags.csv\"", "\"tags.csv\"\nformat = \"parquet\"", 1, "11:10: table `tags`: "),
        ("\"tags.csv\"", "\"tags.csv\"\nschema.a = \"string\"", 2, "11:12: table `tags`: schema"),
    ] {
        place.write("q.toml", whole.replacen(written, instead, 1));
        for command in ["run", "plan"] {
            let told = stderr(&place, code, &[command, "q.toml", "-q"]);
            assert!(told.starts_with(&format!("error: q.toml:{said}")), "{instead}: {told}");
            assert_eq!(told.matches("q.toml:").count(), 1, "{told}");
        }
    }
    place.write("q.toml", whole);
    let mut command = place.command("plan q.toml -q");
    let output = command.env("SCALINGNOTE__CORPUS__TEMPLATE", "{{ titel }}").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let variable = "error: environment variable SCALINGNOTE__CORPUS__TEMPLATE: column `titel`";
    assert!(told.starts_with(variable), "{told}");
}

#[test]
fn what_a_tower_cannot_be_has_its_place_in_the_file() {
    let place = place();
    let whole = std::fs::read_to_string(place.path("p.toml")).unwrap();
    let whole = whole.replace("from notes", "from \\\"Notes\\\"");
    let line = whole.lines().position(|line| line.starts_with("[tower]")).unwrap() + 2;
    let (before, after) = whole.split_once("[tower]\n").unwrap();
    let after = after.split_once('\n').unwrap().1;
    for (tower, code, said) in [
        ("model = \"./none\"", 1, ":9: model \"./none\": there is no file or directory"),
        ("head = \"none\"\nmodel = \".\"", 1, ":8: head: "),
        ("dimensions = 9\nmodel = \"fake:8\"", 2, ":14: dimensions is 9, but"),
    ] {
        place.write("q.toml", format!("{before}[tower]\n{tower}\n{after}"));
        for command in ["run", "plan"] {
            let told = stderr(&place, code, &[command, "q.toml", "-q"]);
            assert!(told.starts_with(&format!("error: q.toml:{line}{said}")), "{told}");
            assert_eq!(told.matches("q.toml:").count(), 1, "{told}");
        }
    }
    let next = "\n[next.tower]\nmodel = \"fake:8\"\npooling = \"mean\"\ndimensions = 9\n";
    place.write("q.toml", whole.clone() + next);
    let line = whole.lines().count() + 5;
    let told = stderr(&place, 2, &["run", "q.toml", "-q"]);
    assert!(told.contains(&format!("q.toml:{line}:14: dimensions is 9")), "{told}");
}

const PIPELINE: &str = "hint: `scalingnote schema pipeline` lists every key of a pipeline file";

#[test]
fn only_a_wrong_pipeline_file_is_sent_to_its_schema() {
    let place = place();
    place.write("r.toml", "stepz = 1\n");
    place.write("n.csv", "id,title\n1.5,a\n");
    for (arguments, said) in [
        (
            &["run", "p.toml", "--set", "tower.modle=x"][..],
            format!("error: --set tower.modle: unknown key `modle` in [tower]; did you mean `model`?\n  {PIPELINE}\n"),
        ),
        (
            &["run", "p.toml", "--set", "tower.zzz=x"],
            format!("error: --set tower.zzz: unknown key `zzz` in [tower]\n  {PIPELINE}\n"),
        ),
        (
            &["run", "p.toml", "--set", "version=9"],
            "error: --set version: version 9 is not supported; this release reads versions 1 and 2: write `version = 2`, or \
             take a newer scalingnote\n  hint: "
                .to_owned()
                + &PIPELINE[6..]
                + "\n",
        ),
        (
            &["train", "r.toml"],
            "error: 5 problems in the configuration\n  r.toml:1:1: unknown key `stepz` at the top; did you mean `steps`?\n  \
             r.toml:1:1: section [tower] is missing\n  r.toml:1:1: section [query] is missing\n  \
             r.toml:1:1: section [[pairs]] is missing\n  r.toml:1:1: section [method] is missing\n  \
             hint: `scalingnote schema train` and `scalingnote schema distill` list every key of a recipe\n"
                .to_owned(),
        ),
    ] {
        assert_eq!(stderr(&place, 2, arguments), said, "{arguments:?}");
    }
    for (set, code) in [
        ("corpus.sql=select id as note_id, title from notes", 2),
        ("corpus.sql=select id as note_id, id as title from \"Notes\"", 2),
        ("corpus.sql=select id + 0.5 as note_id, title from \"Notes\"", 2),
        ("corpus.template={{ titel }}", 2),
        ("corpus.template={{ title | nope }}", 2),
        ("corpus.stored_columns=[\"lkes\"]", 2),
        ("corpus.tables.0.uri=none.csv", 1),
        ("corpus.tables.0.uri=s3://", 2),
        ("tower.model=fake:8?x", 2),
    ] {
        let select = "corpus.sql=select id as note_id, title from \"Notes\"";
        let said = stderr(&place, code, &["run", "p.toml", "-q", "--set", select, "--set", set]);
        assert!(said.starts_with("error: "), "{set}: {said}");
        assert!(!said.contains("scalingnote schema"), "{set}: {said}");
    }
    let json =
        stderr(&place, 2, &["--log-format", "json", "config", "check", "p.toml", "--set", "a=1"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["hint"], PIPELINE[6..]);
}
