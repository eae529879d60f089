//! Whether the files and folders that a recipe names are there, before any of the work: all that are not, by their keys.

use std::path::Path;

use super::contrast::TrainOptions;
use super::distill::DistillOptions;
use super::faults::Faults;
use super::files::place;
use super::model::StudentOptions;
use crate::dataset::{PairSource, RetrievalSetOptions};
use crate::error::Error;
use crate::store::named::check_there;
use crate::tower::TowerOptions;

/// What was found, by key.
struct Missing<'a> {
    base_dir: &'a Path,
    found: Faults,
}

impl TrainOptions {
    /// Looks, without opening one, for every file and folder that is named: what is wrong, by key. Stores and hubs are
    /// not asked. Relative paths start from `base_dir`.
    pub fn missing_files(&self, base_dir: &Path) -> Vec<(String, Error)> {
        let mut missing = Missing { base_dir, found: Faults::default() };
        // A head is refused, there or not.
        missing.tower("tower", &TowerOptions { head: None, ..self.tower.clone() });
        if let Some(adapter) = &self.query.adapter {
            missing.place("query.adapter", adapter);
        }
        if let Some(student) = &self.query.student {
            missing.student("query.student", student);
        }
        missing.pairs("pairs", &self.pairs);
        for (at, source) in self.texts.iter().enumerate() {
            missing.found.add(format!("texts.{at}.path"), source.check_files(base_dir));
        }
        for (at, set) in self.judged.iter().enumerate() {
            let there = place(set, base_dir)
                .and_then(|folder| RetrievalSetOptions::new(folder).check_files());
            missing.found.add(format!("judged.{at}"), there);
        }
        missing.pairs("validation.sets", &self.validation.sets);
        if let Some(teacher) = &self.teacher {
            let towers = [("tower", &teacher.tower), ("query_tower", &teacher.query_tower)];
            for (key, tower) in towers {
                tower.iter().for_each(|tower| missing.tower(&format!("teacher.{key}"), tower));
            }
            let files = [("vectors", &teacher.vectors), ("query_vectors", &teacher.query_vectors)];
            for (key, path) in files {
                path.iter().for_each(|path| missing.place(&format!("teacher.{key}"), path));
            }
        }
        missing.found.0
    }
}

impl DistillOptions {
    /// As [`TrainOptions::missing_files`].
    pub fn missing_files(&self, base_dir: &Path) -> Vec<(String, Error)> {
        let mut missing = Missing { base_dir, found: Faults::default() };
        missing.tower("teacher", &self.teacher);
        missing.pairs("pairs", &self.pairs);
        missing.student("student", &self.student);
        missing.found.0
    }
}

impl Missing<'_> {
    fn place(&mut self, key: &str, path: impl AsRef<Path>) {
        let there = place(path, self.base_dir).and_then(|path| check_there(&path));
        self.found.add(key, there);
    }

    fn tower(&mut self, section: &str, tower: &TowerOptions) {
        self.found.within(section, tower.missing_files(self.base_dir));
    }

    fn pairs(&mut self, section: &str, sources: &[PairSource]) {
        for (at, source) in sources.iter().enumerate() {
            self.found.add(format!("{section}.{at}.path"), source.check_files(self.base_dir));
        }
    }

    fn student(&mut self, section: &str, student: &StudentOptions) {
        match student {
            StudentOptions::Bert { path, tokenizer, .. } => {
                self.place(&format!("{section}.path"), path);
                if let Some(tokenizer) = tokenizer {
                    self.place(&format!("{section}.tokenizer"), tokenizer);
                }
            }
            StudentOptions::Decoder { tower, .. } => self.tower(&format!("{section}.tower"), tower),
        }
    }
}
