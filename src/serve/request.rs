//! What `/search` is asked: JSON in the body of a POST, or the query part of a GET.

use axum::body::Body;
use axum::extract::Query;
use axum::http::{Method, Request, header};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::connection::Holding;
use super::limits::Limits;
use super::refusal::Refusal;

/// One search.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SearchRequest {
    pub query: SearchQuery,
    pub k: usize,
    pub exact: bool,
    pub condition: Option<String>,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SearchQuery {
    Text(String),
    Vector(Vec<f32>),
}

/// How many notes are looked for where the request does not say.
pub(super) const DEFAULT_K: usize = 10;

/// A search as it comes: the vector is numbers in a body, and numbers with commas between them in a query part.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted<V> {
    text: Option<String>,
    vector: Option<V>,
    k: Option<usize>,
    #[serde(default)]
    exact: bool,
    #[serde(rename = "where")]
    condition: Option<String>,
}

/// What a body looks like.
const EXAMPLE: &str = "such as {\"text\": \"...\", \"k\": 10}";

/// The fields as they are written, to say which one is wrong without keeping what they hold.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    vector: Option<&'a RawValue>,
    #[serde(borrow)]
    k: Option<&'a RawValue>,
    #[serde(borrow)]
    exact: Option<&'a RawValue>,
    #[serde(borrow, rename = "where")]
    condition: Option<&'a RawValue>,
}

/// What is wrong with a body.
fn wrong(body: &[u8], cause: &serde_json::Error) -> String {
    fn fits<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>) -> bool {
        field.is_none_or(|field| serde_json::from_str::<T>(field.get()).is_ok())
    }
    if let Ok(fields) = serde_json::from_slice::<Fields<'_>>(body) {
        for (name, is_fine, must) in [
            ("text", fits::<String>(fields.text), "a string"),
            ("vector", fits::<Vec<f32>>(fields.vector), "a list of numbers"),
            ("k", fits::<usize>(fields.k), "a whole number"),
            ("exact", fits::<bool>(fields.exact), "true or false"),
            ("where", fits::<String>(fields.condition), "a string"),
        ] {
            if !is_fine {
                return format!("`{name}` must be {must}");
            }
        }
    }
    format!("the body must be JSON {EXAMPLE}: {cause}")
}

impl SearchRequest {
    /// Reads a request, up to the limit of its body, which `held` holds.
    pub async fn read(
        request: Request<Body>,
        limits: &Limits,
        held: &Holding,
    ) -> Result<Self, Refusal> {
        if request.method() == Method::POST {
            let body = body(request, limits.body, held).await?;
            // A list would be taken for the fields in their order.
            if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
                return Err(Refusal::bad(format!("the body must be a JSON object {EXAMPLE}")));
            }
            let posted = serde_json::from_slice(&body);
            let posted = posted.map_err(|cause| Refusal::bad(wrong(&body, &cause)))?;
            return Self::new(posted, limits);
        }
        if request.uri().query().is_some_and(|query| query.len() > limits.body) {
            return Err(Refusal::too_large(limits.body));
        }
        let Query(asked): Query<Posted<String>> =
            Query::try_from_uri(request.uri()).map_err(|error| Refusal::bad(error.body_text()))?;
        let Posted { text, vector, k, exact, condition } = asked;
        let vector = vector.map(|text| numbers(&text)).transpose()?;
        Self::new(Posted { text, vector, k, exact, condition }, limits)
    }

    fn new(posted: Posted<Vec<f32>>, limits: &Limits) -> Result<Self, Refusal> {
        let query = match (posted.text, posted.vector) {
            (Some(text), None) => SearchQuery::Text(text),
            (None, Some(vector)) => SearchQuery::Vector(vector),
            _ => return Err(Refusal::bad("give either `text` or `vector`")),
        };
        let k = posted.k.unwrap_or(DEFAULT_K.min(limits.k));
        if !(1..=limits.k).contains(&k) {
            return Err(Refusal::bad(format!(
                "`k` is {k}; it must lie between 1 and {}",
                limits.k
            )));
        }
        Ok(Self { query, k, exact: posted.exact, condition: posted.condition })
    }
}

fn numbers(text: &str) -> Result<Vec<f32>, Refusal> {
    let numbers = text.split(',').map(|number| number.trim().parse::<f32>());
    let numbers: Result<_, _> = numbers.collect();
    numbers.map_err(|_| Refusal::bad("`vector` must be numbers with commas between them"))
}

async fn body(request: Request<Body>, limit: usize, held: &Holding) -> Result<Vec<u8>, Refusal> {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Refusal::too_large(limit));
    }
    let mut body = Vec::new();
    let mut chunks = request.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::bad("the body broke off"))?;
        if body.len() + chunk.len() > limit {
            return Err(Refusal::too_large(limit));
        }
        // A vector that grows has room for up to twice of what is in it.
        held.hold(2 * chunk.len()).map_err(|_| Refusal::busy())?;
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::connection::Connections;

    async fn read(request: axum::http::request::Builder, body: &str) -> Result<SearchRequest, u16> {
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let limits = Limits { body: 100, k: 50, held: 250, ..Limits::default() };
        let place = Connections::new(&limits).admit([127, 0, 0, 1].into()).await;
        let read = SearchRequest::read(request, &limits, &place.holding()).await;
        read.map_err(|refusal| refusal.status().as_u16())
    }

    #[tokio::test]
    async fn both_forms_ask_the_same() {
        let expected = SearchRequest {
            query: SearchQuery::Text("a b&c".to_owned()),
            k: 3,
            exact: true,
            condition: Some("lang = 'en'".to_owned()),
        };
        let body = r#"{"text": "a b&c", "k": 3, "exact": true, "where": "lang = 'en'"}"#;
        assert_eq!(read(Request::post("/search"), body).await.unwrap(), expected);
        let uri = "/search?text=a+b%26c&k=3&exact=true&where=lang%20%3D%20%27en%27";
        assert_eq!(read(Request::get(uri), "").await.unwrap(), expected);
        let vector = SearchQuery::Vector(vec![0.5, -1.0]);
        let found = read(Request::get("/search?vector=0.5,%20-1"), "").await.unwrap();
        assert_eq!((found.query, found.k), (vector.clone(), 10));
        let found = read(Request::post("/search"), r#"{"vector": [0.5, -1]}"#).await.unwrap();
        assert_eq!(found.query, vector);
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        for (body, said) in [
            (r#"{"text": "a", "k": "3"}"#, "`k` must be a whole number"),
            (r#"{"text": "a", "k": 1.5}"#, "`k` must be a whole number"),
            (r#"{"text": 3}"#, "`text` must be a string"),
            (r#"{"vector": [1, "x"]}"#, "`vector` must be a list of numbers"),
            (r#"{"text": "a", "exact": 1}"#, "`exact` must be true or false"),
            (r#"{"text": "a", "where": []}"#, "`where` must be a string"),
            (r#"{"text": "a", "limit": 3}"#, "unknown field `limit`"),
            (r#"{"text": "a""#, "the body must be JSON such as"),
        ] {
            let cause = serde_json::from_str::<Posted<Vec<f32>>>(body).err().unwrap();
            let told = wrong(body.as_bytes(), &cause);
            assert!(told.contains(said), "{body}: {told}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_meant_is_refused() {
        for body in [
            "",
            "[]",
            r#"["a", null, 3, false, null]"#,
            "{}",
            r#"{"text": "a", "vector": [1]}"#,
            r#"{"text": "a", "k": 0}"#,
            r#"{"text": "a", "k": 51}"#,
            r#"{"text": "a", "k": -1}"#,
            r#"{"text": "a", "limit": 3}"#,
        ] {
            assert_eq!(read(Request::post("/search"), body).await.unwrap_err(), 400, "{body}");
        }
        for uri in ["/search", "/search?vector=1,x", "/search?text=a&kk=3", "/search?text=a&k=x"] {
            assert_eq!(read(Request::get(uri), "").await.unwrap_err(), 400, "{uri}");
        }
        let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(100));
        assert_eq!(read(Request::post("/search"), &long).await.unwrap_err(), 413);
        let uri = format!("/search?text={}", "a".repeat(100));
        assert_eq!(read(Request::get(uri), "").await.unwrap_err(), 413);
    }
}
