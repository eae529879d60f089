//! Finds zstd files of several frames.
//!
//! DataFusion's streaming decoder stops after the first frame without a word: the rows of the others
//! would be lost. So such a file is refused while its schema is inferred, when all of its bytes pass by.

use std::io::{self, Read};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Passes compressed bytes on and follows the frame structure (RFC 8878); a second frame, of data or
/// skippable, is an error.
pub(super) struct OneFrame<R> {
    inner: R,
    state: State,
    /// The bytes of a header that is still incomplete.
    header: Vec<u8>,
}

enum State {
    /// In the frame header.
    Frame,
    /// In a block header.
    Block {
        checksum: bool,
    },
    /// This many bytes of a block or checksum to pass, then another block header if `blocks`.
    Skip {
        bytes: u64,
        then: Option<bool>,
    },
    End,
}

impl<R: Read> OneFrame<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, state: State::Frame, header: Vec::new() }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Skip { bytes: left, then } => {
                    let passed = (bytes.len() as u64).min(*left);
                    *left -= passed;
                    bytes = &bytes[passed as usize..];
                    if *left == 0 {
                        self.state = then.map_or(State::End, |checksum| State::Block { checksum });
                    }
                }
                State::End => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "several zstd frames in one file; recompress it: zstd -dc FILE | zstd > NEW",
                    ));
                }
                State::Frame | State::Block { .. } => {
                    self.header.push(bytes[0]);
                    bytes = &bytes[1..];
                    self.header_grew()?;
                }
            }
        }
        Ok(())
    }

    fn header_grew(&mut self) -> io::Result<()> {
        let header = &self.header;
        match self.state {
            State::Frame => {
                if header.len() <= 4 && !MAGIC.starts_with(header) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "no zstd data"));
                }
                let Some(&descriptor) = header.get(4) else { return Ok(()) };
                let single_segment = descriptor & 0x20 != 0;
                let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
                let content_size = match descriptor >> 6 {
                    0 => usize::from(single_segment),
                    1 => 2,
                    2 => 4,
                    _ => 8,
                };
                let window = usize::from(!single_segment);
                if header.len() == 5 + window + dictionary + content_size {
                    self.state = State::Block { checksum: descriptor & 4 != 0 };
                    self.header.clear();
                }
            }
            State::Block { checksum } if header.len() == 3 => {
                let value = u32::from_le_bytes([header[0], header[1], header[2], 0]);
                let last = value & 1 == 1;
                // A run-length block stores one byte.
                let size = if (value >> 1) & 3 == 1 { 1 } else { u64::from(value >> 3) };
                self.header.clear();
                let trailer = if last && checksum { 4 } else { 0 };
                let then = (!last).then_some(checksum);
                self.state = match size + trailer {
                    0 if last => State::End,
                    0 => State::Block { checksum },
                    bytes => State::Skip { bytes, then },
                };
            }
            _ => {}
        }
        Ok(())
    }
}

impl<R: Read> Read for OneFrame<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.follow(&out[..count])?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
    use futures::{StreamExt, TryStreamExt};

    async fn zstd(bytes: Vec<u8>) -> Vec<u8> {
        let stream = futures::stream::iter([Ok(Bytes::from(bytes))]).boxed();
        let packed = FileCompressionType::ZSTD.convert_to_compress_stream(stream).unwrap();
        packed.try_collect::<Vec<Bytes>>().await.unwrap().concat()
    }

    /// Bytes that need several blocks, some of them raw.
    fn noise(len: u32) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[tokio::test]
    async fn one_frame_passes_and_two_do_not() {
        for plain in [vec![], b"short".to_vec(), vec![b'a'; 400_000], noise(400_000)] {
            let one = zstd(plain.clone()).await;
            let mut out = Vec::new();
            OneFrame::new(one.as_slice()).read_to_end(&mut out).unwrap();
            assert_eq!(out, one);
            for second in [one.clone(), vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]] {
                let two = [one.clone(), second].concat();
                let error = OneFrame::new(two.as_slice()).read_to_end(&mut Vec::new()).unwrap_err();
                assert!(error.to_string().contains("several zstd frames"), "{error}");
            }
        }
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert!(OneFrame::new(skippable.as_slice()).read_to_end(&mut Vec::new()).is_err());
    }
}
