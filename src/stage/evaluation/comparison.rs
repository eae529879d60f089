//! What changes for the same queries from one snapshot to another.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::search::Hit;
use crate::types::SpaceId;

/// Queries shown one by one: those that change most.
const WORST: usize = 20;

/// A query and what both snapshots find.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its id.
    pub id: String,
    /// Its text, where the comparison may show it.
    pub text: Option<String>,
    /// The hits of the one and of the other, best first.
    pub hits: [Vec<Hit>; 2],
    /// Those of the tower before on the snapshot after, and of the tower after on the snapshot before.
    pub crossed: Option<[Vec<Hit>; 2]>,
}

/// What changes from the first of two snapshots to the second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Their numbers.
    pub snapshots: [u64; 2],
    /// Fingerprints of the towers that encoded the queries.
    pub query_towers: [String; 2],
    /// Hits compared of each query, at most.
    pub k: usize,
    /// All queries.
    pub all: Changes,
    /// Scores in the first and in the second.
    pub scores: [Scores; 2],
    /// Each tower on each snapshot: whether the corpus or the tower moved the hits.
    pub crosswise: Option<Crosswise>,
    /// Why there is no `crosswise`, for people.
    pub not_crosswise: Option<String>,
    /// The stored column that `groups` are by.
    pub by: Option<String>,
    /// The queries by the value of that column in their first hit before, most queries first.
    pub groups: Vec<Group>,
    /// The queries that change most.
    pub worst: Vec<Worst>,
}

/// How much some queries change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// How many queries.
    pub queries: u64,
    /// Mean share of hits that both have (1 where both find nothing).
    pub overlap: f64,
    /// Share of queries whose first hit is another note.
    pub first_changed: f64,
    /// Share of queries whose hits are the same notes in the same order.
    pub same: f64,
    /// Mean places by which a note moves that both have.
    pub rank_shift: f64,
}

/// What the corpus alone and the tower alone change, where both towers are of one embedding space.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Crosswise {
    /// From the one snapshot to the other, both asked by the tower before.
    pub corpus_by_tower_before: Changes,
    /// The same by the tower after.
    pub corpus_by_tower_after: Changes,
    /// From the one tower to the other, both on the snapshot before.
    pub tower_on_snapshot_before: Changes,
    /// The same on the snapshot after.
    pub tower_on_snapshot_after: Changes,
}

impl Crosswise {
    fn of(asked: &[Asked]) -> Self {
        let changes = |pair: fn(&Asked, &[Vec<Hit>; 2]) -> Change| {
            let crossed = asked.iter().filter_map(|asked| Some((asked, asked.crossed.as_ref()?)));
            let changes: Vec<Change> =
                crossed.map(|(asked, crossed)| pair(asked, crossed)).collect();
            Changes::of(changes.iter())
        };
        Self {
            corpus_by_tower_before: changes(|own, crossed| Change::of(&own.hits[0], &crossed[0])),
            corpus_by_tower_after: changes(|own, crossed| Change::of(&crossed[1], &own.hits[1])),
            tower_on_snapshot_before: changes(|own, crossed| Change::of(&own.hits[0], &crossed[1])),
            tower_on_snapshot_after: changes(|own, crossed| Change::of(&crossed[0], &own.hits[1])),
        }
    }

    /// Each with what it is called.
    pub fn named(&self) -> [(&'static str, &Changes); 4] {
        [
            ("corpus, by the tower before", &self.corpus_by_tower_before),
            ("corpus, by the tower after", &self.corpus_by_tower_after),
            ("tower, on the snapshot before", &self.tower_on_snapshot_before),
            ("tower, on the snapshot after", &self.tower_on_snapshot_after),
        ]
    }
}

/// Scores of one snapshot: means, and quantiles of first hits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scores {
    /// Mean score of first hits.
    pub first: f64,
    /// Mean score of last hits.
    pub last: f64,
    /// A tenth of the first hits score less.
    pub p10: f64,
    /// Half of them.
    pub p50: f64,
    /// Nine tenths of them.
    pub p90: f64,
}

/// Queries with one value of a stored column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// The value; null if the first hit lacks it or the query has no hits.
    pub value: Value,
    /// How much they change.
    #[serde(flatten)]
    pub changes: Changes,
}

/// One query that changes much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Worst {
    /// The query.
    pub query: String,
    /// Its text, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Share of hits that both have.
    pub overlap: f64,
    /// The first hit before and after.
    pub first: [Option<Value>; 2],
    /// Its score.
    pub score: [Option<f64>; 2],
}

/// How one query changes.
struct Change {
    overlap: f64,
    first_changed: bool,
    same: bool,
    /// Places moved by notes that both have, and how many those are.
    moved: (u64, u64),
}

impl Change {
    fn of(before: &[Hit], after: &[Hit]) -> Self {
        let ids = |hits: &[Hit]| hits.iter().map(|hit| hit.note_id.clone()).collect::<Vec<_>>();
        let [before, after] = [before, after].map(ids);
        let places: HashMap<String, usize> =
            before.iter().enumerate().map(|(at, id)| (id.to_string(), at)).collect();
        let shifts = after.iter().enumerate().filter_map(|(at, id)| {
            places.get(&id.to_string()).map(|&place| place.abs_diff(at) as u64)
        });
        let shifts: Vec<u64> = shifts.collect();
        let most = before.len().max(after.len());
        Self {
            overlap: if most == 0 { 1.0 } else { shifts.len() as f64 / most as f64 },
            first_changed: before.first() != after.first(),
            same: before == after,
            moved: (shifts.iter().sum(), shifts.len() as u64),
        }
    }
}

impl Changes {
    fn of<'a>(changes: impl Iterator<Item = &'a Change> + Clone) -> Self {
        let queries = changes.clone().count() as u64;
        let share = |sum: f64| if queries == 0 { 0.0 } else { sum / queries as f64 };
        let count =
            |is: fn(&Change) -> bool| share(changes.clone().filter(|c| is(c)).count() as f64);
        let (places, notes) = changes.clone().fold((0, 0), |(places, notes), change| {
            (places + change.moved.0, notes + change.moved.1)
        });
        Self {
            queries,
            overlap: share(changes.clone().map(|change| change.overlap).sum()),
            first_changed: count(|change| change.first_changed),
            same: count(|change| change.same),
            rank_shift: if notes == 0 { 0.0 } else { places as f64 / notes as f64 },
        }
    }
}

impl Scores {
    fn of<'a>(lists: impl Iterator<Item = &'a [Hit]>) -> Self {
        let lists: Vec<&[Hit]> = lists.filter(|hits| !hits.is_empty()).collect();
        let score = |hit: Option<&Hit>| hit.map_or(0.0, |hit| f64::from(hit.score));
        let mut first: Vec<f64> = lists.iter().map(|hits| score(hits.first())).collect();
        let mean = |sum: f64| if lists.is_empty() { 0.0 } else { sum / lists.len() as f64 };
        let last = mean(lists.iter().map(|hits| score(hits.last())).sum());
        first.sort_unstable_by(f64::total_cmp);
        let quantile = |share: f64| {
            let at = (share * first.len().saturating_sub(1) as f64).round() as usize;
            first.get(at).copied().unwrap_or_default()
        };
        let [p10, p50, p90] = [0.1, 0.5, 0.9].map(quantile);
        Self { first: mean(first.iter().sum()), last, p10, p50, p90 }
    }
}

impl Comparison {
    /// Why the queries of one side's tower say nothing more on the other side, where they are of these spaces; `None` where
    /// they do.
    pub fn not_crosswise([one, other]: [&SpaceId; 2], one_tower: bool) -> Option<String> {
        if one != other {
            return Some(format!(
                "not asked crosswise: the vectors of {one} and of {other} mean nothing to each other's queries"
            ));
        }
        one_tower.then(|| {
            "not asked crosswise: both have one query tower, so what changes is the corpus"
                .to_owned()
        })
    }

    /// Compares what was found, the first `k` hits of each query. `by` names a stored column.
    pub fn of(
        snapshots: [u64; 2],
        query_towers: [String; 2],
        k: usize,
        by: Option<&str>,
        asked: &[Asked],
    ) -> Self {
        let changes: Vec<Change> =
            asked.iter().map(|asked| Change::of(&asked.hits[0], &asked.hits[1])).collect();
        let is_crossed = asked.iter().any(|asked| asked.crossed.is_some());
        let mut groups: BTreeMap<String, (Value, Vec<&Change>)> = BTreeMap::new();
        if let Some(by) = by {
            for (asked, change) in asked.iter().zip(&changes) {
                let first = asked.hits[0].first().and_then(|hit| hit.stored.get(by));
                let value = first.cloned().unwrap_or(Value::Null);
                groups
                    .entry(value.to_string())
                    .or_insert_with(|| (value, Vec::new()))
                    .1
                    .push(change);
            }
        }
        let group = |(value, changes): (Value, Vec<&Change>)| Group {
            value,
            changes: Changes::of(changes.into_iter()),
        };
        let mut groups: Vec<Group> = groups.into_values().map(group).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.changes.queries));
        let mut worst: Vec<(&Asked, &Change)> =
            asked.iter().zip(&changes).filter(|(_, change)| !change.same).collect();
        worst.sort_by(|a, b| {
            (a.1.overlap.total_cmp(&b.1.overlap))
                .then(b.1.first_changed.cmp(&a.1.first_changed))
                .then(b.1.moved.0.cmp(&a.1.moved.0))
                .then_with(|| a.0.id.cmp(&b.0.id))
        });
        let shown = |(asked, change): &(&Asked, &Change)| {
            let first = [&asked.hits[0], &asked.hits[1]].map(|hits| hits.first());
            Worst {
                query: asked.id.clone(),
                text: asked.text.clone(),
                overlap: change.overlap,
                first: first.map(|hit| hit.map(|hit| hit.note_id.clone())),
                score: first.map(|hit| hit.map(|hit| f64::from(hit.score))),
            }
        };
        let scores = [0, 1].map(|at| Scores::of(asked.iter().map(|asked| &*asked.hits[at])));
        Self {
            snapshots,
            query_towers,
            k,
            all: Changes::of(changes.iter()),
            scores,
            crosswise: is_crossed.then(|| Crosswise::of(asked)),
            not_crosswise: None,
            by: by.map(str::to_owned),
            groups,
            worst: worst.iter().take(WORST).map(shown).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn hits(ids: &[&str]) -> Vec<Hit> {
        let hit = |(at, id): (usize, &&str)| Hit {
            rank: at + 1,
            score: 1.0 - at as f32 / 10.0,
            note_id: json!(id),
            chunk: 0,
            stored: Map::from_iter([("lang".to_owned(), json!(&id[..1]))]),
        };
        ids.iter().enumerate().map(hit).collect()
    }

    fn asked(id: &str, before: &[&str], after: &[&str]) -> Asked {
        Asked { id: id.to_owned(), text: None, hits: [hits(before), hits(after)], crossed: None }
    }

    fn compared(asked: &[Asked]) -> Comparison {
        Comparison::of([1, 2], ["a".into(), "b".into()], 4, Some("lang"), asked)
    }

    #[test]
    fn changes_are_counted_as_they_are_defined() {
        let found = compared(&[
            asked("same", &["e1", "e2", "d1", "d2"], &["e1", "e2", "d1", "d2"]),
            asked("turned", &["e1", "e2"], &["e2", "e1"]),
            asked("half", &["d1", "d2", "d3", "d4"], &["d1", "x", "y", "d3"]),
            asked("none", &["e1"], &["z"]),
            asked("nothing", &[], &[]),
        ]);
        let all = &found.all;
        assert_eq!((all.queries, all.overlap, all.first_changed), (5, 3.5 / 5.0, 2.0 / 5.0));
        assert_eq!((all.same, all.rank_shift), (2.0 / 5.0, 3.0 / 8.0));
        let groups: Vec<_> = found.groups.iter().map(|g| (&g.value, g.changes.queries)).collect();
        assert_eq!(groups, [(&json!("e"), 3), (&json!("d"), 1), (&Value::Null, 1)]);
        let worst: Vec<&str> = found.worst.iter().map(|worst| worst.query.as_str()).collect();
        assert_eq!(worst, ["none", "half", "turned"], "what stays is not among them");
        assert_eq!(found.worst[0].first, [Some(json!("e1")), Some(json!("z"))]);
        assert!((found.scores[0].first - 1.0).abs() < 1e-6 && found.scores[0].last < 1.0);
    }

    #[test]
    fn crossed_hits_tell_the_corpus_from_the_tower() {
        let crossed = |id: &str, own: [&[&str]; 2], crossed: [&[&str]; 2]| Asked {
            crossed: Some(crossed.map(hits)),
            ..asked(id, own[0], own[1])
        };
        // The first moved with the corpus, by either tower; the second with the tower, on either snapshot.
        let asked = [
            crossed("corpus", [&["a"], &["b"]], [&["b"], &["a"]]),
            crossed("tower", [&["a"], &["b"]], [&["a"], &["b"]]),
        ];
        let towers = ["a".into(), "b".into()];
        let found = Comparison::of([1, 2], towers, 4, None, &asked).crosswise.unwrap();
        let share = |changes: &Changes| (changes.queries, changes.first_changed);
        for (name, changes) in found.named() {
            assert_eq!(share(changes), (2, 0.5), "{name}");
        }
        let one = Comparison::of([1, 2], ["a".into(), "b".into()], 4, None, &asked[..1]);
        let moved = one.crosswise.unwrap().named().map(|(_, changes)| changes.first_changed);
        assert_eq!(moved, [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn no_query_is_no_number() {
        let found = compared(&[]);
        assert_eq!((found.all.overlap, found.scores[1].p50, found.worst.len()), (0.0, 0.0, 0));
    }
}
