//! A large file on its way to a root and back never stands in memory: the peak of a process of its own is measured.

use std::io::Write as _;
use std::process::Command;

use scalingnote::store::Root;

use crate::fixture::files::noise;
use crate::fixture::support;

/// Set in the process that is measured: the root to stream to.
const INNER: &str = "SCALINGNOTE_TEST_STREAM_TO";
const SIZE_MIB: u64 = 192;
/// Four or five pieces of 8 MiB, twice while HTTP puts them together, and some air: half of the file.
const MOST_MIB: u64 = 96;

/// Largest resident size of this process so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells it");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn stream(uri: &str) {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = folder.path().join("big");
    let mut file = std::fs::File::create(&path).unwrap();
    let piece = noise(1 << 20);
    for at in 0..SIZE_MIB {
        file.write_all(&at.to_le_bytes()).unwrap();
        file.write_all(&piece[8..]).unwrap();
    }
    drop(file);
    let root = Root::open(uri).unwrap();
    root.put("small/x", "x".into()).await.unwrap();
    let before = peak_mib();
    let file = root.upload("big/file.bin", &path).await.unwrap();
    assert_eq!(file.size, SIZE_MIB << 20);
    let uploaded = peak_mib() - before;
    assert_eq!(root.hash("big/file.bin").await.unwrap(), (file.sha256, file.size));
    root.fetch(&file, &folder.path().join("cache")).await.unwrap();
    let fetched = peak_mib() - before;
    let scheme = uri.split("://").next().unwrap_or_default();
    println!(
        "a file of {SIZE_MIB} MiB on {}: {uploaded} MiB more in memory at most for the upload, {fetched} with the download",
        if uri.contains("://") { scheme } else { "a folder" }
    );
    root.delete("big/file.bin").await.unwrap();
    assert!(fetched <= MOST_MIB, "{fetched} MiB for a file of {SIZE_MIB} MiB");
}

/// Runs the test `name` again in a process of its own.
fn measured(name: &str, uri: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INNER, uri)
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    out.lines().filter(|line| line.starts_with("a file of")).for_each(|line| println!("{line}"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_file_streams_to_a_folder() {
    if let Ok(uri) = std::env::var(INNER) {
        return stream(&uri).await;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    measured("store::streaming::a_large_file_streams_to_a_folder", folder.path().to_str().unwrap());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_file_streams_on_roots_of_the_environment() {
    if let Ok(uri) = std::env::var(INNER) {
        return stream(&uri).await;
    }
    for uri in support::roots_of_the_environment() {
        let fresh = format!("{uri}/stream-{:016x}", rand::random::<u64>());
        measured("store::streaming::a_large_file_streams_on_roots_of_the_environment", &fresh);
    }
}
