//! A map by names that mostly has few: the levels below a level, the filters of a client. One needs no memory of its own;
//! of few, a list is smaller than any hash map and searched as fast.

use foldhash::HashMap;

/// A list up to so many.
const FEW: usize = 8;

#[derive(Debug)]
pub(crate) enum ByName<T> {
    One(Box<str>, T),
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
            Self::One(..) => false,
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        match self {
            Self::One(known, child) => (**known == *name).then_some(child),
            Self::Few(list) => list.iter().find(|(known, _)| **known == *name).map(|(_, child)| child),
            Self::Many(map) => map.get(name),
        }
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        match self {
            Self::One(known, child) => (**known == *name).then_some(child),
            Self::Few(list) => list.iter_mut().find(|(known, _)| **known == *name).map(|(_, child)| child),
            Self::Many(map) => map.get_mut(name),
        }
    }

    pub(crate) fn get_or_add(&mut self, name: &str) -> &mut T {
        if self.get(name).is_none() {
            *self = std::mem::take(self).with((name.into(), T::default()));
        }
        self.get_mut(name).expect("it was there, or was put there a moment ago")
    }

    fn with(self, new: (Box<str>, T)) -> Self {
        match self {
            Self::One(name, child) => Self::Few(vec![(name, child), new]),
            Self::Few(list) if list.is_empty() => Self::One(new.0, new.1),
            Self::Few(mut list) if list.len() < FEW => {
                list.push(new);
                Self::Few(list)
            }
            Self::Few(list) => Self::Many(Box::new(list.into_iter().chain([new]).collect())),
            Self::Many(mut map) => {
                map.extend([new]);
                Self::Many(map)
            }
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<(Box<str>, T)> {
        let removed = match self {
            Self::One(known, child) if **known == *name => {
                let one = (std::mem::take(known), std::mem::take(child));
                *self = Self::default();
                return Some(one);
            }
            Self::One(..) => None,
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
        let (one, few, many) = match self {
            Self::One(name, child) => (Some((&**name, child)), None, None),
            Self::Few(list) => (None, Some(list), None),
            Self::Many(map) => (None, None, Some(map)),
        };
        let few = few.into_iter().flatten().map(|(name, child)| (&**name, child));
        one.into_iter()
            .chain(few)
            .chain(many.into_iter().flat_map(|map| map.iter()).map(|(name, child)| (&**name, child)))
    }
}

impl<T> ByName<T> {
    pub(crate) fn into_names(self) -> Vec<Box<str>> {
        match self {
            Self::One(name, _) => vec![name],
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
