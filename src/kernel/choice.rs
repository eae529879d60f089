//! Which kernels this processor gets, in words.

use super::distance::Instructions;
use super::packed::{Format, Words};
use super::simd::Isa;

/// What is computed, and by which instructions on this machine.
pub fn chosen() -> [(&'static str, &'static str); 4] {
    let isa = Isa::best();
    let int8 = Format::int8(isa).first().copied();
    [
        ("f32", isa_name(isa)),
        ("bf16", format_name(Format::best_bf16(isa))),
        ("int8", int8.map_or("none", format_name)),
        ("search", search_name(Instructions::best())),
    ]
}

/// Whether bf16 products are computed by instructions for them. Else each number is opened to f32 first, which saves memory
/// and no time.
pub fn has_bf16() -> bool {
    match Format::best_bf16(Isa::best()) {
        #[cfg(target_arch = "x86_64")]
        Format::Amx | Format::Bf16(Words::Bf16Avx512) => true,
        _ => false,
    }
}

fn isa_name(isa: Isa) -> &'static str {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => "AVX2",
        Isa::Portable => "portable",
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::F32(isa) => isa_name(isa),
        #[cfg(target_arch = "x86_64")]
        Format::Amx => "AMX",
        Format::Bf16(words) | Format::Int8(words) => match words {
            #[cfg(target_arch = "x86_64")]
            Words::Int8Avx512 => "AVX-512 VNNI",
            #[cfg(target_arch = "x86_64")]
            Words::Int8AvxVnni => "AVX-VNNI",
            #[cfg(target_arch = "x86_64")]
            Words::Int8Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Words::Bf16Avx512 => "AVX-512 BF16",
            #[cfg(target_arch = "x86_64")]
            Words::Bf16WideAvx512 => "AVX-512 (widened to f32)",
            #[cfg(target_arch = "x86_64")]
            Words::Bf16WideAvx2 => "AVX2 (widened to f32)",
            Words::Int8Portable | Words::Bf16Portable => "portable",
        },
    }
}

fn search_name(instructions: Instructions) -> &'static str {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Instructions::AvxVnni => "AVX-VNNI",
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => "AVX2",
        Instructions::Portable => "portable",
    }
}
