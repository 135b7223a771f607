//! Topic names and topic filters: what is valid, and what matches what (section 4.7 of both specifications).

use std::str::Split;

use crate::{
    bytes::has_any,
    error::DecodeError::{self, Malformed},
    reader::Reader,
};

/// The longest name or filter, because its length is two bytes.
pub const MAX_BYTES: usize = 65_535;

const SHARE: &str = "$share/";

/// What a server allows of what the specification does; the specification has no limit of levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
    pub levels: usize,
}

impl Limits {
    /// Whether a name or filter is within them. The part before the filter of a shared subscription counts too.
    pub fn allow(&self, topic: &str) -> bool {
        // Most topics are too short to have many levels.
        let many = topic.len() >= self.levels;
        topic.len() <= self.bytes
            && !(many && levels(topic).take(self.levels.saturating_add(1)).count() > self.levels)
    }
}

/// Whether a message can have this topic: not empty, no wildcard, no U+0000 [MQTT-4.7.1-1, 4.7.3-1, 4.7.3-2].
pub fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_BYTES && !has_any(name.as_bytes(), *b"+#\0")
}

/// Whether one can subscribe to this filter, shared subscriptions included.
pub fn valid_filter(filter: &str) -> bool {
    if Shared::is_shared(filter) { Shared::parse(filter).is_some() } else { valid_levels(filter) }
}

/// Whether the levels of a filter are right, whatever `$share` may mean: `#` is a level of its own and the last one,
/// `+` is a level of its own [MQTT-4.7.1-1, 4.7.1-2].
pub fn valid_levels(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > MAX_BYTES || has_any(filter.as_bytes(), *b"\0") {
        return false;
    }
    if !has_any(filter.as_bytes(), *b"+#") {
        return true;
    }
    let mut levels = levels(filter).peekable();
    while let Some(level) = levels.next() {
        let valid = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            _ => !has_any(level.as_bytes(), *b"+#"),
        };
        if !valid {
            return false;
        }
    }
    true
}

/// Whether a filter selects more than one topic.
pub fn has_wildcard(filter: &str) -> bool {
    has_any(filter.as_bytes(), *b"+#")
}

/// The levels of a name or filter. They may be empty, also the first and the last.
pub fn levels(topic: &str) -> Split<'_, char> {
    topic.split('/')
}

/// Whether a message of `topic` is for a subscriber of `filter`, both valid. Of a shared subscription take
/// [`Shared::filter`].
///
/// A wildcard in the first level does not match a topic that begins with `$` [MQTT-4.7.2-1].
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = levels(filter);
    let mut given = levels(topic);
    loop {
        match (wanted.next(), given.next()) {
            (Some("#"), _) => return true, // also the parent level itself: "a/#" matches "a"
            (Some("+"), Some(_)) => {}
            (Some(level), Some(other)) if level == other => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// A shared subscription: `$share/{group}/{filter}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shared<'a> {
    pub group: &'a str,
    pub filter: &'a str,
}

impl<'a> Shared<'a> {
    /// Whether a filter claims to be one.
    pub fn is_shared(filter: &str) -> bool {
        filter.starts_with(SHARE)
    }

    /// `None` if it is none, or not a valid one [MQTT-4.8.2-1, 4.8.2-2].
    pub fn parse(filter: &'a str) -> Option<Self> {
        if filter.len() > MAX_BYTES {
            return None;
        }
        let (group, filter) = filter.strip_prefix(SHARE)?.split_once('/')?;
        let valid = !group.is_empty() && !has_any(group.as_bytes(), *b"+#\0") && valid_levels(filter);
        valid.then_some(Self { group, filter })
    }
}

/// The topic of a PUBLISH in one pass: valid, or empty (a topic alias may stand for it).
#[inline]
pub(crate) fn read_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let bytes = reader.binary()?;
    let name = std::str::from_utf8(bytes).map_err(|_| Malformed("the topic is not UTF-8"))?;
    if has_any(name.as_bytes(), *b"+#\0") {
        Err(Malformed("the topic has a wildcard or U+0000"))
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "/", "a/", "/a", "a//b", "$SYS/x", "é/ü", " ", "a\u{1}b"] {
            assert!(valid_name(name), "{name:?}");
        }
        for name in ["", "a/+", "#", "a#", "+", "a\0b"] {
            assert!(!valid_name(name), "{name:?}");
        }
        assert!(valid_name(&"a".repeat(MAX_BYTES)));
        assert!(!valid_name(&"a".repeat(MAX_BYTES + 1)));
    }

    #[test]
    fn filters() {
        for filter in [
            "#",
            "+",
            "a/#",
            "+/#",
            "a/+/b",
            "/+",
            "/",
            "//#",
            "$SYS/#",
            "$share",
            "$share/g/a",
            "$share/g/#",
            "$share/g//",
        ] {
            assert!(valid_filter(filter), "{filter:?}");
        }
        for filter in [
            "",
            "a#",
            "a/#/b",
            "##",
            "#/",
            "a+",
            "+a",
            "a+/b",
            "a/b+",
            "++",
            "a\0",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/g+/a",
            "$share/#/a",
            "$share/g/a#",
            "$share/g\0/a",
        ] {
            assert!(!valid_filter(filter), "{filter:?}");
        }
        assert!(!valid_filter(&"a".repeat(MAX_BYTES + 1)));
        assert!(!valid_filter(&format!("$share/g/{}", "a".repeat(MAX_BYTES - 8))));
    }

    #[test]
    fn matching() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+", "finance"),
            ("$SYS/#", "$SYS/a"),
            ("$SYS/#", "$SYS"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("#", "é/x"),
            ("+/x", "é/x"),
            ("a//b", "a//b"),
            ("a/$b", "a/$b"),
            ("+/$b", "a/$b"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("+/#", "$SYS/a"),
            ("a", "A"),
            ("a", "a/"),
            ("a/", "a"),
            ("a/b/#", "a"),
            ("a/b", "a/b/c"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn shared_subscriptions() {
        assert_eq!(Shared::parse("$share/g/a/+"), Some(Shared { group: "g", filter: "a/+" }));
        assert_eq!(Shared::parse("$share/g//a"), Some(Shared { group: "g", filter: "/a" }));
        assert_eq!(Shared::parse("$shared/g/a"), None);
        assert_eq!(Shared::parse("a/b"), None);
    }

    #[test]
    fn limits() {
        let limits = Limits { bytes: 5, levels: 2 };
        assert!(limits.allow("aa/bb"));
        assert!(!limits.allow("aaa/bb"));
        assert!(!limits.allow("a/b/c"));
        assert!(!limits.allow("//"));
        assert!(Limits { bytes: usize::MAX, levels: usize::MAX }.allow("//"));
    }
}
