//! All instruction sets against plain sums.

use proptest::prelude::*;

use super::*;

const ELEMENTS: [Element; 6] =
    [Element::F32, Element::F16, Element::Bf16, Element::I8, Element::B1, Element::Signs];

/// The same distance in f64, element by element.
fn reference(element: Element, dimensions: usize, a: &[u8], b: &[u8]) -> f64 {
    let value = |row: &[u8], at: usize| -> f64 {
        let two = |row: &[u8]| u16::from_le_bytes([row[2 * at], row[2 * at + 1]]);
        match element {
            Element::F32 => {
                f64::from(f32::from_le_bytes(row[4 * at..4 * at + 4].try_into().unwrap()))
            }
            Element::F16 => f16::from_bits(two(row)).to_f64(),
            Element::Bf16 => bf16::from_bits(two(row)).to_f64(),
            Element::I8 => f64::from(row[at] as i8),
            Element::B1 | Element::Signs => f64::from(row[at / 8] >> (at % 8) & 1),
        }
    };
    let dot =
        |a: &[u8], b: &[u8]| (0..dimensions).map(|at| value(a, at) * value(b, at)).sum::<f64>();
    match element {
        Element::F32 | Element::F16 | Element::Bf16 => 1. - dot(a, b),
        Element::I8 => {
            let lengths = (dot(a, a) * dot(b, b)).sqrt();
            if lengths == 0. { 1. } else { (1. - dot(a, b) / lengths).max(0.) }
        }
        Element::B1 | Element::Signs => dot(a, a) + dot(b, b) - 2. * dot(a, b),
    }
}

/// Rows from a stream of random bytes: floats within -1..1, integers of the whole range, -128 too.
fn rows(element: Element, dimensions: usize, random: &[u8], count: usize) -> Vec<u8> {
    let mut stream = random.iter().cycle();
    let mut next = || *stream.next().unwrap();
    let mut bytes = Vec::new();
    for _ in 0..count {
        match element {
            Element::I8 => bytes.extend((0..dimensions).map(|_| next())),
            Element::B1 | Element::Signs => {
                let row = bytes.len();
                bytes.extend((0..dimensions.div_ceil(8)).map(|_| next()));
                if !dimensions.is_multiple_of(8) {
                    bytes[row + dimensions / 8] &= (1 << (dimensions % 8)) - 1;
                }
            }
            _ => {
                for _ in 0..dimensions {
                    let x = f32::from(i16::from_le_bytes([next(), next()])) / 32_768.;
                    match element {
                        Element::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
                        Element::Bf16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
                        _ => bytes.extend(x.to_le_bytes()),
                    }
                }
            }
        }
    }
    bytes
}

fn check(element: Element, dimensions: usize, random: &[u8], shift: usize) {
    let count = 7;
    let width = element.row_bytes(dimensions);
    // Not aligned, and followed by what would be NaN if it counted.
    let mut bytes = vec![0xff; shift];
    bytes.extend(rows(element, dimensions, random, count));
    bytes.extend([0xff; SLACK]);
    let bytes = &bytes[shift..];
    let inverse = match element {
        Element::I8 => inverse_lengths(dimensions, &bytes[..count * width]),
        _ => Vec::new(),
    };
    let codes = Codes::new(element, dimensions, count, bytes, &inverse).unwrap();
    let mut asked = codes.row(0).to_vec();
    if element == Element::I8 {
        asked.iter_mut().filter(|x| **x == 128).for_each(|x| *x = 129);
    }
    let mut query = Query::default();
    query.set(element, dimensions, &asked);
    let slots = [6, 0, 3, 3, 5, 1, 2];
    let mut exact = Vec::new();
    for on in Instructions::available() {
        let mut out = [f32::NAN; 7];
        distances(on, codes, &query, &slots, &mut out);
        for (slot, found) in slots.iter().zip(out) {
            let expected = reference(element, dimensions, &asked, codes.row(*slot));
            // f32 sums of `dimensions` products below 1; signs as a line of a whole number.
            let each = if element == Element::Signs { 1e-6 } else { 2e-7 };
            let most = each * (dimensions as f64 + 8.);
            assert!(
                (f64::from(found) - expected).abs() <= most,
                "{on:?} {element:?} x {dimensions}, slot {slot}: {found}, not {expected}"
            );
            let unprepared = between(on, element, &asked, codes.row(*slot));
            assert!(
                (f64::from(unprepared) - expected).abs() <= most,
                "{on:?} {element:?} x {dimensions}, slot {slot}: {unprepared}, not {expected}"
            );
        }
        if matches!(element, Element::I8 | Element::B1 | Element::Signs) {
            exact.push(out);
        }
    }
    assert!(exact.windows(2).all(|two| two[0] == two[1]), "integers are the same everywhere");
}

/// Numbers against signs: every instruction set, and the sum that it stands for.
fn check_signs(dimensions: usize, random: &[u8], shift: usize) {
    let mut bytes = vec![0xff; shift];
    bytes.extend(rows(Element::Signs, dimensions, random, 7));
    bytes.extend([0xff; SLACK]);
    let codes = Codes::new(Element::Signs, dimensions, 7, &bytes[shift..], &[]).unwrap();
    // The first makes all of them whole levels, so that nothing is rounded.
    let level = |at: usize| f32::from((random[at % random.len()] as i8).max(-127));
    let mut values: Vec<f32> = (0..dimensions).map(|at| level(at) / 254.).collect();
    values[0] = 0.5;
    let mut query = Query::default();
    query.set_signs(&values, 0.25, 0.01);
    let slots = [6, 0, 3, 3, 5, 1, 2];
    let all = Instructions::available().into_iter().map(|on| {
        let mut out = [f32::NAN; 7];
        distances(on, codes, &query, &slots, &mut out);
        out
    });
    let all: Vec<_> = all.collect();
    assert!(all.windows(2).all(|two| two[0] == two[1]), "{dimensions}: {all:?}");
    for (slot, found) in slots.into_iter().zip(all[0]) {
        let row = codes.row(slot);
        let sign = |at: usize| f64::from(row[at / 8] >> (at % 8) & 1) * 2. - 1.;
        let product: f64 = (0..dimensions).map(|at| f64::from(values[at]) * sign(at)).sum();
        let expected = 0.25 - 0.01 * product;
        let most = 1e-5 * (1. + expected.abs());
        assert!((f64::from(found) - expected).abs() < most, "{dimensions}: {found}, {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn instruction_sets_agree_with_plain_sums(
        dimensions in 1usize..300,
        random in prop::collection::vec(any::<u8>(), 64..700),
        shift in 0usize..8,
    ) {
        for element in ELEMENTS {
            check(element, dimensions, &random, shift);
        }
        check_signs(dimensions, &random, shift);
    }
}

#[test]
fn the_largest_integers_do_not_overflow() {
    for byte in [127u8, 129, 128] {
        for dimensions in [31, 64, 1_000, 8_192] {
            check(Element::I8, dimensions, &[byte], 0);
            check_signs(dimensions, &[byte], 0);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let bytes = [0; 3 * 10 + SLACK];
    assert!(Codes::new(Element::I8, 10, 3, &bytes, &[0.; 3]).is_some());
    assert!(Codes::new(Element::I8, 10, 3, &bytes[1..], &[0.; 3]).is_none());
    assert!(Codes::new(Element::I8, 10, 3, &bytes, &[0.; 2]).is_none());
    assert!(Codes::new(Element::F16, 5, 3, &bytes, &[0.; 3]).is_none());
    assert!(Codes::new(Element::F32, usize::MAX / 4, 8, &bytes, &[]).is_none());
    assert!(Codes::new(Element::B1, 0, 3, &bytes, &[]).is_none());
}

#[test]
#[should_panic(expected = "a slot beyond the rows")]
fn slots_beyond_the_rows_are_not_read() {
    let bytes = [0; 30 + SLACK];
    let codes = Codes::new(Element::I8, 10, 3, &bytes, &[0.; 3]).unwrap();
    let mut query = Query::default();
    query.set(Element::I8, 10, &[1; 10]);
    distances(Instructions::best(), codes, &query, &[3], &mut [0.]);
}
