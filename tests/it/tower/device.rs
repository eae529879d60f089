//! The decoder as a GPU runs it, on the processor: the same packed pass over candle tensors.

use scalingnote::tower::{Decoder, DeviceSpec, Started, decoder_encoder};
use scalingnote::types::{Arithmetic, Embeddings, Pooling};

use crate::tower::parity::{Random, config, random, sequences, slices};

/// Several groups of attention, equal neighbours and single ones among them.
const LENGTHS: [usize; 14] = [1, 250, 64, 64, 64, 33, 3, 180, 97, 64, 7, 248, 12, 31];

fn on_tensors(family: &str, weights: &Random, arithmetic: Arithmetic) -> Decoder {
    Decoder::load_on_tensors(&config(family), weights, arithmetic, 256).unwrap()
}

fn on_cpu(family: &str, weights: &Random) -> Decoder {
    let device = DeviceSpec::Cpu { threads: 2 };
    Decoder::load(&config(family), weights, &device, Arithmetic::F32, 256).unwrap()
}

fn least_cosine(a: &Embeddings, b: &Embeddings) -> f32 {
    let dot = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert_eq!(a.len(), b.len());
    a.rows().zip(b.rows()).map(dot).fold(f32::INFINITY, f32::min)
}

#[test]
fn grouped_attention_equals_the_kernels_of_the_processor() {
    for family in ["llama", "qwen2", "qwen3"] {
        let weights = random(&config(family), 21);
        let sequences = sequences(&config(family), &LENGTHS, 22);
        for pooling in [Pooling::Mean, Pooling::LastToken] {
            let run = |decoder| {
                decoder_encoder(decoder, pooling, None, true).encode(&slices(&sequences)).unwrap()
            };
            let exact = run(on_cpu(family, &weights));
            let tensors = run(on_tensors(family, &weights, Arithmetic::F32));
            let cosine = least_cosine(&exact, &tensors);
            assert!(cosine > 0.99999, "{family} {pooling:?} in f32: {cosine}");
            let half = run(on_tensors(family, &weights, Arithmetic::F16));
            let cosine = least_cosine(&exact, &half);
            println!("{family} {pooling:?}: least cosine of f16 to f32 {cosine}");
            assert!(cosine > 0.999, "{family} {pooling:?} in f16: {cosine}");
        }
    }
}

#[test]
fn a_vector_does_not_depend_on_its_neighbours() {
    let weights = random(&config("qwen3"), 23);
    let sequences = sequences(&config("qwen3"), &LENGTHS, 24);
    let decoder = on_tensors("qwen3", &weights, Arithmetic::F32);
    let mut encoder = decoder_encoder(decoder, Pooling::Mean, None, true);
    let packed = encoder.encode(&slices(&sequences)).unwrap();
    let backwards: Vec<&[u32]> = sequences.iter().rev().map(Vec::as_slice).collect();
    let backwards = encoder.encode(&backwards).unwrap();
    for (at, sequence) in sequences.iter().enumerate() {
        let alone = encoder.encode(&[sequence]).unwrap();
        for other in [packed.row(at), backwards.row(sequences.len() - 1 - at)] {
            let apart = alone.row(0).iter().zip(other).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f32::max) < 1e-5, "{} tokens", sequence.len());
        }
    }
}

#[test]
fn batches_are_handed_over_before_the_first_is_asked_for() {
    let weights = random(&config("llama"), 25);
    let sequences = sequences(&config("llama"), &LENGTHS, 26);
    let decoder = on_tensors("llama", &weights, Arithmetic::F32);
    let mut encoder = decoder_encoder(decoder, Pooling::LastToken, Some(64), true);
    let expected = encoder.encode(&slices(&sequences)).unwrap();
    let mut start = |part: &[Vec<u32>]| match encoder.start(&slices(part)).unwrap() {
        Started::Running(batch) => batch,
        Started::Done(_) => panic!("a device gives its vectors later"),
    };
    let (head, tail) = sequences.split_at(5);
    let (first, second) = (start(head), start(tail));
    // Out of order: neither waits for the other.
    let (second, first) = (second.finish().unwrap(), first.finish().unwrap());
    assert!(first.seconds > 0.0 && second.seconds > 0.0);
    let rows: Vec<&[f32]> = first.vectors.rows().chain(second.vectors.rows()).collect();
    for (row, expected) in rows.iter().zip(expected.rows()) {
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let weights = random(&config("llama"), 1);
    let load = |arithmetic| {
        Decoder::load(&config("llama"), &weights, &DeviceSpec::Cuda(99), arithmetic, 256)
    };
    let error = load(Arithmetic::Bf16).err().unwrap();
    assert_eq!(error.kind(), scalingnote::error::ErrorKind::Unsupported);
    assert!(error.message().contains("cannot open CUDA device 99"), "{error}");
    assert!(load(Arithmetic::Int8).err().unwrap().message().contains("int8"));
}
