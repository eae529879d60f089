//! Lengths of texts that a page has as deltas.
//!
//! Format: <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use parquet::basic::Encoding;
use parquet::column::page::Page;

use super::header::varint;
use super::trouble::Broken;

/// Whether the deltas of a page's lengths are as many as its values: their reader makes room for as many as they claim.
pub(super) fn check_deltas(page: &Page, levels: [i16; 2]) -> Result<(), Broken> {
    const CUT: Broken = "the lengths of a page are cut off";
    let (encoding, mut data, values) = match page {
        Page::DataPage { buf, encoding, num_values, .. } => {
            let mut data = &buf[..];
            for _ in levels.iter().filter(|most| **most > 0) {
                let (length, rest) = data.split_first_chunk::<4>().ok_or(CUT)?;
                data = rest.get(u32::from_le_bytes(*length) as usize..).ok_or(CUT)?;
            }
            (*encoding, data, u64::from(*num_values))
        }
        Page::DataPageV2 {
            buf,
            encoding,
            num_values,
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => {
            let levels = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
            let data = usize::try_from(levels).ok().and_then(|levels| buf.get(levels..));
            (*encoding, data.ok_or(CUT)?, u64::from(*num_values))
        }
        Page::DictionaryPage { .. } => return Ok(()),
    };
    let lists = match encoding {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        // What a text shares with the one before it, and its own rest.
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => 0,
    };
    for _ in 0..lists {
        match pass_deltas(&mut data) {
            Some(count) if count <= values => {}
            Some(_) => return Err("a page has more lengths than values"),
            None => return Err(CUT),
        }
    }
    Ok(())
}

/// Moves behind a list of numbers that are encoded as deltas, and returns how many there are.
fn pass_deltas(bytes: &mut &[u8]) -> Option<u64> {
    let size = varint(bytes)?;
    let blocks = varint(bytes)?;
    let count = varint(bytes)?;
    varint(bytes)?;
    let per_block = size.checked_div(blocks).filter(|count| *count > 0)?;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        varint(bytes)?;
        let (widths, mut rest) = bytes.split_at_checked(usize::try_from(blocks).ok()?)?;
        for width in widths {
            if left == 0 {
                break;
            }
            let size = (per_block / 8).checked_mul(u64::from(*width))?;
            // The last one may end with its values.
            rest = rest.get(usize::try_from(size).ok()?..).unwrap_or_default();
            left = left.saturating_sub(per_block);
        }
        *bytes = rest;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_are_passed_and_counted() {
        // 128 to a block of 4, 3 values from 5 on, differences of 1 bit.
        let deltas = [0x80, 1, 4, 3, 10, 2, 1, 0, 0, 0, 0b10, 0, 0, 0];
        let with_rest = [&deltas[..], b"rest"].concat();
        let mut bytes = &with_rest[..];
        assert_eq!(pass_deltas(&mut bytes), Some(3));
        assert_eq!(bytes, b"rest");
        for to in 0..9 {
            assert_eq!(pass_deltas(&mut &deltas[..to]), None, "{to}");
        }
        // None has room for a value.
        assert_eq!(pass_deltas(&mut &[0, 4, 3, 10, 2][..]), None);
    }

    #[test]
    fn more_lengths_than_values_are_refused() {
        let page = |count: u8| Page::DataPage {
            // All of them are 1 long, in one block of no bits.
            buf: vec![0x80, 1, 1, count, 2, 0, 0, b'x', b'y'].into(),
            num_values: 2,
            encoding: Encoding::DELTA_LENGTH_BYTE_ARRAY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        assert_eq!(check_deltas(&page(2), [0, 0]), Ok(()));
        assert!(check_deltas(&page(100), [0, 0]).is_err());
    }
}
