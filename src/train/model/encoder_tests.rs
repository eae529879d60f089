//! The encoder against candle-transformers, and its backward pass against the same layers composed of candle's
//! operations.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result as CandleResult, Tensor, Var};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};

use super::bert::Bert;
use super::encoder::groups;
use crate::dataset::SplitMix64;
use crate::train::autograd::attention::{Pack, attention};
use crate::train::tests_support::{scalar, tensors, tiny_bert};

#[test]
fn the_encoder_equals_candle_transformers() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path());
    let (bert, _) = Bert::load(dir.path(), None, 16, false, 1, false, &Device::Cpu).unwrap();
    let sequences: [&[u32]; 3] = [&[3, 9, 4], &[7], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]];
    let got = bert.forward(&sequences).unwrap().to_vec2::<f32>().unwrap();
    let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    let config: Config = serde_json::from_str(&text).unwrap();
    let tensors = tensors(dir.path().join("model.safetensors"));
    let reference =
        BertModel::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &config)
            .unwrap();
    let (_, vars) = Bert::load(dir.path(), None, 16, false, 1, false, &Device::Cpu).unwrap();
    let projection = &vars.iter().find(|(name, _)| name == "projection.weight").unwrap().1;
    for (sequence, got) in sequences.iter().zip(&got) {
        let ids = Tensor::new(*sequence, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let states = reference.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
        let mean = states.mean(1).unwrap();
        let expected = mean.matmul(&projection.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
        for (a, b) in got.iter().zip(&expected[0]) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}

/// Projected means by candle's graph.
fn composed(vars: &HashMap<String, Var>, bert: &Bert, texts: &[&[u32]]) -> CandleResult<Tensor> {
    let config = &bert.config;
    let get = |name: &str| vars[name].as_tensor();
    let linear = |x: &Tensor, name: &str| {
        let weight = get(&format!("{name}.weight")).t()?;
        x.matmul(&weight)?.broadcast_add(get(&format!("{name}.bias")))
    };
    let norm = |x: &Tensor, name: &str| {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + config.layer_norm_eps)?.sqrt()?;
        let x = x.broadcast_div(&scale)?.broadcast_mul(get(&format!("{name}.weight")))?;
        x.broadcast_add(get(&format!("{name}.bias")))
    };
    let table = |name: &str| get(&format!("embeddings.{name}_embeddings.weight"));
    let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
    let positions: Vec<u32> = lengths.iter().flat_map(|length| 0..*length as u32).collect();
    let x = table("word").index_select(&Tensor::new(texts.concat(), &Device::Cpu)?, 0)?;
    let positions = Tensor::new(positions, &Device::Cpu)?;
    let x = (x + table("position").index_select(&positions, 0)?)?;
    let x = x.broadcast_add(&table("token_type").narrow(0, 0, 1)?)?;
    let mut x = norm(&x, "embeddings.LayerNorm")?;
    let heads = config.num_attention_heads;
    let pack = Pack::bidirectional(heads, config.hidden_size / heads, lengths.clone());
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let [q, k, v] = ["query", "key", "value"]
            .map(|part| linear(&x, &name(&format!("attention.self.{part}"))));
        let mixed = attention(&q?, &k?, &v?, &pack)?;
        let attended = (&x + linear(&mixed, &name("attention.output.dense"))?)?;
        let between = norm(&attended, &name("attention.output.LayerNorm"))?;
        let inner = linear(&between, &name("intermediate.dense"))?.gelu_erf()?;
        let sums = (&between + linear(&inner, &name("output.dense"))?)?;
        x = norm(&sums, &name("output.LayerNorm"))?;
    }
    let mut start = 0;
    let means = lengths.iter().map(|length| {
        start += length;
        x.narrow(0, start - length, *length)?.mean_keepdim(0)
    });
    let means = Tensor::cat(&means.collect::<CandleResult<Vec<_>>>()?, 0)?;
    means.matmul(&get("projection.weight").t()?)
}

fn apart(ours: &Tensor, theirs: &Tensor) -> f64 {
    let norm = |t: Tensor| scalar(&t.sqr().unwrap().sum_all().unwrap());
    f64::from(norm((ours - theirs).unwrap()) / norm(theirs.clone()).max(1e-12)).sqrt()
}

#[test]
fn vectors_and_gradients_are_those_of_the_composed_layers() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path());
    let dimensions = 6;
    for (round, trains_tables, limit) in
        [(false, true, 2e-5), (false, false, 2e-5), (true, true, 3e-2)]
    {
        let (bert, vars) =
            Bert::load(dir.path(), None, dimensions, trains_tables, 3, round, &Device::Cpu)
                .unwrap();
        let mut rng = SplitMix64::new(8);
        // More tokens than one group has, one text as short as possible.
        let longest = bert.config.max_position_embeddings;
        let ids: Vec<Vec<u32>> = (0..1600 / longest + 3)
            .map(|at| {
                let length = if at == 1 { 1 } else { longest - at % 5 };
                (0..length).map(|_| rng.below(bert.config.vocab_size) as u32).collect()
            })
            .collect();
        let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let direction: Vec<f32> =
            (0..texts.len() * dimensions).map(|_| rng.normal() as f32).collect();
        let direction =
            Tensor::from_vec(direction, (texts.len(), dimensions), &Device::Cpu).unwrap();

        let mut by_name: HashMap<String, Var> = vars.iter().cloned().collect();
        for (name, table) in bert.frozen() {
            by_name.insert(name, Var::from_tensor(&table).unwrap());
        }
        let theirs = composed(&by_name, &bert, &texts).unwrap();
        let ours = bert.forward(&texts).unwrap();
        assert!(apart(&ours, &theirs) < limit, "vectors {}", apart(&ours, &theirs));

        let store = (&theirs * &direction).unwrap().sum_all().unwrap().backward().unwrap();
        let ranges = std::sync::Mutex::new(Vec::new());
        let loss = |vectors: &Tensor, range: std::ops::Range<usize>| {
            ranges.lock().unwrap().push(range.clone());
            let loss = (vectors * direction.narrow(0, range.start, range.len())?)?.sum_all()?;
            Ok((loss, Tensor::new(range.len() as f32, &Device::Cpu)?))
        };
        let learnt = bert.gradients(&texts, &loss).unwrap();
        let mut ranges = ranges.into_inner().unwrap();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.len() > 1 && ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!((ranges[0].start, scalar(&learnt.measure)), (0, texts.len() as f32));
        let exact = (&theirs * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((scalar(&learnt.loss) - exact).abs() < limit as f32 * 10.0 * exact.abs().max(1.0));
        let grads = learnt.gradients;
        assert_eq!(grads.len(), vars.len());
        for ((name, var), ours) in vars.iter().zip(&grads) {
            let ours = ours.as_ref().unwrap();
            assert_eq!(ours.shape(), var.shape(), "{name}");
            // What the keys have in common changes no probability.
            let nothing = name.ends_with("key.bias");
            let theirs = store.get(var).unwrap();
            let apart = if nothing { 0.0 } else { apart(ours, theirs) };
            assert!(apart < limit, "{name}: {apart}, rounded: {round}");
        }
    }
}

#[test]
fn threads_get_groups_alike() {
    let lengths = [13usize, 7, 20, 64, 3];
    let ids: Vec<Vec<u32>> = (0..256).map(|at| vec![0; lengths[at % lengths.len()]]).collect();
    let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    for threads in [1, 2, 3, 16] {
        let groups = groups(&texts, threads);
        assert!(groups.len().is_multiple_of(threads), "{} for {threads}", groups.len());
        assert!(groups.iter().all(|group| !group.is_empty()));
        assert_eq!(groups.iter().map(|group| group.len()).sum::<usize>(), texts.len());
        let tokens = |group: &std::ops::Range<usize>| -> usize {
            texts[group.clone()].iter().map(|text| text.len()).sum()
        };
        let (least, most) = (groups.iter().map(tokens).min(), groups.iter().map(tokens).max());
        assert!(most.unwrap() - least.unwrap() <= 2 * 64 && most.unwrap() < 768 + 64);
    }
    assert_eq!(groups(&texts[..1], 4).len(), 1);
    assert!(groups(&[], 2).is_empty());
}
