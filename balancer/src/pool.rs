//! PURE. The servers of a backend, and what a new list of them changes: the first start and every reload are the same
//! path. Generic over what is kept for a server at run time, so that nothing here can reach a socket.

use std::fmt;
use std::sync::Arc;

use crate::settings::ServerSettings;

#[derive(Debug)]
pub struct Pool<M> {
    /// In the settings' order.
    pub members: Vec<Entry<M>>,
    /// No longer in the settings, with sessions still there when last looked at.
    pub leaving: Vec<Entry<M>>,
}

#[derive(Debug)]
pub struct Entry<M> {
    pub settings: ServerSettings,
    pub member: Arc<M>,
}

impl<M> Clone for Entry<M> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), member: Arc::clone(&self.member) }
    }
}

impl<M> Default for Pool<M> {
    fn default() -> Self {
        Self { members: Vec::new(), leaving: Vec::new() }
    }
}

/// One difference between two lists of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<E> {
    Joined(E),
    /// Was leaving, and is wanted again.
    Returned(E),
    /// The same server, used in another way.
    Settings {
        entry: E,
        from: ServerSettings,
    },
    Left(E),
}

pub type Changes<M> = Vec<Change<Entry<M>>>;

impl<M> Pool<M> {
    /// The pool with exactly the `wanted` servers, and how it differs. A server is the same one as before if name and
    /// address are; its member, with sessions, health and counts, is then kept.
    pub fn replace(
        &self,
        wanted: &[ServerSettings],
        mut make: impl FnMut(&ServerSettings) -> M,
        has_sessions: impl Fn(&M) -> bool,
    ) -> (Self, Changes<M>) {
        let mut changes = Vec::new();
        let mut members = Vec::with_capacity(wanted.len());
        for settings in wanted {
            let entry = |member: &Arc<M>| Entry { settings: settings.clone(), member: Arc::clone(member) };
            if let Some(kept) = find(&self.members, settings) {
                members.push(entry(&kept.member));
                if kept.settings != *settings {
                    changes
                        .push(Change::Settings { entry: entry(&kept.member), from: kept.settings.clone() });
                }
            } else if let Some(leaving) = find(&self.leaving, settings) {
                members.push(entry(&leaving.member));
                changes.push(Change::Returned(entry(&leaving.member)));
            } else {
                let joined = entry(&Arc::new(make(settings)));
                members.push(joined.clone());
                changes.push(Change::Joined(joined));
            }
        }
        let unwanted = |entry: &&Entry<M>| find(&members, &entry.settings).is_none();
        let left: Vec<Entry<M>> = self.members.iter().filter(unwanted).cloned().collect();
        changes.extend(left.iter().cloned().map(Change::Left));
        let still_leaving = self.leaving.iter().filter(unwanted).cloned();
        let leaving = still_leaving.chain(left).filter(|entry| has_sessions(&entry.member)).collect();
        (Self { members, leaving }, changes)
    }
}

fn find<'e, M>(entries: &'e [Entry<M>], wanted: &ServerSettings) -> Option<&'e Entry<M>> {
    let same =
        |entry: &&Entry<M>| entry.settings.name == wanted.name && entry.settings.address == wanted.address;
    entries.iter().find(same)
}

/// `+mqtt-3`, `~mqtt-1 weight 1 → 2`, `-mqtt-2`.
impl<M> fmt::Display for Change<Entry<M>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(entry) | Self::Returned(entry) => write!(f, "+{}", entry.settings.name),
            Self::Settings { entry: Entry { settings, .. }, from } => {
                write!(f, "~{}", settings.name)?;
                if from.weight != settings.weight {
                    write!(f, " weight {} → {}", from.weight, settings.weight)?;
                }
                if from.max_sessions != settings.max_sessions {
                    let [from, to] = [from, settings].map(|settings| match settings.max_sessions {
                        u32::MAX => "none".to_owned(),
                        most => most.to_string(),
                    });
                    write!(f, " max_sessions {from} → {to}")?;
                }
                if from.backup != settings.backup {
                    write!(f, " backup {} → {}", from.backup, settings.backup)?;
                }
                Ok(())
            }
            Self::Left(entry) => write!(f, "-{}", entry.settings.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Address;

    fn server(name: &str, port: u16, weight: u32) -> ServerSettings {
        ServerSettings {
            name: name.to_owned(),
            address: Address::Fixed(([127, 0, 0, 1], port).into()),
            weight,
            max_sessions: 9,
            backup: false,
        }
    }

    fn plan<M>(changes: &Changes<M>) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    /// A member that only knows its number of sessions.
    fn replaced(pool: &Pool<u32>, wanted: &[ServerSettings]) -> (Pool<u32>, Vec<String>) {
        let (pool, changes) = pool.replace(wanted, |_| 0, |sessions| *sessions > 0);
        (pool, plan(&changes))
    }

    #[test]
    fn the_plan_names_each_difference() {
        let (pool, first) =
            replaced(&Pool::default(), &[server("a", 1, 1), server("b", 2, 1), server("d", 4, 1)]);
        assert_eq!(first, ["+a", "+b", "+d"]);
        let (next, plan) = replaced(&pool, &[server("c", 3, 1), server("b", 2, 5), server("d", 9, 1)]);
        assert_eq!(plan, ["+c", "~b weight 1 → 5", "+d", "-a", "-d"], "another address is another server");
        assert!(Arc::ptr_eq(&pool.members[1].member, &next.members[1].member));
        let mut wanted: Vec<_> = next.members.iter().map(|entry| entry.settings.clone()).collect();
        (wanted[0].max_sessions, wanted[0].backup) = (u32::MAX, true);
        assert_eq!(replaced(&next, &wanted).1, ["~c max_sessions 9 → none backup false → true"]);
        let same: Vec<_> = next.members.iter().map(|entry| entry.settings.clone()).collect();
        assert_eq!(replaced(&next, &same).1, Vec::<String>::new());
    }

    #[test]
    fn who_leaves_with_sessions_returns_with_them() {
        let (pool, _) = Pool::default().replace(&[server("a", 1, 1), server("b", 2, 1)], |_| 7, |_| true);
        let (pool, _) = pool.replace(&[server("b", 2, 1)], |_| 0, |sessions| *sessions > 0);
        assert_eq!(pool.leaving.len(), 1);
        let (back, changes) =
            pool.replace(&[server("b", 2, 1), server("a", 1, 1)], |_| 0, |sessions| *sessions > 0);
        assert!(matches!(&changes[..], [Change::Returned(entry)] if *entry.member == 7));
        assert!(back.leaving.is_empty());
    }

    fn any_servers() -> impl Strategy<Value = Vec<ServerSettings>> {
        prop::collection::btree_map(0..8u16, 1..4u32, 0..8).prop_map(|servers| {
            servers.into_iter().map(|(id, weight)| server(&format!("s{id}"), id + 1, weight)).collect()
        })
    }

    proptest! {
        #[test]
        fn any_list_is_reached_from_any_other(lists in prop::collection::vec(any_servers(), 1..6)) {
            let mut pool = Pool::<u32>::default();
            for wanted in lists {
                let before = pool.members.len();
                let (next, changes) = pool.replace(&wanted, |_| 1, |_| true);
                let now: Vec<_> = next.members.iter().map(|entry| entry.settings.clone()).collect();
                prop_assert_eq!(&now, &wanted);
                let count = |wanted: fn(&Change<Entry<u32>>) -> bool| changes.iter().filter(|c| wanted(c)).count();
                let came = count(|c| matches!(c, Change::Joined(_) | Change::Returned(_)));
                let left = count(|c| matches!(c, Change::Left(_)));
                prop_assert_eq!(before + came - left, wanted.len());
                let listed = |entry: &Entry<u32>| find(&next.members, &entry.settings).is_some();
                prop_assert!(!next.leaving.iter().any(listed), "never in both lists");
                pool = next;
            }
        }
    }
}
