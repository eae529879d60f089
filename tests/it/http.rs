//! A small HTTP/1.1 client for loopback, with connections that are kept open: what a load balancer does.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// What an error says.
    #[track_caller]
    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("an error has a message").to_owned()
    }
}

/// One connection.
pub struct Client(TcpStream);

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("the server accepts"))
    }

    pub async fn get(&mut self, target: &str) -> Reply {
        self.send(&format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        self.receive().await
    }

    pub async fn search(&mut self, body: &Value) -> Reply {
        self.post("/search", &body.to_string()).await
    }

    pub async fn post(&mut self, target: &str, body: &str) -> Reply {
        let length = body.len();
        self.send(&format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
        self.receive().await
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("the server reads");
    }

    /// Reads one answer with a content-length.
    pub async fn receive(&mut self) -> Reply {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            let read = self.0.read_buf(&mut bytes).await.expect("the server answers");
            assert!(read > 0, "the server closed the connection without an answer");
        };
        let text = String::from_utf8(bytes[..head].to_vec()).expect("a head is text");
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers["content-length"].parse().expect("a length");
        let mut body = bytes.split_off(head + 4);
        while body.len() < length {
            let read = self.0.read_buf(&mut body).await.expect("the server answers");
            assert!(read > 0, "the server closed the connection within an answer");
        }
        let body = String::from_utf8(body).expect("answers are text");
        Reply { status: status.expect("a status"), headers, body }
    }
}
