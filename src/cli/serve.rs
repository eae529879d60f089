//! `scalingnote serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::app::App;
use super::args::{device, duration, number, place, root};
use super::terminal::Level;
use crate::error::Result;
use crate::search::{SnapshotWatcher, TowerChoice, WatchOptions};
use crate::serve::{Bound, Limits, Server, raise_descriptors};
use crate::tower::DeviceSpec;

/// Time for what is left to do at the store once the server has stopped.
const CLOSING: Duration = Duration::from_secs(10);

/// Serve searches of the newest snapshot over HTTP
///
/// The server polls for a newer snapshot (or a rollback). It downloads and verifies it, checks that
/// it answers the queries recorded at build time as it did then, and switches to it between two
/// requests. If any of that fails, it reports the error and keeps serving the current one. On
/// SIGTERM it finishes the requests in progress, then exits.
///
/// POST /search {"text": "...", "k": 10, "exact": false, "where": "lang = 'en'"}, or "vector"
/// instead of "text"; GET /search?text=...&k=10; GET /healthz; GET /metrics (Prometheus). GET / is
/// a web page that searches, compares with exact search or an earlier snapshot, and shows how the
/// snapshot was made.
///
/// There is no authentication and no TLS: bind the server to a loopback address, or put a proxy in
/// front of it. On a loopback address it answers only requests whose Host is localhost or a
/// loopback address, so that web pages cannot reach it through a visitor's browser.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote serve pipelines/quickstart.toml
  scalingnote serve s3://bucket/notes --bind 0.0.0.0:8080 --cache /var/cache/notes --poll 30s
  curl -s 127.0.0.1:8080/search -d '{\"text\": \"tax return\", \"k\": 3}' | jq .hits")]
pub(crate) struct ServeArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Address and port to listen on; port 0 picks a free one and prints it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    bind: SocketAddr,
    /// Another host name that clients or a proxy use for this server; repeatable.
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    allow_host: Vec<String>,
    /// Where the query tower's files are, if not where the snapshot says.
    #[arg(long, value_name = "PATH", value_parser = place::text(), conflicts_with = "vectors_only")]
    model: Option<String>,
    /// Device for the query tower: cpu, cpu:<threads>, or cuda:<number> (if built with feature
    /// cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    device: DeviceSpec,
    /// Do not load a query tower; clients send vectors.
    #[arg(long)]
    vectors_only: bool,
    /// How often to look for a newer snapshot (5s, 2m).
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    poll: Duration,
    /// Folder for copies of the served files; defaults to the user's cache folder.
    #[arg(long, value_name = "PATH", value_parser = place::path())]
    cache: Option<PathBuf>,
    /// Map the files of a local root directly instead of copying them. Use it only if nothing else changes these files:
    /// truncating one crashes the server, and overwriting one gives wrong answers or a crash.
    #[arg(long, conflicts_with = "cache")]
    in_place: bool,
    /// First snapshot to open; needed if the root is a web server that does not list its files.
    #[arg(long, value_name = "N", value_parser = number::snapshot)]
    snapshot: Option<u64>,
    /// Serve only snapshots signed with this Ed25519 key (PEM file), or with a key of the pipeline
    /// file; repeatable.
    #[arg(long = "public-key", value_name = "FILE", value_parser = place::path())]
    public_keys: Vec<PathBuf>,
    /// Largest k that a request may ask for.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_k: u32,
    /// Maximum number of concurrent searches; others wait up to a second, then get 503. Defaults to
    /// four per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    max_searches: Option<u32>,
    /// Largest request body in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(64..=1 << 30))]
    max_body: u32,
    /// Largest response in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = clap::value_parser!(u32).range(4_096..=1 << 30))]
    max_answer: u32,
    /// Maximum number of concurrent connections. Beyond it, a new connection closes the one that
    /// has kept the server waiting longest. Lowered to fit the system's limit on open files.
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    max_connections: u32,
    /// Do not serve the web page at /.
    #[arg(long)]
    no_page: bool,
    /// Maximum number of bytes that the page may open from a second snapshot to compare with; files
    /// that it shares with the snapshot being served do not count.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, conflicts_with = "no_page")]
    max_second: u64,
    /// Time limit for one request.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    /// How long an idle connection stays open; set it longer than the idle timeout of any proxy in
    /// front.
    #[arg(long, value_name = "TIME", default_value = "75s", value_parser = duration::parse)]
    keep_alive: Duration,
}

pub(super) async fn execute(args: ServeArgs, app: &App) -> Result<()> {
    raise_descriptors();
    let opened = root::open_trusting(&args.root, &args.public_keys)?;
    let (model, base_dir) = opened.tower_files(args.model.clone())?;
    let tower = (!args.vectors_only).then(|| TowerChoice {
        model,
        base_dir,
        device: args.device.clone(),
        reporter: Arc::clone(&app.reporter),
    });
    let options = WatchOptions {
        every: args.poll.max(Duration::from_millis(100)),
        cache: args.cache.clone().map_or_else(root::cache_dir, Ok)?,
        in_place: args.in_place,
        tower,
        first: args.snapshot,
    };
    let uri = opened.root.uri().to_owned();
    // A port that is taken is told before anything is loaded; clients are let in when there is something to answer with.
    let bound = Bound::at(args.bind)?;
    let mut watcher = SnapshotWatcher::new(opened.root, options)?;
    first_look(&watcher, &uri, app).await?;
    watcher.start();
    let watcher = Arc::new(watcher);
    let server = Server::listen(bound, Arc::clone(&watcher), limits(&args))?;
    let address = server.address();
    app.console.close();
    if !address.ip().is_loopback() {
        app.console.line(
            Level::Warning,
            &format!("{address} can be reached from elsewhere, and there is neither authentication nor TLS"),
        );
    }
    let what = match watcher.status().number {
        Some(number) => format!("snapshot {number} of {uri}"),
        None => uri,
    };
    app.print(&format!("serving {what} on http://{address}\n"))?;
    let cancel = app.cancel.clone();
    let served = server.run(async move { cancel.cancelled().await }).await;
    // A look in progress may wait for a store that does not answer.
    let closed = tokio::time::timeout(CLOSING, watcher.close()).await;
    if closed.is_err() {
        tracing::warn!("the store does not answer; the snapshot's lease is left to expire");
    }
    served
}

/// Looks once. A root without a snapshot and a transient failure are warned of, and the watcher looks again; other errors
/// stop the server from starting.
async fn first_look(watcher: &SnapshotWatcher, uri: &str, app: &App) -> Result<()> {
    let problem = match watcher.look().await {
        Ok(true) => return Ok(()),
        Ok(false) => format!("there is no snapshot in {uri} yet; waiting for one"),
        Err(error) if error.is_retryable() => format!("{error}; trying again"),
        Err(error) => return Err(error),
    };
    app.console.line(Level::Warning, &problem);
    Ok(())
}

fn limits(args: &ServeArgs) -> Limits {
    let default = Limits::default();
    let (body, answer) = (args.max_body as usize, args.max_answer as usize);
    Limits {
        body,
        k: args.max_k as usize,
        answer,
        // Some of the largest of both, and a thousand of the usual ones.
        held: default.held.max(4 * (2 * body + answer)),
        searches: args.max_searches.map_or(default.searches, |searches| searches as usize),
        connections: args.max_connections as usize,
        timeout: args.timeout.max(Duration::from_secs(1)),
        idle: args.keep_alive.max(Duration::from_secs(1)),
        // Nothing in flight can take longer than its own limit.
        drain: args.timeout + Duration::from_secs(1),
        hosts: args.allow_host.clone(),
        page: !args.no_page,
        second: args.max_second,
        ..default
    }
}

/// An address to bind to: numbers, for a name may stand for several.
fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080, not a host name"
            .into()
    })
}

/// A host's name as it is in an address, without scheme and port.
fn host_name(text: &str) -> std::result::Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match text.is_empty() || !text.chars().all(is_name) {
        true => Err("write a name such as search.example.com, without scheme, port and `*`".into()),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_names() {
        for name in ["search.example.com", "search", "a-b_c.example."] {
            assert_eq!(host_name(name), Ok(name.to_owned()));
        }
        for wrong in ["", "https://a.example", "a.example:80", "*.example", "a b", "[::1]"] {
            assert!(host_name(wrong).is_err(), "{wrong}");
        }
    }
}
