//! The ACL file, in Mosquitto's format: who may say and hear what.
//!
//! Denials count before permissions, wherever they stand. To publish, a permission must match the topic. To subscribe,
//! *one* permission must cover the whole filter and no denial may overlap with it: so a subscription never brings what
//! its client may not read, and deliveries need no check of their own.

use foldhash::HashMap;
use nsd_edge::config::Problem;
use nsd_edge::password::numbered;
use nsd_wire::topic;

use super::filter::{Bound, Name, Names};

/// Rules of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    anonymous: Vec<Rule>,
    users: HashMap<Box<str>, Vec<Rule>>,
    patterns: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    access: Access,
    filter: Box<str>,
    needs_user: bool,
    needs_client: bool,
}

/// Denials first, so that sorting puts them in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    Deny,
    Read,
    Write,
    ReadWrite,
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish<'w> {
    Publish(&'w str),
    /// Without a `$share/…/` in front.
    Subscribe(&'w str),
}

impl Acl {
    /// All lines that are wrong are told at once.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (mut acl, mut problems) = (Self::default(), Vec::new());
        let mut user: Option<Box<str>> = None;
        for (number, line) in numbered(text) {
            let (word, rest) = split_word(line);
            let outcome = match word {
                "user" if rest.is_empty() => Err("names no user".to_owned()),
                "user" => {
                    user = Some(rest.into());
                    acl.users.entry(rest.into()).or_default();
                    Ok(())
                }
                "topic" => rule(rest, false).map(|rule| match &user {
                    None => acl.anonymous.push(rule),
                    Some(user) => acl.users.entry(user.clone()).or_default().push(rule),
                }),
                "pattern" => rule(rest, true).map(|rule| acl.patterns.push(rule)),
                _ => Err(format!("`{word}` is none of topic, user, pattern")),
            };
            if let Err(what) = outcome {
                problems.push(Problem { line: number, what });
            }
        }
        acl.users.values_mut().chain([&mut acl.anonymous, &mut acl.patterns]).for_each(|rules| {
            rules.sort_by_key(|rule| rule.access);
        });
        if problems.is_empty() { Ok(acl) } else { Err(problems) }
    }

    /// `user` is the name whose rules count; the names in `names` fill placeholders.
    pub fn allows(&self, user: Option<&str>, names: &Names, wish: Wish<'_>) -> bool {
        let own = match user {
            None => Some(&self.anonymous),
            Some(user) => self.users.get(user),
        };
        let own = own.map_or(&[][..], Vec::as_slice).iter().map(|rule| (rule, Bound::literal(&rule.filter)));
        let mut allowed = false;
        for (rule, bound) in own {
            match rule.judge(bound, wish) {
                Some(false) => return false,
                verdict => allowed |= verdict.is_some(),
            }
        }
        for rule in &self.patterns {
            let verdict = match rule.applies_to(names) {
                Applies::Fully => rule.judge(Bound::pattern(&rule.filter, names), wish),
                Applies::NotAtAll => None,
                // Nobody escapes a denial by an odd name.
                Applies::Unsafely => (rule.access == Access::Deny).then_some(false),
            };
            match verdict {
                Some(false) => return false,
                verdict => allowed |= verdict.is_some(),
            }
        }
        allowed
    }
}

enum Applies {
    Fully,
    NotAtAll,
    Unsafely,
}

impl Rule {
    /// `None`: the rule says nothing about this wish.
    fn judge(&self, bound: Bound<'_>, wish: Wish<'_>) -> Option<bool> {
        match (wish, self.access) {
            (Wish::Publish(topic), Access::Deny) => bound.matches(topic).then_some(false),
            (Wish::Publish(topic), Access::Write | Access::ReadWrite) => bound.matches(topic).then_some(true),
            (Wish::Subscribe(filter), Access::Deny) => bound.overlaps(filter).then_some(false),
            (Wish::Subscribe(filter), Access::Read | Access::ReadWrite) => {
                bound.covers(filter).then_some(true)
            }
            (Wish::Publish(_), Access::Read) | (Wish::Subscribe(_), Access::Write) => None,
        }
    }

    fn applies_to(&self, names: &Names) -> Applies {
        let needed = [(self.needs_user, &names.user), (self.needs_client, &names.client)];
        let mut applies = Applies::Fully;
        for (_, name) in needed.into_iter().filter(|(needed, _)| *needed) {
            match name {
                Name::Missing => return Applies::NotAtAll,
                Name::Unsafe => applies = Applies::Unsafely,
                Name::Is(_) => {}
            }
        }
        applies
    }
}

fn rule(text: &str, is_pattern: bool) -> Result<Rule, String> {
    let (word, rest) = split_word(text);
    let access = match word {
        "read" => Some(Access::Read),
        "write" => Some(Access::Write),
        "readwrite" => Some(Access::ReadWrite),
        "deny" => Some(Access::Deny),
        _ => None,
    };
    let filter = match access {
        _ if text.is_empty() => return Err("names no topic".to_owned()),
        Some(_) if rest.is_empty() => return Err(format!("`{word}` is followed by no topic")),
        Some(_) => rest,
        // Mosquitto's reading, too: a topic with a space needs the access before it.
        None if !rest.is_empty() => {
            return Err(format!("`{word}` is none of read, write, readwrite, deny"));
        }
        None => text,
    };
    if topic::Shared::is_shared(filter) {
        return Err("rules are about topics: write the filter without `$share/…/`".to_owned());
    }
    if !topic::valid_levels(filter) {
        return Err(format!("`{filter}` is no valid topic filter"));
    }
    let needs = |placeholder: &str| is_pattern && filter.contains(placeholder);
    Ok(Rule {
        access: access.unwrap_or(Access::ReadWrite),
        filter: filter.into(),
        needs_user: needs("%u"),
        needs_client: needs("%c"),
    })
}

/// The first word and what comes after it, without the blanks around.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once([' ', '\t']) {
        Some((word, rest)) => (word, rest.trim()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
# Anonymous clients
topic read news/#

user anna
topic readwrite home/#
topic deny home/safe/#
topic read $SYS/#
topic write in box/x
topic plain

user bert
topic read #
topic deny secret/#

pattern readwrite devices/%u/#
pattern write status/%c
pattern deny devices/%u/firmware
";

    fn allowed(acl: &Acl, user: Option<&str>, client: &str, wish: Wish<'_>) -> bool {
        let names = Names { user: Name::new(user), client: Name::new(Some(client)) };
        acl.allows(user, &names, wish)
    }

    #[test]
    fn every_kind_of_line() {
        use Wish::{Publish, Subscribe};
        let acl = Acl::parse(FILE).unwrap();
        for (user, wish, expected) in [
            (None, Subscribe("news/today"), true),
            (None, Subscribe("news/#"), true),
            (None, Publish("news/today"), false),
            // Mosquitto's rule: what stands before the first `user` is for anonymous clients only.
            (Some("anna"), Subscribe("news/today"), false),
            (Some("anna"), Publish("home/x"), true),
            (Some("anna"), Publish("home/safe/x"), false),
            (Some("anna"), Publish("home/safe"), false),
            (Some("anna"), Subscribe("home/#"), false),
            (Some("anna"), Subscribe("home/+"), false),
            (Some("anna"), Subscribe("home/kitchen/#"), true),
            (Some("anna"), Subscribe("$SYS/#"), true),
            (Some("anna"), Publish("in box/x"), true),
            (Some("anna"), Subscribe("in box/x"), false),
            (Some("anna"), Publish("plain"), true),
            (Some("anna"), Subscribe("plain"), true),
            (Some("bert"), Subscribe("a/#"), true),
            (Some("bert"), Subscribe("#"), false),
            (Some("bert"), Subscribe("$SYS/#"), false),
            (Some("bert"), Publish("a"), false),
            (Some("carl"), Subscribe("a"), false),
            (Some("carl"), Publish("devices/carl/x"), true),
            (Some("carl"), Publish("devices/anna/x"), false),
            (Some("carl"), Publish("devices/carl/firmware"), false),
            (Some("carl"), Subscribe("devices/carl/#"), false),
            (Some("carl"), Subscribe("devices/carl/x"), true),
            (Some("carl"), Subscribe("devices/+/x"), false),
            (Some("carl"), Publish("status/c1"), true),
            (Some("carl"), Publish("status/c2"), false),
            // Without a user, the patterns with `%u` say nothing.
            (None, Publish("devices//x"), false),
            (None, Publish("status/c1"), true),
        ] {
            assert_eq!(allowed(&acl, user, "c1", wish), expected, "{user:?} {wish:?}");
        }
    }

    #[test]
    fn odd_names_widen_no_pattern_and_escape_no_denial() {
        use Wish::{Publish, Subscribe};
        let acl = Acl::parse("pattern readwrite %u/%c/#\npattern read all/%u\n").unwrap();
        for odd in ["+", "#", "a/b", "a/#", "$SYS", ""] {
            for wish in [
                Subscribe("+/+/#"),
                Subscribe("#"),
                Subscribe("all/+"),
                Subscribe("all/#"),
                Subscribe("$SYS/c/#"),
                Publish("a/b/c"),
                Publish("a/b/c/d"),
            ] {
                assert!(!allowed(&acl, Some(odd), "c", wish), "{odd} {wish:?}");
                assert!(!allowed(&acl, Some("u"), odd, wish), "{odd} {wish:?}");
            }
        }
        let acl = Acl::parse("pattern readwrite #\npattern deny secret/%c\n").unwrap();
        assert!(allowed(&acl, Some("u"), "c", Publish("secret/x")));
        assert!(!allowed(&acl, Some("u"), "c", Publish("secret/c")));
        assert!(!allowed(&acl, Some("u"), "c/d", Publish("secret/x")));
    }

    #[test]
    fn wrong_lines_are_told_by_number() {
        let text = "user\ntopic\ntopic read\ntopic wirte a/b\ntopic read a/#/b\npatern x\n# fine\n\ntopic read $share/g/a\n";
        let told: Vec<_> = Acl::parse(text).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "1: names no user",
                "2: names no topic",
                "3: `read` is followed by no topic",
                "4: `wirte` is none of read, write, readwrite, deny",
                "5: `a/#/b` is no valid topic filter",
                "6: `patern` is none of topic, user, pattern",
                "9: rules are about topics: write the filter without `$share/…/`",
            ]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*", odd in ".{0,80}") {
            let _ = Acl::parse(&text);
            let _ = Acl::parse(&odd);
        }

        #[test]
        fn no_likely_text_makes_the_parser_or_its_rules_panic(
            lines in prop::collection::vec("(topic|user|pattern|#)?[ \t]{0,2}(read|write|readwrite|deny)?[ ]?[%uc/+#$é]{0,6}", 0..8),
            user in "[%uc/+#$é]{0,4}",
            wish in "[%uc/+#$é]{0,6}",
        ) {
            if let Ok(acl) = Acl::parse(&lines.join("\n")) {
                let _ = allowed(&acl, Some(&user), &user, Wish::Publish(&wish));
                let _ = allowed(&acl, None, &user, Wish::Subscribe(&wish));
            }
        }
    }
}
