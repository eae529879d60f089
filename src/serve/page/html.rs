//! From values to bytes: the template, and a writer that ends where the answer gets too large.

use std::io;

use axum::http::HeaderValue;
use minijinja::Environment;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::report::page_templates;

const NAME: &str = "search.html";

pub(in crate::serve) struct Html(Environment<'static>);

/// Names the style and the script of one answer, so that a browser runs no other.
#[derive(Serialize)]
#[serde(transparent)]
pub(in crate::serve) struct Nonce(String);

impl Nonce {
    pub fn new() -> Self {
        Self(hex::encode(rand::random::<[u8; 16]>()))
    }

    /// `Content-Security-Policy`: nothing is loaded from anywhere.
    pub fn policy(&self) -> HeaderValue {
        let Self(nonce) = self;
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'"
        );
        // Hexadecimal digits are legal in a header.
        HeaderValue::try_from(policy)
            .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
    }
}

impl Html {
    pub fn new() -> Result<Self> {
        let mut templates = page_templates()?;
        for (name, text) in [
            (NAME, include_str!("search.html")),
            ("search.css", include_str!("search.css")),
            ("search.js", include_str!("search.js")),
        ] {
            let failed = || format!("reading {name}");
            templates.add_template(name, text).or_error(ErrorKind::Internal, failed)?;
        }
        Ok(Self(templates))
    }

    /// The page. `take` is asked for the bytes that it has, a piece at a time.
    ///
    /// # Errors
    /// That of `take`; Internal, where the template does not fit.
    pub fn page(
        &self,
        frame: &impl Serialize,
        take: &dyn Fn(usize) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let failed = || format!("writing {NAME}");
        let template = self.0.get_template(NAME).or_error(ErrorKind::Internal, failed)?;
        let mut out = Bounded { bytes: Vec::new(), taken: 0, take, refused: None };
        let rendered = template.render_captured_to(frame, &mut out);
        match out.refused {
            Some(error) => Err(error),
            None => rendered.map(|_| out.bytes).or_error(ErrorKind::Internal, failed),
        }
    }
}

/// Bytes taken at a time.
const PIECE: usize = 16 << 10;

struct Bounded<'a> {
    bytes: Vec<u8>,
    taken: usize,
    take: &'a dyn Fn(usize) -> Result<()>,
    refused: Option<Error>,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let missing = (self.bytes.len() + bytes.len()).saturating_sub(self.taken);
        if missing > 0 {
            let piece = missing.max(PIECE);
            if let Err(error) = (self.take)(piece) {
                self.refused = Some(error);
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.taken += piece;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
