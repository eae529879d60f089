//! The page at `/`, as a browser without a script sees it: it shows what `/search` answers, beside exact search or another
//! snapshot too, and whatever was typed or stored stays text. A real browser looks at it in `make test-page`.

use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};

use scalingnote::report::{Asked, Changes, Comparison};
use scalingnote::search::Hit;
use scalingnote::serve::Limits;

use super::{Publisher, Running, SELDOM, serve};
use crate::fixture::http::{Client, Reply};

const QUERY: &str = "note 17 about topic 3";

async fn served(publisher: &Publisher, limits: Limits) -> Running {
    serve(&publisher.root, publisher.folder.path(), limits, SELDOM).await
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The text of the page with its entities resolved.
fn plain(html: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    pairs.iter().fold(html.to_owned(), |text, (entity, sign)| text.replace(entity, sign))
}

/// Lists of hits on a page, each hit as (rank, heading, mark, score).
fn lists(html: &str) -> Vec<Vec<(u64, String, String, String)>> {
    let hit = Regex::new(
        r#"(?s)<li class="hit".*?value="(\d+)">.*?<bdi class="heading">(.*?)</bdi>(.*?)<span class="score">.*?</span>([-0-9.]+)</span>"#,
    )
    .unwrap();
    let mark = Regex::new(r#"<span class="mark [a-z]+" [^>]*>(.*?)</span>"#).unwrap();
    let read = |list: &str| {
        let hits = hit.captures_iter(list).map(|found| {
            let mark = mark.captures(&found[3]).map_or_else(String::new, |mark| mark[1].to_owned());
            (found[1].parse().unwrap(), plain(&found[2]), mark, found[4].to_owned())
        });
        hits.collect()
    };
    html.split("<ol class=\"hits\">").skip(1).map(read).collect()
}

/// The same of an answer of `/search`; `heading` names the column that a page takes for it.
fn hits(answer: &Value, heading: Option<&str>) -> Vec<(u64, String, String)> {
    let hit = |hit: &Value| {
        let shown = heading.map_or(&hit["note_id"], |name| &hit["stored"][name]);
        let shown = shown.as_str().map_or_else(|| shown.to_string(), str::to_owned);
        (hit["rank"].as_u64().unwrap(), shown, format!("{:.4}", hit["score"].as_f64().unwrap()))
    };
    answer["hits"].as_array().unwrap().iter().map(hit).collect()
}

fn unmarked(list: &[(u64, String, String, String)]) -> Vec<(u64, String, String)> {
    list.iter().map(|(rank, id, _, score)| (*rank, id.clone(), score.clone())).collect()
}

/// Asks again while a second snapshot may not be opened yet.
async fn get(client: &mut Client, target: &str) -> Reply {
    loop {
        let reply = client.get(target).await;
        if reply.status != 503 {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_what_search_answers() {
    let publisher = Publisher::new();
    publisher.publish(1).await;
    let server = served(&publisher, Limits::default()).await;
    let mut client = server.client().await;
    for (form, search) in [
        (String::new(), String::new()),
        ("&k=3".to_owned(), "&k=3".to_owned()),
        ("&k=+&where=&beside=".to_owned(), String::new()),
        (
            format!("&k=7&where={}", encoded("lang = 'fr'")),
            format!("&k=7&where={}", encoded("lang = 'fr'")),
        ),
    ] {
        let page = client.get(&format!("/?q={}{form}", encoded(QUERY))).await;
        let answer = client.get(&format!("/search?text={}{search}", encoded(QUERY))).await.json();
        assert_eq!(page.status, 200, "{}", page.body);
        let [list] = &lists(&page.body)[..] else { panic!("{}", page.body) };
        assert_eq!(unmarked(list), hits(&answer, None), "{form}");
        assert_eq!(list[0].1, "17");
        for name in ["day", "lang"] {
            let stored = answer["hits"][0]["stored"][name].to_string();
            let cell = format!("<dt>{name}</dt><dd><bdi>{}</bdi></dd>", stored.trim_matches('"'));
            assert!(page.body.contains(&cell), "{cell}: {}", page.body);
        }
    }

    let page = client.get("/").await;
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(page.headers[name], value);
    }
    let policy = &page.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    for tag in ["script", "style"] {
        assert_eq!(page.body.matches(&format!("<{tag}")).count(), 1);
        assert!(page.body.contains(&format!("<{tag} nonce=\"{nonce}\">")));
    }
    let again = client.get("/").await;
    assert_ne!(&again.headers["content-security-policy"], policy, "each answer has its own");
    for outside in ["http://", "https://", "url(", "@import", " src=", "fetch(", " style="] {
        assert!(!page.body.contains(outside), "{outside}: the page must stand alone");
    }
    // The card: counts, gates, the tower, where it comes from.
    for said in [
        "Snapshot 1</h2>",
        "<b>121</b><span>notes",
        "<td>orphans</td><td class=\"good\">passed",
        "document-tower",
        "<b>121</b><span>notes new",
        "<title>snapshot 1: 121 notes</title>",
    ] {
        assert!(page.body.contains(said), "{said}: {}", page.body);
    }
    let metrics = client.get("/metrics").await.body;
    assert!(metrics.contains("serve_page_requests_total{outcome=\"answered\"} 6\n"), "{metrics}");
    assert!(metrics.contains("serve_requests_total{outcome=\"answered\"} 4\n"), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_snapshots_stand_side_by_side() {
    let publisher = Publisher::new();
    publisher.publish(3).await;
    let first = served(&publisher, Limits::default()).await;
    let search = format!("/search?text={}&k=20", encoded(QUERY));
    let before = first.client().await.get(&search).await.json();
    first.stop().await;
    publisher.publish(2).await;
    publisher.publish(1).await;
    let server = served(&publisher, Limits::default()).await;
    let mut client = server.client().await;
    let after = client.get(&search).await.json();
    assert_ne!(before["hits"], after["hits"], "something moves");
    let page = get(&mut client, &format!("/?q={}&k=20&beside=1", encoded(QUERY))).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let [main, beside] = &lists(&page.body)[..] else { panic!("{}", page.body) };
    assert_eq!((unmarked(main), unmarked(beside)), (hits(&after, None), hits(&before, None)));
    // Every mark says how far the hit is from its place on the other side.
    let place = |list: &[(u64, String, String, String)], id: &str| {
        list.iter().find(|hit| hit.1 == id).map(|hit| hit.0)
    };
    for (rank, id, mark, _) in main {
        let expected = match place(beside, id) {
            None => "new".to_owned(),
            Some(there) if there > *rank => format!("\u{25b2} {}", there - rank),
            Some(there) if there < *rank => format!("\u{25bc} {}", rank - there),
            Some(_) => "=".to_owned(),
        };
        assert_eq!(*mark, expected, "{id}");
    }
    for (_, id, mark, _) in beside {
        assert_eq!(mark, if place(main, id).is_none() { "gone" } else { "" }, "{id}");
    }
    // The figures are those of `snapshot compare`.
    let read = |answer: &Value| -> Vec<Hit> {
        let hit = |hit: &Value| Hit {
            rank: hit["rank"].as_u64().unwrap() as usize,
            score: hit["score"].as_f64().unwrap() as f32,
            note_id: hit["note_id"].clone(),
            chunk: 0,
            stored: hit["stored"].as_object().unwrap().clone(),
        };
        answer["hits"].as_array().unwrap().iter().map(hit).collect()
    };
    let asked =
        Asked { id: "q".into(), text: None, hits: [read(&before), read(&after)], crossed: None };
    let changes: Changes = Comparison::of([1, 3], Default::default(), 20, None, &[asked]).all;
    let overlap = format!("<b>{:.1}%</b><span>of hits in both", 100.0 * changes.overlap);
    assert!(page.body.contains(&overlap), "{overlap}: {}", page.body);
    assert!(
        page.body.contains("<option value=\"1\" selected>snapshot 1</option>"),
        "{}",
        page.body
    );
    assert!(
        page.body.contains("<option value=\"2\">") && !page.body.contains("<option value=\"3\"")
    );
    assert_eq!(client.get("/metrics").await.body.matches("open_snapshots 2\n").count(), 1);

    // The same query both ways.
    let page = client.get(&format!("/?q={}&k=20&beside=exact", encoded(QUERY))).await;
    let exact = client.get(&format!("{search}&exact=true")).await.json();
    let [graph, beside] = &lists(&page.body)[..] else { panic!("{}", page.body) };
    assert_eq!((unmarked(graph), unmarked(beside)), (hits(&after, None), hits(&exact, None)));
    let times = Regex::new(r"<b>[0-9.]+ ms</b><span>(graph|exact)</span>").unwrap();
    assert_eq!(times.find_iter(&page.body).count(), 2, "{}", page.body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_typed_or_stored_becomes_markup() {
    const HOSTILE: &str =
        "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;{{ 7*7 }}\u{202e}";
    let publisher = Publisher::new();
    let lines: String = (0..30)
        .map(|id| {
            let row = json!({ "id": format!("{HOSTILE}{id}"), "body": format!("note {id}"), "title": HOSTILE,
                "long": "<".repeat(5_000), "tags": [HOSTILE, "b"] });
            format!("{row}\n")
        })
        .collect();
    let stored = "stored_columns = [\"title\", \"long\", \"tags\"]\n";
    publisher.publish_notes(&lines, "body, title, long, tags", stored).await;
    let server = served(&publisher, Limits::default()).await;
    let mut client = server.client().await;
    let quiet = client.get("/?q=quiet&k=5").await.body;
    let tags = |html: &str| html.matches('<').count();
    for target in [
        format!("/?q={}&k=5", encoded(HOSTILE)),
        format!(
            "/?q=quiet&k=5&where={}",
            encoded(&format!("title = '{}'", HOSTILE.replace('\'', "''")))
        ),
    ] {
        let page = client.get(&target).await;
        assert_eq!(page.status, 200, "{}", page.body);
        assert_eq!(tags(&page.body), tags(&quiet), "the same tags whatever the texts are");
        assert_eq!(page.body.matches("<script").count(), 1);
        assert!(!page.body.contains("<img") && !page.body.contains("&amp;amp;amp;"));
        assert_eq!(lists(&page.body)[0].len(), 5);
        assert_eq!(lists(&page.body)[0][0].1, HOSTILE, "it is shown as it is");
    }
    assert!(
        !quiet.contains(&"&lt;".repeat(301)) && quiet.contains(&"&lt;".repeat(300)),
        "long values are cut"
    );
    for target in [
        format!("/?q=a&k={}", encoded(HOSTILE)),
        format!("/?q=a&beside={}", encoded(HOSTILE)),
        format!("/?q=a&where={}", encoded(HOSTILE)),
        format!("/?{}=a", encoded(HOSTILE)),
    ] {
        let page = client.get(&target).await;
        assert_eq!(page.status, 400, "{target}: {}", page.body);
        assert!(page.body.contains("role=\"alert\""), "{}", page.body);
        assert!(page.body.matches("<script").count() == 1 && !page.body.contains("<img"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_within_the_limits_of_a_search() {
    let publisher = Publisher::new();
    // Nothing is in service yet.
    let server = served(&publisher, Limits::default()).await;
    let mut client = server.client().await;
    let page = client.get("/").await;
    assert_eq!((page.status, &*page.headers["retry-after"]), (503, "5"));
    assert!(
        page.body.contains("http-equiv=\"refresh\" content=\"5\"") && page.body.contains("<form")
    );
    server.stop().await;

    publisher.publish(1).await;
    let without = served(&publisher, Limits { page: false, ..Limits::default() }).await;
    assert_eq!(without.client().await.get("/").await.status, 404);
    assert_eq!(without.client().await.get("/?q=a").await.status, 404);
    without.stop().await;

    let limits = Limits { second: 0, k: 40, body: 2_000, ..Limits::default() };
    let server = served(&publisher, limits).await;
    let mut client = server.client().await;
    for (target, status, says) in [
        ("/?q=a&k=41", 400, "between 1 and 40"),
        ("/?q=a&k=0", 400, "between 1 and 40"),
        ("/?q=a&where=langs%3D1", 400, "did you mean `lang`"),
        ("/?q=a&where=random()%3E0.5", 400, "another value"),
        ("/?q=a&beside=9", 404, "no longer there"),
    ] {
        let page = get(&mut client, target).await;
        assert_eq!(page.status, status, "{target}: {}", page.body);
        assert!(plain(&page.body).contains(says), "{target}: {}", page.body);
        assert!(page.body.contains("value=\"a\""), "what was asked stands in the form still");
    }
    let deep = format!("/?q=a&where={}", "(".repeat(1_500));
    assert_eq!(client.get(&deep).await.status, 400);
    assert_eq!(client.get(&format!("/?q={}", "a".repeat(2_000))).await.status, 413);
    assert_eq!(client.post("/", "q=a").await.status, 405);
    client.send("GET /?q=a HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert_eq!(client.receive().await.status, 421);
    server.stop().await;

    let none = served(&publisher, Limits { searches: 0, ..Limits::default() }).await;
    let page = none.client().await.get("/?q=a").await;
    assert_eq!((page.status, &*page.headers["retry-after"]), (503, "1"));
    none.stop().await;

    let small = served(&publisher, Limits { answer: 4_000, ..Limits::default() }).await;
    let page = small.client().await.get("/?q=note&k=100").await;
    assert_eq!(page.status, 400);
    assert!(
        plain(&page.body).contains("more than 4000 bytes; ask for a smaller `k`"),
        "{}",
        page.body
    );
    small.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_snapshot_that_costs_too_much_is_refused() {
    let publisher = Publisher::new();
    publisher.publish(1).await;
    publisher.publish(2).await;
    let server = served(&publisher, Limits { second: 100, ..Limits::default() }).await;
    let mut client = server.client().await;
    let page = get(&mut client, "/?q=a&beside=1").await;
    assert_eq!(page.status, 400, "{}", page.body);
    assert!(plain(&page.body).contains("at most 100 B are allowed"), "{}", page.body);
    assert!(client.get("/metrics").await.body.contains("open_snapshots 1\n"));
    assert_eq!(client.get("/?q=a").await.status, 200);
    server.stop().await;
}
