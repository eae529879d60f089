//! What is under a root and is somebody else's: gc and purge leave it alone, and a purge says what it holds.

use std::collections::BTreeMap;
use std::path::Path;

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

/// A text that only note 5 has, long enough to be no chance.
const SECRET: &str = "zanzibar quicksilver telegram from the north";

/// Three days in `root`, and `inner.toml` over other notes in `inner`.
fn place() -> Place {
    let place = Place::new();
    let file = |root, uri| PipelineFile {
        root,
        uri,
        sections: "[index]\nshards = 2\n",
        ..PipelineFile::default()
    };
    place.write("p.toml", file("root", "notes.jsonl").text());
    place.write("inner.toml", file("inner", "others.jsonl").text());
    let line = |id: i64, body: &str| format!("{{\"id\":{id},\"body\":\"{body}\"}}\n");
    let others = (5000..5020).map(|id| line(id, &format!("other {id}")));
    place.write("others.jsonl", others.collect::<String>());
    for day in 0..3 {
        let body = |id| match id {
            5 => SECRET.to_owned(),
            _ => format!("note {id} of day {day}"),
        };
        place.write("notes.jsonl", (0..40).map(|id| line(id, &body(id))).collect::<String>());
        place.expect(0, "run p.toml");
    }
    place.expect(0, "run inner.toml");
    place
}

/// Every file below a folder with its bytes, links as what they point to.
fn bytes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            found.extend(bytes(&path));
            continue;
        }
        let bytes = match meta.is_symlink() {
            true => std::fs::read_link(&path).unwrap().display().to_string().into_bytes(),
            false => std::fs::read(&path).unwrap(),
        };
        found.insert(path.display().to_string(), bytes);
    }
    found
}

/// The name of the only, or the first, entry of a folder.
fn first(folder: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.swap_remove(0)
}

/// Names that are nearly this program's.
fn foreign_names(root: &Path) -> Vec<String> {
    let (run, options) = (first(&root.join("runs")), first(&root.join("indexes")));
    let space = first(&root.join("embeddings"));
    let names = "report#2024 mine.txt snapshots/42.json snapshots/notes.md leases/contract.json runs/2024/report.json \
        runs/report#2024 runs/RUN/notes.json runs/RUN/report#2024 runs/RUN/report-2024.json runs/RUN-old/plan.json \
        prepared/mine/00000.parquet prepared/RUN/00000.csv prepared/notes embeddings/notes.txt \
        embeddings/SPACE/00000/mine.receipt.json embeddings/SPACE/00000/mine.parquet indexes/OPTIONS/00000/x.usearch \
        indexes/OPTIONS/mine.json indexes/OPTIONS/00000/build-00000-mine.task.json data/my#1 data/plan.json#7";
    let filled = |name: &str| {
        name.replace("RUN", &run).replace("SPACE", &space).replace("OPTIONS", &options)
    };
    names.split_whitespace().map(filled).collect()
}

#[test]
fn another_root_and_foreign_files_survive_purge_and_gc_byte_for_byte() {
    let place = place();
    let root = place.path("root");
    // A root inside this one that an earlier release began.
    std::fs::rename(place.path("inner"), root.join("inner")).unwrap();
    let names = foreign_names(&root);
    for name in &names {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("mine: {name}")).unwrap();
    }
    std::fs::create_dir_all(root.join("data/empty")).unwrap();
    let foreign = || {
        let mut all = bytes(&root.join("inner"));
        for name in &names {
            all.extend(std::fs::read(root.join(name)).map(|bytes| (name.clone(), bytes)));
        }
        all
    };
    let before = foreign();
    assert_eq!(before.len(), bytes(&root.join("inner")).len() + names.len());

    place.says(0, "purge root --note-id i:5", &["nothing of the notes is left"]);
    assert_eq!(foreign(), before, "after the purge");
    place.expect(0, "snapshot gc root --keep 1 --grace-hours 0 --runs-days 0");
    assert_eq!(foreign(), before, "after the gc");
    assert!(root.join("data/empty").exists());
    // The gc had work, and both roots are whole.
    assert_eq!(place.json(0, "snapshot list root --json").as_array().unwrap().len(), 1);
    place.expect(0, "snapshot verify root");
    place.expect(0, "snapshot verify root/inner");
    place.expect(0, "run p.toml");
}

#[test]
fn what_holds_the_note_elsewhere_is_named_and_stays() {
    let place = place();
    let root = place.path("root");
    std::fs::create_dir_all(root.join("data")).unwrap();
    let held = [
        ("data/copy.txt", format!("so it said: {SECRET}.")),
        ("data/list.json", "[\"i:5\", \"i:6\"]".to_owned()),
        ("data/my notes (2024).md", format!("# {SECRET}")),
        ("runs/2024", "i:5".to_owned()),
    ];
    for (name, text) in &held {
        std::fs::write(root.join(name), text).unwrap();
    }
    std::fs::write(root.join("data/other.txt"), "i:55, hi:5, zanzibar").unwrap();
    let said = place.said(1, "purge root --note-id i:5");
    for (name, text) in &held {
        assert!(said.contains(&format!("LEFT {name}:")), "{name} in {said}");
        assert_eq!(&std::fs::read_to_string(root.join(name)).unwrap(), text);
        std::fs::remove_file(root.join(name)).unwrap();
    }
    assert!(!said.contains("other.txt") && !said.contains(SECRET), "{said}");
    place.says(0, "purge root --note-id i:5", &["nothing of the notes is left"]);
    // Another root below with a note of that id: to be purged there.
    std::fs::rename(place.path("inner"), root.join("inner")).unwrap();
    place.says(
        1,
        "purge root --note-id i:5007",
        &["in the root inner below this one", "LEFT inner/"],
    );
    place.expect(0, "purge root/inner --note-id i:5007");
    place.expect(0, "purge root --note-id i:5007");
}

#[cfg(unix)]
#[test]
fn no_link_is_followed_out_of_the_root() {
    use std::os::unix::fs::symlink;

    let place = place();
    let (root, outside) = (place.path("root"), place.path("outside"));
    let run = "20200101T000000Z-0badcafe";
    std::fs::create_dir_all(outside.join("executors")).unwrap();
    for name in ["plan.json", "report.json", "report.json#7", "00000.parquet", "x.usearch"] {
        std::fs::write(outside.join(name), format!("i:5 {name}")).unwrap();
    }
    let before = bytes(&outside);
    let own = root.join("runs").join(first(&root.join("runs"))).join("report-7.json");
    symlink(&outside, root.join("runs").join(run)).unwrap();
    symlink(&outside, root.join("prepared").join(run)).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    symlink(&root, root.join("loop")).unwrap();
    let index = root.join("indexes").join(first(&root.join("indexes"))).join("00000");
    symlink(outside.join("x.usearch"), index.join("0123456789abcdef-0123456789abcdef.usearch"))
        .unwrap();
    symlink(outside.join("report.json"), own).unwrap();
    place.expect(0, "purge root --note-id i:5");
    place.expect(0, "snapshot gc root --keep 1 --grace-hours 0 --runs-days 0");
    assert_eq!(bytes(&outside), before);
    place.expect(0, "snapshot verify root");
    // The root itself may be a link.
    symlink(&root, place.path("alias")).unwrap();
    place.expect(0, "purge alias --note-id i:6");
    place.expect(0, "snapshot gc alias --keep 1 --grace-hours 0");
    // What must be there is not passed over in silence.
    std::fs::rename(root.join("prepared"), place.path("moved")).unwrap();
    symlink(place.path("moved"), root.join("prepared")).unwrap();
    place.says(1, "snapshot gc root", &["prepared is a symbolic link"]);
}

#[test]
fn no_root_is_begun_inside_or_around_another() {
    let place = place();
    let under = |root: &str, config: &str| {
        let file = PipelineFile { root, uri: "others.jsonl", ..PipelineFile::default() };
        place.write(config, file.text());
    };
    under("root/deep/er", "inside.toml");
    under(".", "around.toml");
    under("beside", "beside.toml");
    for command in ["run", "plan", "run --plan-only"] {
        place.says(2, &format!("{command} inside.toml"), &["would be inside the root", "root"]);
        place.says(2, &format!("{command} around.toml"), &["would be around the root"]);
    }
    assert!(!place.path("root/deep/er/leases").exists() && !place.path("leases").exists());
    place.expect(0, "run beside.toml");
    // One that is there already continues, and says so.
    std::fs::rename(place.path("inner"), place.path("root/deep/er")).unwrap();
    let file = PipelineFile {
        root: "root/deep/er",
        uri: "others.jsonl",
        sections: "[index]\nshards = 2\n",
        ..PipelineFile::default()
    };
    place.write("inside.toml", file.text());
    place.says(0, "run inside.toml", &["is inside the root"]);
    place.expect(0, "run p.toml");
}
