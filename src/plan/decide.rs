//! What becomes of each instance: wanted beside observed.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{Change, ChangeKind, ContainerName, Running, Spec, Surveyed, difference, spec};
use crate::secret::Secrets;
use crate::system::{Container, Instance, MachineName, System};

/// All decisions of a plan.
pub(super) struct Decisions<'d> {
    /// In the order of the system.
    pub(super) wanted: Vec<Decision<'d>>,
    /// Containers of instances that are no longer wanted, each with its machine and why.
    pub(super) unwanted: Vec<(&'d MachineName, &'d Running, String)>,
}

/// One wanted instance.
pub(super) struct Decision<'d> {
    pub(super) instance: &'d Instance,
    pub(super) container: ContainerName,
    pub(super) spec: Spec,
    pub(super) kind: ChangeKind,
    /// The container as wanted, if it is there, running or not.
    pub(super) own: Option<&'d Running>,
    /// Other containers of the same instance: to be replaced, or left over from an interrupted run.
    pub(super) others: Vec<&'d Running>,
    /// Live files whose contents differ in `own`.
    pub(super) stale_files: Vec<String>,
}

impl Decisions<'_> {
    pub(super) fn changes(&self) -> Vec<Change> {
        let wanted = self.wanted.iter();
        let wanted = wanted.map(|one| Change { instance: one.instance.name.clone(), kind: one.kind.clone() });
        let mut changes: Vec<Change> = wanted.collect();
        let mut told = BTreeSet::new();
        for (machine, running, why) in &self.unwanted {
            // An instance may have left several containers behind.
            if told.insert((machine, &running.instance)) {
                let kind = ChangeKind::Remove { why: why.clone() };
                changes.push(Change { instance: running.instance.clone(), kind });
            }
        }
        changes
    }
}

type Machines<'o> = BTreeMap<&'o MachineName, &'o Surveyed>;

pub(super) fn decide<'d>(wanted: &'d System, machines: &Machines<'d>, secrets: &Secrets) -> Decisions<'d> {
    let decisions = wanted.instances.iter().map(|instance| {
        let surveyed = machines.get(&instance.name.machine);
        let there = surveyed.into_iter().flat_map(|told| &told.instances);
        let there: Vec<&Running> = there.filter(|running| running.instance == instance.name).collect();
        decision(wanted, instance, there, secrets)
    });
    let decisions = decisions.collect();
    let names: BTreeSet<_> = wanted.instances.iter().map(|instance| &instance.name).collect();
    let unwanted = every(machines).filter(|(machine, running)| {
        running.instance.machine != **machine || !names.contains(&running.instance)
    });
    let unwanted =
        unwanted.map(|(machine, running)| (machine, running, why_unwanted(wanted, machine, running)));
    Decisions { wanted: decisions, unwanted: unwanted.collect() }
}

pub(super) fn decide_to_stop<'d>(machines: &Machines<'d>) -> Decisions<'d> {
    let all =
        every(machines).map(|(machine, running)| (machine, running, "the system is stopped".to_owned()));
    Decisions { wanted: Vec::new(), unwanted: all.collect() }
}

fn every<'m, 'd>(machines: &'m Machines<'d>) -> impl Iterator<Item = (&'d MachineName, &'d Running)> + 'm {
    machines.iter().flat_map(|(&machine, told)| told.instances.iter().map(move |running| (machine, running)))
}

fn why_unwanted(wanted: &System, machine: &MachineName, running: &Running) -> String {
    let process = &running.instance.process;
    if !wanted.machines.contains_key(machine) {
        return "the machine is no longer in the topology".to_owned();
    }
    if running.instance.machine != *machine {
        return format!("the machine was called {} then", running.instance.machine);
    }
    if wanted.instances.iter().all(|instance| instance.name.process != *process) {
        return format!("the topology no longer contains {process}");
    }
    format!("the machine no longer contains it: {process}")
}

fn decision<'d>(
    wanted: &System,
    instance: &'d Instance,
    there: Vec<&'d Running>,
    secrets: &Secrets,
) -> Decision<'d> {
    let spec = spec(&instance.container, secrets);
    let container = ContainerName::new(&wanted.name, &instance.name, &spec);
    let is_own = |running: &&Running| running.spec == spec && running.container == container;
    let own = there.iter().copied().find(is_own);
    let others: Vec<&Running> = there.into_iter().filter(|running| !is_own(running)).collect();
    let stale_files = own.map(|own| stale_files(&instance.container, own, secrets)).unwrap_or_default();
    let kind = match own {
        Some(own) if own.state.runs() && stale_files.is_empty() => ChangeKind::Keep,
        Some(own) if own.state.runs() => ChangeKind::Update { files: stale_files.clone() },
        Some(_) if others.iter().any(|other| other.state.is_up()) => {
            ChangeKind::Replace { why: vec!["an earlier container of it still runs".to_owned()] }
        }
        Some(_) => ChangeKind::Start,
        None => match newest(&others) {
            None => ChangeKind::Create,
            Some(was) => ChangeKind::Replace { why: why_replaced(was, &instance.container) },
        },
    };
    Decision { instance, container, spec, kind, own, others, stale_files }
}

/// The container that the instance stands for at present: the one that is up, if any.
fn newest<'d>(others: &[&'d Running]) -> Option<&'d Running> {
    others.iter().copied().find(|running| running.state.is_up()).or(others.first().copied())
}

fn why_replaced(was: &Running, wanted: &Container) -> Vec<String> {
    match &was.made_from {
        Some(made_from) => difference::reasons(made_from, wanted),
        None => vec!["what it was made from cannot be read".to_owned()],
    }
}

/// Live files that stand otherwise in the container than they should.
fn stale_files(wanted: &Container, own: &Running, secrets: &Secrets) -> Vec<String> {
    let stale = wanted.files.iter().filter(|file| {
        // A plan is made only when no secret is missing; an unbound file would differ and be put again.
        let bound = file.content.bind(&own.state_dir, |name| secrets.get(name));
        let hash = bound.ok().map(|content| hex::encode(Sha256::digest(content.reveal())));
        file.live && (hash.is_none() || own.live_files.get(&file.to) != hash.as_ref())
    });
    stale.map(|file| file.to.clone()).collect()
}
