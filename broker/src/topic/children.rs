//! The levels below one level. Most have few, where a list is smaller than any map and searched as fast.

use foldhash::HashMap;

/// A list up to so many.
const FEW: usize = 8;

#[derive(Debug)]
pub(super) enum Children<T> {
    Few(Vec<(Box<str>, T)>),
    Many(Box<HashMap<Box<str>, T>>),
}

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<T: Default> Children<T> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    pub(super) fn get(&self, level: &str) -> Option<&T> {
        match self {
            Self::Few(list) => list.iter().find(|(name, _)| **name == *level).map(|(_, child)| child),
            Self::Many(map) => map.get(level),
        }
    }

    pub(super) fn get_mut(&mut self, level: &str) -> Option<&mut T> {
        match self {
            Self::Few(list) => list.iter_mut().find(|(name, _)| **name == *level).map(|(_, child)| child),
            Self::Many(map) => map.get_mut(level),
        }
    }

    pub(super) fn get_or_add(&mut self, level: &str) -> &mut T {
        if let Self::Few(list) = self
            && list.len() >= FEW
            && !list.iter().any(|(name, _)| **name == *level)
        {
            *self = Self::Many(Box::new(std::mem::take(list).into_iter().collect()));
        }
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(name, _)| **name == *level).unwrap_or_else(|| {
                    if list.is_empty() {
                        list.reserve_exact(1);
                    }
                    list.push((level.into(), T::default()));
                    list.len() - 1
                });
                &mut list[at].1
            }
            Self::Many(map) => {
                // Not through an entry: it would copy the name of a level that is there.
                if !map.contains_key(level) {
                    map.insert(level.into(), T::default());
                }
                map.get_mut(level).expect("it was there, or was put there a moment ago")
            }
        }
    }

    pub(super) fn remove(&mut self, level: &str) {
        match self {
            Self::Few(list) => list.retain(|(name, _)| **name != *level),
            Self::Many(map) => {
                map.remove(level);
                if map.is_empty() {
                    *self = Self::default();
                }
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list), None),
            Self::Many(map) => (None, Some(map)),
        };
        let few = few.into_iter().flatten().map(|(name, child)| (&**name, child));
        few.chain(many.into_iter().flat_map(|map| map.iter()).map(|(name, child)| (&**name, child)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn few_or_many_they_are_the_same_map() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut children, mut model) = (Children::<u32>::default(), BTreeMap::<String, u32>::new());
        for round in 0..20_000 {
            // Grows beyond a list, shrinks to nothing, grows again.
            let growing = round / 1000 % 2 == 0;
            let level = random.u32(..30).to_string();
            if random.u32(..10) < if growing { 8 } else { 2 } {
                *children.get_or_add(&level) += 1;
                *model.entry(level.clone()).or_default() += 1;
            } else {
                children.remove(&level);
                model.remove(&level);
            }
            assert_eq!(children.get(&level), model.get(&level));
            assert_eq!(children.get_mut(&level), model.get_mut(&level));
            assert_eq!(children.is_empty(), model.is_empty());
            let listed: BTreeMap<_, _> =
                children.iter().map(|(name, count)| (name.to_owned(), *count)).collect();
            assert_eq!(listed, model);
        }
    }
}
