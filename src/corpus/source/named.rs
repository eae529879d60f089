//! Values by name, in the order in which the names came up.

use std::collections::HashMap;

/// Values by name. Asking for the names in the same order every time needs no search.
#[derive(Debug, Clone)]
pub(super) struct Named<T> {
    entries: Vec<(String, T)>,
    places: HashMap<String, usize>,
    /// Where the next name asked for is expected.
    next: usize,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: HashMap::new(), next: 0 }
    }
}

impl<T: Default> Named<T> {
    /// The value of `name`, made where the name is new; none where there are `limit` others already.
    pub(super) fn entry(&mut self, name: &str, limit: usize) -> Option<&mut T> {
        let expected = self.entries.get(self.next).is_some_and(|(known, _)| known == name);
        let known = if expected { Some(self.next) } else { self.places.get(name).copied() };
        let at = match known {
            Some(at) => at,
            None if self.entries.len() >= limit => return None,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), T::default()));
                self.entries.len() - 1
            }
        };
        self.next = if at + 1 == self.entries.len() { 0 } else { at + 1 };
        Some(&mut self.entries[at].1)
    }

    /// Whether there is a value of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Names and values.
    pub(super) fn entries(&self) -> &[(String, T)] {
        &self.entries
    }

    /// Names and values.
    pub(super) fn into_entries(self) -> Vec<(String, T)> {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_order_and_their_limit() {
        let mut named: Named<u32> = Named::default();
        for name in ["b", "a", "b", "c", "a", "c", "b", "d", "a"] {
            if let Some(count) = named.entry(name, 3) {
                *count += 1;
            }
        }
        assert!(named.contains("c") && !named.contains("d"));
        let counted = [("b", 3), ("a", 3), ("c", 2)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(named.entries(), counted);
    }
}
