//! Topic aliases toward one v5 client: a topic that is sent often costs two bytes.

use std::num::NonZeroU16;

use foldhash::{HashMap, HashMapExt};
use nsd_wire::Alias;

/// An alias costs three bytes in each packet, and its topic once more in memory.
const WORTH_IT: usize = 8;

/// The first topics that come get one; an alias is never given to another topic, so that a topic that is seldom sent
/// does not take it from one that is sent often.
#[derive(Debug)]
pub(super) struct Aliases {
    by_topic: HashMap<Box<str>, NonZeroU16>,
    most: u16,
}

impl Aliases {
    /// `None` for a client that takes none, which most are.
    pub(super) fn new(most: u16) -> Option<Self> {
        (most > 0).then(|| Self { by_topic: HashMap::new(), most })
    }

    pub(super) fn of(&mut self, topic: &str) -> Option<Alias> {
        if topic.len() < WORTH_IT {
            return None;
        }
        if let Some(number) = self.by_topic.get(topic) {
            return Some(Alias::Use(*number));
        }
        let number = u16::try_from(self.by_topic.len() + 1).ok().filter(|number| *number <= self.most)?;
        let number = NonZeroU16::new(number)?;
        self.by_topic.insert(topic.into(), number);
        Some(Alias::Set(number))
    }

    /// The packet that would have told the client was not written.
    pub(super) fn unset(&mut self, alias: Option<Alias>) {
        if let Some(Alias::Set(number)) = alias {
            self.by_topic.retain(|_, known| *known != number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_topics_get_one_and_keep_it() {
        assert!(Aliases::new(0).is_none());
        let mut aliases = Aliases::new(2).unwrap();
        let number = |number| NonZeroU16::new(number).unwrap();
        assert_eq!(aliases.of("short"), None);
        assert_eq!(aliases.of("devices/1/x"), Some(Alias::Set(number(1))));
        assert_eq!(aliases.of("devices/1/x"), Some(Alias::Use(number(1))));
        assert_eq!(aliases.of("devices/2/x"), Some(Alias::Set(number(2))));
        assert_eq!(aliases.of("devices/3/x"), None);
        aliases.unset(Some(Alias::Set(number(2))));
        assert_eq!(aliases.of("devices/3/x"), Some(Alias::Set(number(2))));
    }
}
