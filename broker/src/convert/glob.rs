//! Mosca's globs (`minimatch`) → MQTT filters, where both mean the same.

/// Whom a glob is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// It is compared with topics.
    Publish,
    /// It is compared with the text of filters, so `+` and `#` in it are meant as they are.
    Subscribe,
}

/// The filter that covers what the glob covers; the error says why there is none.
pub(super) fn filter(glob: &str, side: Side) -> Result<String, &'static str> {
    if glob.starts_with('#') && glob != "#" {
        return Err("begins with `#`, which Mosca reads as a comment: it matched nothing");
    }
    if glob.starts_with('!') {
        return Err("says what is not meant (`!`)");
    }
    let levels: Vec<&str> = glob.split('/').collect();
    let last = levels.len() - 1;
    let mut filter = Vec::with_capacity(levels.len());
    for (index, level) in levels.into_iter().enumerate() {
        filter.push(match level {
            "**" if index == last => "#",
            "**" => return Err("has `**` before its end"),
            "*" => "+",
            "+" | "#" if side == Side::Subscribe => level,
            _ if level.contains(['*', '?', '[', ']', '{', '}', '(', ')', '\\']) => {
                return Err("has a wildcard that is not a whole level");
            }
            _ if level.contains(['+', '#', '\0']) => return Err("has a character that no topic has"),
            _ => level,
        });
    }
    let filter = filter.join("/");
    // A rule's line ends where its text ends: blanks around would be lost.
    if filter.trim() != filter || filter.contains(['\n', '\r']) {
        return Err("begins or ends with blanks, or has lines");
    }
    if nsd_wire::topic::valid_levels(&filter) { Ok(filter) } else { Err("is no valid filter") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same() {
        for (glob, expected) in [
            ("**", "#"),
            ("*", "+"),
            ("hello/*", "hello/+"),
            ("hello/**", "hello/#"),
            ("hello/*/world", "hello/+/world"),
            ("/a b/c", "/a b/c"),
            ("a.b/-c", "a.b/-c"),
        ] {
            assert_eq!(filter(glob, Side::Publish).as_deref(), Ok(expected), "{glob}");
        }
        assert_eq!(filter("a/+/#", Side::Subscribe).as_deref(), Ok("a/+/#"));
    }

    #[test]
    fn what_does_not_is_never_widened() {
        for glob in [
            "a*", "a/?", "{a,b}/**", "a/**/b", "!a", "#a", "[ab]", "a/+(b)", "a/+", "#", "a\\*", " a",
            "a\nb", "",
        ] {
            assert!(filter(glob, Side::Publish).is_err(), "{glob}");
        }
        for glob in ["a/#/b", "a+", "a/b#"] {
            assert!(filter(glob, Side::Subscribe).is_err(), "{glob}");
        }
    }
}
