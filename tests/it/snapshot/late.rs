//! A file that goes between a commit's look at it and its put: what was served before is served again, and a number that
//! was published stays.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;

use scalingnote::error::{Error, ErrorKind, Result};
use scalingnote::snapshot::{
    Content, Manifest, Purged, RollbackOutcome, commit, commit_purged, numbers, read, rollback,
};
use scalingnote::store::{Root, layout};
use scalingnote::types::NoteId;

use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::support::{provenance, publish, tiny};

/// Two snapshots, and a store that holds the put of the third until it is let go.
struct Place {
    plain: Root,
    first: Manifest,
    second: Manifest,
    slow: Faulty,
}

impl Place {
    async fn new() -> Self {
        let inner = Arc::new(InMemory::new());
        let plain = Root::from_store(Arc::clone(&inner) as _, "memory://", None);
        let first = publish(&plain, None, tiny(&plain, "one").await.unwrap(), "a").await;
        let second = publish(&plain, Some(&first), tiny(&plain, "two").await.unwrap(), "b").await;
        let slow = Faulty::new(inner, |operation, path| {
            let third = operation == "put" && layout::manifest_number(path) == Some(3);
            third.then_some(Fault::Hold)
        });
        Self { plain, first, second, slow }
    }

    /// The error of a commit whose file `gone` goes while its put is held.
    async fn fails<T: Debug + Send + 'static>(
        &self,
        gone: &str,
        commit: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Error {
        let commit = tokio::spawn(commit);
        while !self.slow.is_holding() {
            assert!(!commit.is_finished(), "it did not get to its put");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.plain.delete(gone).await.unwrap();
        self.slow.let_go();
        let error = commit.await.unwrap().unwrap_err();
        assert!(error.to_string().contains(gone), "{error}");
        assert!(self.plain.list(layout::LEASES).await.unwrap().is_empty(), "no lease is left");
        error
    }

    /// The newest snapshot, `number`, is as the second was.
    async fn is_as_the_second(&self, number: u64) {
        assert_eq!(numbers(&self.plain).await.unwrap().last(), Some(&number));
        let newest = read(&self.plain, number).await.unwrap();
        assert_eq!(newest.content_hash, self.second.content_hash);
        assert_eq!((newest.parent, &newest.blocked), (Some(number - 1), &self.second.blocked));
        assert!(newest.provenance.run.contains("files of 3 are gone"), "{:?}", newest.provenance);
    }
}

fn file(content: &Content) -> String {
    content.shards[0].ids.path.clone()
}

#[tokio::test]
async fn the_content_before_it_is_served_again_and_a_run_may_publish_anew() {
    let place = Place::new().await;
    let content = tiny(&place.plain, "three").await.unwrap();
    let (root, parent, ours) = (place.slow.clone().root(), place.second.clone(), content.clone());
    let late = async move { commit(&root, Some(&parent), ours, vec![], provenance("c")).await };
    let error = place.fails(&file(&content), late).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.to_string().contains("serves the content of snapshot 2 again"), "{error}");
    place.is_as_the_second(4).await;
    assert_eq!(numbers(&place.plain).await.unwrap(), [1, 2, 3, 4]);

    let fourth = read(&place.plain, 4).await.unwrap();
    let anew = tiny(&place.plain, "three").await.unwrap();
    assert_eq!(anew, content);
    assert_eq!(publish(&place.plain, Some(&fourth), anew, "d").await.number, 5);
}

#[tokio::test]
async fn a_rollback_that_came_to_nothing_blocks_nothing() {
    let place = Place::new().await;
    let root = place.slow.clone().root();
    let late = async move { rollback(&root, 1, provenance("back: to 1")).await };
    let error = place.fails(&file(&place.first.content), late).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    place.is_as_the_second(4).await;
}

/// The content before a purge holds what was purged.
#[tokio::test]
async fn a_purge_is_never_undone() {
    let place = Place::new().await;
    let content = tiny(&place.plain, "without the note").await.unwrap();
    let purged = Purged::default().with(&[NoteId::Int(7)]);
    let (root, parent, ours) = (place.slow.clone().root(), place.second.clone(), content.clone());
    let late =
        async move { commit_purged(&root, &parent, ours, purged, provenance("purge")).await };
    let error = place.fails(&file(&content), late).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&layout::manifest(3)), "{error}");
    assert_eq!(numbers(&place.plain).await.unwrap(), [1, 2, 3]);
}

/// Neither what was served before nor what was to be is whole.
#[tokio::test]
async fn where_nothing_is_whole_a_person_has_to_choose() {
    let place = Place::new().await;
    let content = tiny(&place.plain, "three").await.unwrap();
    place.plain.delete(&file(&place.second.content)).await.unwrap();
    let (root, parent, ours) = (place.slow.clone().root(), place.second.clone(), content.clone());
    let late = async move { commit(&root, Some(&parent), ours, vec![], provenance("c")).await };
    let error = place.fails(&file(&content), late).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("roll back"), "{error}");
    assert_eq!(numbers(&place.plain).await.unwrap(), [1, 2, 3]);
    let Ok(RollbackOutcome::Committed(back)) = rollback(&place.plain, 1, provenance("x: y")).await
    else {
        panic!("the first is whole");
    };
    assert_eq!(back.number, 4);
}
