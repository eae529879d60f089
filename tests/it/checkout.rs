//! A made-up checkout for tests that run commands as a user would: the real pipelines, a catalogue of
//! the real columns, the fake tower.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::program::PROGRAM;

/// Notes of the made-up catalogue: enough that a graph has something to skip.
pub const NOTES: usize = 240;

/// The package's folder: cargo and nextest set it at run time, so a test binary never judges another clone.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// A folder that looks like a checkout after `make index` fetched its parts, but with a made-up
/// catalogue of the same columns and the fake tower: seconds instead of minutes.
pub struct Checkout {
    dir: tempfile::TempDir,
    edits: usize,
}

impl Checkout {
    /// A fresh checkout; nothing has run in it.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir_all(dir.path().join("pipelines")).expect("folder");
        std::fs::create_dir_all(dir.path().join(".cache/notes")).expect("folder");
        let pipeline = std::fs::read_to_string(package().join("pipelines/quickstart.toml"))
            .expect("the quick start's pipeline is readable");
        let real = "model = \"../.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf\"";
        assert!(pipeline.contains(real), "quickstart.toml no longer names the model as expected");
        let adapter = "adapter = \"quickstart/adapter\"";
        assert!(
            pipeline.contains(adapter),
            "quickstart.toml no longer names the adapter as expected"
        );
        let fake = pipeline.replace(real, "model = \"fake:64\"").replace(adapter, "");
        // A student belongs to its teacher; the fake tower encodes its own queries.
        let (before, student) = fake.split_once("\n[query.tower]\n").expect("it has a query tower");
        let (_, after) = student.split_once("\n[encode]\n").expect("[encode] follows");
        let fake = format!("{before}\n[encode]\n{after}");
        std::fs::write(dir.path().join("pipelines/quickstart.toml"), fake).expect("write");
        std::fs::copy(
            package().join("pipelines/daily.toml"),
            dir.path().join("pipelines/daily.toml"),
        )
        .expect("the daily pipeline is copied");
        let checkout = Self { dir, edits: 0 };
        checkout.write_notes();
        checkout
    }

    /// Copies a file of the package to the same place here.
    pub fn install(&self, file: &str) {
        let target = self.path().join(file);
        std::fs::create_dir_all(target.parent().expect("a file lies in a folder")).expect("folder");
        std::fs::copy(package().join(file), target).expect("copy");
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The root that the quick start publishes to.
    pub fn root(&self) -> PathBuf {
        self.path().join(".cache/quickstart-699")
    }

    /// All manifests, oldest first.
    pub fn snapshots(&self) -> Vec<Value> {
        let Ok(entries) = std::fs::read_dir(self.root().join("snapshots")) else {
            return Vec::new();
        };
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.expect("readable entry").path()).collect();
        paths.sort();
        let read = |path: &PathBuf| std::fs::read(path).expect("a manifest is readable");
        paths
            .iter()
            .map(|path| serde_json::from_slice(&read(path)).expect("a manifest is JSON"))
            .collect()
    }

    /// The title of a note, as edited so far.
    pub fn title(&self, note: usize) -> String {
        let kind = ["Injection", "Overflow", "Disclosure", "Race", "Confusion"][note % 5];
        let edited = if note < self.edits { " (revised)" } else { "" };
        format!("Weakness {note}: {kind} of \"part {}\"{edited}", note / 5)
    }

    /// Writes the catalogue; the first `edits` notes carry another title than at first.
    fn write_notes(&self) {
        let mut csv = String::from(
            "CWE-ID,Name,Weakness Abstraction,Status,Description,Extended Description,\
             Related Weaknesses,Weakness Ordinalities,Applicable Platforms,Background Details,\
             Alternate Terms,Modes Of Introduction,Exploitation Factors,Likelihood of Exploit,\
             Common Consequences,Detection Methods,Potential Mitigations,Observed Examples,\
             Functional Areas,Affected Resources,Taxonomy Mappings,Related Attack Patterns,\
             Notes,Unused\n",
        );
        for note in 0..NOTES {
            let title = self.title(note).replace('"', "\"\"");
            let body = format!("The product mishandles case {note}, and says so.");
            writeln!(csv, "{note},\"{title}\",Base,Draft,\"{body}\"{}", ",".repeat(19))
                .expect("writing to a string cannot fail");
        }
        std::fs::write(self.path().join(".cache/notes/cwe-699.csv"), csv).expect("write");
    }

    /// Changes one more note's text.
    pub fn edit(&mut self) {
        self.edits += 1;
        self.write_notes();
    }

    /// Runs one command line in a shell, in this folder, with the program on the PATH.
    pub fn shell(&self, line: &str) -> Output {
        self.command(line).output().expect("sh runs")
    }

    /// What [`Checkout::shell`] runs, to be started otherwise.
    pub fn command(&self, line: &str) -> Command {
        let program = Path::new(PROGRAM);
        let mut path = vec![program.parent().expect("the program lies in a folder").to_owned()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(self.path())
            .env("PATH", std::env::join_paths(path).expect("a PATH"));
        command
    }

    /// [`Checkout::shell`] that must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let output = self.shell(line);
        assert!(
            output.status.success(),
            "`{line}` ended with {}:\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8(output.stdout).expect("output is UTF-8")
    }
}
