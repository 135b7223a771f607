//! Filters as permissions: what a filter allows of topics and of other filters, level by level and without allocating.
//! In the filters of patterns, `%u` and `%c` stand for the client's own names.

/// A client's own name, as far as it may stand in for a placeholder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Name {
    #[default]
    Missing,
    /// It would reach more than one level, or the server's own topics.
    Unsafe,
    Is(Box<str>),
}

impl Name {
    pub fn new(name: Option<&str>) -> Self {
        match name {
            None => Self::Missing,
            Some(name) if is_one_level(name) => Self::Is(name.into()),
            Some(_) => Self::Unsafe,
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Is(name) => name,
            // Placeholders of such names are never looked at: their rules do not apply.
            Self::Missing | Self::Unsafe => "",
        }
    }
}

/// Whether a name is one ordinary level of a topic: no wildcard, no separator, and not the beginning of a `$` topic.
pub(super) fn is_one_level(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('$') && !name.contains(['+', '#', '/', '\0'])
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub user: Name,
    pub client: Name,
}

/// A filter with its placeholders filled in, or taken literally where there are no names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a> {
    filter: &'a str,
    names: Option<&'a Names>,
}

impl<'a> Bound<'a> {
    pub(super) fn literal(filter: &'a str) -> Self {
        Self { filter, names: None }
    }

    pub(super) fn pattern(filter: &'a str, names: &'a Names) -> Self {
        Self { filter, names: Some(names) }
    }

    /// Whether the filter matches this topic.
    pub(super) fn matches(self, topic: &str) -> bool {
        if self.begins_with_wildcard() && topic.starts_with('$') {
            return false; // [MQTT-4.7.2-1]
        }
        let (mut ours, mut theirs) = (self.filter.split('/'), topic.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(ours), Some(theirs)) if self.same(ours, theirs) => {}
                _ => return false,
            }
        }
    }

    /// Whether every topic that `wanted` matches is matched by this filter, too.
    pub(super) fn covers(self, wanted: &str) -> bool {
        if self.begins_with_wildcard() && wanted.starts_with('$') {
            return false;
        }
        let (mut ours, mut theirs) = (self.filter.split('/'), wanted.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (Some("#"), _) | (None, None) => return true,
                (_, Some("#")) => return false,
                (Some("+"), Some(_)) => {}
                (Some(ours), Some(theirs)) if theirs != "+" && self.same(ours, theirs) => {}
                _ => return false,
            }
        }
    }

    /// Whether there is a topic that both match.
    pub(super) fn overlaps(self, wanted: &str) -> bool {
        let hidden = |filter: &str, other: &str| filter.starts_with(['+', '#']) && other.starts_with('$');
        if hidden(self.filter, wanted) || hidden(wanted, self.filter) {
            return false;
        }
        let (mut ours, mut theirs) = (self.filter.split('/'), wanted.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(ours), Some(theirs)) if self.same(ours, theirs) => {}
                _ => return false,
            }
        }
    }

    fn begins_with_wildcard(self) -> bool {
        self.filter.starts_with(['+', '#'])
    }

    /// Whether a level of the filter, which is no wildcard, is this level. Names are literal, so there is one way only
    /// to read each side.
    fn same(self, ours: &str, theirs: &str) -> bool {
        let Some(names) = self.names else { return ours == theirs };
        let (mut ours, mut theirs) = (ours, theirs);
        loop {
            let Some(at) = placeholder(ours) else { return ours == theirs };
            let name = if ours[at..].starts_with("%u") { &names.user } else { &names.client };
            let rest = theirs.strip_prefix(&ours[..at]).and_then(|rest| rest.strip_prefix(name.as_str()));
            let Some(rest) = rest else { return false };
            (ours, theirs) = (&ours[at + 2..], rest);
        }
    }
}

/// Where the first placeholder begins.
fn placeholder(level: &str) -> Option<usize> {
    let found = level.match_indices('%').find(|(at, _)| level[at + 1..].starts_with(['u', 'c']));
    found.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use nsd_wire::topic;
    use proptest::prelude::*;

    use super::*;

    fn names(user: &str, client: &str) -> Names {
        Names { user: Name::new(Some(user)), client: Name::new(Some(client)) }
    }

    #[test]
    fn names_that_are_more_than_a_level_are_unsafe() {
        for name in ["", "+", "#", "a/b", "a+", "/", "$SYS", "a\0"] {
            assert_eq!(Name::new(Some(name)), Name::Unsafe, "{name:?}");
        }
        for name in ["a", "é", "a b", "a$", "%u"] {
            assert_eq!(Name::new(Some(name)), Name::Is(name.into()), "{name:?}");
        }
        assert_eq!(Name::new(None), Name::Missing);
    }

    #[test]
    fn placeholders_are_filled_in_within_levels() {
        let names = names("anna", "c1");
        for (pattern, topic, matches) in [
            ("d/%u/#", "d/anna/x", true),
            ("d/%u/#", "d/bert/x", false),
            ("d/%c", "d/c1", true),
            ("d/x-%u-%c-y", "d/x-anna-c1-y", true),
            ("d/x-%u-%c-y", "d/x-anna-c1-", false),
            ("d/%u%c", "d/annac1", true),
            ("d/%%u", "d/%anna", true),
            ("d/100%", "d/100%", true),
            ("d/%x", "d/%x", true),
            ("d/%u", "d/%u", false),
            ("%u", "anna", true),
        ] {
            assert_eq!(Bound::pattern(pattern, &names).matches(topic), matches, "{pattern} {topic}");
        }
        // A name that looks like a placeholder is a name.
        let odd = self::names("%c", "c1");
        assert!(Bound::pattern("d/%u", &odd).matches("d/%c"));
        assert!(!Bound::pattern("d/%u", &odd).matches("d/c1"));
        assert!(Bound::literal("d/%u").matches("d/%u"));
    }

    #[test]
    fn covering() {
        for (allowed, wanted, covers) in [
            ("#", "a/b", true),
            ("#", "+/+", true),
            ("#", "#", true),
            ("#", "$SYS/#", false),
            ("+/#", "$SYS/x", false),
            ("$SYS/#", "$SYS/#", true),
            ("$SYS/#", "#", false),
            ("a/#", "a", true),
            ("a/#", "a/+/c", true),
            ("a/#", "+/b", false),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/+", "a/b/c", false),
            ("a/+/#", "a/#", false),
            ("a/+/#", "a/+", true),
            ("a/b", "a/+", false),
            ("a/b", "a/#", false),
            ("a/b", "a/b", true),
            ("a", "a/#", false),
        ] {
            assert_eq!(Bound::literal(allowed).covers(wanted), covers, "{allowed} {wanted}");
        }
    }

    #[test]
    fn overlapping() {
        for (denied, wanted, overlaps) in [
            ("a/secret/#", "#", true),
            ("a/secret/#", "a/+", true),
            ("a/secret/#", "a/secret", true),
            ("a/secret/#", "a", false),
            ("a/secret", "a/+/x", false),
            ("+/b", "a/+", true),
            ("$SYS/#", "#", false),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/+", false),
            ("a/b", "a/c", false),
        ] {
            assert_eq!(Bound::literal(denied).overlaps(wanted), overlaps, "{denied} {wanted}");
        }
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", "a", "b", "$a", "+"])
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(level(), 1..4), any::<bool>()).prop_map(|(levels, all)| {
            let filter = levels.join("/");
            if all { format!("{filter}/#") } else { filter }
        })
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["", "a", "b", "$a"]), 1..5)
            .prop_map(|levels| levels.join("/"))
    }

    proptest! {
        /// The laws that permissions rest on, against the wire crate's matching.
        #[test]
        fn covering_and_overlapping_agree_with_matching(one in filter(), other in filter(), topic in name()) {
            let bound = Bound::literal(&one);
            let (mine, theirs) = (topic::matches(&one, &topic), topic::matches(&other, &topic));
            prop_assert_eq!(bound.matches(&topic), mine);
            if bound.covers(&other) && theirs {
                prop_assert!(mine, "{} covers {}, but not {}", one, other, topic);
            }
            if mine && theirs {
                prop_assert!(bound.overlaps(&other), "{} and {} share {}", one, other, topic);
            }
            if bound.covers(&other) {
                prop_assert!(bound.overlaps(&other));
            }
        }
    }
}
