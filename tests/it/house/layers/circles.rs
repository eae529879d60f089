//! No circle of imports inside any folder: its files, and its folders as one each, stand in an order.
//!
//! A path counts for the file that defines what it names, through any number of re-exports. A `mod.rs` is a file
//! like the others, but that it passes on what its own files define is not an import. Test code does not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Breach;
use super::scan::{Scanned, module_of};

/// Where an import leads: the importing file, its line, and the file that defines what is imported.
type Import<'a> = (&'a str, usize, &'a str);

/// One breach for every circle in a folder of `sources` (file below `src/`, what it says).
pub fn check(sources: &[(&str, &Scanned)]) -> Vec<Breach> {
    let crate_map = CrateMap::of(sources);
    let imports = crate_map.imports(sources);
    let mut folders: BTreeMap<&str, Vec<Import<'_>>> = BTreeMap::new();
    for import in imports {
        let (from, _, to) = import;
        let shared = folders_of(from).filter(|folder| lies_below(to, folder));
        for folder in shared {
            folders.entry(folder).or_default().push(import);
        }
    }
    folders.iter().flat_map(|(folder, imports)| circles_of(folder, imports)).collect()
}

/// The folders that a file is in, innermost first; the last is the whole of `src/`, named "".
fn folders_of(file: &str) -> impl Iterator<Item = &str> {
    let inner = file.rmatch_indices('/').map(|(at, _)| &file[..at]);
    inner.chain(std::iter::once(""))
}

fn lies_below(file: &str, folder: &str) -> bool {
    folder.is_empty() || file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The file or folder of `folder` that `file` is in.
fn room<'a>(file: &'a str, folder: &str) -> &'a str {
    let rest = file[folder.len()..].trim_start_matches('/');
    rest.split(['/', '.']).next().unwrap_or(rest)
}

fn circles_of(folder: &str, imports: &[Import<'_>]) -> Vec<Breach> {
    let mut graph: BTreeMap<&str, BTreeMap<&str, (&str, usize)>> = BTreeMap::new();
    for &(from, line, to) in imports {
        let (here, there) = (room(from, folder), room(to, folder));
        if here != there {
            graph.entry(here).or_default().entry(there).or_insert((from, line));
        }
    }
    let mut breaches = Vec::new();
    let mut seen = BTreeSet::new();
    for start in graph.keys() {
        let Some(circle) = shortest_circle(&graph, start).filter(|c| seen.insert(members(c)))
        else {
            continue;
        };
        let steps: Vec<String> = circle
            .windows(2)
            .map(|step| {
                let (file, line) = graph[step[0]][step[1]];
                format!("{}: {file}:{line}", step.join(" -> "))
            })
            .collect();
        let folder = if folder.is_empty() { "src" } else { folder };
        let what = format!("circle in {folder}: {} ({})", circle.join(" -> "), steps.join(", "));
        breaches.push(Breach { file: format!("src/{folder}"), line: 0, what });
    }
    breaches
}

fn members<'a>(circle: &[&'a str]) -> BTreeSet<&'a str> {
    circle.iter().copied().collect()
}

/// The shortest way from `start` back to it, both ends named.
fn shortest_circle<'a>(
    graph: &BTreeMap<&'a str, BTreeMap<&'a str, (&str, usize)>>,
    start: &'a str,
) -> Option<Vec<&'a str>> {
    let mut ways = std::collections::VecDeque::from([vec![start]]);
    let mut visited = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = way.last().copied().unwrap_or(start);
        for next in graph.get(last).into_iter().flat_map(BTreeMap::keys).copied() {
            let longer = || way.iter().copied().chain([next]).collect();
            if next == start {
                return Some(longer());
            }
            if visited.insert(next) {
                ways.push_back(longer());
            }
        }
    }
    None
}

/// Which file each module is in, and what names its `use` declarations give.
struct CrateMap<'a> {
    files: HashMap<Vec<String>, &'a str>,
    names: HashMap<(Vec<String>, &'a str), Vec<String>>,
}

impl<'a> CrateMap<'a> {
    fn of(sources: &[(&'a str, &'a Scanned)]) -> Self {
        let files = sources.iter().map(|(file, _)| (module_of(file), *file)).collect();
        let mut map = Self { files, names: HashMap::new() };
        for named in sources.iter().flat_map(|(_, scanned)| &scanned.paths) {
            let (Some(name), false) = (&named.name, named.in_test) else { continue };
            if let Some(path) = map.inside(&named.path, &named.module) {
                map.names.insert((named.module.clone(), name.as_str()), path);
            }
        }
        map
    }

    /// The path from the crate's root, if it leads into the crate: by `crate::`, or by a module's own child.
    fn inside(&self, path: &[String], module: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let base = match first.strip_prefix("crate::") {
            Some(first) => vec![first.to_owned()],
            None => [module, std::slice::from_ref(first)].concat(),
        };
        let known = first.starts_with("crate::") || self.files.contains_key(&base);
        known.then(|| [&base[..], rest].concat())
    }

    /// The file that defines what `path` (from the crate's root) names.
    fn definition(&self, path: &[String]) -> Option<&'a str> {
        let mut path = path.to_vec();
        // Each turn follows one re-export; a chain is never this long.
        for _ in 0..32 {
            let is_module = |depth: &usize| self.files.contains_key(&path[..*depth]);
            let depth = (1..=path.len()).rev().find(is_module)?;
            let passed_on = path.get(depth).and_then(|name| {
                self.names.get(&(path[..depth].to_vec(), name.as_str())).map(|to| (to, depth + 1))
            });
            match passed_on {
                Some((to, rest)) if *to != path => path = [&to[..], &path[rest..]].concat(),
                _ => return self.files.get(&path[..depth]).copied(),
            }
        }
        None
    }

    fn imports(&self, sources: &[(&'a str, &'a Scanned)]) -> Vec<Import<'a>> {
        let mut imports = Vec::new();
        for (file, scanned) in sources {
            let own = module_of(file);
            for named in scanned.paths.iter().filter(|named| !named.in_test) {
                let to = self.inside(&named.path, &named.module).and_then(|p| self.definition(&p));
                let Some(to) = to.filter(|to| to != file) else { continue };
                let passed_on = named.exported && module_of(to).starts_with(&own);
                if !passed_on {
                    imports.push((*file, named.line, to));
                }
            }
        }
        imports
    }
}
