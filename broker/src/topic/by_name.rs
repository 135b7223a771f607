//! A map by names that mostly has few: the levels below a level, the filters of a client. Of few, a list is smaller than
//! any hash map and searched as fast.

use foldhash::HashMap;

/// A list up to so many.
const FEW: usize = 8;

#[derive(Debug)]
pub(crate) enum ByName<T> {
    Few(Vec<(Box<str>, T)>),
    Many(Box<HashMap<Box<str>, T>>),
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<T: Default> ByName<T> {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        match self {
            Self::Few(list) => list.iter().find(|(known, _)| **known == *name).map(|(_, child)| child),
            Self::Many(map) => map.get(name),
        }
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        match self {
            Self::Few(list) => list.iter_mut().find(|(known, _)| **known == *name).map(|(_, child)| child),
            Self::Many(map) => map.get_mut(name),
        }
    }

    pub(crate) fn get_or_add(&mut self, name: &str) -> &mut T {
        if let Self::Few(list) = self
            && list.len() >= FEW
            && !list.iter().any(|(known, _)| **known == *name)
        {
            *self = Self::Many(Box::new(std::mem::take(list).into_iter().collect()));
        }
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(known, _)| **known == *name).unwrap_or_else(|| {
                    if list.is_empty() {
                        list.reserve_exact(1);
                    }
                    list.push((name.into(), T::default()));
                    list.len() - 1
                });
                &mut list[at].1
            }
            Self::Many(map) => {
                // Not through an entry: it would copy a name that is there already.
                if !map.contains_key(name) {
                    map.insert(name.into(), T::default());
                }
                map.get_mut(name).expect("it was there, or was put there a moment ago")
            }
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<(Box<str>, T)> {
        let removed = match self {
            Self::Few(list) => {
                let at = list.iter().position(|(known, _)| **known == *name)?;
                Some(list.swap_remove(at))
            }
            Self::Many(map) => map.remove_entry(name),
        };
        if self.is_empty() {
            *self = Self::default();
        }
        removed
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list), None),
            Self::Many(map) => (None, Some(map)),
        };
        let few = few.into_iter().flatten().map(|(name, child)| (&**name, child));
        few.chain(many.into_iter().flat_map(|map| map.iter()).map(|(name, child)| (&**name, child)))
    }
}

impl<T> ByName<T> {
    pub(crate) fn into_names(self) -> Vec<Box<str>> {
        match self {
            Self::Few(list) => list.into_iter().map(|(name, _)| name).collect(),
            Self::Many(map) => map.into_keys().collect(),
        }
    }
}

impl FromIterator<Box<str>> for ByName<()> {
    fn from_iter<I: IntoIterator<Item = Box<str>>>(names: I) -> Self {
        let mut all = Self::default();
        for name in names {
            all.get_or_add(&name);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn few_or_many_they_are_the_same_map() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut map, mut model) = (ByName::<u32>::default(), BTreeMap::<String, u32>::new());
        for round in 0..20_000 {
            // Grows beyond a list, shrinks to nothing, grows again.
            let growing = round / 1000 % 2 == 0;
            let name = random.u32(..30).to_string();
            if random.u32(..10) < if growing { 8 } else { 2 } {
                *map.get_or_add(&name) += 1;
                *model.entry(name.clone()).or_default() += 1;
            } else {
                let removed = map.remove(&name);
                assert_eq!(removed, model.remove_entry(&name).map(|(name, count)| (name.into(), count)));
            }
            assert_eq!(map.get(&name), model.get(&name));
            assert_eq!(map.get_mut(&name), model.get_mut(&name));
            assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            let listed: BTreeMap<_, _> = map.iter().map(|(name, count)| (name.to_owned(), *count)).collect();
            assert_eq!(listed, model);
        }
    }
}
