//! The size of packed bytes, found out without ever holding more than is allowed.

use std::io::{self, Read};

/// How bytes may be packed inside of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Deflate,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
    Brotli,
    Lz4Frame,
}

/// Why bytes are not unpacked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// They are not packed so.
    Broken,
    /// More comes out than is allowed.
    Large,
}

/// What an xz decoder needs beside what comes out.
const XZ_STATE: u64 = 16 << 20;

impl Packing {
    /// All that comes out, at most this many bytes.
    pub(super) fn unpack(self, packed: &[u8], most: u64) -> Result<Vec<u8>, Failed> {
        let mut out = Vec::new();
        self.copy(packed, most, &mut out)?;
        Ok(out)
    }

    /// Checks that no more than this many bytes come out.
    pub(super) fn check(self, packed: &[u8], most: u64) -> Result<(), Failed> {
        // An upper bound that the format has.
        let ratio = match self {
            Self::Deflate | Self::Gzip => 1_032,
            Self::Lz4Frame => 255,
            Self::Zstd | Self::Bzip2 | Self::Xz | Self::Brotli => u64::MAX,
        };
        match (packed.len() as u64).saturating_mul(ratio) <= most {
            true => Ok(()),
            false => self.copy(packed, most, &mut io::sink()),
        }
    }

    fn copy(self, packed: &[u8], most: u64, out: &mut impl io::Write) -> Result<(), Failed> {
        let reader = self.reader(packed, most).map_err(|_| Failed::Broken)?;
        let size = io::copy(&mut reader.take(most.saturating_add(1)), out);
        if size.map_err(|_| Failed::Broken)? > most { Err(Failed::Large) } else { Ok(()) }
    }

    fn reader(self, packed: &[u8], most: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Deflate => Box::new(flate2::read::DeflateDecoder::new(packed)),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                // A frame may ask for a window of its own choice.
                decoder.window_log_max(most.max(1 << 20).ilog2().min(31))?;
                Box::new(decoder)
            }
            Self::Bzip2 => Box::new(bzip2::read::BzDecoder::new(packed)),
            Self::Xz => {
                let most = most.saturating_add(XZ_STATE);
                let stream = liblzma::stream::Stream::new_stream_decoder(most, 0)?;
                Box::new(liblzma::read::XzDecoder::new_stream(packed, stream))
            }
            Self::Brotli => Box::new(brotli::Decompressor::new(packed, 1 << 12)),
            Self::Lz4Frame => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(packing: Packing, bytes: &[u8]) -> Vec<u8> {
        let (mut out, level) = (Vec::new(), flate2::Compression::fast());
        let write = |writer: &mut dyn Write| writer.write_all(bytes).unwrap();
        match packing {
            Packing::Deflate => write(&mut flate2::write::DeflateEncoder::new(&mut out, level)),
            Packing::Gzip => write(&mut flate2::write::GzEncoder::new(&mut out, level)),
            Packing::Zstd => out = zstd::encode_all(bytes, 1).unwrap(),
            Packing::Bzip2 => {
                let level = bzip2::Compression::fast();
                write(&mut bzip2::write::BzEncoder::new(&mut out, level));
            }
            Packing::Xz => write(&mut liblzma::write::XzEncoder::new(&mut out, 1)),
            Packing::Brotli => write(&mut brotli::CompressorWriter::new(&mut out, 1 << 12, 1, 20)),
            Packing::Lz4Frame => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(&mut out);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap();
            }
        }
        out
    }

    #[test]
    fn no_more_comes_out_than_is_allowed() {
        use Packing::{Brotli, Bzip2, Deflate, Gzip, Lz4Frame, Xz, Zstd};
        let plain = vec![b'x'; 3 << 20];
        for packing in [Deflate, Gzip, Zstd, Bzip2, Xz, Brotli, Lz4Frame] {
            let packed = packed(packing, &plain);
            assert!(packed.len() < 1 << 16, "{packing:?}: {}", packed.len());
            let size = plain.len() as u64;
            assert_eq!(packing.unpack(&packed, size).unwrap(), plain, "{packing:?}");
            assert_eq!(packing.check(&packed, size), Ok(()), "{packing:?}");
            for most in [size - 1, 1 << 20] {
                assert_eq!(packing.unpack(&packed, most), Err(Failed::Large), "{packing:?}");
                assert_eq!(packing.check(&packed, most), Err(Failed::Large), "{packing:?}");
            }
            let broken = [&b"no such data"[..], &packed[12..]].concat();
            assert_eq!(packing.unpack(&broken, size), Err(Failed::Broken), "{packing:?}");
        }
    }
}
