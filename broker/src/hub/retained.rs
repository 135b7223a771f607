//! Retained messages of this node's memory: the truth with the memory store, a mirror of Redis in a cluster.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::{HashMap, HashMapExt};
use nsd_wire::topic;

use crate::message::Message;

#[derive(Debug)]
pub struct Retained {
    /// Sorted, so that the part of a filter before its first wildcard narrows the search.
    by_topic: BTreeMap<Box<str>, Arc<Kept>>,
    /// Of topics whose message is not stored yet.
    unsure: HashMap<Box<str>, Unsure>,
    /// How many topics are taken, and how many bytes.
    most: usize,
    most_bytes: usize,
    /// How many of them are the broker's own (`$SYS`).
    own: usize,
    bytes: usize,
}

#[derive(Debug)]
pub struct Kept {
    pub message: Arc<Message>,
    pub since: SystemTime,
}

#[derive(Debug)]
struct Unsure {
    /// What the store has.
    stored: Option<Arc<Kept>>,
    /// How many messages have no answer yet.
    open: usize,
}

impl Kept {
    /// Seconds that it has waited; `None` once it has expired.
    pub fn waited(&self, now: SystemTime) -> Option<u32> {
        let waited = now.duration_since(self.since).unwrap_or_default();
        let expiry = self.message.publish().properties.message_expiry;
        let alive = expiry.is_none_or(|seconds| waited < Duration::from_secs(seconds.into()));
        alive.then(|| u32::try_from(waited.as_secs()).unwrap_or(u32::MAX))
    }
}

impl Retained {
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { by_topic: BTreeMap::new(), unsure: HashMap::new(), most, most_bytes, bytes: 0, own: 0 }
    }

    /// How much is taken from now on; what is there stays.
    pub fn allow(&mut self, most: usize, most_bytes: usize) {
        (self.most, self.most_bytes) = (most, most_bytes);
    }

    /// Without the broker's own.
    pub fn len(&self) -> usize {
        self.by_topic.len() - self.own
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest message of a topic; an empty payload removes it (MQTT-3.3.1-10). `false`: there are too many, and the
    /// one before stays.
    pub fn set(&mut self, message: Arc<Message>, since: SystemTime) -> bool {
        let publish = message.publish();
        if publish.topic.starts_with('$') {
            self.set_own(&message, since);
            return true;
        }
        let before = self.by_topic.get(publish.topic).map(|kept| weight(&kept.message));
        if publish.payload.is_empty() {
            self.by_topic.remove(publish.topic);
            self.bytes -= before.unwrap_or_default();
            return true;
        }
        let bytes = self.bytes - before.unwrap_or_default() + weight(&message);
        if (before.is_none() && self.len() >= self.most) || bytes > self.most_bytes {
            return false;
        }
        self.bytes = bytes;
        let topic = publish.topic.into();
        self.by_topic.insert(topic, Arc::new(Kept { message, since }));
        true
    }

    /// The same, until [`Self::settle`] tells whether it is stored.
    pub fn set_unsure(&mut self, message: Arc<Message>, since: SystemTime) -> bool {
        let topic = Box::from(message.publish().topic);
        let before = self.by_topic.get(&topic).cloned();
        let set = self.set(message, since);
        if set {
            self.unsure.entry(topic).or_insert(Unsure { stored: before, open: 0 }).open += 1;
        }
        set
    }

    /// So many messages for a topic have their answer: what was tried is stored, or is refused and has no effect. Then
    /// what the store has is back, unless there are later messages, whose own answer comes.
    pub fn settle(&mut self, topic: &str, answered: usize, tried: Option<Arc<Kept>>, stored: bool) {
        let Some(unsure) = self.unsure.get_mut(topic) else { return };
        unsure.open = unsure.open.saturating_sub(answered);
        if stored {
            unsure.stored = tried;
        }
        if unsure.open == 0
            && let Some(unsure) = self.unsure.remove(topic)
            && !stored
        {
            self.put_back(topic, unsure.stored);
        }
    }

    fn put_back(&mut self, topic: &str, kept: Option<Arc<Kept>>) {
        let bytes = |kept: &Arc<Kept>| weight(&kept.message);
        self.bytes += kept.as_ref().map_or(0, bytes);
        let now = match kept {
            Some(kept) => self.by_topic.insert(topic.into(), kept),
            None => self.by_topic.remove(topic),
        };
        self.bytes -= now.as_ref().map_or(0, bytes);
    }

    /// The broker's own topics: few, and no part of what clients may keep here.
    fn set_own(&mut self, message: &Arc<Message>, since: SystemTime) {
        let publish = message.publish();
        let before = if publish.payload.is_empty() {
            self.by_topic.remove(publish.topic)
        } else {
            self.own += 1;
            let kept = Arc::new(Kept { message: Arc::clone(message), since });
            self.by_topic.insert(publish.topic.into(), kept)
        };
        self.own -= usize::from(before.is_some());
    }

    pub fn get(&self, topic: &str) -> Option<&Arc<Kept>> {
        self.by_topic.get(topic)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Kept>> {
        self.by_topic.values()
    }

    /// A part of what a new subscription to `filter` gets: of the topics behind `after`, at most `most` are looked at.
    /// Also the topic to go on behind; `None`: that was all.
    pub fn slice(
        &self,
        filter: &str,
        after: Option<&str>,
        most: usize,
    ) -> (Vec<Arc<Kept>>, Option<Box<str>>) {
        if !topic::has_wildcard(filter) {
            return (self.by_topic.get(filter).cloned().into_iter().collect(), None);
        }
        let wild = filter.find(['+', '#']).unwrap_or(filter.len());
        // `a/#` matches `a` too, which sorts before `a/`.
        let prefix =
            filter[..wild].strip_suffix('/').filter(|_| filter.ends_with('#')).unwrap_or(&filter[..wild]);
        let from = (after.map_or(Bound::Included(prefix), Bound::Excluded), Bound::Unbounded);
        let ahead = self.by_topic.range::<str, _>(from).take_while(|(topic, _)| topic.starts_with(prefix));
        let looked_at: Vec<_> = ahead.take(most).collect();
        let last = looked_at.last().filter(|_| looked_at.len() == most).map(|(topic, _)| (*topic).clone());
        let matching = looked_at.into_iter().filter(|(topic, _)| topic::matches(filter, topic));
        (matching.map(|(_, kept)| Arc::clone(kept)).collect(), last)
    }
}

/// A message, its topic again as the key, and what holds them.
fn weight(message: &Message) -> usize {
    const HOLD: usize = 160;
    message.bytes().len() + message.publish().topic.len() + HOLD
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsd_wire::Publish;

    fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
        Arc::new(Message::new(&Publish::new(topic, payload)).unwrap())
    }

    #[test]
    fn the_newest_of_each_topic_by_filter() {
        let now = SystemTime::now();
        let mut retained = Retained::new(10, usize::MAX);
        for topic in ["a", "a/b", "a/b/c", "ab/c", "$SYS/a", "b"] {
            assert!(retained.set(message(topic, b"1"), now));
        }
        let found = |retained: &Retained, filter: &str| -> Vec<String> {
            let (mut topics, mut after) = (Vec::new(), None);
            loop {
                let (found, last) = retained.slice(filter, after.as_deref(), 2);
                topics.extend(found.iter().map(|kept| kept.message.publish().topic.to_owned()));
                if last.is_none() {
                    return topics;
                }
                after = last;
            }
        };
        assert_eq!(found(&retained, "a/#"), ["a", "a/b", "a/b/c"]);
        assert_eq!(found(&retained, "a/+"), ["a/b"]);
        assert_eq!(found(&retained, "+/c"), ["ab/c"]);
        assert_eq!(found(&retained, "#").len(), 5);
        assert_eq!(found(&retained, "b"), ["b"]);
        assert_eq!(found(&retained, "$SYS/#"), ["$SYS/a"]);
        retained.set(message("a/b", b""), now);
        assert_eq!(found(&retained, "a/#"), ["a", "a/b/c"]);
    }

    #[test]
    fn too_much_is_refused_and_what_goes_makes_room() {
        let now = SystemTime::now();
        let one = weight(&message("a", &[b'x'; 1000]));
        let mut retained = Retained::new(10, 3 * one);
        for topic in ["a", "b", "c"] {
            assert!(retained.set(message(topic, &[b'x'; 1000]), now));
        }
        assert!(!retained.set(message("d", b"x"), now));
        assert!(!retained.set(message("a", &[b'x'; 1001]), now), "not for who is there either");
        assert!(retained.set(message("a", b"smaller"), now) && retained.set(message("b", b""), now));
        assert!(retained.set(message("d", &[b'x'; 1000]), now));
        for topic in ["a", "c", "d", "never"] {
            retained.set(message(topic, b""), now);
        }
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
    }

    #[test]
    fn what_is_refused_has_no_effect() {
        let now = SystemTime::now();
        let mut retained = Retained::new(10, usize::MAX);
        let shown =
            |retained: &Retained| retained.get("t").map(|kept| kept.message.publish().payload.to_vec());
        let say = |retained: &mut Retained, payload: &[u8]| {
            assert!(retained.set_unsure(message("t", payload), now));
            retained.get("t").cloned()
        };
        let first = say(&mut retained, b"first");
        retained.settle("t", 1, first, true);
        let bytes = retained.bytes();
        // One after the other, while the first of them is being stored.
        let second = say(&mut retained, b"second one");
        let third = say(&mut retained, b"third");
        retained.settle("t", 1, second, false);
        assert_eq!(shown(&retained).as_deref(), Some(&b"third"[..]), "its own answer is not there yet");
        retained.settle("t", 1, third, false);
        assert_eq!((shown(&retained).as_deref(), retained.bytes()), (Some(&b"first"[..]), bytes));
        let second = say(&mut retained, b"second");
        let gone = say(&mut retained, b"");
        retained.settle("t", 1, second, true);
        retained.settle("t", 1, gone, false);
        assert_eq!(shown(&retained).as_deref(), Some(&b"second"[..]));
        let gone = say(&mut retained, b"");
        retained.settle("t", 1, gone, true);
        assert_eq!((shown(&retained), retained.bytes(), retained.unsure.len()), (None, 0, 0));
        let new = say(&mut retained, b"new");
        retained.settle("t", 1, new, false);
        assert_eq!((shown(&retained), retained.bytes()), (None, 0));
        // The second was there before the writer looked what there is, and was said after it had begun.
        say(&mut retained, b"first");
        let second = say(&mut retained, b"second");
        retained.settle("t", 1, second.clone(), false);
        assert_eq!(shown(&retained).as_deref(), Some(&b"second"[..]), "it is refused with the first");
        retained.settle("t", 1, second, true);
        assert_eq!((shown(&retained).as_deref(), retained.unsure.len()), (Some(&b"second"[..]), 0));
    }

    #[test]
    fn expired_ones_are_over() {
        let mut publish = Publish::new("a", b"x");
        publish.properties.message_expiry = Some(10);
        let since = SystemTime::now();
        let kept = Kept { message: Arc::new(Message::new(&publish).unwrap()), since };
        assert_eq!(kept.waited(since + Duration::from_secs(9)), Some(9));
        assert_eq!(kept.waited(since + Duration::from_secs(10)), None);
    }
}
