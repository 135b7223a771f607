//! Decisions → stages. Order: images; then process by process in `needs` order what starts, what is replaced, what changes
//! in place; then what is no longer wanted stops, in reverse; last, what nothing needs any more is removed. All that can fail
//! stands before the first thing that cannot be undone, and a list of servers changes after those that join are healthy
//! and before those that leave are stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::{Decision, Decisions};
use super::{Action, ChangeKind, Lane, Running, Stage, Step, Surveyed};
use crate::system::{Image, MachineName, Port, ProcessName, Reach, System};

/// For containers whose own grace is no longer known.
const GRACE: Duration = Duration::from_secs(10);

type Machines<'o> = BTreeMap<&'o MachineName, &'o Surveyed>;

pub(super) fn stages(wanted: &System, machines: &Machines<'_>, decisions: &Decisions<'_>) -> Vec<Stage> {
    let mut stages = vec![ship(wanted, machines, decisions)];
    let order = process_order(wanted);
    let mut retiring = Retiring::new(decisions);
    for process in &order {
        let of = || decisions.wanted.iter().filter(|one| one.instance.name.process == **process);
        let starts = of().filter(|one| matches!(one.kind, ChangeKind::Create | ChangeKind::Start));
        let starts = starts.map(|one| Lane { steps: start(one, &mut retiring) }).collect();
        stages.push(Stage { title: format!("start {process}"), lanes: starts });
        stages.push(roll(process, of(), &mut retiring));
        let updates = of().filter(|one| matches!(one.kind, ChangeKind::Update { .. }));
        let updates = updates.filter_map(put_files).map(|step| Lane { steps: vec![step] }).collect();
        stages.push(Stage { title: format!("update {process}"), lanes: updates });
    }
    stages.extend(retiring.stages(&order));
    stages.push(settle(decisions));
    stages.retain(|stage| !stage.lanes.is_empty());
    stages
}

/// Processes as they start: the system's instances stand in that order.
fn process_order(wanted: &System) -> Vec<&ProcessName> {
    let mut order: Vec<&ProcessName> = Vec::new();
    for instance in &wanted.instances {
        if !order.contains(&&instance.name.process) {
            order.push(&instance.name.process);
        }
    }
    order
}

fn step(decision: &Decision<'_>, action: Action) -> Step {
    Step { machine: decision.instance.name.machine.clone(), action }
}

fn stop(machine: &MachineName, running: &Running, grace: Duration) -> Step {
    let (container, instance) = (running.container.clone(), running.instance.clone());
    Step { machine: machine.clone(), action: Action::Stop { container, instance, grace } }
}

fn remove(machine: &MachineName, running: &Running) -> Step {
    let (container, instance) = (running.container.clone(), running.instance.clone());
    Step { machine: machine.clone(), action: Action::Remove { container, instance } }
}

/// One lane a machine, each image that a new container needs and the machine lacks.
fn ship(wanted: &System, machines: &Machines<'_>, decisions: &Decisions<'_>) -> Stage {
    let mut lanes: BTreeMap<&MachineName, BTreeMap<String, Image>> = BTreeMap::new();
    for decision in decisions.wanted.iter().filter(|one| one.own.is_none()) {
        let machine = &decision.instance.name.machine;
        let docker = wanted.machines.get(machine).is_some_and(|machine| machine.reach != Reach::Process);
        let image = &decision.instance.container.image;
        let Some(reference) = image.reference().filter(|_| docker) else { continue };
        if machines.get(machine).is_none_or(|told| !told.images.contains(&reference)) {
            lanes.entry(machine).or_default().insert(reference, image.clone());
        }
    }
    let lane = |(machine, images): (&MachineName, BTreeMap<String, Image>)| Lane {
        steps: images
            .into_iter()
            .map(|(reference, image)| {
                let action = match image {
                    Image::Registry { .. } => Action::Pull { reference },
                    _ => Action::Ship { image, reference },
                };
                Step { machine: machine.clone(), action }
            })
            .collect(),
    };
    Stage { title: "ship images".to_owned(), lanes: lanes.into_iter().map(lane).collect() }
}

/// The steps that bring a container up; creating comes first, for it can fail without harm.
fn start(decision: &Decision<'_>, retiring: &mut Retiring<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    let (container, instance) = (&decision.container, &decision.instance.name);
    match decision.own {
        None => {
            let spec = decision.spec.clone();
            let action = Action::Create { container: container.clone(), instance: instance.clone(), spec };
            steps.push(step(decision, action));
        }
        Some(own) => {
            steps.extend(put_files(decision));
            // A paused program can only be started again from its end.
            if own.state == super::RunState::Paused {
                steps.push(stop(&instance.machine, own, decision.instance.stop_grace));
            }
        }
    }
    let older = decision.others.iter().filter(|other| other.state.is_up());
    steps.extend(older.map(|other| stop(&instance.machine, other, decision.instance.stop_grace)));
    steps.extend(retiring.in_the_way_of(decision));
    steps.push(step(decision, Action::Start { container: container.clone(), instance: instance.clone() }));
    steps.push(step(
        decision,
        Action::AwaitHealthy { container: container.clone(), instance: instance.clone() },
    ));
    steps
}

fn put_files(decision: &Decision<'_>) -> Option<Step> {
    let files = decision.stale_files.clone();
    if files.is_empty() {
        return None;
    }
    let (container, instance) = (decision.container.clone(), decision.instance.name.clone());
    Some(step(decision, Action::PutFiles { container, instance, files }))
}

/// As many lanes as may be replaced at once; each replaces one instance after another.
fn roll<'d>(
    process: &ProcessName,
    decisions: impl Iterator<Item = &'d Decision<'d>>,
    retiring: &mut Retiring<'_>,
) -> Stage {
    let replaced = decisions.filter(|one| matches!(one.kind, ChangeKind::Replace { .. }));
    let mut lanes: Vec<Lane> = Vec::new();
    for (n, decision) in replaced.enumerate() {
        let at_once = usize::from(decision.instance.max_parallel.max(1));
        if n < at_once {
            lanes.push(Lane { steps: Vec::new() });
        }
        let lane = n % lanes.len();
        lanes[lane].steps.extend(start(decision, retiring));
    }
    Stage { title: format!("roll {process}"), lanes }
}

/// Containers of unwanted instances that are up, until they are stopped.
struct Retiring<'d> {
    waiting: Vec<(&'d MachineName, &'d Running)>,
}

impl<'d> Retiring<'d> {
    fn new(decisions: &Decisions<'d>) -> Self {
        let up = decisions.unwanted.iter().filter(|(_, running, _)| running.state.is_up());
        Self { waiting: up.map(|&(machine, running, _)| (machine, running)).collect() }
    }

    /// Stops of those that hold a port which the new container needs.
    fn in_the_way_of(&mut self, decision: &Decision<'_>) -> Vec<Step> {
        let (here, container) = (&decision.instance.name.machine, &decision.instance.container);
        let in_the_way = |machine: &MachineName, running: &Running| {
            machine == here
                && running.made_from.as_ref().is_some_and(|made_from| {
                    made_from.ports.iter().any(|held| container.ports.iter().any(|port| clash(held, port)))
                })
        };
        let (stopped, waiting) =
            self.waiting.drain(..).partition(|(machine, running)| in_the_way(machine, running));
        self.waiting = waiting;
        let stopped: Vec<(&MachineName, &Running)> = stopped;
        stopped.into_iter().map(|(machine, running)| stop(machine, running, GRACE)).collect()
    }

    /// Those that depend stop before what they need; processes that the system no longer knows stop first.
    fn stages(self, order: &[&ProcessName]) -> Vec<Stage> {
        let mut by_rank: BTreeMap<(usize, &ProcessName), Vec<Lane>> = BTreeMap::new();
        for (machine, running) in self.waiting {
            let process = &running.instance.process;
            let known = order.iter().rev().position(|known| *known == process);
            let lane = Lane { steps: vec![stop(machine, running, GRACE)] };
            by_rank.entry((known.map_or(0, |rank| rank + 1), process)).or_default().push(lane);
        }
        let stage = |((_, process), lanes)| Stage { title: format!("stop {process}"), lanes };
        by_rank.into_iter().map(stage).collect()
    }
}

fn clash(one: &Port, other: &Port) -> bool {
    let same_address = one.ip.is_none() || other.ip.is_none() || one.ip == other.ip;
    one.host == other.host && one.protocol == other.protocol && same_address
}

/// The only stage that cannot be undone, one lane a machine: replaced, unwanted and left-over containers go.
fn settle(decisions: &Decisions<'_>) -> Stage {
    let mut lanes: BTreeMap<&MachineName, Vec<Step>> = BTreeMap::new();
    for decision in &decisions.wanted {
        let machine = &decision.instance.name.machine;
        let restarted = !matches!(decision.kind, ChangeKind::Keep | ChangeKind::Update { .. });
        for other in &decision.others {
            let lane = lanes.entry(machine).or_default();
            // Of an instance that stays as it is, an older one that is up has not been stopped on the way.
            if other.state.is_up() && !restarted {
                lane.push(stop(machine, other, decision.instance.stop_grace));
            }
            lane.push(remove(machine, other));
        }
    }
    let mut gone = BTreeSet::new();
    for (machine, running, _) in &decisions.unwanted {
        if gone.insert((machine, &running.container)) {
            lanes.entry(machine).or_default().push(remove(machine, running));
        }
    }
    Stage { title: "settle".to_owned(), lanes: lanes.into_values().map(|steps| Lane { steps }).collect() }
}
