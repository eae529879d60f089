//! The characters of a text file, told by its byte order mark or its table's `encoding`.

use std::io::{self, BufRead, Cursor, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_16BE, UTF_16LE, WINDOWS_1252};

use super::text::failed;
use crate::corpus::options::TextEncoding;
use crate::error::{Error, Result};

/// So much of a file is looked at before it is read.
const HEAD: usize = 1024;

/// Byte order marks. That of UTF-32 begins with that of UTF-16.
const MARKS: [(&[u8], &str); 5] = [
    (&[0xef, 0xbb, 0xbf], "UTF-8"),
    (&[0xff, 0xfe, 0, 0], "UTF-32LE"),
    (&[0, 0, 0xfe, 0xff], "UTF-32BE"),
    (&[0xff, 0xfe], "UTF-16LE"),
    (&[0xfe, 0xff], "UTF-16BE"),
];

/// How files begin that are not text, whatever their names say. A column may be called `PAR1`: what follows is looked
/// at too.
const NO_TEXT: [(&[u8], &str); 7] = [
    (&[0x1f, 0x8b, 8], "gzip data: its name must end in .gz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd data: its name must end in .zst"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet: export it as text"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz data: use gzip or zstd"),
    (b"PAR1\x15", "a Parquet file: set format = \"parquet\""),
    (b"ARROW1\0", "an Arrow file: set format = \"arrow\""),
    (b"Obj\x01", "an Avro file: set format = \"avro\""),
];

/// What a file is that is not text, with the way out.
fn no_text(head: &[u8]) -> Option<&'static str> {
    // Between the two stands a digit, the size of its blocks.
    let bzip2 = head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY");
    let known = NO_TEXT.iter().find(|(magic, _)| head.starts_with(magic));
    known.map(|(_, what)| *what).or(bzip2.then_some("bzip2 data: use gzip or zstd"))
}

impl TextEncoding {
    fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Utf16 => "utf-16",
            Self::Utf16Le => "utf-16le",
            Self::Utf16Be => "utf-16be",
            Self::Latin1 => "latin-1",
            Self::Windows1252 => "windows-1252",
        }
    }
}

/// UTF-8 of a file's bytes, without its byte order mark. What is declared or taken for UTF-8 is passed on unchecked.
///
/// # Errors
/// Bytes that say they are something else than declared, or something that cannot be read.
pub(super) fn decoded(
    mut bytes: Box<dyn BufRead + Send>,
    declared: Option<TextEncoding>,
) -> Result<Box<dyn BufRead + Send>> {
    let mut head = Vec::with_capacity(HEAD);
    bytes.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(failed)?;
    let (mark, encoding) = encoding_of(&head, declared)?;
    let mut head = Cursor::new(head);
    head.set_position(mark as u64);
    let whole = head.chain(bytes);
    Ok(match encoding {
        None => Box::new(whole),
        Some(encoding) => Box::new(Decoded::new(whole, encoding, mark)),
    })
}

/// The length of the byte order mark, and the encoding if it is not UTF-8.
fn encoding_of(
    head: &[u8],
    declared: Option<TextEncoding>,
) -> Result<(usize, Option<&'static Encoding>)> {
    use TextEncoding::{Latin1, Utf8, Utf16, Utf16Be, Utf16Le, Windows1252};
    if let Some(what) = no_text(head) {
        return Err(Error::input(format!("is not text but {what}")));
    }
    let Some((mark, marked)) = MARKS.iter().find(|(mark, _)| head.starts_with(mark)) else {
        let encoding = match declared {
            Some(Utf16 | Utf16Le) => Some(UTF_16LE),
            Some(Utf16Be) => Some(UTF_16BE),
            Some(Latin1 | Windows1252) => Some(WINDOWS_1252),
            Some(Utf8) => None,
            None => match unmarked_utf16(head) {
                Some(likely) => {
                    return Err(Error::input(format!(
                        "is most likely UTF-16 without a byte order mark: every second byte is 0; set encoding = \"{likely}\""
                    )));
                }
                None => None,
            },
        };
        return Ok((0, encoding));
    };
    match (*marked, declared) {
        ("UTF-8", None | Some(Utf8)) => {
            // Tools that add a mark add one to files that have one.
            Ok((head.chunks(3).take_while(|chunk| chunk == mark).count() * 3, None))
        }
        ("UTF-16LE", None | Some(Utf16 | Utf16Le)) => Ok((2, Some(UTF_16LE))),
        ("UTF-16BE", None | Some(Utf16 | Utf16Be)) => Ok((2, Some(UTF_16BE))),
        (marked, Some(declared)) => Err(Error::input(format!(
            "begins with the byte order mark of {marked}, but `encoding` says {}; leave `encoding` out",
            declared.name()
        ))),
        (marked, None) => Err(Error::unsupported(format!(
            "is {marked}, which cannot be read; convert it to UTF-8, e.g. with iconv"
        ))),
    }
}

/// The UTF-16 that text of mostly western letters is, told by its zeros.
fn unmarked_utf16(head: &[u8]) -> Option<&'static str> {
    let pairs = head.len() / 2;
    let zeros = |odd: usize| head.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    // Some characters of other planes hold a zero, too.
    let likely = |many: usize, few: usize| pairs > 1 && many * 2 >= pairs && few * 8 <= pairs;
    match (zeros(0), zeros(1)) {
        (even, odd) if likely(odd, even) => Some("utf-16le"),
        (even, odd) if likely(even, odd) => Some("utf-16be"),
        _ => None,
    }
}

/// Decodes into UTF-8; bytes that are not a character are an error.
struct Decoded<R> {
    inner: R,
    decoder: Decoder,
    name: &'static str,
    text: Vec<u8>,
    at: usize,
    len: usize,
    /// Bytes taken from the file, and lines of text that came of them.
    taken: usize,
    lines: usize,
    ended: bool,
}

impl<R: BufRead> Decoded<R> {
    fn new(inner: R, encoding: &'static Encoding, taken: usize) -> Self {
        Self {
            inner,
            decoder: encoding.new_decoder_without_bom_handling(),
            name: encoding.name(),
            text: vec![0; 1 << 16],
            at: 0,
            len: 0,
            taken,
            lines: 1,
            ended: false,
        }
    }
}

impl<R: BufRead> BufRead for Decoded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.len && !self.ended {
            let bytes = self.inner.fill_buf()?;
            let last = bytes.is_empty();
            let (result, taken, len) =
                self.decoder.decode_to_utf8_without_replacement(bytes, &mut self.text, last);
            self.inner.consume(taken);
            self.taken += taken;
            (self.at, self.len) = (0, len);
            self.lines += memchr::memchr_iter(b'\n', &self.text[..len]).count();
            match result {
                DecoderResult::Malformed(wrong, behind) => {
                    let at = self.taken.saturating_sub(usize::from(behind) + usize::from(wrong));
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "line {}: byte {at} of the file begins no character of {}; is `encoding` right?",
                            self.lines, self.name
                        ),
                    ));
                }
                DecoderResult::InputEmpty => self.ended = last,
                DecoderResult::OutputFull => {}
            }
        }
        Ok(&self.text[self.at..self.len])
    }

    fn consume(&mut self, count: usize) {
        self.at = self.len.min(self.at + count);
    }
}

impl<R: BufRead> Read for Decoded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.fill_buf()?;
        let count = rest.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], declared: Option<TextEncoding>) -> Result<String> {
        // A byte at a time: nothing may depend on what a reader has buffered.
        let trickle = io::BufReader::with_capacity(1, Cursor::new(bytes.to_vec()));
        let mut out = Vec::new();
        decoded(Box::new(trickle), declared)?.read_to_end(&mut out).map_err(failed)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    const TEXT: &str = "id,Überschrift\n1,naïve 😀 – “quoted”\r\n";

    #[test]
    fn marks_and_declarations_name_the_encoding() {
        use TextEncoding::*;
        let utf8 = TEXT.as_bytes().to_vec();
        let little = utf16(TEXT, u16::to_le_bytes);
        let big = utf16(TEXT, u16::to_be_bytes);
        let marked = |mark: &[u8], text: &[u8]| [mark, text].concat();
        let cases = [
            (utf8.clone(), vec![None, Some(Utf8)]),
            (marked(b"\xef\xbb\xbf", &utf8), vec![None, Some(Utf8)]),
            (marked(b"\xef\xbb\xbf\xef\xbb\xbf", &utf8), vec![None, Some(Utf8)]),
            (little.clone(), vec![Some(Utf16), Some(Utf16Le)]),
            (big.clone(), vec![Some(Utf16Be)]),
            (marked(&[0xff, 0xfe], &little), vec![None, Some(Utf16), Some(Utf16Le)]),
            (marked(&[0xfe, 0xff], &big), vec![None, Some(Utf16), Some(Utf16Be)]),
        ];
        for (bytes, declarations) in cases {
            for declared in declarations {
                assert_eq!(read(&bytes, declared).unwrap(), TEXT, "{declared:?}");
            }
        }
        for declared in [Latin1, Windows1252] {
            let text = read(b"na\xefve \x93quoted\x94 \x80", Some(declared)).unwrap();
            assert_eq!(text, "naïve “quoted” €");
        }
        assert_eq!(read(b"", None).unwrap(), "");
        assert_eq!(read(b"\xef\xbb\xbf", None).unwrap(), "");
    }

    #[test]
    fn contradictions_are_errors_that_say_the_way_out() {
        use TextEncoding::*;
        let little = utf16(TEXT, u16::to_le_bytes);
        let big = utf16(TEXT, u16::to_be_bytes);
        let cases: [(Vec<u8>, Option<TextEncoding>, &str); 10] = [
            ([&[0xff, 0xfe], &*little].concat(), Some(Utf8), "byte order mark of UTF-16LE"),
            ([&[0xff, 0xfe], &*little].concat(), Some(Utf16Be), "leave `encoding` out"),
            ([b"\xef\xbb\xbf", TEXT.as_bytes()].concat(), Some(Latin1), "mark of UTF-8"),
            (little.clone(), None, "encoding = \"utf-16le\""),
            (big.clone(), None, "encoding = \"utf-16be\""),
            (vec![0xff, 0xfe, 0, 0, b'i', 0, 0, 0], None, "UTF-32LE"),
            (vec![0x1f, 0x8b, 8, 0, 0], None, "gzip data"),
            (b"PK\x03\x04 ...".to_vec(), None, "spreadsheet"),
            // Half a character, and a lone surrogate in line 2.
            (little[..little.len() - 1].to_vec(), Some(Utf16Le), "line 2: byte"),
            (
                [&utf16("a\n", u16::to_le_bytes), &[0, 0xdc][..]].concat(),
                Some(Utf16),
                "line 2: byte 4 ",
            ),
        ];
        for (bytes, declared, said) in cases {
            let error = read(&bytes, declared).err().unwrap();
            assert!(error.to_string().contains(said), "{declared:?}: {error}");
        }
    }
}
