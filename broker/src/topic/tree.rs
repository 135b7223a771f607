//! A tree of topic levels. One node per level of a filter; `+` and `#` have places of their own, so a topic visits at
//! most two nodes a level. It tells when a filter gets its first and loses its last subscriber: exactly what other
//! nodes of the cluster must hear about.

use super::ByName;

/// Subscriptions of keys `K` (a client, a node) with their options `V`.
#[derive(Debug)]
pub struct Tree<K, V> {
    root: Node<K, V>,
    generation: u64,
    subscriptions: usize,
}

/// Most nodes are the end of a filter and have nothing below.
#[derive(Debug)]
struct Node<K, V> {
    /// Subscribers whose filter ends here, by their keys.
    here: Subscribers<K, V>,
    below: Option<Box<Below<K, V>>>,
}

#[derive(Debug)]
struct Below<K, V> {
    children: ByName<Node<K, V>>,
    plus: Option<Node<K, V>>,
    /// Subscribers whose filter ends with `#` below this level; `a/#` matches `a` too (MQTT-4.7.1-2).
    all: Subscribers<K, V>,
}

/// In the order of keys: a filter may have a hundred thousand, and each that comes is looked for. Most have one.
#[derive(Debug, Default)]
enum Subscribers<K, V> {
    #[default]
    None,
    One(Box<(K, V)>),
    #[expect(
        clippy::box_collection,
        reason = "few filters have many, and all would pay for what a list takes"
    )]
    Many(Box<Vec<(K, V)>>),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Inserted<V> {
    /// What the same key had under the same filter: subscribing again replaces (MQTT-3.8.4-3).
    pub replaced: Option<V>,
    /// The filter had no subscriber before.
    pub first: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Removed<V> {
    pub value: V,
    /// The filter has no subscriber any more.
    pub last: bool,
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: Node::default(), generation: 0, subscriptions: 0 }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self { here: Subscribers::default(), below: None }
    }
}

impl<K, V> Default for Below<K, V> {
    fn default() -> Self {
        Self { children: ByName::default(), plus: None, all: Subscribers::default() }
    }
}

impl<K: Ord, V> Tree<K, V> {
    /// Raised by every change: whatever was matched under another generation may be stale.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many subscriptions there are, over all filters.
    pub fn len(&self) -> usize {
        self.subscriptions
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    /// Adds or replaces the subscription of `key` to `filter`, which must be a valid filter.
    pub fn insert(&mut self, filter: &str, key: K, value: V) -> Inserted<V> {
        let mut node = &mut self.root;
        let mut all = false;
        for level in filter.split('/') {
            match level {
                "#" => all = true,
                "+" => node = node.below.get_or_insert_default().plus.get_or_insert_default(),
                _ => node = node.below.get_or_insert_default().children.get_or_add(level),
            }
        }
        self.generation += 1;
        let place = if all { &mut node.below.get_or_insert_default().all } else { &mut node.here };
        let first = place.is_empty();
        let replaced = place.put(key, value);
        self.subscriptions += usize::from(replaced.is_none());
        Inserted { replaced, first }
    }

    /// Removes the subscription of `key` to `filter`, and the levels that nobody needs any more.
    pub fn remove(&mut self, filter: &str, key: &K) -> Option<Removed<V>> {
        let removed = self.root.remove(filter.split('/'), key)?;
        self.generation += 1;
        self.subscriptions -= 1;
        Some(removed)
    }

    /// Every filter that somebody is subscribed to.
    pub fn filters(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.root.collect(None, &mut found);
        found
    }

    /// Calls `visit` for each subscription there is, with its filter.
    pub fn each(&self, visit: &mut impl FnMut(&str, &K, &V)) {
        self.root.each(None, visit);
    }

    /// Calls `visit` for each subscription that matches `topic`; a key with overlapping filters is met several times.
    pub fn visit<'t>(&'t self, topic: &str, visit: &mut impl FnMut(&'t K, &'t V)) {
        if !topic.starts_with('$') {
            return self.root.visit(topic.split('/'), visit);
        }
        // A wildcard at the first level never matches a topic that begins with `$` (MQTT-4.7.2-1).
        let mut levels = topic.split('/');
        let below = self.root.below.as_deref();
        let child = levels.next().zip(below).and_then(|(first, below)| below.children.get(first));
        if let Some(child) = child {
            child.visit(levels, visit);
        }
    }
}

impl<K: Ord, V> Node<K, V> {
    fn remove<'f>(&mut self, mut levels: impl Iterator<Item = &'f str>, key: &K) -> Option<Removed<V>> {
        let Some(level) = levels.next() else { return self.here.take(key) };
        let below = self.below.as_deref_mut()?;
        let removed = match level {
            "#" => below.all.take(key)?,
            "+" => {
                let plus = below.plus.as_mut()?;
                let removed = plus.remove(levels, key)?;
                below.plus.take_if(|plus| plus.is_bare());
                removed
            }
            _ => {
                let child = below.children.get_mut(level)?;
                let removed = child.remove(levels, key)?;
                if child.is_bare() {
                    below.children.remove(level);
                }
                removed
            }
        };
        self.below.take_if(|below| below.is_bare());
        Some(removed)
    }

    fn visit<'t, 'l>(
        &'t self,
        mut levels: impl Iterator<Item = &'l str> + Clone,
        visit: &mut impl FnMut(&'t K, &'t V),
    ) {
        let below = self.below.as_deref();
        below.iter().flat_map(|below| below.all.iter()).for_each(|(key, value)| visit(key, value));
        let Some(level) = levels.next() else {
            return self.here.iter().for_each(|(key, value)| visit(key, value));
        };
        let Some(below) = below else { return };
        if let Some(child) = below.children.get(level) {
            child.visit(levels.clone(), visit);
        }
        if let Some(plus) = &below.plus {
            plus.visit(levels, visit);
        }
    }

    fn collect(&self, path: Option<&str>, found: &mut Vec<String>) {
        if !self.here.is_empty() {
            found.extend(path.map(str::to_owned));
        }
        let Some(below) = &self.below else { return };
        let further = |level: &str| path.map_or_else(|| level.to_owned(), |path| format!("{path}/{level}"));
        if !below.all.is_empty() {
            found.push(further("#"));
        }
        if let Some(plus) = &below.plus {
            plus.collect(Some(&further("+")), found);
        }
        for (level, child) in below.children.iter() {
            child.collect(Some(&further(level)), found);
        }
    }

    fn each(&self, path: Option<&str>, visit: &mut impl FnMut(&str, &K, &V)) {
        self.here.iter().for_each(|(key, value)| visit(path.unwrap_or_default(), key, value));
        let Some(below) = &self.below else { return };
        let further = |level: &str| path.map_or_else(|| level.to_owned(), |path| format!("{path}/{level}"));
        if !below.all.is_empty() {
            let filter = further("#");
            below.all.iter().for_each(|(key, value)| visit(&filter, key, value));
        }
        if let Some(plus) = &below.plus {
            plus.each(Some(&further("+")), visit);
        }
        for (level, child) in below.children.iter() {
            child.each(Some(&further(level)), visit);
        }
    }

    fn is_bare(&self) -> bool {
        self.here.is_empty() && self.below.is_none()
    }
}

impl<K, V> Below<K, V> {
    fn is_bare(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.all.is_empty()
    }
}

impl<K, V> Subscribers<K, V> {
    fn as_slice(&self) -> &[(K, V)] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(list) => list,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.as_slice().iter()
    }
}

impl<K: Ord, V> Subscribers<K, V> {
    fn position(&self, key: &K) -> Result<usize, usize> {
        self.as_slice().binary_search_by(|(known, _)| known.cmp(key))
    }

    fn put(&mut self, key: K, value: V) -> Option<V> {
        let at = match (self.position(&key), &mut *self) {
            (Ok(_), Self::One(one)) => return Some(std::mem::replace(&mut one.1, value)),
            (Ok(at), Self::Many(list)) => return Some(std::mem::replace(&mut list[at].1, value)),
            (Ok(at) | Err(at), _) => at,
        };
        let new = (key, value);
        *self = match std::mem::take(self) {
            Self::None => Self::One(Box::new(new)),
            Self::One(one) => Self::Many(Box::new(if at == 0 { vec![new, *one] } else { vec![*one, new] })),
            Self::Many(mut list) => {
                list.insert(at, new);
                Self::Many(list)
            }
        };
        None
    }

    fn take(&mut self, key: &K) -> Option<Removed<V>> {
        let at = self.position(key).ok()?;
        let (_, value) = match std::mem::take(self) {
            Self::None => return None,
            Self::One(one) => *one,
            Self::Many(mut list) => {
                let taken = list.remove(at);
                *self = match (list.len(), list.pop()) {
                    (1, Some(one)) => Self::One(Box::new(one)),
                    (_, last) => {
                        list.extend(last);
                        Self::Many(list)
                    }
                };
                taken
            }
        };
        Some(Removed { value, last: self.is_empty() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(tree: &Tree<u32, ()>, topic: &str) -> Vec<u32> {
        let mut keys = Vec::new();
        tree.visit(topic, &mut |key, ()| keys.push(*key));
        keys.sort_unstable();
        keys
    }

    #[test]
    fn topics_reach_the_filters_the_standard_says() {
        let filters =
            ["a/b", "a/+", "a/#", "#", "+/b", "+", "$SYS/#", "$SYS/+", "+/+", "/", "/+", "a//b", "é/+"];
        let mut tree = Tree::default();
        for (key, filter) in filters.iter().enumerate() {
            tree.insert(filter, key as u32, ());
        }
        for (topic, expected) in [
            ("a/b", vec!["a/b", "a/+", "a/#", "#", "+/b", "+/+"]),
            ("a", vec!["a/#", "#", "+"]),
            ("a/", vec!["a/+", "a/#", "#", "+/+"]),
            ("/", vec!["#", "+/+", "/", "/+"]),
            ("a//b", vec!["a/#", "#", "a//b"]),
            ("$SYS/x", vec!["$SYS/#", "$SYS/+"]),
            ("$SYS", vec!["$SYS/#"]),
            ("$other/x", vec![]),
            ("é/x", vec!["#", "+/+", "é/+"]),
        ] {
            let mut expected: Vec<u32> = expected
                .iter()
                .map(|filter| filters.iter().position(|known| known == filter).unwrap() as u32)
                .collect();
            expected.sort_unstable();
            assert_eq!(matched(&tree, topic), expected, "{topic}");
        }
    }

    #[test]
    fn lists_its_filters() {
        let mut filters = ["a/b", "a", "#", "+/x/#", "", "/", "a//b"].map(str::to_owned);
        filters.sort();
        let mut tree = Tree::default();
        for filter in &filters {
            tree.insert(filter, 1, ());
        }
        let mut found = tree.filters();
        found.sort();
        assert_eq!(found, filters);
    }

    #[test]
    fn agrees_with_the_plain_matcher() {
        let levels = ["a", "b", "", "$x", "+"];
        let mut random = fastrand::Rng::with_seed(7);
        let mut word = |wild: bool| {
            let count = random.usize(1..4);
            let mut parts: Vec<&str> =
                (0..count).map(|_| levels[random.usize(..if wild { 5 } else { 4 })]).collect();
            if wild && random.bool() {
                parts.push("#");
            }
            parts.join("/")
        };
        for _ in 0..5_000 {
            let (filter, topic) = (word(true), word(false));
            if filter.is_empty() || topic.is_empty() {
                continue;
            }
            let mut tree = Tree::default();
            tree.insert(&filter, 1, ());
            let found = !matched(&tree, &topic).is_empty();
            assert_eq!(found, nsd_wire::topic::matches(&filter, &topic), "{filter} against {topic}");
        }
    }

    #[test]
    fn tells_the_first_and_the_last_and_leaves_nothing_behind() {
        let mut tree = Tree::default();
        assert_eq!(tree.insert("a/+/c/#", 1, "x"), Inserted { replaced: None, first: true });
        assert_eq!(tree.insert("a/+/c/#", 2, "x"), Inserted { replaced: None, first: false });
        assert_eq!(tree.insert("a/+/c/#", 2, "y"), Inserted { replaced: Some("x"), first: false });
        assert_eq!(tree.len(), 2);
        let generation = tree.generation();
        assert_eq!(tree.remove("a/+/c", &1), None);
        assert_eq!(tree.generation(), generation);
        assert_eq!(tree.remove("a/+/c/#", &1), Some(Removed { value: "x", last: false }));
        assert_eq!(tree.remove("a/+/c/#", &2), Some(Removed { value: "y", last: true }));
        assert!(tree.is_empty() && tree.root.is_bare());
        assert_ne!(tree.generation(), generation);
    }
}
