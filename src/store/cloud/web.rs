//! What a plain web server can tell of its files: the index page of a folder, where it makes one.

use std::error::Error as StdError;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpRequestBody};
use url::Url;

use super::advice::advice;
use crate::error::{Error, ErrorKind, Result};

/// Longest index page that is read.
const MAX_PAGE: usize = 16 << 20;

/// A web server and the URL of the root on it.
#[derive(Debug, Clone)]
pub struct Web {
    client: HttpClient,
    url: String,
}

impl Web {
    pub fn new(client: HttpClient, url: &Url) -> Self {
        Self { client, url: url.as_str().trim_end_matches('/').to_owned() }
    }

    /// See [`crate::store::Root::index_page`].
    pub async fn index_page(&self, folder: &str) -> Result<String> {
        let url = format!("{}/{folder}/", self.url);
        let none =
            |why: String| Error::unsupported(format!("{url} shows no list of its files ({why})"));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() =
            url.parse().map_err(|_| Error::config(format!("{url} is not a URL")))?;
        let failed = |cause: HttpError| {
            let links =
                std::iter::successors(Some(&cause as &dyn StdError), |link| (**link).source());
            let text: String = links.map(|link| format!("{link}: ")).collect();
            let (kind, way_out) = advice(ErrorKind::Transient, None, &text, &url, None);
            Error::new(kind, format!("cannot read {url}{way_out}")).with_source(cause)
        };
        let answer = self.client.execute(request).await.map_err(failed)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(match status.as_u16() {
                429 | 500.. => Error::transient(format!("{url} answers {status}; run again")),
                _ => none(format!("it answers {status}")),
            });
        }
        let mut page = Vec::new();
        let mut pieces = answer.into_body().bytes_stream();
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            let piece: Bytes = piece;
            if page.len() + piece.len() > MAX_PAGE {
                return Err(none("the page is longer than 16 MiB".to_owned()));
            }
            page.extend_from_slice(&piece);
        }
        Ok(String::from_utf8_lossy(&page).into_owned())
    }
}
