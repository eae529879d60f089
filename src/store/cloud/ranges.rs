//! What web servers do not all do: ranges of files (Python's `http.server` and some gateways give none), where the whole
//! file is read and what was not asked for is passed over; and `HEAD`, which a signature for `GET` does not cover.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A store of files that always has ranges.
#[derive(Debug)]
pub(super) struct WithRanges(pub Arc<dyn ObjectStore>);

impl fmt::Display for WithRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[async_trait]
impl ObjectStore for WithRanges {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            let answer = self.0.get_opts(location, options.clone()).await;
            return match answer {
                // Of the answer to `GET` only the head is read.
                Err(error) if refuses_head(&error) => {
                    self.0.get_opts(location, GetOptions { head: false, ..options }).await
                }
                answer => answer,
            };
        }
        let range = options.range.clone();
        match (self.0.get_opts(location, options.clone()).await, range) {
            (Err(Error::NotSupported { .. }), Some(range)) => {
                let whole = GetOptions { range: None, ..options };
                let mut got = self.0.get_opts(location, whole).await?;
                let wanted = range
                    .as_range(got.meta.size)
                    .map_err(|cause| Error::Generic { store: "HTTP", source: Box::new(cause) })?;
                let attributes = std::mem::take(&mut got.attributes);
                let meta = got.meta.clone();
                let payload = GetResultPayload::Stream(cut(got.into_stream(), wanted.clone()));
                Ok(GetResult { payload, meta, range: wanted, attributes })
            }
            (answer, _) => answer,
        }
    }

    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.0.put_opts(at, data, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, how).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

/// What `object_store` says of an answer without a length: its own error type for it is private.
const NO_LENGTH: &str = "Content-Length Header missing";

/// Whether a server that refuses `HEAD` so may give the file all the same. `object_store` takes 405 for not found.
fn refuses_head(error: &Error) -> bool {
    let text = error.to_string();
    let refused = |code: &&str| text.contains(&format!("status code: {code}"));
    text.contains(NO_LENGTH) || ["400", "401", "403", "405", "501"].iter().any(refused)
}

/// The bytes `wanted` of a stream; it is dropped after the last of them.
fn cut(
    stream: BoxStream<'static, Result<Bytes>>,
    wanted: Range<u64>,
) -> BoxStream<'static, Result<Bytes>> {
    let cut = futures::stream::try_unfold((stream, 0u64), move |(mut stream, mut at)| {
        let wanted = wanted.clone();
        async move {
            while at < wanted.end {
                let Some(piece) = stream.try_next().await? else { break };
                let (start, end) = (at, at + piece.len() as u64);
                at = end;
                let from = wanted.start.clamp(start, end) - start;
                let to = wanted.end.clamp(start, end) - start;
                if from < to {
                    let piece = piece.slice(from as usize..to as usize);
                    return Ok(Some((piece, (stream, at))));
                }
            }
            Ok(None)
        }
    });
    cut.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_is_cut_at_both_ends() {
        let pieces = ["abc", "defg", "", "hi"];
        for (range, expected) in
            [(0..9, "abcdefghi"), (2..5, "cde"), (4..6, "ef"), (8..9, "i"), (3..3, "")]
        {
            let stream = futures::stream::iter(pieces.map(|piece| Ok(Bytes::from(piece)))).boxed();
            let cut: Vec<Bytes> = cut(stream, range).try_collect().await.unwrap();
            assert_eq!(cut.concat(), expected.as_bytes());
        }
    }
}
