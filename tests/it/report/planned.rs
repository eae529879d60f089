//! What a report says was planned, beside what was done.

use serde_json::Value;

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

/// Tokens per second of a device.
const SPEED: f64 = 4_000.0;

fn place(notes: i64) -> Place {
    let model = format!("fake:16?tokens_per_second={SPEED}");
    let place =
        Place::with(&PipelineFile { model: &model, root: "root", ..PipelineFile::default() });
    place.write_notes(0..notes, |at| format!("note {at} in eight words or a few more"));
    place
}

/// What encode was planned to take, and took.
fn encode(report: &Value) -> [&Value; 2] {
    let stages = report["stages"].as_array().unwrap();
    let encode = stages.iter().find(|stage| stage["stage"] == "encode").unwrap();
    [&encode["planned"], &encode["actual"]]
}

#[test]
fn the_planned_time_is_that_of_the_planned_tokens_on_the_devices_at_hand() {
    for devices in [1, 2] {
        let place = place(400);
        let devices_of = vec!["cpu:1"; devices];
        let line = format!(
            "run p.toml --json --set encode.devices={devices_of:?} --set encode.vector_type=\"f16\""
        );
        let report = place.json(0, &line.replace(", ", ","));
        let [planned, actual] = encode(&report);
        assert_eq!([&planned["texts"], &planned["tokens"]], [&actual["texts"], &actual["tokens"]]);
        let tokens = planned["tokens"].as_f64().unwrap();
        let least = tokens / SPEED / devices as f64;
        let seconds = planned["seconds"].as_f64().unwrap();
        // The tower is that slow whatever the machine does; a busy machine makes it slower.
        assert!(least > 0.4 && (0.9..4.0).contains(&(seconds / least)), "{seconds}, {least}");
        assert_eq!(planned["bytes"], 400 * (16 * 2 + 48), "f16 and its row");

        let again = place.json(0, "run p.toml --json --set encode.vector_type=\"f16\"");
        let [planned, _] = encode(&again);
        assert_eq!((&planned["tokens"], &planned["seconds"]), (&0.into(), &Value::Null));
    }
}

#[test]
fn where_no_device_was_tried_no_time_is_planned() {
    let place = place(40);
    let planned = place.json(0, "run p.toml --plan-only --json");
    assert_eq!(encode(&planned)[0]["seconds"], Value::Null);
    let run = planned["run"].as_str().unwrap();
    for stage in ["encode", "calibrate", "build"] {
        place.expect(0, &format!("task p.toml --plan {run} --stage {stage}"));
    }
    let published = place.json(0, &format!("publish p.toml --plan {run} --json"));
    assert_eq!(published["outcome"]["snapshot"], 1);
    let [planned, actual] = encode(&published);
    assert_eq!(planned["texts"], actual["texts"]);
    assert_eq!(planned["seconds"], Value::Null);
    let page =
        std::fs::read_to_string(place.path(&format!("root/runs/{run}/report.html"))).unwrap();
    assert!(page.contains("planned"), "{page}");
}

#[test]
fn what_the_trial_meets_is_left_to_the_tasks() {
    let place = place(40);
    // Less memory than two of the texts take together, then than any.
    for (memory, code) in [(14, 0), (2, 1)] {
        let file = std::fs::read_to_string(place.path("p.toml")).unwrap();
        let model = format!("fake:16?memory_tokens={memory}");
        let at = file.find("fake:16?").unwrap();
        let end = at + file[at..].find('"').unwrap();
        place.write("p.toml", format!("{}{model}{}", &file[..at], &file[end..]));
        let output = place.run(&format!("run p.toml --json --set publish.root=\"root-{memory}\""));
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
