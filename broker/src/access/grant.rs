//! What an admitted client may do, for as long as it is connected.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use nsd_wire::topic::{self, Shared};

use super::acl::{Acl, Wish};
use super::filter::{Bound, Name, Names, is_one_level};
use super::{Policy, TopicRule};

#[derive(Debug, Clone)]
pub struct Grant {
    user: Option<Box<str>>,
    rights: Rights,
    /// Of few: most are not bound in time.
    expires: Option<Box<Instant>>,
}

#[derive(Debug, Clone)]
enum Rights {
    /// All but the server's own topics.
    Everything,
    Rule(TopicRule),
    /// The rule and the file must both allow it. The file is the one of the moment, also for who is connected.
    File(Box<ByFile>),
    Lists(Arc<Lists>),
}

#[derive(Debug, Clone)]
struct ByFile {
    rule: TopicRule,
    acl: Arc<ArcSwap<Acl>>,
    names: Names,
}

/// Filters that came with the client's identity, in a token or from a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    publish: Vec<Box<str>>,
    subscribe: Vec<Box<str>>,
}

/// Filters one identity may bring.
const MOST_FILTERS: usize = 1000;

impl Lists {
    /// `None` where one of them is no filter, or there are too many.
    pub fn new(publish: Vec<Box<str>>, subscribe: Vec<Box<str>>) -> Option<Self> {
        let fine = |filters: &[Box<str>]| {
            filters.len() <= MOST_FILTERS && filters.iter().all(|filter| topic::valid_levels(filter))
        };
        (fine(&publish) && fine(&subscribe)).then_some(Self { publish, subscribe })
    }
}

impl Policy {
    /// What the topic rule gives this user, or somebody without a name.
    pub fn grant(&self, user: Option<&str>) -> Grant {
        Grant { user: user.map(Into::into), rights: Rights::Rule(self.topic_rule), expires: None }
    }
}

impl Grant {
    /// The user, or the device: sources of identity share one space of names.
    pub fn device(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// When the identity ends, and with it the connection.
    pub fn expires(&self) -> Option<Instant> {
        self.expires.as_deref().copied()
    }

    #[must_use]
    pub fn until(mut self, expires: Option<Instant>) -> Self {
        self.expires = expires.map(Box::new);
        self
    }

    /// What the rule gives is not enough: the file must allow it, too.
    #[must_use]
    pub fn within(mut self, acl: Arc<ArcSwap<Acl>>, client_id: &str) -> Self {
        if let Rights::Rule(rule) = self.rights {
            let names = Names { user: Name::new(self.user.as_deref()), client: Name::new(Some(client_id)) };
            self.rights = Rights::File(Box::new(ByFile { rule, acl, names }));
        }
        self
    }

    /// Who knows the client has said what it may: that counts instead of rule and file.
    #[must_use]
    pub fn with_lists(mut self, lists: Lists) -> Self {
        self.rights = Rights::Lists(Arc::new(lists));
        self
    }

    #[must_use]
    pub fn of_superuser(mut self) -> Self {
        self.rights = Rights::Everything;
        self
    }

    /// `$`-topics belong to the server: never writable, whoever asks. Allocates nothing.
    pub fn may_publish(&self, topic: &str) -> bool {
        if topic.starts_with('$') {
            return false;
        }
        match &self.rights {
            Rights::Everything => true,
            Rights::Rule(rule) => self.follows(*rule, topic),
            Rights::File(file) => {
                self.follows(file.rule, topic)
                    && file.acl.load().allows(self.device(), &file.names, Wish::Publish(topic))
            }
            Rights::Lists(lists) => lists.publish.iter().any(|filter| Bound::literal(filter).matches(topic)),
        }
    }

    /// A filter with a wildcard at the second level reaches other devices, so it is refused under the rule. With a file
    /// or lists, one permission must cover the filter.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let filter = Shared::parse(filter).map_or(filter, |shared| shared.filter);
        match &self.rights {
            Rights::Everything => true,
            Rights::Rule(rule) => self.follows(*rule, filter),
            Rights::File(file) => {
                self.follows(file.rule, filter)
                    && file.acl.load().allows(self.device(), &file.names, Wish::Subscribe(filter))
            }
            Rights::Lists(lists) => {
                lists.subscribe.iter().any(|allowed| Bound::literal(allowed).covers(filter))
            }
        }
    }

    /// A user who is called like a wildcard would be everybody.
    fn follows(&self, rule: TopicRule, topic: &str) -> bool {
        match (rule, self.device()) {
            (TopicRule::Open, _) => true,
            (TopicRule::SecondLevelIsDevice, None) => false,
            (TopicRule::SecondLevelIsDevice, Some(user)) => {
                topic.split('/').nth(1) == Some(user) && is_one_level(user) && !topic.starts_with('$')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(topic_rule: TopicRule) -> Policy {
        Policy { allow_anonymous: true, devices: true, topic_rule }
    }

    fn boxed(filters: &[&str]) -> Vec<Box<str>> {
        filters.iter().map(|filter| (*filter).into()).collect()
    }

    #[test]
    fn the_second_level_is_the_device() {
        let grant = policy(TopicRule::SecondLevelIsDevice).grant(Some("d1"));
        for (topic, allowed) in [
            ("devices/d1/x", true),
            ("devices/d1", true),
            ("devices/d2/x", false),
            ("d1", false),
            ("", false),
        ] {
            assert_eq!(grant.may_publish(topic), allowed, "{topic}");
        }
        for (filter, allowed) in [
            ("devices/d1/#", true),
            ("+/d1/x", true),
            ("devices/+/x", false),
            ("#", false),
            ("$share/g/devices/d1/x", true),
            ("$share/d1/devices/d2/x", false),
            ("$SYS/#", false),
            ("$SYS/d1/x", false),
        ] {
            assert_eq!(grant.may_subscribe(filter), allowed, "{filter}");
        }
        assert!(!policy(TopicRule::SecondLevelIsDevice).grant(None).may_publish("devices//x"));
    }

    #[test]
    fn a_user_called_like_a_wildcard_is_nobody_under_the_rule() {
        for name in ["+", "#", ""] {
            let grant = policy(TopicRule::SecondLevelIsDevice).grant(Some(name));
            for filter in ["devices/+/x", "devices/#", "devices//x"] {
                assert!(!grant.may_subscribe(filter), "{name} {filter}");
            }
            assert!(!grant.may_publish("devices//x"));
        }
    }

    #[test]
    fn the_servers_topics_are_never_writable() {
        let open = policy(TopicRule::Open).grant(None);
        let lists = Lists::new(boxed(&["#", "$SYS/#"]), boxed(&["#"])).unwrap();
        let acl = Acl::parse("topic readwrite #\ntopic readwrite $SYS/#\n").unwrap();
        let acl = Arc::new(ArcSwap::from_pointee(acl));
        for (grant, hears) in [
            (open.clone(), true),
            (open.clone().of_superuser(), true),
            (open.clone().with_lists(lists), false),
            (open.within(acl, "c"), true),
        ] {
            assert!(!grant.may_publish("$SYS/d1/x"), "{grant:?}");
            assert!(grant.may_publish("a/$SYS"), "{grant:?}");
            assert_eq!(grant.may_subscribe("$SYS/#"), hears, "{grant:?}");
            assert!(grant.may_subscribe("#"));
        }
    }

    #[test]
    fn rule_and_file_must_both_allow_it_and_a_new_file_counts_at_once() {
        let acl = Acl::parse("pattern read devices/%u/#\npattern write +/%u/up/%c").unwrap();
        let acl = Arc::new(ArcSwap::from_pointee(acl));
        let grant = policy(TopicRule::SecondLevelIsDevice).grant(Some("d1")).within(Arc::clone(&acl), "c1");
        assert!(grant.may_publish("a/d1/up/c1") && !grant.may_publish("a/d1/up/c2"));
        assert!(!grant.may_publish("a/d2/up/c1"));
        assert!(grant.may_subscribe("devices/d1/#") && !grant.may_subscribe("a/d1/#"));
        assert!(grant.may_subscribe("$share/g/devices/d1/#"));
        acl.store(Arc::new(Acl::parse("topic readwrite #\npattern readwrite x/%u").unwrap()));
        assert!(!grant.may_publish("a/d1/up/c1"));
        assert!(grant.may_publish("x/d1"));
    }

    #[test]
    fn lists_count_alone() {
        let lists = Lists::new(boxed(&["a/+"]), boxed(&["b/#"])).unwrap();
        let grant = policy(TopicRule::SecondLevelIsDevice).grant(Some("d1")).with_lists(lists);
        assert!(grant.may_publish("a/x") && !grant.may_publish("b/d1") && !grant.may_publish("a/x/y"));
        assert!(grant.may_subscribe("b/+") && !grant.may_subscribe("a/d1") && !grant.may_subscribe("#"));
        assert_eq!(grant.device(), Some("d1"));
        assert!(Lists::new(boxed(&["a/#/b"]), Vec::new()).is_none());
        assert!(Lists::new(Vec::new(), vec!["a".into(); MOST_FILTERS + 1]).is_none());
    }
}
