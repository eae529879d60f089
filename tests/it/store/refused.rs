//! A store that lets nobody write.

use std::sync::Arc;

use object_store::memory::InMemory;

use scalingnote::snapshot::ReaderLease;
use scalingnote::store::{Root, layout};

use crate::fixture::faults::{Fault, Faulty};

/// What was never written need not be deleted: a reader whose lease was refused has none to give back, and nothing to
/// tell of it.
#[tokio::test]
async fn what_is_not_there_is_deleted_where_nothing_may_be() {
    let inner = Arc::new(InMemory::new());
    let root = Root::from_store(inner.clone(), "memory://refused", None);
    root.put(&layout::manifest(1), "{}".into()).await.unwrap();
    let refuses = |operation: &str, _: &str| {
        matches!(operation, "put" | "delete" | "multipart").then_some(Fault::Before)
    };
    let refusing = Faulty::new(inner, refuses).root();
    assert!(ReaderLease::take(&refusing, 1).await.is_err());
    refusing.delete(&layout::reader_lease(1, "0123456789abcdef", 0)).await.unwrap();
    assert!(refusing.delete(&layout::manifest(1)).await.is_err(), "that one is there");
    assert!(root.size(&layout::manifest(1)).await.unwrap().is_some());
}
