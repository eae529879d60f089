//! Stage 2 on a tiny encoder and a cut decoder.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{DistillOptions, PackOptions, Teacher, distill, pack_student};
use crate::dataset::SplitMix64;
use crate::error::ErrorKind;
use crate::observe::Reporter;
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::train::model::StudentOptions;
use crate::train::tests_support::{ReadBacks, silent, tiny_bert, tiny_config, write_llm};
use crate::types::{Cancel, EmbeddingSpace, Embeddings, Pooling};

fn texts() -> Vec<String> {
    let mut rng = SplitMix64::new(8);
    (0..120)
        .map(|_| (0..3 + rng.below(8)).map(|_| char::from(b'a' + rng.below(6) as u8)).collect())
        .collect()
}

/// A teacher that counts letters: a student can learn it.
fn teacher(texts: &[String]) -> Embeddings {
    let mut all = Embeddings::with_capacity(6, texts.len());
    for text in texts {
        let mut row = [0f32; 6];
        text.bytes().for_each(|b| row[usize::from(b - b'a')] += 1.0);
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        all.push(&row.map(|v| v / norm));
    }
    all
}

/// Options of a student, with a teacher of this name.
fn options(teacher: &str, student: Value, changes: Value) -> DistillOptions {
    let mut options = json!({
        "teacher": TowerOptions::new(teacher, Pooling::LastToken), "pairs": [], "student": student,
        "batch": 16, "seed": 5, "score_weight": 1.0, "validation": { "pairs": 20, "every": 20 },
    });
    options.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(options).unwrap()
}

/// The vectors that a tower gives these texts.
fn encoded(tower: &Tower, texts: &[String]) -> Embeddings {
    let ids: Vec<Vec<u32>> =
        texts.iter().map(|text| tower.tokenizer().tokenize(text).unwrap().ids).collect();
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    tower.load(&DeviceSpec::Cpu { threads: 1 }).unwrap().encode(&ids).unwrap()
}

/// How near unit vectors are to others, on average.
fn mean_cosine(found: &Embeddings, others: &Embeddings) -> f32 {
    let cosines = found.rows().zip(others.rows()).map(|(a, b)| crate::kernel::dot(a, b));
    cosines.sum::<f32>() / found.len() as f32
}

async fn space(tower: &TowerOptions, reporter: &Arc<dyn Reporter>) -> EmbeddingSpace {
    let tower = Tower::resolve(tower, Path::new("."), reporter).await.unwrap();
    tower.space(crate::types::Digest256::of(b""))
}

#[tokio::test]
async fn a_student_learns_resumes_and_can_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path());
    let texts = texts();
    let teacher = teacher(&texts);
    let student = json!({
        "kind": "bert", "path": ".", "layers": 2, "max_tokens": 20, "train_embeddings": true,
        "fit_queries": 0,
    });
    let changes = json!({ "optimizer": { "learning_rate": 3e-3 }, "steps": 80 });
    let options = options("fake:6", student, changes);
    let reporter = silent();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let space = space(&options.teacher, &reporter).await;
    let run = async |output: &Path, cancel: &Cancel, vectors: &Embeddings| {
        let teacher = Teacher { vectors, documents: None, space: &space };
        distill(&texts, &teacher, &options, dir.path(), output, &reporter, cancel).await
    };
    let whole = run(&one, &Cancel::new(), &teacher).await.unwrap();
    let (first, last) = (&whole.validation[0], whole.validation.last().unwrap());
    assert!(last.accuracy > 0.9 && first.accuracy < 0.5, "{first:?} {last:?}");

    // A projection that is fitted first is well on its way before the first step, on queries that it was not fitted to.
    let mut fitted = DistillOptions { steps: Some(1), ..options.clone() };
    if let StudentOptions::Bert { fit_queries, .. } = &mut fitted.student {
        *fit_queries = 100;
    }
    let vectors = Teacher { vectors: &teacher, documents: None, space: &space };
    let output = dir.path().join("fitted");
    let fit = async |cancel: &Cancel| {
        distill(&texts, &vectors, &fitted, dir.path(), &output, &reporter, cancel).await
    };
    let cancelled = Cancel::new();
    cancelled.cancel();
    assert_eq!(fit(&cancelled).await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(!output.join("checkpoint.safetensors").exists(), "half a fit is none");
    let at_once = fit(&Cancel::new()).await.unwrap().validation[0].accuracy;
    assert!(at_once > 0.7, "{at_once} at step 0, {} without", first.accuracy);

    assert_eq!(run(&two, &cancelled, &teacher).await.unwrap_err().kind(), ErrorKind::Cancelled);
    let resumed = run(&two, &Cancel::new(), &teacher).await.unwrap();
    assert_eq!(whole.validation, resumed.validation);
    // One that is not to be resumed learns the same.
    let unsaved = DistillOptions { checkpoint_seconds: None, ..options.clone() };
    let output = dir.path().join("once");
    let free = Cancel::new();
    let once = distill(&texts, &vectors, &unsaved, dir.path(), &output, &reporter, &free).await;
    assert_eq!(once.unwrap().validation, whole.validation);
    assert!(one.join("checkpoint.safetensors").exists());
    assert!(!output.join("checkpoint.safetensors").exists());

    // What was exported is a query tower like any other.
    let student = one.join("student").to_str().unwrap().to_owned();
    let student =
        TowerOptions { max_tokens: Some(20), ..TowerOptions::new(student, Pooling::Mean) };
    let tower = Tower::resolve(&student, dir.path(), &reporter).await.unwrap();
    assert_eq!(tower.teacher(), Some(&space));
    let cosine = mean_cosine(&encoded(&tower, &texts), &teacher);
    assert!(cosine > 0.9, "{cosine}");
    let wrong = Embeddings::from_vec(6, vec![0.0; 6]).unwrap();
    assert_eq!(run(&two, &Cancel::new(), &wrong).await.unwrap_err().kind(), ErrorKind::Input);
}

/// A student's batch is learnt in parts, and what they find is read back together.
#[tokio::test]
async fn a_step_reads_back_once() {
    let dir = tempfile::tempdir().unwrap();
    let (bert, llm) = (dir.path().join("bert"), dir.path().join("llm"));
    tiny_bert(&bert);
    write_llm(&tiny_config("llama"), &llm);
    let tower = TowerOptions { max_tokens: Some(20), ..TowerOptions::new("llm", Pooling::Mean) };
    let texts = texts();
    let vectors = teacher(&texts);
    for (at, student) in [
        json!({ "kind": "bert", "path": "bert", "max_tokens": 20 }),
        json!({ "kind": "decoder", "layers": 1, "tower": tower }),
    ]
    .into_iter()
    .enumerate()
    {
        let changes = json!({ "steps": 5, "validation": { "pairs": 0 } });
        let options = options("fake:6", student, changes);
        let space = space(&options.teacher, &silent()).await;
        let teacher = Teacher { vectors: &vectors, documents: None, space: &space };
        let counts = Arc::new(ReadBacks::default());
        let reporter: Arc<dyn Reporter> = counts.clone();
        let (out, cancel) = (dir.path().join(at.to_string()), Cancel::new());
        let run = distill(&texts, &teacher, &options, dir.path(), &out, &reporter, &cancel);
        run.await.unwrap();
        assert_eq!(counts.of_steps(), [1; 4]);
    }
}

/// A cut decoder learns by low-rank adapters, and is a tower with them.
#[tokio::test]
async fn a_cut_decoder_learns_by_lora() {
    let dir = tempfile::tempdir().unwrap();
    write_llm(&tiny_config("llama"), dir.path());
    let tower = TowerOptions { max_tokens: Some(20), ..TowerOptions::new(".", Pooling::Mean) };
    let student = json!({
        "kind": "decoder", "layers": 1, "tower": tower, "lora": { "rank": 8, "alpha": 16.0 },
    });
    let changes = json!({ "steps": 60, "optimizer": { "learning_rate": 1e-2 } });
    let options = options("fake:32", student, changes);
    let texts = texts();
    let reporter = silent();
    let space = space(&options.teacher, &reporter).await;
    // The teacher is the same LLM with both its layers.
    let whole = Tower::resolve(&tower, dir.path(), &reporter).await.unwrap();
    let vectors = encoded(&whole, &texts);
    let teacher = Teacher { vectors: &vectors, documents: None, space: &space };
    let out = dir.path().join("out");
    let report = distill(&texts, &teacher, &options, dir.path(), &out, &reporter, &Cancel::new())
        .await
        .unwrap();
    let (first, last) = (&report.validation[0], report.validation.last().unwrap());
    assert!(last.loss < 0.8 * first.loss, "{first:?} {last:?}");
    assert!(report.exported[0] > 0);

    let adapter = out.join("student").to_str().unwrap().to_owned();
    let student = TowerOptions { layers: Some(1), adapter: Some(adapter), ..tower };
    let student = Tower::resolve(&student, dir.path(), &reporter).await.unwrap();
    assert_eq!(student.teacher(), Some(&space));
    let mean = mean_cosine(&encoded(&student, &texts), &vectors);
    assert!(mean > first.accuracy, "{mean} was {}", first.accuracy);
}

/// A decoder of another width than the teacher's learns with a projection, which starts where least squares puts it, and the
/// folder it leaves is a tower.
#[tokio::test]
async fn a_cut_decoder_is_projected_to_the_teachers_dimensions() {
    let dir = tempfile::tempdir().unwrap();
    write_llm(&tiny_config("llama"), dir.path());
    let tower = TowerOptions { max_tokens: Some(20), ..TowerOptions::new(".", Pooling::Mean) };
    let (texts, reporter) = (texts(), silent());
    let vectors = teacher(&texts);
    let run = async |changes: Value, steps: u64, out: &str| {
        let mut student = json!({ "kind": "decoder", "layers": 1, "tower": tower });
        student.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let changes = json!({ "steps": steps, "optimizer": { "learning_rate": 3e-3 } });
        let options = options("fake:6", student, changes);
        let space = space(&options.teacher, &reporter).await;
        let teacher = Teacher { vectors: &vectors, documents: None, space: &space };
        let (out, cancel) = (dir.path().join(out), Cancel::new());
        let report = distill(&texts, &teacher, &options, dir.path(), &out, &reporter, &cancel);
        (report.await, space)
    };
    let drawn = run(json!({ "fit_queries": 0 }), 1, "drawn").await.0.unwrap();
    let (report, space) = run(json!({}), 60, "out").await;
    let report = report.unwrap();
    let (first, last) = (&report.validation[0], report.validation.last().unwrap());
    assert!(first.accuracy > drawn.validation[0].accuracy + 0.3, "{first:?} {drawn:?}");
    assert!(last.accuracy > 0.9 && last.loss < 0.8 * first.loss, "{first:?} {last:?}");
    // An adapter has no place for it.
    let lora = json!({ "lora": { "rank": 8, "alpha": 16.0 } });
    let refused = run(lora, 1, "lora").await.0.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.to_string().contains("take student.lora away"), "{refused}");

    let model = dir.path().join("out/student");
    std::fs::copy(dir.path().join("tokenizer.json"), model.join("tokenizer.json")).unwrap();
    // Its own pooling is said in its files.
    let student = json!({ "model": model, "defaults": "model", "max_tokens": 20 });
    let student: TowerOptions = serde_json::from_value(student).unwrap();
    let student = Tower::resolve(&student, dir.path(), &reporter).await.unwrap();
    assert_eq!((student.dimensions(), student.teacher()), (6, Some(&space)));
    let found = encoded(&student, &texts);
    let mean = mean_cosine(&found, &vectors);
    assert!(mean > 0.9, "{mean}");

    let tokenizer = model.join("tokenizer.json");
    let packed = dir.path().join("packed");
    pack_student(&model, &packed, &PackOptions::default(), None, &tokenizer).unwrap();
    let packed = json!({
        "model": packed, "tokenizer": tokenizer, "defaults": "model", "max_tokens": 20
    });
    let packed: TowerOptions = serde_json::from_value(packed).unwrap();
    let packed = Tower::resolve(&packed, dir.path(), &reporter).await.unwrap();
    assert!(mean_cosine(&encoded(&packed, &texts), &found) > 0.98);

    // Nothing is read or written beside the two folders.
    std::fs::write(model.join("modules.json"), r#"[{"path": "../elsewhere"}]"#).unwrap();
    let target = dir.path().join("refused");
    let options = PackOptions::default();
    let refused = pack_student(&model, &target, &options, None, &tokenizer).unwrap_err();
    assert!(refused.to_string().contains("../elsewhere, which is not in its folder"), "{refused}");
}
