//! How one stretch of a stored row adds to a distance: one type per element type and instruction set.

use half::{bf16, f16};

/// What a sum over a row and a query means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Products of unit vectors: 1 - sum.
    Inner,
    /// Products of vectors of any length: 1 - sum / (length of the query * length of the row), at least 0.
    Cosine,
    /// Bits that differ: the sum.
    Hamming,
    /// Integers of the query where the row has a bit: a line of the sum.
    Signs,
}

/// A row is taken `ROW` bytes at a time, the prepared query `QUERY`.
///
/// # Safety
/// All functions may only be called where the instruction set exists (below `Instructions::run`); `row` needs `ROW`
/// readable bytes at the pointer, `query` needs `QUERY` of them.
#[allow(clippy::missing_safety_doc)] // said once, for all of them, above
pub trait Lane: Copy {
    /// Bytes of a row in one step.
    const ROW: usize;
    /// Bytes of the prepared query in one step.
    const QUERY: usize;
    /// Whether a step beyond a row's end must be cut: false where the query's zeros make it vanish.
    const CUT: bool;
    /// What every element of a row is raised by before it is multiplied: so many of the query's sums a sum starts below 0.
    const OFFSET: i32;
    /// What the total means.
    const MEASURE: Measure;
    /// A stretch of a row as it is in memory.
    type Row: Copy;
    /// The stretch of the query that it meets.
    type Query: Copy;
    /// Running sums.
    type Sum: Copy;
    unsafe fn sum(start: i32) -> Self::Sum;
    unsafe fn row(from: *const u8) -> Self::Row;
    unsafe fn query(from: *const u8) -> Self::Query;
    /// The bits of `row` that are set in `mask`.
    unsafe fn cut(row: Self::Row, mask: Self::Row) -> Self::Row;
    unsafe fn add(sum: Self::Sum, query: Self::Query, row: Self::Row) -> Self::Sum;
    unsafe fn total(sum: Self::Sum) -> f32;
    /// The totals of four.
    #[inline(always)]
    unsafe fn totals(sums: [Self::Sum; 4]) -> [f32; 4] {
        // SAFETY: as the trait demands.
        sums.map(|sum| unsafe { Self::total(sum) })
    }
}

// SAFETY of all calls below: the trait's contract names the instruction set and the valid pointers.
macro_rules! lane {
    (
        $(#[$doc:meta])* $name:ident: $row:ty, $query:ty, $sum:ty,
        steps $row_bytes:literal $query_bytes:literal, cut $cut:literal, offset $offset:literal, $measure:ident;
        $($function:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name;

        impl Lane for $name {
            const ROW: usize = $row_bytes;
            const QUERY: usize = $query_bytes;
            const CUT: bool = $cut;
            const OFFSET: i32 = $offset;
            const MEASURE: Measure = Measure::$measure;
            type Row = $row;
            type Query = $query;
            type Sum = $sum;
            $(#[inline(always)]
            #[allow(unused_unsafe)] // a body may do without
            unsafe fn $function($($arg: $ty),*) -> $ret {
                // SAFETY: as the trait demands.
                unsafe { $body }
            })*
        }
    };
}
pub(super) use lane;

/// `f(i)` for every lane.
#[inline(always)]
fn each<T, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    std::array::from_fn(f)
}

lane! {
    /// f32, four lanes in plain Rust.
    PortableF32: [u32; 4], [f32; 4], [f32; 4], steps 16 16, cut true, offset 0, Inner;
    sum(start: i32) -> [f32; 4] = [start as f32; 4];
    row(from: *const u8) -> [u32; 4] = from.cast::<[u32; 4]>().read_unaligned();
    query(from: *const u8) -> [f32; 4] = from.cast::<[f32; 4]>().read_unaligned();
    cut(row: [u32; 4], mask: [u32; 4]) -> [u32; 4] = each(|i| row[i] & mask[i]);
    add(sum: [f32; 4], query: [f32; 4], row: [u32; 4]) -> [f32; 4] =
        each(|i| sum[i] + f32::from_bits(row[i]) * query[i]);
    total(sum: [f32; 4]) -> f32 = (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

lane! {
    /// f16, four lanes in plain Rust.
    PortableF16: [u16; 4], [f32; 4], [f32; 4], steps 8 16, cut true, offset 0, Inner;
    sum(start: i32) -> [f32; 4] = [start as f32; 4];
    row(from: *const u8) -> [u16; 4] = from.cast::<[u16; 4]>().read_unaligned();
    query(from: *const u8) -> [f32; 4] = from.cast::<[f32; 4]>().read_unaligned();
    cut(row: [u16; 4], mask: [u16; 4]) -> [u16; 4] = each(|i| row[i] & mask[i]);
    add(sum: [f32; 4], query: [f32; 4], row: [u16; 4]) -> [f32; 4] =
        each(|i| sum[i] + f16::from_bits(row[i]).to_f32() * query[i]);
    total(sum: [f32; 4]) -> f32 = (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

lane! {
    /// bf16, four lanes in plain Rust.
    PortableBf16: [u16; 4], [f32; 4], [f32; 4], steps 8 16, cut true, offset 0, Inner;
    sum(start: i32) -> [f32; 4] = [start as f32; 4];
    row(from: *const u8) -> [u16; 4] = from.cast::<[u16; 4]>().read_unaligned();
    query(from: *const u8) -> [f32; 4] = from.cast::<[f32; 4]>().read_unaligned();
    cut(row: [u16; 4], mask: [u16; 4]) -> [u16; 4] = each(|i| row[i] & mask[i]);
    add(sum: [f32; 4], query: [f32; 4], row: [u16; 4]) -> [f32; 4] =
        each(|i| sum[i] + bf16::from_bits(row[i]).to_f32() * query[i]);
    total(sum: [f32; 4]) -> f32 = (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

lane! {
    /// 8-bit integers, sixteen at a time in plain Rust, products in i16 so that a compiler may widen by pairs.
    PortableI8: [i8; 16], [i8; 16], [i32; 4], steps 16 16, cut false, offset 0, Cosine;
    sum(start: i32) -> [i32; 4] = [start, 0, 0, 0];
    row(from: *const u8) -> [i8; 16] = from.cast::<[i8; 16]>().read_unaligned();
    query(from: *const u8) -> [i8; 16] = from.cast::<[i8; 16]>().read_unaligned();
    cut(row: [i8; 16], mask: [i8; 16]) -> [i8; 16] = each(|i| row[i] & mask[i]);
    add(sum: [i32; 4], query: [i8; 16], row: [i8; 16]) -> [i32; 4] = {
        let product = |i: usize| i32::from(i16::from(row[i]) * i16::from(query[i]));
        each(|i| sum[i] + (product(i) + product(4 + i)) + (product(8 + i) + product(12 + i)))
    };
    total(sum: [i32; 4]) -> f32 = (sum[0] + sum[1] + sum[2] + sum[3]) as f32;
}

lane! {
    /// Bits, 64 at a time.
    PortableB1: u64, u64, u32, steps 8 8, cut true, offset 0, Hamming;
    sum(start: i32) -> u32 = start as u32;
    row(from: *const u8) -> u64 = from.cast::<u64>().read_unaligned();
    query(from: *const u8) -> u64 = from.cast::<u64>().read_unaligned();
    cut(row: u64, mask: u64) -> u64 = row & mask;
    add(sum: u32, query: u64, row: u64) -> u32 = sum + (query ^ row).count_ones();
    total(sum: u32) -> f32 = sum as f32;
}

lane! {
    /// Bits that choose among 8-bit integers of the query, eight at a time.
    PortableSigns: u8, [i8; 8], i32, steps 1 8, cut false, offset 0, Signs;
    sum(start: i32) -> i32 = start;
    row(from: *const u8) -> u8 = *from;
    query(from: *const u8) -> [i8; 8] = from.cast::<[i8; 8]>().read_unaligned();
    cut(row: u8, mask: u8) -> u8 = row & mask;
    add(sum: i32, query: [i8; 8], row: u8) -> i32 =
        (0..8).fold(sum, |sum, at| sum + i32::from(query[at]) * i32::from(row >> at & 1));
    total(sum: i32) -> f32 = sum as f32;
}
