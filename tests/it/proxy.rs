//! A proxy that breaks things, in front of a real server: real HTTP over real connections, faults by a rule.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This answer comes back, with further header lines; the request is not forwarded.
    Answer { status: &'static str, headers: String, body: String },
    /// As `Answer`, but the request was carried out: a lost acknowledgement.
    AnswerAfter { status: &'static str },
    /// The connection is closed; the request is not forwarded.
    DropBefore,
    /// The request is carried out, then the connection is closed: a lost acknowledgement.
    DropAfter,
    /// Half the body comes back, then the connection is closed.
    Truncate,
    /// The answer comes late.
    Slow(Duration),
    /// It is carried out without `If-None-Match`: what a server does that does not know the header.
    Unconditional,
}

impl Fault {
    /// An answer without a body.
    pub fn status(status: &'static str) -> Self {
        Self::Answer { status, headers: String::new(), body: String::new() }
    }

    /// A store that asks to be left alone.
    pub fn busy(status: &'static str, seconds: u64) -> Self {
        let headers = format!("Retry-After: {seconds}\r\n");
        Self::Answer { status, headers, body: String::new() }
    }

    /// An answer as S3 words it.
    pub fn s3(status: &'static str, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        );
        Self::Answer { status, headers: "Content-Type: application/xml\r\n".to_owned(), body }
    }

    fn name(&self) -> String {
        match self {
            Self::Answer { status, .. } => format!("answer {status}"),
            Self::AnswerAfter { status } => format!("done, answer {status}"),
            Self::DropBefore => "dropped before".to_owned(),
            Self::DropAfter => "dropped after".to_owned(),
            Self::Truncate => "truncated".to_owned(),
            Self::Slow(_) => "slow".to_owned(),
            Self::Unconditional => "unconditional".to_owned(),
        }
    }
}

/// A request as a rule sees it.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// A put-if-absent.
    pub conditional: bool,
    pub arrived: std::time::Instant,
}

type Rule = dyn FnMut(&Request) -> Option<Fault> + Send;

struct Shared {
    upstream: String,
    rule: Mutex<Box<Rule>>,
    seen: Mutex<Vec<Request>>,
    faults: Mutex<BTreeMap<String, u64>>,
}

/// Ends with its value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to `upstream`, a `host:port` or an `http://` URL.
    pub async fn start(
        upstream: &str,
        rule: impl FnMut(&Request) -> Option<Fault> + Send + 'static,
    ) -> Self {
        let upstream = upstream.trim_start_matches("http://");
        let upstream = upstream.split('/').next().unwrap_or_default().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            rule: Mutex::new(Box::new(rule)),
            seen: Mutex::default(),
            faults: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How often each fault was injected.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        self.shared.faults.lock().unwrap().clone()
    }
}

/// A share of the requests gets a fault that a real network and a real store know; the seed reproduces the draws.
pub fn weather(seed: u64, share: f64) -> impl FnMut(&Request) -> Option<Fault> + Send {
    let mut random = StdRng::seed_from_u64(seed);
    move |request| {
        if !random.random_bool(share) {
            return None;
        }
        Some(match random.random_range(0..9) {
            0 => Fault::busy("503 Service Unavailable", 0),
            1 => Fault::busy("429 Too Many Requests", u64::from(random.random_bool(0.1))),
            2 => Fault::AnswerAfter { status: "500 Internal Server Error" },
            3 => Fault::DropBefore,
            4 | 5 => Fault::DropAfter,
            6 if request.method == "GET" => Fault::Truncate,
            // Of an object that another create is undecided about.
            7 if request.conditional => Fault::s3(
                "409 Conflict",
                "ConditionalRequestConflict",
                "a conflicting operation is in progress",
            ),
            8 if request.conditional => Fault::status("412 Precondition Failed"),
            _ => Fault::Slow(Duration::from_millis(random.random_range(5..50))),
        })
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // An error of one connection is the client's to notice.
        connections.spawn(async move { drop(serve(client, &shared).await) });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some((head, body)) = read_request(&mut client, &mut buffer).await? {
        let request = parse(&head);
        let head_only = request.method == "HEAD";
        let fault = (shared.rule.lock().unwrap())(&request);
        shared.seen.lock().unwrap().push(request);
        if let Some(fault) = &fault {
            *shared.faults.lock().unwrap().entry(fault.name()).or_default() += 1;
        }
        match &fault {
            Some(Fault::DropBefore) => return Ok(()),
            Some(Fault::Answer { status, headers, body }) => {
                answer(&mut client, status, headers, if head_only { "" } else { body }).await?;
                continue;
            }
            _ => {}
        }
        let unconditional = fault == Some(Fault::Unconditional);
        let (reply_head, reply_body) = forward(shared, &head, &body, unconditional).await?;
        match fault {
            Some(Fault::DropAfter) => return Ok(()),
            Some(Fault::AnswerAfter { status }) => {
                answer(&mut client, status, "", "").await?;
                continue;
            }
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Truncate) if reply_body.len() > 1 => {
                client.write_all(reply_head.as_bytes()).await?;
                client.write_all(&reply_body[..reply_body.len() / 2]).await?;
                return client.flush().await;
            }
            _ => {}
        }
        client.write_all(reply_head.as_bytes()).await?;
        client.write_all(&reply_body).await?;
        client.flush().await?;
    }
    Ok(())
}

async fn answer(
    client: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<()> {
    let text =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    client.write_all(text.as_bytes()).await?;
    client.flush().await
}

/// The next request's head (with its blank line) and body; `None` where the client closed the connection.
async fn read_request(
    client: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let length: usize = header(&head, "content-length").map_or(0, |text| text.parse().unwrap_or(0));
    assert!(header(&head, "transfer-encoding").is_none(), "the proxy reads sized bodies only");
    while buffer.len() < end + length {
        if client.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let rest = buffer.split_off(end + length);
    let body = std::mem::replace(buffer, rest).split_off(end);
    Ok(Some((head, body)))
}

fn parse(head: &str) -> Request {
    let mut words = head.split_whitespace();
    Request {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        conditional: header(head, "if-none-match").is_some(),
        arrived: std::time::Instant::now(),
    }
}

/// One connection a request: the answer ends where the server closes it.
async fn forward(
    shared: &Shared,
    head: &str,
    body: &[u8],
    unconditional: bool,
) -> std::io::Result<(String, Vec<u8>)> {
    let mut server = TcpStream::connect(&shared.upstream).await?;
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    lines.retain(|line| !starts_with(line, "connection:"));
    if unconditional {
        lines.retain(|line| !starts_with(line, "if-none-match:"));
    }
    server.write_all(lines.join("\r\n").as_bytes()).await?;
    server.write_all(b"\r\nConnection: close\r\n\r\n").await?;
    server.write_all(body).await?;
    server.flush().await?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).await?;
    let end = find(&reply, b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let mut body = reply.split_off(end + 4);
    let head = String::from_utf8_lossy(&reply).into_owned();
    let mut lines: Vec<String> = head.trim_end().split("\r\n").map(str::to_owned).collect();
    lines.retain(|line| !starts_with(line, "connection:") && !starts_with(line, "keep-alive:"));
    if starts_with(&header(&head, "transfer-encoding").unwrap_or_default(), "chunked") {
        body = unchunk(&body);
        lines.retain(|line| !starts_with(line, "transfer-encoding:"));
        lines.push(format!("Content-Length: {}", body.len()));
    }
    Ok((lines.join("\r\n") + "\r\n\r\n", body))
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = find(rest, b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..at]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let Ok(size @ 1..) = size else { break };
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 2 + size + 2..];
    }
    body
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let found = lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

fn starts_with(line: &str, prefix: &str) -> bool {
    line.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
