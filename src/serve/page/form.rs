//! The page's form: as it was filled in, and what it asks.

use axum::extract::Query;
use axum::http::Uri;
use serde::{Deserialize, Serialize};

use crate::serve::limits::Limits;
use crate::serve::refusal::Refusal;
use crate::serve::request::DEFAULT_K;

/// Notes that a page shows at most: more is for programs.
const MOST: usize = 100;

/// The form as it was filled in; browsers send fields that were left empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::serve) struct Form {
    pub q: String,
    pub k: String,
    #[serde(rename = "where")]
    pub condition: String,
    pub beside: String,
}

/// What it asks.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::serve) struct Asked {
    pub text: String,
    pub k: usize,
    pub condition: Option<String>,
    pub beside: Beside,
}

/// What the hits are shown beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum Beside {
    Nothing,
    /// The same snapshot, every vector compared.
    Exact,
    /// Another snapshot.
    Snapshot(u64),
}

impl Form {
    /// Reads the query part of a request.
    pub fn read(uri: &Uri, limits: &Limits) -> Result<Self, Refusal> {
        if uri.query().is_some_and(|query| query.len() > limits.body) {
            return Err(Refusal::too_large(limits.body));
        }
        let form: Result<Query<Self>, _> = Query::try_from_uri(uri);
        form.map(|Query(form)| form).map_err(|error| Refusal::bad(error.body_text()))
    }

    /// Most notes that may be asked for.
    pub fn most(limits: &Limits) -> usize {
        MOST.min(limits.k)
    }

    /// What to look for; nothing where the box is empty.
    pub fn asked(&self, limits: &Limits) -> Result<Option<Asked>, Refusal> {
        let most = Self::most(limits);
        let k = match self.k.trim() {
            "" => Some(DEFAULT_K.min(most)),
            k => k.parse().ok().filter(|k| (1..=most).contains(k)),
        };
        let k = k.ok_or_else(|| Refusal::bad(format!("`k` must lie between 1 and {most} here")))?;
        let beside = match &*self.beside {
            "" => Beside::Nothing,
            "exact" => Beside::Exact,
            number => Beside::Snapshot(number.parse().map_err(|_| {
                Refusal::bad("`beside` must be `exact` or the number of a snapshot")
            })?),
        };
        let condition = Some(self.condition.trim()).filter(|condition| !condition.is_empty());
        let text = self.q.trim();
        Ok((!text.is_empty()).then(|| Asked {
            text: text.to_owned(),
            k,
            condition: condition.map(str::to_owned),
            beside,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &str) -> Result<Option<Asked>, u16> {
        let limits = Limits { body: 60, k: 50, ..Limits::default() };
        let form = Form::read(&target.parse().unwrap(), &limits);
        let asked = form.and_then(|form| form.asked(&limits));
        asked.map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn a_form_is_what_a_browser_sends() {
        for empty in ["/", "/?", "/?q=&k=&where=&beside=", "/?q=++&where=a"] {
            assert_eq!(asked(empty).unwrap(), None, "{empty}");
        }
        let found = asked("/?q=a+b%26c&k=3&where=+lang%3D1&beside=exact").unwrap().unwrap();
        let expected = Asked {
            text: "a b&c".to_owned(),
            k: 3,
            condition: Some("lang=1".to_owned()),
            beside: Beside::Exact,
        };
        assert_eq!(found, expected);
        let found = asked("/?q=a&beside=7").unwrap().unwrap();
        assert_eq!((found.k, found.condition, found.beside), (10, None, Beside::Snapshot(7)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["/?q=a&k=0", "/?q=a&k=51", "/?k=x", "/?q=a&beside=x", "/?q=a&q=b", "/?x=1"] {
            assert_eq!(asked(bad), Err(400), "{bad}");
        }
        assert_eq!(asked(&format!("/?q={}", "a".repeat(60))), Err(413));
    }
}
