//! `[access]`: who may come in, and who may say and hear what.

use nsd_edge::config::Table;

use crate::access::{Policy, TopicRule};

pub(super) fn read(table: Option<Table<'_, '_>>, allow_anonymous: bool) -> Policy {
    let (mut devices, mut rule) = (None, None);
    if let Some(mut table) = table {
        devices = table.boolean("devices");
        let rules = [("second-level-is-device", TopicRule::SecondLevelIsDevice), ("open", TopicRule::Open)];
        rule = table.choice("topic_rule", &rules);
        table.finish();
    }
    policy(allow_anonymous, devices, rule)
}

/// The defaults are the safe ones: devices only, each in its own topics, unless anonymous clients were asked for.
pub fn policy(allow_anonymous: bool, devices: Option<bool>, rule: Option<TopicRule>) -> Policy {
    let devices = devices.unwrap_or(!allow_anonymous);
    let default = if devices { TopicRule::SecondLevelIsDevice } else { TopicRule::Open };
    Policy { allow_anonymous, devices, topic_rule: rule.unwrap_or(default) }
}
