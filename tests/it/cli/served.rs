//! The real server, while somebody changes the files that it serves.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use scalingnote::snapshot::Manifest;
use scalingnote::store::Root;

use crate::fixture::http::Client;
use crate::fixture::place::Place;
use crate::fixture::server::Served;
use crate::fixture::support::{notes, publish, store_content, unit_vectors};

/// Cuts a file short in place, or writes other bytes over it.
fn change(path: &Path, cut: bool) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    match cut {
        true => file.set_len(10).unwrap(),
        false => {
            let length = file.metadata().unwrap().len() as usize;
            file.write_all(&vec![0xa7; length]).unwrap();
        }
    }
}

async fn published(place: &Place) -> Manifest {
    let root = Root::open(place.path("root").to_str().unwrap()).unwrap();
    let content = store_content(&root, &notes(&unit_vectors(3_000, 32, 5)), 2).await;
    publish(&root, None, content, "run 1").await
}

async fn answers(client: &mut Client) -> Vec<Value> {
    let mut answers = Vec::new();
    for at in 0..8usize {
        let mut vector = vec![0.1; 32];
        vector[at] = 1.0;
        let asked = json!({ "vector": vector, "k": 50, "exact": at % 2 == 1 });
        let reply = client.search(&asked).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        answers.push(reply.json()["hits"].clone());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_cut_short_or_written_over_do_not_disturb_the_server() {
    for cut in [true, false] {
        let place = Place::new();
        let manifest = published(&place).await;
        let line = "serve root --vectors-only --bind 127.0.0.1:0 --cache cache --poll 1s";
        let served = Served::start(&mut place.command(line));
        let mut client = Client::connect(served.address).await;
        let before = answers(&mut client).await;
        for file in manifest.content.files() {
            change(&place.path("root").join(&file.path), cut);
        }
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            assert_eq!(answers(&mut client).await, before);
        }
        drop(client);
        let said = served.stop();
        for file in manifest.content.files() {
            assert!(said.contains(&file.path), "{}: {said}", file.path);
        }
        assert!(said.contains("a published file was changed"), "{said}");
        // Whoever starts now is told.
        place.says(
            1,
            "serve root --vectors-only --bind 127.0.0.1:0 --cache other",
            &["is damaged"],
        );
        place.says(1, "snapshot verify root --sample 0", &["snapshot repair"]);
    }
}

/// Before the snapshot is copied and opened, let alone its tower: here that would fail, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_told_before_anything_is_loaded() {
    let place = Place::new();
    let root = Root::open(place.path("root").to_str().unwrap()).unwrap();
    let content = store_content(&root, &notes(&unit_vectors(20, 8, 5)), 1).await;
    let manifest = publish(&root, None, content, "run 1").await;
    for file in manifest.content.files() {
        change(&place.path("root").join(&file.path), true);
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = "serve root --vectors-only --cache cache --bind";
    let address = taken.local_addr().unwrap();
    place.says(1, &format!("{line} {address}"), &["cannot listen on", "another with --bind"]);
    assert!(!place.path("cache").exists(), "nothing is copied");
    place.says(1, &format!("{line} 127.0.0.1:0"), &["is damaged"]);
}

/// A cache that cannot be used is told with both ways out; mapping in place needs none.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_copies_maps_in_place_where_asked() {
    let place = Place::new();
    published(&place).await;
    place.write("file", "no folder");
    let line = "serve root --vectors-only --bind 127.0.0.1:0";
    place.says(1, &format!("{line} --cache file/cache"), &["--in-place", "--cache"]);
    let served = Served::start(&mut place.command(&format!("{line} --in-place")));
    let mut client = Client::connect(served.address).await;
    assert_eq!(answers(&mut client).await.len(), 8);
    drop(client);
    served.stop();
}
