//! A map from tokens to values.
//!
//! Tokens grow, so a sorted list serves as well as a hash table: an insertion is at the end, and the place of a removed
//! value stays until half of the places are empty. Hash tables cost the build of every dependant 10,000 lines of LLVM IR.

pub(crate) struct TokenMap<T> {
    /// Sorted.
    tokens: Vec<u64>,
    /// The value of each token. `None` if it was removed.
    values: Vec<Option<T>>,
    removed: usize,
}

/// The places that a map never gives up.
const FEW: usize = 16;

impl<T> TokenMap<T> {
    pub(crate) const fn new() -> Self {
        Self { tokens: Vec::new(), values: Vec::new(), removed: 0 }
    }

    pub(crate) fn insert(&mut self, token: u64, value: T) {
        match self.tokens.binary_search(&token) {
            // Where tokens have 32 bits, one may come again.
            Ok(index) => {
                let old = self.values[index].replace(value);
                self.removed -= usize::from(old.is_none());
            }
            Err(index) => {
                self.tokens.insert(index, token);
                self.values.insert(index, Some(value));
            }
        }
    }

    pub(crate) fn remove(&mut self, token: u64) -> Option<T> {
        let index = self.tokens.binary_search(&token).ok()?;
        let value = self.values[index].take()?;
        self.removed += 1;
        if self.removed > self.tokens.len() / 2 + FEW {
            self.close_up();
        }
        Some(value)
    }

    /// Gives up the places of the removed values, and memory that is too much for the other values. The removals between
    /// two calls pay for it.
    fn close_up(&mut self) {
        let mut kept = 0;
        for index in 0..self.tokens.len() {
            if self.values[index].is_some() {
                self.tokens.swap(kept, index);
                self.values.swap(kept, index);
                kept += 1;
            }
        }
        self.tokens.truncate(kept);
        self.values.truncate(kept);
        self.removed = 0;
        self.tokens.shrink_to(2 * kept + 4 * FEW);
        self.values.shrink_to(2 * kept + 4 * FEW);
    }

    pub(crate) fn get(&self, token: u64) -> Option<&T> {
        let index = self.tokens.binary_search(&token).ok()?;
        self.values[index].as_ref()
    }

    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        let index = self.tokens.binary_search(&token).ok()?;
        self.values[index].as_mut()
    }

    /// Returns the tokens, in their order.
    pub(crate) fn tokens(&self) -> Vec<u64> {
        let mut tokens = Vec::with_capacity(self.len());
        for (index, token) in self.tokens.iter().enumerate() {
            if self.values[index].is_some() {
                tokens.push(*token);
            }
        }
        tokens
    }

    /// Returns the values, in the order of their tokens.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.values.iter().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len() - self.removed
    }
}

#[cfg(test)]
mod tests {
    use super::TokenMap;
    use std::collections::BTreeMap;

    /// Compares the map with another, over many insertions and removals in a changing order.
    #[test]
    fn map_has_what_was_inserted_and_not_removed() {
        let (mut map, mut expected) = (TokenMap::new(), BTreeMap::new());
        for token in 1..=2_000_u64 {
            map.insert(token, token * 3);
            expected.insert(token, token * 3);
            // Any old token: it may be removed already.
            let old = token * 7_919 % token + 1;
            if token % 5 != 0 {
                assert_eq!(map.remove(old), expected.remove(&old));
            }
            assert_eq!(map.get(old), expected.get(&old));
            assert_eq!(map.get_mut(token), expected.get_mut(&token));
            assert_eq!(map.len(), expected.len());
        }
        assert!(map.values().eq(expected.values()));
        assert!(map.tokens().iter().eq(expected.keys()));
        for token in map.tokens() {
            assert_eq!(map.remove(token), Some(token * 3));
        }
        assert_eq!(map.len(), 0);
        map.insert(1, 1);
        assert_eq!(map.tokens(), [1]);
    }

    #[test]
    fn token_that_comes_again_has_the_last_value() {
        let mut map = TokenMap::new();
        for value in [1, 2] {
            map.insert(7, value);
            map.insert(7, value + 10);
            assert_eq!((map.len(), map.remove(7), map.len()), (1, Some(value + 10), 0));
        }
    }

    #[test]
    fn places_of_removed_values_are_given_up() {
        let mut map = TokenMap::new();
        for token in 0..10_000 {
            map.insert(token, ());
            map.remove(token);
        }
        assert!(map.tokens.len() < 100, "{}", map.tokens.len());
    }

    #[test]
    fn map_with_one_of_many_values_holds_little_memory() {
        let mut map = TokenMap::new();
        for token in 0..10_000 {
            map.insert(token, token);
        }
        for token in 1..10_000 {
            map.remove(token);
        }
        let held = (map.tokens.capacity(), map.values.capacity());
        assert!(held.0 < 200 && held.1 < 200, "room for {held:?}");
        assert_eq!(map.get(0), Some(&0));
    }
}
