//! The pipeline file: precedence, suggestions, secrets, and every problem at once.

use std::path::Path;

use scalingnote::config::{
    ENV_PREFIX, Origin, Pipeline, PipelineVersion, Resolved, Upgrade, resolve, resolve_text,
    upgrade,
};
use scalingnote::corpus::TypeRule;
use scalingnote::error::{ErrorKind, Result};
use scalingnote::index::Builder;
use scalingnote::tower::Defaults;
use scalingnote::types::Pooling;

const GOOD: &str = r#"version = 1

[corpus]
sql = "select id as note_id, title, body from notes"
template = "{{ title }}\n{{ body }}"

[[corpus.tables]]
name = "notes"
uri = "notes.csv"

[tower]
model = "fake:8"
pooling = "mean"
max_tokens = 100

[publish]
root = "out"
"#;

fn with(text: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Resolved> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let set: Vec<String> = set.iter().map(|&assignment| assignment.to_owned()).collect();
    resolve_text(text, "p.toml", Path::new("/etc/notes"), env, &set)
}

fn refused(text: &str) -> String {
    refused_with(text, &[], &[])
}

fn refused_with(text: &str, env: &[(&str, &str)], set: &[&str]) -> String {
    let error = with(text, env, set).expect_err("must be refused");
    assert_eq!(error.kind(), ErrorKind::Config);
    error.to_string()
}

#[test]
fn a_short_file_gets_every_default() {
    let pipeline = with(GOOD, &[], &[]).unwrap().pipeline;
    assert_eq!(pipeline.tower.pooling, Some(Pooling::Mean));
    assert_eq!(pipeline.encode.devices, ["cpu"]);
    assert_eq!(pipeline.gates.recall_min, 0.95);
    assert_eq!(pipeline.publish.root, "/etc/notes/out");
    assert_eq!(pipeline.base_dir, Path::new("/etc/notes"));
    assert!(pipeline.chunking.is_none());
    assert_eq!(pipeline.query_tower(), pipeline.tower.for_queries());
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let env = [
        ("SCALINGNOTE__TOWER__MAX_TOKENS", "200"),
        ("SCALINGNOTE__TOWER__PROMPT_PREFIX", "passage: "),
        ("SCALINGNOTE__CORPUS__TABLES__0__URI", "s3://bucket/notes"),
        ("SCALINGNOTE_PIPELINE", "not ours"),
        ("HOME", "/root"),
    ];
    let set = [
        "tower.max_tokens=300",
        "gates.recall_min = 0.5",
        "encode.devices=[\"cuda:0\", \"cuda:1\"]",
        "publish.root=s3://bucket/a=b",
        "tower.prompt_suffix=\" quoted \"",
        "chunking.window_tokens=64",
        "tower.max_tokens=301",
    ];
    let resolved = with(GOOD, &env, &set).unwrap();
    let pipeline = &resolved.pipeline;
    assert_eq!(pipeline.tower.max_tokens, Some(301));
    assert_eq!(pipeline.tower.prompt_prefix(), "passage: ");
    assert_eq!(pipeline.tower.prompt_suffix(), " quoted ");
    assert_eq!(pipeline.corpus.tables[0].uri, "s3://bucket/notes");
    assert_eq!(pipeline.gates.recall_min, 0.5);
    assert_eq!(pipeline.encode.devices, ["cuda:0", "cuda:1"]);
    assert_eq!(pipeline.publish.root, "s3://bucket/a=b");
    assert_eq!(pipeline.chunking.as_ref().map(|c| c.window_tokens), Some(64));

    let origin = |path: &str| pipeline.origins.by_key.get(path).cloned();
    assert_eq!(origin("tower.max_tokens"), Some(Origin::Flag("tower.max_tokens".into())));
    assert_eq!(
        origin("tower.prompt_prefix"),
        Some(Origin::Env("SCALINGNOTE__TOWER__PROMPT_PREFIX".into()))
    );
    assert_eq!(origin("tower.model"), Some(Origin::File { line: 12, column: 9 }));
    assert_eq!(origin("index.rescore"), None, "a default has no origin");
}

#[test]
fn unknown_keys_are_refused_wherever_they_stand() {
    let text = GOOD.replace("max_tokens", "maxtokens");
    assert_eq!(
        refused(&text),
        "p.toml:14:1: unknown key `maxtokens` in [tower]; did you mean `max_tokens`?"
    );
    let message =
        refused_with(GOOD, &[("SCALINGNOTE__TOWER__MAX_TOKEN", "5")], &["gate.recall_min=1"]);
    assert!(
        message.contains(
            "environment variable SCALINGNOTE__TOWER__MAX_TOKEN: unknown key `max_token` in [tower]; did you mean `max_tokens`?"
        ),
        "{message}"
    );
    assert!(message.contains("--set gate.recall_min: unknown key `gate`; did you mean `gates`?"));
    assert!(
        refused_with(GOOD, &[], &["tower.model.x=1"]).contains("unknown key `x` in [tower.model]")
    );
    assert!(refused_with(GOOD, &[], &["corpus.tables.7.uri=x"]).contains("there is `0`"));
    let named = refused_with(GOOD, &[], &["corpus.tables.notes.uri=x"]);
    assert!(named.contains("numbered from 0: write `corpus.tables.0` for the first"), "{named}");
    assert!(refused_with(GOOD, &[], &["tower"]).contains("write `--set section.key=value`"));
    assert!(refused_with(GOOD, &[], &["=1"]).contains("unknown key ``"));
}

#[test]
fn every_problem_is_told_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("select id as note_id, title, body from notes", " ")
        .replace("{{ body }}", "{% if %}")
        .replace("name = \"notes\"", "name = \"my notes\"\nhas_heder = true")
        .replace("max_tokens = 100", "max_tokens = 100\ndimensions = 0")
        + "[chunking]\nwindow_tokens = 200\noverlap_tokens = 200\n[gates]\nrecall_min = 95\n";
    let message = refused_with(&text, &[("SCALINGNOTE__RETENTION__SNAPSHOTS", "0")], &[]);
    let expected = [
        "9 problems in the configuration",
        "  p.toml:4:7: `corpus.sql` is empty",
        "  p.toml:5:12: `corpus.template` does not compile in its line 2",
        "  p.toml:8:8: `corpus.tables.0.name` must be letters",
        "  p.toml:9:1: unknown key `has_heder` in [corpus.tables.0]; did you mean `has_header`?",
        "  p.toml:16:14: `tower.dimensions` must be at least 1",
        "  p.toml:21:17: `chunking.window_tokens` must be at most `tower.max_tokens` (100)",
        "  p.toml:22:18: `chunking.overlap_tokens` must be less than `chunking.window_tokens` (200)",
        "  p.toml:24:14: `gates.recall_min` must be 0 to 1",
        "  environment variable SCALINGNOTE__RETENTION__SNAPSHOTS: must be",
    ];
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{message}");
    for (line, start) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{line}\nshould start with\n{start}");
    }
}

#[test]
fn values_that_make_no_sense_together_are_refused() {
    let table = "[[corpus.tables]]\nname = \"notes\"\nuri = \"notes.csv\"\n";
    for (text, message) in [
        (
            GOOD.replace("[tower]", &format!("{table}[tower]").replace("\"notes\"", "\"NOTES\"")),
            "another table is called too",
        ),
        (GOOD.replace(table, ""), "key `tables` is missing in [corpus]"),
        (GOOD.replace("{{ title }}\\n{{ body }}", "constant"), "names no column"),
        (GOOD.replace("fake:8", "fake:x"), "`tower.model` must be `fake:<dimensions>`"),
        (GOOD.replace("\"out\"", "\"ftp://x\""), "starts with `ftp://`"),
        (GOOD.to_owned() + "[encode]\ndevices = [\"cuda:0\", \"cuda:0\"]", "a second time"),
        (
            GOOD.to_owned() + "[encode]\ndevices = [\"gpu\"]",
            "neither `cpu`, `cpu:<threads>` nor `cuda:<number>`",
        ),
        (GOOD.to_owned() + "[encode]\npart_tokens = 0", "`encode.part_tokens` must be at least 1"),
        (GOOD.to_owned() + "[index]\nshards = 0", "`index.shards` must be 1 to 65536"),
        (GOOD.to_owned() + "[index]\nconnectivity = 1", "`index.connectivity` must be 2 to 512"),
        (
            GOOD.to_owned()
                + "[query]\nprompt_prefix = \"q\"\n[query.tower]\nmodel = \"fake:8\"\npooling = \"mean\"",
            "set `query.tower.prompt_prefix`",
        ),
        (GOOD.to_owned() + "[storage]\nendpoint = \"minio:9000\"", "must start with `http://`"),
        (
            GOOD.replace("version = 1", "version = 3"),
            "version 3 is not supported; this release reads versions 1 and 2: write `version = 2`, or take a newer",
        ),
        (
            GOOD.replace("version = 1", "version = 0"),
            "p.toml:1:11: version 0 is not supported; this release reads versions 1 and 2: write `version = 2`",
        ),
        (
            GOOD.replace("version = 1", "version = \"2\""),
            "p.toml:1:11: `version` is a number: write `version = 2`",
        ),
        (GOOD.replace("version = 1", "version = \"two\""), "`version` must be an integer"),
        (GOOD.replace("version = 1", "version = 2.0"), "`version` must be an integer"),
        (GOOD.replace("version = 1", ""), "key `version` is missing at the top"),
        (GOOD.replace("[publish]\nroot = \"out\"\n", ""), "section [publish] is missing"),
        (GOOD.replace("template =", "stored_columns = [\"chunk\"]\ntemplate ="), "names `chunk`"),
    ] {
        let found = refused(&text);
        assert!(found.contains(message), "{found}\nshould contain\n{message}");
    }
    let not_toml = refused("version = \n[corpus\n");
    assert!(not_toml.contains("p.toml:1:") && not_toml.contains("not TOML"), "{not_toml}");
}

#[test]
fn secrets_are_refused_and_never_repeated() {
    const SECRET: &str = "wJalrXUtnFEMIK7MDENG";
    for (text, way_out) in [
        (
            GOOD.to_owned() + &format!("[storage]\nsecret_access_key = \"{SECRET}\""),
            "AWS_SECRET_ACCESS_KEY",
        ),
        (GOOD.replace("[tower]", &format!("[tower]\ntoken = \"{SECRET}\"")), "HF_TOKEN"),
        (format!("password = \"{SECRET}\"\n{GOOD}"), "environment"),
        (GOOD.replace("\"out\"", &format!("\"s3://key:{SECRET}@bucket\"")), "environment"),
        (GOOD.replace("notes.csv", &format!("https://host/x?sig={SECRET}")), "environment"),
    ] {
        let message = refused(&text);
        assert!(message.contains(way_out), "{message}");
        assert!(!message.contains(SECRET), "{message}");
    }
    let flag = format!("storage.secret_key={SECRET}");
    let message = refused_with(GOOD, &[("SCALINGNOTE__STORAGE__PASSWORD", SECRET)], &[&flag]);
    assert!(message.starts_with("2 problems") && !message.contains(SECRET), "{message}");
}

#[test]
fn a_signed_address_of_a_table_comes_from_the_environment_and_is_not_printed() {
    const SIGNED: &str = "https://host/n.csv?X-Amz-Signature=5ecc3a";
    let message = refused(&GOOD.replace("notes.csv", SIGNED));
    let variable = "SCALINGNOTE__CORPUS__TABLES__0__URI";
    assert!(message.contains(variable) && !message.contains("5ecc3a"), "{message}");
    let flag = format!("corpus.tables.0.uri={SIGNED}");
    assert!(!refused_with(GOOD, &[], &[&flag]).contains("5ecc3a"));
    let resolved = with(GOOD, &[(variable, SIGNED)], &[]).unwrap();
    assert_eq!(resolved.pipeline.corpus.tables[0].uri, SIGNED);
    for shown in [resolved.to_toml().unwrap(), resolved.to_json().unwrap()] {
        assert!(shown.contains("https://host/n.csv?[secret]"), "{shown}");
        assert!(!shown.contains("5ecc3a"), "{shown}");
    }
    let root = refused_with(GOOD, &[("SCALINGNOTE__PUBLISH__ROOT", SIGNED)], &[]);
    assert!(root.contains("credential") && !root.contains("5ecc3a"), "{root}");
}

#[test]
fn what_show_prints_reads_back_to_the_same_pipeline() {
    let text = GOOD.replace("select id", "select\\n\\t'\\\"\\\\' as q, '\u{7b14}' as s, id");
    let shown = with(&text, &[], &["tower.max_tokens=7", "query.prompt_prefix= query: "]).unwrap();
    let toml = shown.to_toml().unwrap();
    assert!(toml.contains("max_tokens = 7  # --set tower.max_tokens\n"), "{toml}");
    assert!(toml.contains("connectivity = 16  # default\n"), "{toml}");
    assert!(toml.contains("model = \"fake:8\"\n"), "{toml}");
    assert!(
        toml.contains("prompt_prefix = \"query: \"  # --set"),
        "only leading spaces go\n{toml}"
    );
    let again = with(&toml, &[], &[]).unwrap();
    assert_eq!(again.pipeline, shown.pipeline);

    let json: serde_json::Value = serde_json::from_str(&shown.to_json().unwrap()).unwrap();
    assert_eq!(json["origins"]["tower.max_tokens"], "--set tower.max_tokens");
    assert_eq!(json["origins"]["tower.model"], "line 12");
    assert_eq!(json["pipeline"]["tower"]["max_tokens"], 7);
}

#[test]
fn the_schema_knows_every_key_that_the_types_know() {
    let schema = Pipeline::json_schema();
    for section in [
        "corpus",
        "tower",
        "encode",
        "index",
        "chunking",
        "gates",
        "publish",
        "retention",
        "storage",
        "query",
    ] {
        assert!(schema["properties"].get(section).is_some(), "{section}");
    }
    // Every key of the resolved form can be overridden by its environment variable's name.
    let json: serde_json::Value =
        serde_json::from_str(&with(GOOD, &[], &[]).unwrap().to_json().unwrap()).unwrap();
    for (section, keys) in json["pipeline"].as_object().unwrap() {
        for (key, value) in keys.as_object().into_iter().flatten() {
            if value.is_string() || value.is_number() || value.is_boolean() {
                let name =
                    format!("{ENV_PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase());
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                with(GOOD, &[(&name, &text)], &[]).unwrap_or_else(|e| panic!("{name}={text}: {e}"));
            }
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("b.toml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    for path in [folder.path(), &folder.path().join("none.toml"), &binary] {
        let error = resolve(path, [], &[]).unwrap_err();
        assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::Usage, 2));
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn the_pipelines_that_people_copy_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let recipe = ["train-", "distill-"].iter().any(|start| name.starts_with(start));
        if path.extension().is_some_and(|ending| ending == "toml") && !recipe {
            resolve(&path, [], &[]).unwrap_or_else(|error| panic!("{error}"));
            seen += 1;
        }
    }
    assert!(seen >= 2, "quickstart and daily");
}

/// [`GOOD`] on a GPU, where version 2 has another default.
fn on_a_gpu() -> String {
    GOOD.to_owned() + "\n[encode] # on the card\ndevices = [\"cuda:0\"]\n"
}

fn second(text: &str) -> String {
    text.replace("version = 1", "version = 2")
}

#[test]
fn a_version_decides_what_a_key_that_is_left_out_means() {
    let budget = |text: &str, env: &[(&str, &str)], set: &[&str]| {
        with(text, env, set).unwrap().pipeline.encode.token_budget
    };
    let gpu = on_a_gpu();
    assert_eq!(budget(&gpu, &[], &[]), 4096);
    assert_eq!(budget(&second(&gpu), &[], &[]), 65_536);
    assert_eq!(budget(&gpu, &[], &["version=2"]), 65_536);
    assert_eq!(budget(&second(&gpu), &[("SCALINGNOTE__VERSION", "1")], &[]), 4096);
    // Devices that come from elsewhere count, and a processor among them keeps the small one.
    assert_eq!(budget(&second(GOOD), &[], &[]), 4096);
    assert_eq!(budget(&second(GOOD), &[], &["encode.devices=[\"cuda:0\", \"cuda:1\"]"]), 65_536);
    assert_eq!(budget(&second(&gpu), &[], &["encode.devices=[\"cuda:0\", \"cpu\"]"]), 4096);
    // What somebody sets holds in either version, also where it is the other's default.
    for text in [&gpu, &second(&gpu)] {
        assert_eq!(budget(&(text.clone() + "token_budget = 4096\n"), &[], &[]), 4096);
        assert_eq!(budget(text, &[("SCALINGNOTE__ENCODE__TOKEN_BUDGET", "4096")], &[]), 4096);
        assert_eq!(budget(text, &[], &["encode.token_budget=65536"]), 65_536);
    }
    let mut both = [&gpu, &second(&gpu)].map(|text| with(text, &[], &[]).unwrap());
    assert_eq!(both.each_ref().map(|resolved| resolved.changes().unwrap().len()), [4, 0]);
    let set = both.each_ref().map(|resolved| &resolved.pipeline.origins.by_key);
    assert!(set.iter().all(|by_key| !by_key.contains_key("encode.token_budget")));
    both[0].pipeline.encode.token_budget = 65_536;
    both[0].pipeline.version = PipelineVersion::V2;
    both[0].pipeline.corpus.types = TypeRule::Exact;
    both[0].pipeline.index.builder = Builder::Scalingnote;
    both[0].pipeline.tower.defaults = Defaults::Model;
    assert_eq!(both[0].pipeline, both[1].pipeline, "nothing else differs");

    let none = second(&gpu).replace("[tower]\n", "[tower]\ndefaults = \"none\"\n");
    for (version, text) in [(1, &gpu), (2, &second(&gpu)), (2, &none)] {
        let shown = with(text, &[], &[]).unwrap();
        let toml = shown.to_toml().unwrap();
        assert!(toml.contains(&format!("\nversion = {version}\n")), "{toml}");
        assert_eq!(with(&toml, &[], &[]).unwrap().pipeline, shown.pipeline);
        let json: serde_json::Value = serde_json::from_str(&shown.to_json().unwrap()).unwrap();
        assert_eq!(json["pipeline"]["version"], version);
    }
    let next = second(&gpu) + "[next.tower]\nmodel = \"fake:16\"\npooling = \"mean\"\n";
    let after = with(&next, &[], &[]).unwrap().pipeline.after_next().unwrap();
    assert_eq!((after.version, after.encode.token_budget), (PipelineVersion::V2, 65_536));
}

#[test]
fn what_version_2_changes_is_told_for_the_very_file() {
    let changes = |text: &str, set: &[&str]| {
        let changes = with(text, &[], set).unwrap().changes().unwrap();
        changes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let told = changes(&on_a_gpu(), &[]);
    assert!(told[0].starts_with("corpus.types: \"guessed\" in version 1, \"exact\" in version 2"));
    assert_eq!(
        told[1..],
        [
            "encode.token_budget: 4096 in version 1, 65536 in version 2 (the embedding space stays); a GPU is not busy \
             with 4096 tokens, so it is 65536 where every device is one",
            "index.builder: \"usearch\" in version 1, \"scalingnote\" in version 2 (the embedding space stays); this program \
             builds the graphs itself, faster, into the same files; every index is built again once",
            "tower.defaults: \"none\" in version 1, \"model\" in version 2 (every text is encoded again); what the pipeline \
             does not say of pooling, prompts, longest text and tokenisation is as the model's own files say, and as in \
             version 1 only where they say nothing"
        ]
    );
    let without_gpu = [told[0].clone(), told[2].clone(), told[3].clone()];
    assert_eq!(changes(GOOD, &[]), without_gpu);
    let settled = ["corpus.types=guessed", "index.builder=usearch", "tower.defaults=none"];
    assert!(changes(GOOD, &settled).is_empty());
    assert_eq!(changes(&on_a_gpu(), &["encode.token_budget=4096"]), without_gpu);
    assert!(changes(&second(&on_a_gpu()), &[]).is_empty());
    // The schema tells of all of them.
    let schema = Pipeline::json_schema();
    let told = schema["properties"]["version"]["description"].as_str().unwrap();
    for key in ["`corpus.types`", "`index.builder`", "`next.tower.defaults`"] {
        assert!(told.contains(key), "{told}");
    }
}

#[test]
fn an_upgraded_file_keeps_its_comments_and_its_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    let upgraded = |text: &str, env: &[(&str, &str)], new_defaults| -> Result<Upgrade> {
        std::fs::write(&file, text).unwrap();
        let env: Vec<_> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let upgrade = upgrade(&file, &env, new_defaults);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "nothing is written");
        upgrade
    };
    let commented =
        on_a_gpu().replace("version = 1", "# a pipeline\nversion = 1   # of the format");
    let kept = upgraded(&commented, &[], false).unwrap();
    assert_eq!(
        kept.text,
        second(&commented)
            .replace("[corpus]\n", "[corpus]\ntypes = \"guessed\" # as in version 1\n")
            .replace("[tower]\n", "[tower]\ndefaults = \"none\" # as in version 1\n")
            .replace(
                "[encode] # on the card\n",
                "[encode] # on the card\ntoken_budget = 4096 # as in version 1\n"
            )
            + "\n[index]\nbuilder = \"usearch\" # as in version 1\n"
    );
    assert_eq!((kept.before, kept.changes.len()), (PipelineVersion::V1, 4));
    let new = upgraded(&commented, &[], true).unwrap();
    assert_eq!((new.text, new.changes), (second(&commented), kept.changes));
    let again = upgraded(&kept.text, &[], true).unwrap();
    assert_eq!((again.before, again.text), (PipelineVersion::V2, kept.text));

    // However a file writes its sections, its meaning stays: the library compares both and would refuse.
    let none: &[(&str, &str)] = &[];
    let env: &[(&str, &str)] = &[("SCALINGNOTE__ENCODE__DEVICES", "[\"cuda:0\"]")];
    for (text, env, pinned) in [
        (format!("encode.devices = [\"cuda:0\"]\n{GOOD}"), none, "encode.token_budget = 4096 #"),
        (
            format!("encode = {{ devices = [\"cuda:0\"] }}\n{GOOD}"),
            none,
            "encode = { token_budget = 4096, devices",
        ),
        (GOOD.to_owned(), env, "\n\n[encode]\ntoken_budget = 4096 #"),
        (on_a_gpu().replace('\n', "\r\n"), none, "\r\ntoken_budget = 4096 # as in version 1\r\n"),
    ] {
        let upgrade = upgraded(&text, env, false).unwrap();
        assert!(upgrade.text.contains(pinned), "{}", upgrade.text);
        let [old, new] = [&text, &upgrade.text].map(|text| with(text, env, &[]).unwrap());
        assert_eq!(old.pipeline.encode, new.pipeline.encode);
    }
    let settled = GOOD
        .replace("[corpus]\n", "[corpus]\ntypes = \"guessed\"\n")
        .replace("[tower]\n", "[tower]\ndefaults = \"none\"\n")
        + "[index]\nbuilder = \"usearch\"\n";
    let unchanged = upgraded(&settled, &[], false).unwrap();
    assert_eq!((unchanged.text, unchanged.changes), (second(&settled), Vec::new()));

    // A version that the file does not hold cannot be changed in it.
    let bare = GOOD.replace("version = 1\n", "");
    let error = upgraded(&bare, &[("SCALINGNOTE__VERSION", "1")], false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("SCALINGNOTE__VERSION; unset it first"), "{error}");
    assert_eq!(upgraded("version = 3\n", &[], false).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn the_pipelines_that_people_copy_are_of_version_2() {
    for name in ["quickstart", "daily"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pipelines/{name}.toml"));
        let old = std::fs::read_to_string(&file).unwrap();
        let upgrade = upgrade(&file, &[], false).unwrap();
        assert_eq!(upgrade.before, PipelineVersion::V2, "{name}");
        assert_eq!((upgrade.text, upgrade.changes), (old, Vec::new()), "{name}");
    }
}
