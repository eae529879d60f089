//! Chooses the raw tower's default prompt and pooling: nDCG@10 of each variant on a judged set.
//!
//! usage: prompt MODEL SET_DIR [--documents N] [--queries N] [--max-tokens N] [--from N]
//!
//! SET_DIR is in BEIR layout (corpus.jsonl, queries.jsonl, qrels.tsv). Of N queries, the ones at odd places
//! choose and the ones at even places confirm. The corpus is cut to N documents: all that are judged for those
//! queries, then others in their order. `--from` leaves out the first N prompts; those for which STEP_SECONDS leaves no
//! time are cut.

#[path = "budget.rs"]
mod budget;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use scalingnote::dataset::{Document, Query, RetrievalSet, RetrievalSetOptions};
use scalingnote::observe::{Reporter, Silent};
use scalingnote::tower::{Decoder, DeviceSpec, Tower, TowerOptions, pack};
use scalingnote::types::{Arithmetic, Pooling};

use self::budget::Budget;

type Failure = Box<dyn std::error::Error>;

/// What stands around every text, queries and documents alike.
const PROMPTS: &[(&str, &str)] = &[
    ("", ""),
    ("This text: \"", "\" means in one word: \""),
    ("This text: \"", "\" is about one topic, in one word: \""),
    ("<|im_start|>user\nSummarise in one word: ", "<|im_end|>\n<|im_start|>assistant\n"),
    ("Text: ", "\nTopic of the text in one word:"),
    ("Text: ", "\nTopic of the text in one word: \""),
    ("Text: ", "\nTopic of the text in a few words:"),
    ("Text: ", "\nKeyword of the text:"),
    ("Text: ", "\nWhat the text is about, in one word:"),
    ("Note: ", "\nTopic of the note in one word:"),
    ("", "\n\nTopic:"),
    ("", "\n\nKeywords:"),
];

struct Set {
    queries: Vec<String>,
    documents: Vec<String>,
    /// Per query: document -> grade.
    judged: Vec<HashMap<usize, f64>>,
}

fn main() -> Result<(), Failure> {
    let (budget, mut plain) = (Budget::new(), Vec::new());
    let (mut documents, mut queries, mut max_tokens) = (usize::MAX, usize::MAX, 256);
    let mut first = 0;
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || -> Result<usize, Failure> {
            Ok(given.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--documents" => documents = number()?,
            "--queries" => queries = number()?,
            "--max-tokens" => max_tokens = number()?,
            "--from" => first = number()?,
            "--bench" => {}
            _ => plain.push(argument),
        }
    }
    let [model, folder] = plain.as_slice() else {
        return Err("usage: prompt MODEL SET_DIR [--documents N] [--queries N]".into());
    };
    let set = read(Path::new(folder), documents, queries)?;
    println!(
        "{} queries, {} documents, cut to {max_tokens} tokens; nDCG@10",
        set.queries.len(),
        set.documents.len()
    );
    println!("{:>8} {:>8}  {:10} prompt", "odd", "even", "pooling");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let mut loaded: Option<Decoder> = None;
    let mut seconds = 0.;
    for (prefix, suffix) in PROMPTS.iter().skip(first).copied() {
        if seconds > budget.left() {
            println!("cut: {:?}: some {seconds:.0} s expected", format!("{prefix}..{suffix}"));
            continue;
        }
        let begun = Instant::now();
        let options = TowerOptions {
            prompt_prefix: Some(prefix.into()),
            prompt_suffix: Some(suffix.into()),
            normalize: Some(false),
            max_tokens: Some(max_tokens as u32),
            ..TowerOptions::new(model, Pooling::Mean)
        };
        let tower = runtime.block_on(Tower::resolve(&options, Path::new("."), &reporter))?;
        let decoder = match &mut loaded {
            Some(decoder) => decoder,
            none => {
                let (config, weights) =
                    tower.config().zip(tower.weights()).ok_or("a real model is needed")?;
                let cpu = DeviceSpec::Cpu { threads: 0 };
                none.insert(Decoder::load(config, weights, &cpu, Arithmetic::F32, max_tokens)?)
            }
        };
        let queries = states(decoder, &tower, &set.queries)?;
        let documents = states(decoder, &tower, &set.documents)?;
        for (at, pooling) in ["mean", "last-token"].into_iter().enumerate() {
            let [odd, even] = ndcg(&set, &queries[at], &documents[at]);
            println!("{odd:8.4} {even:8.4}  {pooling:10} {:?}", format!("{prefix}..{suffix}"));
        }
        seconds = begun.elapsed().as_secs_f64();
    }
    Ok(())
}

fn read(folder: &Path, documents: usize, queries: usize) -> Result<Set, Failure> {
    let set = RetrievalSet::open(&RetrievalSetOptions::new(folder))?;
    // One in this many, so that all sites are in.
    let step = (set.queries.len() / queries.clamp(1, set.queries.len().max(1))).max(1);
    let asked: Vec<&Query> = set.queries.iter().step_by(step).collect();
    let judged = |query: &&Query| set.qrels.get(&query.id);
    let needed: HashSet<&String> = asked.iter().filter_map(judged).flat_map(|j| j.keys()).collect();
    let (kept, rest): (Vec<&Document>, Vec<&Document>) =
        set.documents.iter().partition(|document| needed.contains(&document.id));
    let room = documents.saturating_sub(kept.len());
    let step = (rest.len() / room.clamp(1, rest.len().max(1))).max(1);
    let kept: Vec<&Document> =
        kept.into_iter().chain(rest.into_iter().step_by(step).take(room)).collect();
    let places: HashMap<&String, usize> =
        kept.iter().enumerate().map(|(at, document)| (&document.id, at)).collect();
    let grades = |query: &&Query| {
        let judged = set.qrels.get(&query.id).into_iter().flatten();
        judged.filter_map(|(id, grade)| Some((*places.get(id)?, f64::from(*grade)))).collect()
    };
    Ok(Set {
        queries: asked.iter().map(|query| query.text.clone()).collect(),
        documents: kept.iter().map(|document| document.render()).collect(),
        judged: asked.iter().map(grades).collect(),
    })
}

/// Unit vectors by mean and by last token, from one forward pass.
fn states(
    decoder: &mut Decoder,
    tower: &Tower,
    texts: &[String],
) -> Result<[Vec<Vec<f32>>; 2], Failure> {
    let mut sequences = Vec::new();
    for text in texts {
        sequences.push(tower.tokenizer().tokenize(text)?.ids);
    }
    let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
    let mut vectors = [vec![Vec::new(); texts.len()], vec![Vec::new(); texts.len()]];
    for batch in pack(&lengths, 8192) {
        let ids: Vec<&[u32]> = batch.iter().map(|at| sequences[*at].as_slice()).collect();
        let rows: Vec<Vec<f32>> = decoder.hidden(&ids)?.to_vec2()?;
        let mut start = 0;
        for at in batch {
            let rows = &rows[start..start + sequences[at].len()];
            start += rows.len();
            let mut mean = vec![0f32; rows[0].len()];
            for row in rows {
                mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            for (to, mut vector) in [mean, rows[rows.len() - 1].clone()].into_iter().enumerate() {
                let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                vector.iter_mut().for_each(|x| *x /= norm);
                vectors[to][at] = vector;
            }
        }
    }
    Ok(vectors)
}

/// Mean nDCG@10 (gain 2^grade - 1) over the queries at odd and at even places that have a relevant document.
fn ndcg(set: &Set, queries: &[Vec<f32>], documents: &[Vec<f32>]) -> [f64; 2] {
    let discounted = |grades: &[f64]| -> f64 {
        grades
            .iter()
            .take(10)
            .enumerate()
            .map(|(rank, grade)| (grade.exp2() - 1.) / (rank as f64 + 2.).log2())
            .sum()
    };
    let mut sums = [(0., 0usize); 2];
    for (at, (query, judged)) in queries.iter().zip(&set.judged).enumerate() {
        let mut ideal: Vec<f64> = judged.values().copied().collect();
        ideal.sort_by(|a, b| b.total_cmp(a));
        if ideal.first().is_none_or(|best| *best <= 0.) {
            continue;
        }
        let dot = |document: &[f32]| document.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
        let mut ranked: Vec<(f32, usize)> =
            documents.iter().enumerate().map(|(at, document)| (dot(document), at)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let found: Vec<f64> = ranked
            .iter()
            .take(10)
            .map(|(_, document)| judged.get(document).copied().unwrap_or(0.))
            .collect();
        // Queries count from one, as people do: the first is odd.
        let half = &mut sums[at % 2];
        half.0 += discounted(&found) / discounted(&ideal);
        half.1 += 1;
    }
    sums.map(|(sum, count)| sum / count.max(1) as f64)
}
