//! `[evaluation]` of a run whose tasks executors do: the driver asks, and refuses.

use super::MINUTE;
use super::processes::Cluster;
use crate::exec::evaluation::{GATED, NOTES, newest, place, shuffled, write_notes};

#[test]
fn a_build_that_finds_less_is_refused_unless_it_is_meant() {
    let place = place(GATED);
    let folder = place.path("");
    let cluster = Cluster::start(1);
    let first = cluster.ok(&folder, &[]);
    assert_eq!(
        (&first["evaluation"]["ndcg_10"], &first["outcome"]["snapshot"]),
        (&1.0.into(), &1.into())
    );
    write_notes(&place, 0..NOTES, shuffled);
    let refused = cluster.run(&folder, &[], MINUTE);
    assert_eq!(refused.status.code(), Some(3), "{}", cluster.said());
    assert!(cluster.said().contains("ndcg-drop"), "{}", cluster.said());
    assert_eq!(newest(&place)["number"], 1);
    let meant = cluster.ok(&folder, &["--override", "ndcg-drop", "--reason", "moved on purpose"]);
    assert!(meant["evaluation"]["against"]["high"].as_f64() < Some(-0.05), "{meant}");
    assert_eq!(newest(&place)["number"], 2);
}
