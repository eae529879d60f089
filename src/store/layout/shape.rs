//! What the names in keys look like: a name of any other shape was not given by this program.

/// 16 lowercase hex digits: the start of a SHA-256, or 64 random bits.
pub(super) fn is_hash(text: &str) -> bool {
    is_hex(text, 16)
}

/// The id of a run, `20261123T075000Z-4f2a9c1e`, with what tells apart the attempts to plan it (`-0badcafe`) and the
/// back-fill that belongs to it (`-next`).
pub(super) fn is_run(text: &str) -> bool {
    let mut pieces = text.split('-');
    let (Some(start), Some(random)) = (pieces.next(), pieces.next()) else { return false };
    is_moment(start) && is_hex(random, 8) && pieces.all(|piece| piece == "next" || is_hex(piece, 8))
}

/// `encode-00007-` and a hash, with the tokens of its share where it is cut to a budget.
pub(super) fn is_encode_task(text: &str) -> bool {
    let Some(named) = text.strip_prefix("encode-") else { return false };
    match named.split('-').collect::<Vec<_>>()[..] {
        [shard, hash] => is_shard(shard) && is_hash(hash),
        [shard, hash, tokens] => is_shard(shard) && is_hash(hash) && is_number(tokens),
        _ => false,
    }
}

/// `build-00007-` and a hash.
pub(super) fn is_build_task(text: &str) -> bool {
    let named = text.strip_prefix("build-").and_then(|named| named.split_once('-'));
    named.is_some_and(|(shard, hash)| is_shard(shard) && is_hash(hash))
}

/// `adapt-` and a hash.
pub(super) fn is_adapt_task(text: &str) -> bool {
    text.strip_prefix("adapt-").is_some_and(is_hash)
}

/// `20261123T075000Z`.
fn is_moment(text: &str) -> bool {
    let digits = |text: &str, count| text.len() == count && is_digits(text);
    text.strip_suffix('Z')
        .and_then(|text| text.split_once('T'))
        .is_some_and(|(day, time)| digits(day, 8) && digits(time, 6))
}

/// A number with at least five digits, as `{:05}` spells it.
fn is_shard(text: &str) -> bool {
    is_digits(text) && text.parse().is_ok_and(|shard: u32| format!("{shard:05}") == text)
}

/// A number without leading zeros.
pub(super) fn is_number(text: &str) -> bool {
    is_digits(text) && text.parse().is_ok_and(|number: u64| number.to_string() == text)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_shape() {
        let run = "20261123T075000Z-4f2a9c1e";
        for good in ["", "-0badcafe", "-next", "-0badcafe-next"] {
            assert!(is_run(&format!("{run}{good}")), "{good}");
        }
        for wrong in ["", "r", "2024", "20261123T075000Z", "20261123T075000-4f2a9c1e"] {
            assert!(!is_run(wrong), "{wrong}");
        }
        for wrong in ["-", "x", "-old", "-NEXT", "-0badcaf", "-0BADCAFE", "_next"] {
            assert!(!is_run(&format!("{run}{wrong}")), "{wrong}");
        }
        let hash = "0123456789abcdef";
        assert!(is_hash(hash) && !is_hash("0123456789abcde") && !is_hash("0123456789ABCDEF"));
        for good in [format!("encode-00007-{hash}"), format!("encode-123456-{hash}-900")] {
            assert!(is_encode_task(&good) && !is_build_task(&good), "{good}");
        }
        assert!(is_build_task(&format!("build-00007-{hash}")));
        for wrong in ["7", "000007", "-0007", "", "99999999999"] {
            assert!(!is_build_task(&format!("build-{wrong}-{hash}")), "{wrong}");
        }
        for wrong in ["-", "-09", "-x", "-1-2"] {
            assert!(!is_encode_task(&format!("encode-00007-{hash}{wrong}")), "{wrong}");
        }
    }
}
