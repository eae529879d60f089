//! The bytes of a file for a reader that blocks: fetched as they are asked for, and decompressed.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use futures::StreamExt;
use object_store::{GetResultPayload, ObjectStoreExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::encoding;
use super::file::SourceFile;
use super::text::failed;
use crate::corpus::options::TextEncoding;
use crate::error::{Error, Result};
use crate::store::unreadable;

/// What is read from a file at once.
const BUFFER: usize = 1 << 16;

/// Runs a blocking reader over the decompressed UTF-8 text of a file. Bytes that are not UTF-8 are passed on where the
/// file declares no other encoding: rows that hold them are rejected one by one.
///
/// # Errors
/// Those of `work`, and a file that cannot be fetched, decompressed or decoded; all name the file.
pub(super) async fn read<T, F>(
    file: &SourceFile,
    compression: FileCompressionType,
    declared: Option<TextEncoding>,
    work: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(Box<dyn BufRead + Send>) -> Result<T> + Send + 'static,
{
    read_raw(file, compression, move |bytes| work(encoding::decoded(bytes, declared)?)).await
}

/// [`read`] for files that are not text.
pub(super) async fn read_raw<T, F>(
    file: &SourceFile,
    compression: FileCompressionType,
    work: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(Box<dyn BufRead + Send>) -> Result<T> + Send + 'static,
{
    let url = file.url.as_str();
    let got = file.store.get(&file.meta.location).await.map_err(|e| unreadable(url, &e))?;
    let mut stop = Stop::default();
    let (reader, feeder): (Box<dyn Read + Send>, _) = match got.payload {
        GetResultPayload::File(file, _) => (Box::new(file), None),
        GetResultPayload::Stream(mut stream) => {
            let (sender, chunks) = mpsc::channel(4);
            // The store's own error comes back from the task: the reader's errors are those of files.
            let feeder = tokio::spawn(async move {
                while let Some(chunk) = stream.next().await {
                    let (chunk, broken) = match chunk {
                        Ok(chunk) => (Some(chunk), None),
                        Err(e) => (None, Some(e)),
                    };
                    if sender.send(chunk).await.is_err() || broken.is_some() {
                        return broken;
                    }
                }
                None
            });
            stop.feeder = Some(feeder.abort_handle());
            (Box::new(Chunks { chunks, rest: Bytes::new() }), Some(feeder))
        }
    };
    let reader = Stoppable { inner: reader, stopped: Arc::clone(&stop.stopped) };
    let done = tokio::task::spawn_blocking(move || work(decompressed(reader, compression)?)).await;
    drop(stop);
    let done = done.map_err(|e| Error::internal(format!("reading {url}")).with_source(e))?;
    if let (Err(_), Some(feeder)) = (&done, feeder)
        && let Ok(Some(broken)) = feeder.await
    {
        return Err(unreadable(url, &broken));
    }
    done.map_err(|e| e.context(format!("reading {url}")))
}

/// A file may be several compressed pieces, one behind the other, as `cat a.gz b.gz` makes them.
fn decompressed(
    reader: impl Read + Send + 'static,
    compression: FileCompressionType,
) -> Result<Box<dyn BufRead + Send>> {
    let packed = BufReader::with_capacity(BUFFER, reader);
    let (what, unpacked): (&str, Box<dyn Read + Send>) = match compression {
        FileCompressionType::UNCOMPRESSED => return Ok(Box::new(packed)),
        FileCompressionType::GZIP => {
            ("gzip", Box::new(flate2::bufread::MultiGzDecoder::new(packed)))
        }
        FileCompressionType::ZSTD => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(failed)?;
            ("zstd", Box::new(decoder))
        }
        other => {
            return Err(Error::unsupported(format!("{other:?} cannot be read; use .gz or .zst")));
        }
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER, Unpacked { what, inner: unpacked, bytes: 0 })))
}

/// Says what a decompressor's errors mean.
struct Unpacked<R> {
    what: &'static str,
    inner: R,
    /// This many bytes came out.
    bytes: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Self { what, bytes, .. } = *self;
        let count = self.inner.read(out).map_err(|e| match e.kind() {
            // Not the data, but where it comes from.
            _ if e.raw_os_error().is_some() => e,
            _ if e.get_ref().is_some_and(|inner| inner.is::<Unwanted>()) => e,
            io::ErrorKind::UnexpectedEof => io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the {what} data is cut off, or something else follows it, behind its first {bytes} bytes of text"
                ),
            ),
            _ => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("what follows the first {bytes} bytes of text is not {what} data ({e})"),
            ),
        })?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Dropped when nobody waits for the reader any more: it must not go on to the end of a large file.
#[derive(Default)]
struct Stop {
    stopped: Arc<AtomicBool>,
    feeder: Option<AbortHandle>,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(feeder) = &self.feeder {
            feeder.abort();
        }
    }
}

#[derive(Debug)]
struct Unwanted;

impl std::fmt::Display for Unwanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody waits for this file any more")
    }
}

impl std::error::Error for Unwanted {}

struct Stoppable<R> {
    inner: R,
    stopped: Arc<AtomicBool>,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other(Unwanted));
        }
        self.inner.read(out)
    }
}

/// A blocking reader over an object's stream; `None` where the stream broke.
struct Chunks {
    chunks: mpsc::Receiver<Option<Bytes>>,
    rest: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.rest = chunk,
                Some(None) => return Err(io::Error::other("the object's stream broke")),
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(out.len());
        self.rest.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    const GZIP: FileCompressionType = FileCompressionType::GZIP;
    const ZSTD: FileCompressionType = FileCompressionType::ZSTD;
    const PLAIN: FileCompressionType = FileCompressionType::UNCOMPRESSED;

    type Pack = fn(&[u8]) -> Vec<u8>;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        // As the command does; without it not all damage can be seen.
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn text(name: &str, bytes: Vec<u8>, compression: FileCompressionType) -> Result<String> {
        let file = SourceFile::in_memory(name, bytes).await;
        read(&file, compression, None, |mut reader| {
            let mut text = String::new();
            reader.read_to_string(&mut text).map_err(failed)?;
            Ok(text)
        })
        .await
    }

    /// Text that needs several blocks.
    fn long() -> String {
        (0..200_000_u32).map(|n| format!("{:x}\n", n.wrapping_mul(2_654_435_761))).collect()
    }

    #[tokio::test]
    async fn all_members_and_frames_are_read() {
        for one in [String::new(), "id\n1\n".to_owned(), long()] {
            let two = format!("{one}2\n");
            assert_eq!(text("a.csv", one.clone().into_bytes(), PLAIN).await.unwrap(), one);
            let packers: [(Pack, _); 2] = [(gzip, GZIP), (zstd, ZSTD)];
            for (pack, compression) in packers {
                let first = pack(one.as_bytes());
                assert_eq!(text("a", first.clone(), compression).await.unwrap(), one);
                let both = [first, pack(b""), pack(b"2\n")].concat();
                assert_eq!(text("a", both, compression).await.unwrap(), two);
            }
            let skippable =
                [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7][..], &zstd(two.as_bytes())];
            assert_eq!(text("a", skippable.concat(), ZSTD).await.unwrap(), two);
        }
    }

    #[tokio::test]
    async fn what_is_cut_off_or_followed_by_something_else_is_an_error() {
        let long = long();
        let packers: [(Pack, _, _); 2] = [(gzip, GZIP, "gzip"), (zstd, ZSTD, "zstd")];
        for (pack, compression, what) in packers {
            let whole = pack(long.as_bytes());
            let cut = whole[..whole.len() / 2].to_vec();
            let checksum_cut = whole[..whole.len() - 1].to_vec();
            let damaged = [&whole[..1000], &[0x55; 64], &whole[1064..]].concat();
            let garbage = [&*whole, b"SECRET and more of it"].concat();
            let zeros = [&*whole, &[0; 512]].concat();
            let half = [&*whole, &whole[..9]].concat();
            let all = [cut, checksum_cut, damaged, garbage, zeros, half];
            for (at, broken) in all.into_iter().enumerate() {
                let read = text("a.csv", broken, compression).await;
                let error = read.err().unwrap_or_else(|| panic!("{what} {at} is read"));
                let said = format!("{error:?}");
                assert_eq!(error.kind(), ErrorKind::Input, "{said}");
                assert!(said.contains("memory:///a.csv") && said.contains(what), "{said}");
                assert!(!said.contains("SECRET"), "{said}");
            }
        }
    }

    async fn local(path: &std::path::Path) -> SourceFile {
        let location = object_store::path::Path::from_absolute_path(path).unwrap();
        let store = object_store::local::LocalFileSystem::new();
        let meta = store.head(&location).await.unwrap();
        let url = url::Url::from_file_path(path).unwrap();
        let (table, store, partitions) = ("notes".to_owned(), Arc::new(store), Vec::new());
        SourceFile { table, url, store, meta, path: "notes".to_owned(), partitions }
    }

    #[tokio::test]
    async fn a_local_file_is_read_as_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, b"\xef\xbb\xbfid\n1\n").unwrap();
        let file = local(&path).await;
        let all = |mut reader: Box<dyn BufRead + Send>| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            Ok(bytes)
        };
        assert_eq!(read(&file, PLAIN, None, all).await.unwrap(), b"id\n1\n");
        assert_eq!(read_raw(&file, PLAIN, all).await.unwrap(), b"\xef\xbb\xbfid\n1\n");
        std::fs::remove_file(&path).unwrap();
        let gone = read(&file, PLAIN, None, all).await.unwrap_err();
        assert!(gone.to_string().contains("does not exist"), "{gone}");
    }

    #[tokio::test]
    async fn a_reader_that_nobody_waits_for_stops() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zeros");
        // Endless for a test: a hole of 1 TiB.
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let file = local(&path).await;
        let (ended, end) = std::sync::mpsc::channel();
        let reading = read_raw(&file, PLAIN, move |mut reader| {
            let done = io::copy(&mut reader, &mut io::sink());
            ended.send(done.is_err()).unwrap();
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), reading).await.is_err());
        assert!(end.recv_timeout(Duration::from_secs(20)).unwrap());
    }
}
