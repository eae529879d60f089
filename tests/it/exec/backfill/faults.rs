//! Nights in bad weather, and a night that is killed.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::report::{BackfillState, Outcome, RunReport};
use scalingnote::snapshot;
use scalingnote::store::Root;

use super::{Corpus, NEXT, corpus, from_scratch, live_a_day, newest, run_over, seen, state, text};
use crate::fixture::faults::{Faulty, Tally};
use crate::fixture::program::program;

/// Every call of the store may fail; a run is repeated until it gets through. Days and the switch come out as
/// without faults.
#[tokio::test(flavor = "multi_thread")]
async fn faults_neither_lose_nor_hurry_the_switch() {
    let mut failures = 0;
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let store = Arc::new(InMemory::new());
        let clear = Root::from_store(store.clone(), "memory://nights", None);
        let mut corpus = corpus(60);
        let (mut attempts, mut switches) = (0, 0);
        for night in 0..12 {
            live_a_day(&mut corpus, &mut random);
            let switched = loop {
                attempts += 1;
                let share = 0.03 / f64::from(1 + attempts / 8);
                let faulty =
                    Faulty::random(store.clone(), share, random.random(), Tally::default()).root();
                let outcome = run_over(&corpus, &faulty, NEXT, &[]).await;
                if let Some(newest) = snapshot::newest(&clear).await.unwrap() {
                    let problems = snapshot::verify_hashes(&clear, &newest, &|_| {}).await.unwrap();
                    assert!(problems.is_empty(), "seed {seed}, night {night}: {problems:?}");
                }
                match outcome {
                    Ok(report) => break report.has_switched() || report.backfill.is_none(),
                    Err(error) => {
                        failures += 1;
                        assert!(error.is_retryable(), "seed {seed}, night {night}: {error:?}");
                    }
                }
            };
            let manifest = newest(&clear).await;
            let tower = if switched { "fake:8" } else { "fake:16" };
            assert_eq!(
                seen(&clear, &manifest).await,
                from_scratch(&corpus, tower).await,
                "seed {seed}, night {night}"
            );
            if switched {
                switches += 1;
                break;
            }
        }
        assert_eq!(switches, 1, "seed {seed}");
    }
    assert!(failures > 0, "the faults must have bitten");
}

/// The program in the corpus's folder, with a pipeline file there.
struct Program<'a>(&'a Corpus);

impl Program<'_> {
    fn command(&self, next: &str, arguments: &[&str]) -> Command {
        self.0.write(|_| false.into());
        let pipeline = text("fake:16", next).replace("memory://unused", "root");
        std::fs::write(self.0.folder.path().join("p.toml"), pipeline).unwrap();
        let mut command = program(self.0.folder.path());
        command.args(arguments);
        command
    }

    /// Runs a line that must end with `code`; stdout and stderr.
    fn expect(&self, code: i32, next: &str, arguments: &[&str]) -> (String, String) {
        let output = self.command(next, arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
        (out, err)
    }

    /// How many parts the root holds.
    fn parts(&self) -> usize {
        let Ok(spaces) = std::fs::read_dir(self.0.folder.path().join("root/embeddings")) else {
            return 0;
        };
        let shards = spaces.flat_map(|space| std::fs::read_dir(space.unwrap().path()).unwrap());
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".receipt.json")).count()
    }
}

#[test]
fn a_killed_night_costs_a_part_and_the_exit_codes_tell_day_and_switch_apart() {
    let corpus = corpus(120);
    let program = Program(&corpus);
    let slow = NEXT
        .replace("tokens_per_run = 160\n", "")
        .replace("fake:8", "fake:8?tokens_per_second=300");
    let fast = NEXT.replace("tokens_per_run = 160\n", "");

    let small = ["--set", "encode.part_tokens=100", "--set", "encode.token_budget=100"];
    let mut child = program
        .command(&slow, &[&["run", "p.toml"], &small[..]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let snapshot = corpus.folder.path().join("root/snapshots/00000000000000000001.json");
    while !snapshot.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended too soon");
        std::thread::sleep(Duration::from_millis(5));
    }
    let of_the_day = program.parts();
    while program.parts() < of_the_day + 2 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended too soon");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read_dir(snapshot.parent().unwrap()).unwrap().count(), 1);
    program.expect(0, &slow, &["snapshot", "verify", "p.toml"]);

    // Far too little time for what is left: the night ends, the day was done.
    let late = [&["run", "p.toml", "--deadline", "3s", "--json"], &small[..]].concat();
    let slower = slow.replace("=300", "=20");
    let (out, _) = program.expect(0, &slower, &late);
    let report: RunReport = serde_json::from_str(&out).unwrap();
    assert_eq!(state(&report), BackfillState::Growing);
    assert_eq!(report.outcome, Outcome::NothingToDo { snapshot: Some(1) });

    let (out, _) = program.expect(0, &fast, &["config", "check", "p.toml"]);
    assert!(out.contains("next tower fake:8"), "{out}");
    let (out, _) = program.expect(0, &fast, &["plan", "p.toml"]);
    assert!(out.contains("\nnext tower fake:8 ") && out.contains("then the switch"), "{out}");

    let template = "next.template={% if likes != 2 %}{{ body }}{% endif %}";
    let (out, err) = program.expect(3, &fast, &["run", "p.toml", "--set", template]);
    assert!(out.starts_with("nothing to do: snapshot 1 is up to date\n"), "{out}");
    assert!(out.contains("refused by a gate") && err.contains("the switch to [next.tower]"));

    let (out, _) = program.expect(0, &fast, &["run", "p.toml", "--json"]);
    let report: RunReport = serde_json::from_str(&out).unwrap();
    assert_eq!(state(&report), BackfillState::Switched { snapshot: 2 });
    let tokens = report.backfill.as_ref().unwrap().tokens_encoded;
    assert!(
        tokens > 0 && tokens < 500,
        "{tokens}: what the killed night stored is not encoded again"
    );
    let (out, _) =
        program.expect(0, &fast, &["search", "root", "note 5 about topic 5", "--json", "-k", "1"]);
    let hit: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&hit["snapshot"], &hit["hits"][0]["note_id"]), (&2.into(), &5.into()));
    let (out, err) = program.expect(0, &fast, &["run", "p.toml"]);
    assert!(out.starts_with("nothing to do: snapshot 2"), "{out}");
    assert!(err.contains("[next.tower] is live since snapshot 2: move it to [tower]"), "{err}");
    program.expect(0, &fast, &["snapshot", "verify", "p.toml"]);
}
