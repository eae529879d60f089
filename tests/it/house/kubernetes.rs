//! The very commands of the Kubernetes manifests, run on a local root. Their schemas: `make test-kubernetes`.

use std::process::Command;

use crate::fixture::checkout::{Checkout, package};
use crate::fixture::program::said;

fn manifest(name: &str) -> String {
    let file = package().join("pipelines/kubernetes").join(name);
    std::fs::read_to_string(file).expect("the manifest is readable")
}

/// The one line `key: ...` of a manifest.
fn value<'a>(manifest: &'a str, key: &str) -> &'a str {
    let mut found =
        manifest.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    let value = found.next().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(found.next(), None, "{key} stands there twice");
    value
}

/// The words of a flow sequence `[a, b]`.
fn words(sequence: &str) -> Vec<&str> {
    let inner = sequence.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.expect("a sequence in brackets").split(", ").collect()
}

/// The container's command with its arguments as the kubelet makes it, at the places of a checkout.
fn command(manifest: &str, environment: &[(&str, &str)]) -> String {
    let mut all = words(value(manifest, "command"));
    all.extend(words(value(manifest, "args")));
    let mut line = all.join(" ").replace("/config/pipeline.toml", "pipelines/quickstart.toml");
    // One program is both here.
    line = line.replace("scalingnote-cpu ", "scalingnote ");
    for (name, value) in environment {
        line = line.replace(&format!("$({name})"), value);
    }
    assert!(!line.contains("$("), "{line}: not every variable is set");
    line
}

#[test]
fn the_cron_jobs_container_publishes() {
    let checkout = Checkout::new();
    checkout.ok(&command(&manifest("cronjob.yaml"), &[]));
    assert_eq!(checkout.snapshots().len(), 1);
}

#[test]
fn the_gcs_container_deletes_what_no_snapshot_needs() {
    let mut checkout = Checkout::new();
    let run = command(&manifest("cronjob.yaml"), &[]);
    checkout.ok(&run);
    checkout.edit();
    checkout.ok(&run);
    let gc = command(&manifest("gc-cronjob.yaml"), &[]);
    checkout.ok(&gc);
    assert_eq!(checkout.snapshots().len(), 2, "both are young, and both are to be kept");
    let set = "export SCALINGNOTE__RETENTION__SNAPSHOTS=1 SCALINGNOTE__RETENTION__GRACE_HOURS=0; ";
    for _ in 0..2 {
        checkout.ok(&format!("{set}{gc}"));
        let kept = checkout.snapshots();
        assert_eq!(kept.len(), 1, "as the pipeline says, and once");
        assert_eq!(kept[0]["number"], 2);
    }
    checkout.ok("scalingnote snapshot verify pipelines/quickstart.toml");
}

#[test]
fn the_indexed_jobs_pods_do_every_task_once() {
    let checkout = Checkout::new();
    let set = "export SCALINGNOTE__INDEX__SHARDS=11; ";
    let plan = checkout.ok(&format!("{set}scalingnote plan pipelines/quickstart.toml --brief"));
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(
        (plan["encode_tasks"].as_u64(), plan["calibrate_tasks"].as_u64()),
        (Some(11), Some(1))
    );
    let key = plan["plan_key"].as_str().expect("a key");
    let job = manifest("tasks-job.yaml").replace("PLAN_KEY", key);
    let pods: u64 = value(&job, "completions").parse().expect("a number");
    assert_eq!(value(&job, "parallelism"), pods.to_string());
    assert!(value(&job, "args").contains(&format!("/{pods}]")), "as many shares as pods");
    let publish = format!("{set}scalingnote publish pipelines/quickstart.toml --plan {key}");
    for stage in ["encode", "calibrate", "build"] {
        let early = checkout.shell(&publish);
        assert_eq!(early.status.code(), Some(75), "before {stage}: {}", said(&early));
        let mut tasks = 0;
        for index in 0..pods {
            let job = job.replace("STAGE", stage);
            let line = command(&job, &[("JOB_COMPLETION_INDEX", &index.to_string())]);
            let done = checkout.ok(&format!("{set}{line}"));
            let done: serde_json::Value = serde_json::from_str(&done).expect("JSON");
            assert_eq!(done["stage"], stage);
            tasks += done["tasks"].as_u64().expect("a number");
            // A pod that is tried again changes nothing.
            let again = checkout.ok(&format!("{set}{line}"));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&again).expect("JSON"), done);
        }
        assert_eq!(Some(tasks), plan[format!("{stage}_tasks")].as_u64(), "{stage}");
    }
    checkout.ok(&publish);
    assert_eq!(checkout.snapshots().len(), 1);
    // Nothing is left for a whole run to do.
    let idle = checkout.ok(&format!("{set}scalingnote plan pipelines/quickstart.toml --brief"));
    let idle: serde_json::Value = serde_json::from_str(&idle).expect("JSON");
    assert_eq!((idle["tasks"].as_u64(), &idle["plan_key"]), (Some(0), &serde_json::Value::Null));
}

/// As the manifest's comment says: the same Job with the night's plan, after the day is published.
#[test]
fn the_same_job_runs_the_night_of_a_next_tower() {
    let checkout = Checkout::new();
    let set = "export SCALINGNOTE__INDEX__SHARDS=3 SCALINGNOTE__NEXT__TOWER__MODEL=fake:32 \
               SCALINGNOTE__NEXT__TOWER__POOLING=mean; ";
    let plan = checkout.ok(&format!("{set}scalingnote plan pipelines/quickstart.toml --brief"));
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    for (key, dimensions) in [(&plan["plan_key"], 64), (&plan["backfill"]["plan_key"], 32)] {
        let key = key.as_str().expect("a key");
        let job = manifest("tasks-job.yaml").replace("PLAN_KEY", key);
        let pods: u64 = value(&job, "completions").parse().expect("a number");
        for stage in ["encode", "calibrate", "build"] {
            for index in 0..pods {
                let job = job.replace("STAGE", stage);
                let line = command(&job, &[("JOB_COMPLETION_INDEX", &index.to_string())]);
                checkout.ok(&format!("{set}{line}"));
            }
        }
        checkout.ok(&format!("{set}scalingnote publish pipelines/quickstart.toml --plan {key}"));
        let newest = checkout.snapshots().pop().expect("a snapshot");
        assert_eq!(newest["content"]["space"]["dimensions"], dimensions);
    }
    assert_eq!(checkout.snapshots().len(), 2);
}

/// The waiting that the manifest's comment shows, with a `kubectl` that sees a Job end in three looks.
#[test]
fn waiting_for_the_indexed_job_ends_where_it_failed_too() {
    let job = manifest("tasks-job.yaml");
    let wait = job.lines().find(|line| line.starts_with("#   until ")).expect("how to wait");
    let script = format!(
        "sleep() {{ :; }}; kubectl() {{ echo x >>looks; sed -n \"$(wc -l <looks)p\" conditions; }}\n{}",
        wait.trim_start_matches("# ")
    );
    for ends in ["SuccessCriteriaMet Complete", "FailureTarget Failed"] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let before = ends.split(' ').next().unwrap_or_default();
        std::fs::write(dir.path().join("conditions"), format!("\n{before}\n{ends}\n"))
            .expect("write");
        let output = Command::new("timeout")
            .args(["60", "sh", "-c", &script])
            .current_dir(dir.path())
            .output()
            .expect("sh runs");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output).trim(), ends);
        let looks = std::fs::read_to_string(dir.path().join("looks")).expect("it looked");
        assert_eq!(looks.lines().count(), 3);
    }
}

/// The program for cards does not start without a driver, the other one knows no card, and each image is one that
/// somebody is told how to build.
#[test]
fn pods_take_the_image_and_the_program_of_their_machine() {
    let told = ["Containerfile", "cluster-scheduler.yaml"].map(manifest).concat();
    let told = told.replace("\\\n#", "");
    for (name, has_gpu) in [
        ("cronjob.yaml", true),
        ("tasks-job.yaml", true),
        ("cluster-executors.yaml", true),
        ("cluster-scheduler.yaml", false),
        ("cluster-driver.yaml", false),
        ("gc-cronjob.yaml", false),
    ] {
        let text = manifest(name);
        assert_eq!(text.contains("nvidia.com/gpu: "), has_gpu, "{name}");
        let program = if has_gpu { "[scalingnote]" } else { "[scalingnote-cpu]" };
        assert_eq!(value(&text, "command"), program, "{name}");
        let tag = format!(" -t {} ", value(&text, "image"));
        let build = told.lines().find(|line| line.contains("podman build") && line.contains(&tag));
        let build = build.unwrap_or_else(|| panic!("nothing says how{tag}of {name} is built"));
        assert!(!has_gpu || build.contains(" --target gpu "), "{build}");
    }
}

/// Scheduler, two executors and the driver, each as its manifest starts it.
#[cfg(feature = "cluster")]
#[test]
fn the_clusters_containers_publish() {
    use std::process::Stdio;

    let checkout = Checkout::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port().to_string();
    drop(free);
    let line = |name: &str| {
        let text = manifest(name);
        let text = text.split("\n---\n").next().expect("a document");
        let line = command(text, &[]).replace("cuda:0", "cpu").replace("50050", &port);
        line.replace("scalingnote-scheduler:", "127.0.0.1:").replace("0.0.0.0", "127.0.0.1")
    };
    let start = |name: &str| {
        let mut command = checkout.command(&format!("exec {}", line(name)));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh runs")
    };
    let executors = "cluster-executors.yaml";
    let mut pods = [start("cluster-scheduler.yaml"), start(executors), start(executors)];
    let ran = checkout.shell(&format!("{} --patience 30s", line("cluster-driver.yaml")));
    for pod in &mut pods {
        pod.kill().expect("it runs");
        pod.wait().expect("it ends");
    }
    assert!(ran.status.success(), "{}", said(&ran));
    assert_eq!(checkout.snapshots().len(), 1);
}

#[test]
fn a_stage_out_of_order_is_to_be_run_again() {
    let checkout = Checkout::new();
    let plan = checkout.ok("scalingnote plan pipelines/quickstart.toml --brief");
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    let task = format!(
        "scalingnote task pipelines/quickstart.toml --plan {}",
        plan["plan_key"].as_str().expect("a key")
    );
    let early = checkout.shell(&format!("{task} --stage build"));
    assert_eq!(early.status.code(), Some(75), "{}", said(&early));
    for wrong in [
        "",
        "--stage encode --share 8/8",
        "--share 0/1",
        "--stage encode --task x",
        "--stage publish",
    ] {
        let output = checkout.shell(&format!("{task} {wrong}"));
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", said(&output));
    }
}

/// The manifests confine their pods alike; Kubernetes has no way to share a part of a manifest.
#[test]
fn the_manifests_agree() {
    let part = |name: &str, from: &str, to: &str| {
        let text = manifest(name);
        let start = text.find(from).unwrap_or_else(|| panic!("no {from} in {name}"));
        let end = text[start..].find(to).unwrap_or_else(|| panic!("no {to} in {name}"));
        let lines = text[start..start + end].lines().map(str::trim_start);
        let lines =
            lines.filter(|line| !line.starts_with('#') && !line.starts_with("containerName"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for (from, to) in [
        ("podFailurePolicy:", "template:"),
        ("restartPolicy:", "containers:"),
        ("envFrom:", "resources:"),
        ("volumeMounts:", "volumes:"),
    ] {
        let one = part("cronjob.yaml", from, to);
        assert!(one.len() > 2, "{from} {to}");
        for other in ["tasks-job.yaml", "gc-cronjob.yaml"] {
            assert_eq!(one, part(other, from, to), "{other} from {from} to {to}");
        }
    }
    // The driver of a cluster is the same night without GPUs.
    for (from, to) in [
        ("schedule:", "template:"),
        ("restartPolicy:", "containers:"),
        ("envFrom:", "resources:"),
        ("volumeMounts:", "volumes:"),
    ] {
        let one = part("cronjob.yaml", from, to);
        assert_eq!(one, part("cluster-driver.yaml", from, to), "from {from} to {to}");
    }
    let executors = "cluster-executors.yaml";
    for (from, to) in [("envFrom:", "volumeMounts:"), ("securityContext:", "containers:")] {
        assert_eq!(part("tasks-job.yaml", from, to), part(executors, from, to), "from {from}");
    }
    let images = ["cronjob.yaml", "tasks-job.yaml", "gc-cronjob.yaml"]
        .map(|name| value(&manifest(name), "image").to_owned());
    assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
}
