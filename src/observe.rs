//! Asks all machines at once what runs there.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::host::Hosts;
use crate::plan::{MachineState, Observed};
use crate::system::System;

/// A machine that was not reached, or whose engine does not answer, is told apart from one that runs nothing.
pub async fn observe(hosts: &Hosts, system: &System) -> Observed {
    let questions = hosts.iter().map(|(name, host)| async move {
        let state = match host {
            Err(unreachable) => MachineState::Unreachable { why: unreachable.message.clone() },
            Ok(host) => match host.engine.survey(system).await {
                Ok(surveyed) => MachineState::Answered(surveyed),
                Err(failure) => MachineState::Unreachable { why: failure.message },
            },
        };
        (name.clone(), state)
    });
    let machines: BTreeMap<_, _> = join_all(questions).await.into_iter().collect();
    Observed { machines }
}
