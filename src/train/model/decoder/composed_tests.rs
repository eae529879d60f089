//! What a GPU computes, on the processor: the layers composed of candle's operations against those on slices.

use candle_core::{Device, Tensor, Var};

use super::{Decoder, Memory, Precision, Trainable};
use crate::dataset::SplitMix64;
use crate::tower::TowerOptions;
use crate::train::gradients::Gradients;
use crate::train::model::LoraOptions;
use crate::train::model::adapter::Adapter;
use crate::train::tensors::read_backs;
use crate::train::tests_support::{RandomWeights, hashed, scalar, tiny_config};
use crate::types::Pooling;

fn random(name: &str, like: &Tensor) -> Tensor {
    let data: Vec<f32> = (0..like.elem_count()).map(|at| 0.3 * hashed(name, at)).collect();
    Tensor::from_vec(data, like.shape(), &Device::Cpu).unwrap()
}

fn assert_near(ours: &Tensor, theirs: &Tensor, about: &str) {
    let norm = |t: &Tensor| scalar(&t.sqr().unwrap().sum_all().unwrap()).sqrt();
    let apart = norm(&(ours - theirs).unwrap());
    assert!(apart <= 1e-4 * norm(theirs), "{about}: {apart} apart of {}", norm(theirs));
}

/// The same vectors and gradients, and nothing is read back for them.
#[test]
fn composed_layers_are_those_on_slices() {
    for (family, pooling, trainable) in [
        ("llama", Pooling::Mean, Trainable::All),
        ("qwen3", Pooling::LastToken, Trainable::Layers),
        ("qwen2", Pooling::Mean, Trainable::None),
    ] {
        let (config, cpu) = (tiny_config(family), Device::Cpu);
        let tower = TowerOptions::new("tiny", pooling);
        let (decoder, mut vars) =
            Decoder::load(&config, &RandomWeights, &tower, trainable, Precision::F32, &cpu)
                .unwrap();
        let lora = LoraOptions { rank: 4, alpha: 8.0, ..LoraOptions::default() };
        let adapter = Adapter::new(&config, &lora, &mut SplitMix64::new(1), &cpu).unwrap();
        let view = (trainable == Trainable::None).then(|| adapter.view());
        if view.is_some() {
            vars = adapter.named();
            vars.iter().for_each(|(name, var)| var.set(&random(name, var)).unwrap());
        }
        let texts: [&[u32]; 4] = [&[5, 6, 7], &[8], &[9, 10, 11, 12, 13, 14, 15], &[3, 2]];
        let (vectors, memory) = decoder.embed(&texts, view.as_ref(), true).unwrap();
        let before = read_backs();
        let composed = decoder.composed(&texts, view.as_ref()).unwrap();
        assert_near(&composed.detach(), &vectors, family);
        let all: Vec<Var> = vars.iter().map(|(_, var)| var.clone()).collect();
        let upstream = random("upstream", &vectors);
        let learn = |memory| {
            let mut grads = Gradients::new(&all);
            decoder.backward(memory, &texts, view.as_ref(), &upstream, &mut grads).unwrap();
            grads.finish()
        };
        let (ours, theirs) = (learn(Memory::Graph(composed)), learn(memory));
        assert_eq!(read_backs(), before);
        for ((name, _), pair) in vars.iter().zip(ours.iter().zip(&theirs)) {
            let (Some(ours), Some(theirs)) = pair else { panic!("{name} learns nothing") };
            assert_near(ours, theirs, &format!("{family} {name}"));
        }
    }
}
