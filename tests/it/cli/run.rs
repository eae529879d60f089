//! Whole runs through the program, on the fake tower: what an operator types and sees.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::program::encoded;
use crate::fixture::support;

/// A folder with `notes` notes and a pipeline over them.
fn over(notes: usize) -> Place {
    let place = Place::new();
    write_notes(&place, notes, |at| format!("\u{7b14}\u{8bb0} {at}: words of note number {at}"));
    write_pipeline(&place, "fake:16", "root");
    place
}

fn write_pipeline(place: &Place, model: &str, root: &str) {
    let pipeline = PipelineFile {
        columns: "title, body",
        template: r"{{ title }}\n{{ body }}",
        corpus: "stored_columns = [\"title\"]\n",
        model,
        root,
        ..PipelineFile::default()
    };
    place.write("p.toml", pipeline.text());
}

fn write_notes(place: &Place, notes: usize, body: impl Fn(usize) -> String) {
    let line = |at: usize| {
        let note = serde_json::json!({ "id": at, "title": format!("note {at}"), "body": body(at) });
        format!("{note}\n")
    };
    place.write("notes.jsonl", (0..notes).map(line).collect::<String>());
}

fn manifests(place: &Place) -> usize {
    std::fs::read_dir(place.path("root/snapshots")).map_or(0, Iterator::count)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn plan_run_and_run_again() {
    let place = over(300);
    let plan = place.json(0, "plan p.toml --json");
    assert_eq!(plan["total"]["notes_new"], 300);
    assert_eq!(plan["total"]["texts"], 300);
    assert!(plan["total"]["tokens"].as_u64().unwrap() > 300);
    assert!(plan["tasks"].as_u64().unwrap() >= 2);
    assert_eq!(manifests(&place), 0, "a plan publishes nothing");

    let report = place.json(0, "run p.toml --json");
    assert_eq!(report["outcome"]["result"], "published");
    assert_eq!(report["outcome"]["snapshot"], 1);
    assert_eq!(encoded(&report), 300);
    let run = report["run"].as_str().unwrap();
    let html =
        std::fs::read_to_string(place.path(&format!("root/runs/{run}/report.html"))).unwrap();
    assert!(html.contains(run) && html.contains("published snapshot 1"));
    let stored =
        std::fs::read_to_string(place.path(&format!("root/runs/{run}/report.json"))).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&stored).unwrap(), report);

    let again = place.json(0, "run p.toml --json");
    assert_eq!(again["outcome"]["result"], "nothing-to-do");
    assert_eq!(encoded(&again), 0);
    assert_eq!(place.json(0, "plan p.toml --json")["tasks"], 0);
    assert!(place.expect(0, "plan p.toml").ends_with("nothing to do: 0 tasks\n"));
    assert_eq!(manifests(&place), 1);

    // Five notes change, one goes.
    write_notes(&place, 299, |at| {
        let edited = if at < 5 { "edited" } else { "words" };
        format!("\u{7b14}\u{8bb0} {at}: {edited} of note number {at}")
    });
    let changed = place.json(0, "run p.toml --json");
    assert_eq!((encoded(&changed), &changed["outcome"]["snapshot"]), (5, &2.into()));
    assert_eq!(changed["corpus"]["notes_changed"], 5);
    assert_eq!(changed["corpus"]["notes_deleted"], 1);

    let diff = place.json(0, "snapshot diff root 1 2 --notes --json");
    assert_eq!(diff["notes"]["changed"], 5);
    assert_eq!(diff["notes"]["removed_ids"], serde_json::json!(["i:299"]));
    let list = place.json(0, "snapshot list p.toml --json");
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(place.json(0, "snapshot show root --json")["number"], 2);
    assert_eq!(place.json(0, "snapshot show root 1 --json")["content"]["notes"], 300);
    assert_eq!(place.run("snapshot show root 7").status.code(), Some(1));
}

/// The same notes, as the whole corpus and then as a delta, which upserts them: nothing but that is recorded otherwise.
#[test]
fn a_diff_tells_apart_what_only_the_mode_of_the_corpus_does() {
    let place = over(40);
    let run = "run p.toml --quiet --set index.shards=2";
    place.expect(0, run);
    let delta = place.json(0, &format!("{run} --json --set corpus.mode=delta"));
    assert_eq!((encoded(&delta), &delta["outcome"]["snapshot"]), (0, &2.into()), "{delta}");
    let diff = place.json(0, "snapshot diff root 1 2 --json");
    let (diff, none) = (&diff["snapshots"], serde_json::json!([]));
    assert_eq!((&diff["indexes_changed"], &diff["ids_changed"]), (&none, &none), "{diff}");
    assert_eq!(diff["same_content"], false, "{diff}");
    assert_ne!(diff["sources_changed"], none, "{diff}");
    let said = ["read in full   all -> none of the shards", "corpus.mode = \"delta\""];
    place.says(0, "snapshot diff root 1 2", &said);
    // The whole corpus again.
    place.expect(0, run);
    place.says(0, "snapshot diff root 2 3", &["read in full   none -> all of the shards"]);
}

#[test]
fn a_gate_refuses_with_3_and_an_override_is_recorded() {
    let place = over(100);
    let refused = place.run("run p.toml --set gates.min_notes=101");
    assert_eq!(refused.status.code(), Some(3));
    let (out, err) = (text(&refused.stdout), text(&refused.stderr));
    assert!(out.starts_with("refused by a gate\n"), "{out}");
    assert!(err.contains("count-change") && err.contains("--override"), "{err}");
    assert_eq!(manifests(&place), 0);

    let output = place
        .command("run p.toml --set gates.min_notes=101 --override count-change --json --reason")
        .arg("the rest comes \"tomorrow\" & <later>")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(encoded(&report), 0, "what the refused run encoded is kept");
    let manifest = place.json(0, "snapshot show root --json");
    let gates = manifest["provenance"]["gates"].as_array().unwrap();
    let gate = gates.iter().find(|gate| gate["gate"] == "count-change").unwrap();
    assert_eq!(gate["overridden"], "the rest comes \"tomorrow\" & <later>");
}

#[test]
fn a_deadline_leaves_resumable_work() {
    let place = over(400);
    // Ten tokens or so a note: four seconds of work, in batches of a tenth of a second.
    write_pipeline(&place, "fake:16?tokens_per_second=1000", "root");
    let late = place
        .run("run p.toml --deadline 2s --set encode.part_tokens=100 --set encode.token_budget=100");
    assert_eq!(late.status.code(), Some(75), "{}", text(&late.stderr));
    assert!(text(&late.stderr).contains("run again to resume"));
    assert_eq!(manifests(&place), 0);
    let report = place.json(0, "run p.toml --json --set encode.part_tokens=1000");
    let rest = encoded(&report);
    assert!(rest > 0 && rest < 400, "{rest} of 400 were left");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_stops_cleanly_and_the_next_run_resumes() {
    use std::io::{BufRead, BufReader, Read};

    let place = over(400);
    write_pipeline(&place, "fake:16?tokens_per_second=2000", "root");
    let line = "run p.toml --progress json --set encode.part_tokens=500";
    let mut child =
        place.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut event = String::new();
    // The first progress of encode: something is done, and most is not.
    while !(event.contains("\"progress\"") && event.contains("\"encode\"")) {
        event.clear();
        assert!(stderr.read_line(&mut event).unwrap() > 0, "the run ended too soon");
    }
    let asked = std::time::Instant::now();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(asked.elapsed().as_secs() < 10, "it took {:?}", asked.elapsed());
    assert!(rest.contains("stopping after") && rest.contains("run again to resume"), "{rest}");
    assert_eq!(manifests(&place), 0);

    write_pipeline(&place, "fake:16", "root");
    let report = place.json(0, "run p.toml --json");
    // A faster fake tower is the same tower: its speed is not part of the space.
    assert!(encoded(&report) < 400, "nothing of the interrupted run was kept");
}

#[test]
fn a_scheduler_runs_the_tasks_of_a_plan_one_by_one() {
    let place = over(120);
    let planned = place.json(0, "run p.toml --plan-only --json --set index.shards=3");
    assert_eq!(planned["outcome"]["result"], "planned");
    let run = planned["run"].as_str().unwrap().to_owned();
    let file = place.path(&format!("root/runs/{run}/plan.json"));
    let plan: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let ids = |key: &str| -> Vec<String> {
        let all = plan[key].as_array().unwrap();
        all.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
    };
    let unfinished = place.run(&format!("publish p.toml --plan {run}"));
    assert_ne!(unfinished.status.code(), Some(0), "no task is done yet");

    let mut tasks = ids("encode");
    tasks.extend(plan["calibrate"]["id"].as_str().map(str::to_owned));
    tasks.extend(ids("build"));
    assert!(tasks.len() >= 6, "{tasks:?}");
    for task in &tasks {
        let line = format!("task p.toml --plan runs/{run}/plan.json --task {task}");
        let first = place.json(0, &line);
        assert_eq!(place.json(0, &line), first, "a retry returns the same receipt");
    }
    let wrong = place.run(&format!("task p.toml --plan {run} --task nothing"));
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));

    let report = place.json(0, &format!("publish p.toml --plan {run} --json"));
    assert_eq!(report["outcome"]["snapshot"], 1);
    assert_eq!(report["corpus"]["notes"], 120);
    let again = place.json(0, "run p.toml --json --set index.shards=3");
    assert_eq!(again["outcome"]["result"], "nothing-to-do");
}

#[test]
fn verify_finds_what_was_altered_and_rollback_serves_the_old() {
    let place = over(80);
    place.expect(0, "run p.toml");
    let good = place.json(0, "snapshot verify p.toml --json");
    assert_eq!(good["problems"], serde_json::json!([]));
    assert!(good["sample"]["notes"].as_u64().unwrap() > 0);
    assert!(good["sample"]["least_cosine"].as_f64().unwrap() > 0.999);

    write_notes(&place, 60, |at| format!("other words {at}"));
    let drop = "--override count-change --reason purged";
    place.expect(0, &format!("run p.toml {drop}"));
    let rolled = place.expect(0, "snapshot rollback p.toml 1 --reason mistake");
    assert_eq!(rolled, "snapshot 3 serves the content of snapshot 1: 80 notes\n");
    let newest = place.json(0, "snapshot show root --json");
    assert_eq!(newest["provenance"]["run"], "rollback to 1: mistake");
    assert_eq!(newest["content"]["notes"], 80);
    let again = place.expect(0, "snapshot rollback p.toml 1 --reason x");
    assert_eq!(
        again,
        "snapshot 3 already serves the content of snapshot 1: 80 notes; nothing was changed\n"
    );
    assert_eq!(manifests(&place), 3, "it is not published once more");
    place.says(0, "snapshot rollback p.toml 3 --reason x", &["snapshot 3 is the newest"]);
    assert_eq!(place.run("snapshot rollback p.toml 9 --reason x").status.code(), Some(1));
    assert_eq!(place.run("snapshot rollback p.toml 1").status.code(), Some(2), "a reason is due");

    let gc = place.json(0, "snapshot gc p.toml --dry-run --keep 1 --grace-hours 0 --json");
    assert_eq!(gc["dry_run"], true);
    assert_eq!(manifests(&place), 3, "a dry run deletes nothing");

    let index = newest["content"]["shards"][0]["index"]["path"].as_str().unwrap();
    alter(&place.path(&format!("root/{index}")));
    let bad = place.run("snapshot verify p.toml");
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stdout).contains(index), "{}", text(&bad.stdout));
    assert!(text(&bad.stderr).contains("snapshot 3 is damaged: 1 of its files"));
    place.write("root/snapshots/00000000000000000003.json", "{");
    let said = ["00000000000000000003.json", "is not valid", "hint: restore the file"];
    place.says(1, "snapshot verify p.toml", &said);
}

/// A whole pipeline published to an object store, and read back from there alone.
#[test]
fn days_on_the_roots_of_the_environment() {
    for uri in support::roots_of_the_environment() {
        days_on(&format!("{uri}/days-{:016x}", rand::random::<u64>()));
        println!("{uri}: whole runs work");
    }
}

fn days_on(root: &str) {
    let place = over(200);
    write_pipeline(&place, "fake:16", root);
    let run = "run p.toml --json --set index.shards=2";
    let first = place.json(0, run);
    assert_eq!(first["outcome"]["snapshot"], 1, "{first}");
    assert_eq!(encoded(&first), 200);
    let again = place.json(0, run);
    assert_eq!(again["outcome"]["result"], "nothing-to-do");
    assert_eq!(encoded(&again), 0);

    write_notes(&place, 200, |at| {
        format!("{} of note {at}", if at < 5 { "edited" } else { "words" })
    });
    let all_changed = place.json(0, run);
    assert_eq!((encoded(&all_changed), &all_changed["outcome"]["snapshot"]), (200, &2.into()));
    assert_eq!(place.json(0, "snapshot list p.toml --json").as_array().unwrap().len(), 2);

    // From the root alone: what is needed is fetched into the cache, once.
    let search = || {
        let mut command = place.command(&format!("search {root} note -k 3 --json"));
        let output = command.env("XDG_CACHE_HOME", place.path("cache")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let found = search();
    assert_eq!(found["snapshot"], 2);
    assert_eq!(found["hits"].as_array().unwrap().len(), 3);
    let cached = || {
        let folder = place.path("cache/scalingnote/snapshots");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            // A download renames a new file into place; the time of a file says only when it was used.
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().ino()))
            .collect();
        files.sort();
        files
    };
    let fetched = cached();
    assert!(fetched.len() >= 2, "{fetched:?}");
    assert_eq!(search(), found);
    assert_eq!(cached(), fetched, "a second search downloads nothing");

    let verified = place.json(0, "snapshot verify p.toml --json");
    assert_eq!(verified["problems"], serde_json::json!([]));
    let gc = place.json(0, "snapshot gc p.toml --dry-run --keep 1 --grace-hours 0 --json");
    assert_eq!(gc["dry_run"], true);
    assert_eq!(place.json(0, "snapshot list p.toml --json").as_array().unwrap().len(), 2);
    place.expect(0, "snapshot gc p.toml --keep 1 --grace-hours 0");
    assert_eq!(place.json(0, "snapshot list p.toml --json").as_array().unwrap().len(), 1);
    assert_eq!(search(), found);
}

/// Flips one bit in the middle; what is published is read-only to nobody but us.
fn alter(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn json_progress_is_json_to_the_last_line() {
    let place = over(50);
    let output = place.run("run p.toml --progress json --log-format json");
    assert_eq!(output.status.code(), Some(0));
    let stderr = text(&output.stderr);
    let lines: Vec<Value> =
        stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let finished: Vec<&str> = lines
        .iter()
        .filter(|line| line["event"] == "stage_finished")
        .map(|line| line["stage"].as_str().unwrap())
        .collect();
    assert_eq!(finished, ["prepare", "encode", "build", "publish"]);
    let quiet = place.run("--quiet run p.toml");
    assert_eq!(text(&quiet.stderr), "", "quiet means quiet");
    assert!(text(&quiet.stdout).starts_with("nothing to do"));
}
