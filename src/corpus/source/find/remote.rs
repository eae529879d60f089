//! Objects of a bucket: one, those under a prefix, or what a glob matches. A listing says size and tag of each object:
//! none is requested separately.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::found::{Found, Limits, Passed, Search, in_root};
use super::lake::{ListedOwners, MARKERS, MAX_NAMES, Owner, is_lance};
use super::pattern::{Below, Part, hidden};
use super::walk::is_data;
use crate::corpus::source::file::REQUESTS;
use crate::error::{Error, Result};
use crate::store::{layout, unreadable};
use crate::types::Cancel;

/// What to look for, and where.
pub(super) struct RemoteSearch<'a> {
    pub(super) store: &'a Arc<dyn ObjectStore>,
    /// Scheme and bucket, with a `/` at the end.
    pub(super) base: &'a Url,
    pub(super) parts: &'a [Part],
    /// Whether the `uri` ends in `/`: it cannot be an object.
    pub(super) is_folder: bool,
    /// The `uri` for messages.
    pub(super) shown: &'a str,
    /// The path of `publish.root`, where it is in the same bucket.
    pub(super) root: Option<&'a str>,
    pub(super) limits: Limits,
    pub(super) cancel: &'a Cancel,
}

impl RemoteSearch<'_> {
    /// # Errors
    /// Input where nothing is found, or what is found is not a table's files; Unsupported for tables of another engine;
    /// what the store answers; as [`Cancel::check`].
    pub(super) async fn run(&self) -> Result<Search> {
        let wild = self.parts.iter().position(|part| part.pattern.is_some());
        let (fixed, pattern) = self.parts.split_at(wild.unwrap_or(self.parts.len()));
        refuse_root(self.base, self.parts, self.root, self.shown)?;
        // A name with a `*` in it that exists is meant as it stands.
        let single = self.look_up(wild.is_some()).await?;
        if let Some(meta) = single.clone().filter(|meta| meta.size > 0) {
            return self.single(meta).await;
        }
        let below = match wild {
            None => Below::everything(),
            Some(_) => Below::glob(pattern, self.shown)?,
        };
        let prefix = join(fixed)?;
        let mut owners = self.owners_above(prefix.as_ref()).await?;
        let search = self.list(&prefix, &below, &mut owners).await?;
        if below.is_everything() {
            let visible =
                |folder: &str| relative(folder, prefix.as_ref()).split('/').all(|p| !hidden(p));
            if let Some((folder, owner)) = owners.iter().find(|(folder, _)| visible(folder)) {
                return Err(owner.refuse(self.url(folder)?.as_str()));
            }
        }
        if search.files.is_empty() {
            // An empty object, and nothing below it.
            if let Some(meta) = single {
                return self.single(meta).await;
            }
            return Err(Error::input(format!("{} matches no object", self.shown)));
        }
        for file in &search.files {
            if let Some((folder, owner)) = owners.of(file.meta.location.as_ref()) {
                return Err(owner.refuse(self.url(folder)?.as_str()));
            }
        }
        Ok(search)
    }

    /// The object of just this name.
    async fn look_up(&self, wild: bool) -> Result<Option<ObjectMeta>> {
        if self.is_folder || self.parts.is_empty() {
            return Ok(None);
        }
        let location = join(self.parts)?;
        match self.store.head(&location).await {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            // Permission to list does not imply permission to ask for what is missing.
            Err(_) if wild => Ok(None),
            Err(e) => Err(unreadable(self.url(location.as_ref())?.as_str(), &e)),
        }
    }

    async fn single(&self, meta: ObjectMeta) -> Result<Search> {
        let owners = self.owners_above(meta.location.as_ref()).await?;
        if let Some((folder, owner)) = owners.of(meta.location.as_ref()) {
            return Err(owner.refuse(self.url(folder)?.as_str()));
        }
        let found = self.found(meta, Vec::new())?;
        Ok(Search { files: vec![found], named: true, ..Search::default() })
    }

    async fn list(
        &self,
        prefix: &ObjectPath,
        below: &Below,
        owners: &mut ListedOwners,
    ) -> Result<Search> {
        let mut search = Search::default();
        let mut listing = self.store.list(Some(prefix));
        let mut names = 0;
        let inside = |root: &&str| *root != prefix.as_ref() && lies_in(root, prefix.as_ref());
        let root = self.root.filter(inside);
        let failed = |e: StoreError| unreadable(self.shown, &e);
        while let Some(meta) = listing.try_next().await.map_err(failed)? {
            self.cancel.check()?;
            names += 1;
            if names > self.limits.names || search.files.len() >= self.limits.files {
                return Err(Error::input(format!(
                    "{} leads to more than {} objects or {} files; name a narrower prefix or glob",
                    self.shown, self.limits.names, self.limits.files
                )));
            }
            let path = meta.location.as_ref();
            if root.is_some_and(|root| lies_in(path, root)) {
                search.left_out_root = true;
                continue;
            }
            owners.see(path);
            let mut folders: Vec<&str> = relative(path, prefix.as_ref()).split('/').collect();
            let name = folders.pop().unwrap_or_default();
            if below.takes_at(&folders, name) {
                let folders = folders.into_iter().map(str::to_owned).collect();
                let found = self.found(meta, folders)?;
                search.files.push(found);
            } else if below.is_everything() {
                self.pass_hidden(&mut search.hidden, &folders, name, path)?;
            }
        }
        Ok(search)
    }

    /// Remembers what is passed over although it may well be data.
    fn pass_hidden(
        &self,
        passed: &mut Passed,
        folders: &[&str],
        name: &str,
        path: &str,
    ) -> Result<()> {
        let underscore = folders.iter().find(|folder| hidden(folder));
        let data = match underscore {
            Some(folder) => folder.starts_with('_') && is_data(name),
            None => !name.starts_with("._") && is_data(name),
        };
        if data {
            passed.add(self.url(path)?.as_str());
        }
        Ok(())
    }

    /// Owners of the folders above `path`. Where they may not be listed, none is seen.
    async fn owners_above(&self, path: &str) -> Result<ListedOwners> {
        let mut owners = ListedOwners::default();
        let mut questions = Vec::new();
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in [0].into_iter().chain(ends).filter(|_| !path.is_empty()) {
            let (folder, below) = (&path[..end], path[end..].trim_start_matches('/'));
            if is_lance(folder) {
                owners.add(folder, Owner::Lance);
            }
            let below = format!("{below}/file");
            for (marker, owner) in MARKERS.into_iter().filter(|(_, owner)| owner.owns(&below)) {
                questions.push(self.marked(folder, marker, owner));
            }
        }
        let mut answers = futures::stream::iter(questions).buffered(REQUESTS);
        while let Some(answer) = answers.try_next().await? {
            if let Some((folder, owner)) = answer {
                owners.add(folder, owner);
            }
        }
        Ok(owners)
    }

    /// The folder and the owner, where something in it gives that owner away.
    async fn marked<'f>(
        &self,
        folder: &'f str,
        marker: &str,
        owner: Owner,
    ) -> Result<Option<(&'f str, Owner)>> {
        let at = format!("{folder}/{marker}");
        let at = ObjectPath::parse(at.trim_start_matches('/'))
            .map_err(|e| Error::input(self.shown.to_owned()).with_source(e))?;
        let mut names = self.store.list(Some(&at)).take(MAX_NAMES);
        loop {
            match names.try_next().await {
                Ok(Some(meta)) => {
                    let name = relative(meta.location.as_ref(), at.as_ref());
                    if owner.has(marker, name.split('/').next().unwrap_or_default()) {
                        return Ok(Some((folder, owner)));
                    }
                }
                Ok(None)
                | Err(
                    StoreError::NotFound { .. }
                    | StoreError::PermissionDenied { .. }
                    | StoreError::Unauthenticated { .. },
                ) => return Ok(None),
                Err(e) => return Err(unreadable(self.url(at.as_ref())?.as_str(), &e)),
            }
        }
    }

    fn found(&self, meta: ObjectMeta, folders: Vec<String>) -> Result<Found> {
        let name = meta.location.filename().unwrap_or_default().to_owned();
        let url = self.url(meta.location.as_ref())?;
        Ok(Found { url, store: Arc::clone(self.store), meta, folders, name })
    }

    fn url(&self, path: &str) -> Result<Url> {
        url_of(self.base, path)
    }
}

/// The URL of a path in a bucket, every character of it escaped that would mean something else.
fn url_of(base: &Url, path: &str) -> Result<Url> {
    let mut url = base.clone();
    url.path_segments_mut()
        .map_err(|()| Error::config(format!("{base} has no path")))?
        .pop_if_empty()
        .extend(path.split('/').filter(|part| !part.is_empty()));
    Ok(url)
}

/// What this program publishes is not a note: `root` is its path, where it is in the same bucket.
///
/// # Errors
/// Input.
pub(super) fn refuse_root(
    base: &Url,
    parts: &[Part],
    root: Option<&str>,
    shown: &str,
) -> Result<()> {
    let Some(root) = root else { return Ok(()) };
    let fixed: Vec<Part> =
        parts.iter().take_while(|part| part.pattern.is_none()).cloned().collect();
    let path = join(&fixed)?;
    let path = path.as_ref();
    let ours = || layout::folder(&format!("{}/file", relative(path, root))).is_some();
    if path == root || (lies_in(path, root) && ours()) {
        return Err(in_root(shown, url_of(base, root)?.as_str()));
    }
    Ok(())
}

fn join(parts: &[Part]) -> Result<ObjectPath> {
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    let path = names.join("/");
    ObjectPath::parse(&path)
        .map_err(|e| Error::config(format!("`{path}` is not the path of an object")).with_source(e))
}

/// What of `path` is below the folder `above`.
fn relative<'a>(path: &'a str, above: &str) -> &'a str {
    path.strip_prefix(above).unwrap_or(path).trim_start_matches('/')
}

/// Whether `path` is `folder` or is in it.
fn lies_in(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder);
    rest.is_some_and(|rest| folder.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
