//! Damage: what disks, networks and people do to files, reproducible by a seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Numbers at the borders of what a length may be.
const NUMBERS: &[u64] = &[
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// What stands for a number in a text.
const TEXT_NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1e308",
    "-1e999",
    "0.5",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999999999",
    "null",
    "\"x\"",
    "[]",
    "{}",
];

/// What stands for a string in a text.
const TEXT_STRINGS: &[&str] = &[
    "",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "a/../../b",
    "\\u0000",
    "file:///etc/passwd",
    "embeddings/../snapshots/00000000000000000001.json",
    "i:99999999999999999999",
    "fake:4000000000",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

/// A damaged copy of one of `seeds`; the same number gives the same copy.
pub fn mutated(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(number);
    let mut data = seeds.choose(&mut random).cloned().unwrap_or_default();
    let text = std::str::from_utf8(&data).is_ok();
    for _ in 0..random.random_range(1..=3) {
        match random.random_range(0..10) {
            0 => truncate(&mut data, &mut random),
            1..=2 => flip(&mut data, &mut random),
            3..=4 if !text => number_over(&mut data, &mut random),
            3..=6 if text => literal(&mut data, &mut random),
            7 => repeat(&mut data, &mut random),
            8 => cut_out(&mut data, &mut random),
            9 => swap_end(&mut data, seeds, &mut random),
            _ => number_over(&mut data, &mut random),
        }
    }
    data
}

fn place(data: &[u8], random: &mut StdRng) -> usize {
    match random.random_range(0..4) {
        // Heads and footers decide most.
        0 => random.random_range(0..data.len().clamp(1, 64)),
        1 => data.len().saturating_sub(random.random_range(1..=data.len().clamp(1, 512))),
        _ => random.random_range(0..data.len().max(1)),
    }
}

fn truncate(data: &mut Vec<u8>, random: &mut StdRng) {
    let to = place(data, random);
    data.truncate(to);
}

fn flip(data: &mut [u8], random: &mut StdRng) {
    for _ in 0..random.random_range(1..=8) {
        let at = place(data, random);
        if let Some(byte) = data.get_mut(at) {
            *byte ^= 1 << random.random_range(0..8);
        }
    }
}

fn number_over(data: &mut [u8], random: &mut StdRng) {
    let at = place(data, random);
    let number = NUMBERS.choose(random).copied().unwrap_or(0).to_le_bytes();
    let width = [1, 2, 4, 8][random.random_range(0..4)];
    for (byte, new) in data.iter_mut().skip(at).zip(&number[..width]) {
        *byte = *new;
    }
}

/// Puts another number or string in the place of one.
fn literal(data: &mut Vec<u8>, random: &mut StdRng) {
    let from = place(data, random);
    let Some(start) = data[from.min(data.len())..]
        .iter()
        .position(|byte| byte.is_ascii_digit() || *byte == b'"')
        .map(|at| from + at)
    else {
        return;
    };
    if data[start] == b'"' {
        let Some(length) = data[start + 1..].iter().position(|byte| *byte == b'"') else { return };
        let new = TEXT_STRINGS.choose(random).copied().unwrap_or("");
        data.splice(start + 1..start + 1 + length, new.bytes());
    } else {
        let length = data[start..].iter().position(|byte| !byte.is_ascii_digit());
        let length = length.unwrap_or(data.len() - start);
        let new = TEXT_NUMBERS.choose(random).copied().unwrap_or("0");
        data.splice(start..start + length, new.bytes());
    }
}

fn piece(data: &[u8], random: &mut StdRng) -> std::ops::Range<usize> {
    let start = place(data, random).min(data.len());
    let length = random.random_range(0..=64.min(data.len() - start));
    start..start + length
}

fn repeat(data: &mut Vec<u8>, random: &mut StdRng) {
    let piece = data[piece(data, random)].repeat(random.random_range(1..=32));
    let at = place(data, random).min(data.len());
    data.splice(at..at, piece);
}

fn cut_out(data: &mut Vec<u8>, random: &mut StdRng) {
    let piece = piece(data, random);
    data.drain(piece);
}

/// The start of this file with the end of another.
fn swap_end(data: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut StdRng) {
    if let Some(other) = seeds.choose(random) {
        let from = place(other, random).min(other.len());
        let to = place(data, random);
        data.truncate(to);
        data.extend(&other[from..]);
    }
}
