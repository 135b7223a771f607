//! From a revision to changed machines: what `preview`, `deploy`, `up` and `stop` share, so that all of them ask, plan,
//! check and perform alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::apply::{self, Ended, Runner};
use crate::cli::Context;
use crate::cli::context::Work;
use crate::failure::{Failure, Kind};
use crate::history::{Entry, MachineEntry, Outcome, Revision};
use crate::host::Hosts;
use crate::login::{self, Person};
use crate::observe::observe;
use crate::plan::{self, ChangeKind, MachineState, Observed, Plan, PlanError};
use crate::report::{Event, Reporter, seconds};
use crate::secret::Secrets;
use crate::system::{Machine, MachineName, System};

/// A revision beside what the machines run now.
pub(in crate::cli) struct Scene<'c> {
    context: &'c Context,
    work: &'c Work,
    pub(in crate::cli) revision: Revision,
    pub(in crate::cli) system: Arc<System>,
    secrets: Arc<Secrets>,
    pub(in crate::cli) hosts: Hosts,
    pub(in crate::cli) observed: Observed,
}

impl<'c> Scene<'c> {
    /// Loads the revision, fetches its secrets, and asks all machines.
    pub(in crate::cli) async fn survey(
        context: &'c Context,
        work: &'c Work,
        revision: Revision,
    ) -> Result<Self, Failure> {
        let system = Arc::new(work.repo.load(&revision.id)?);
        let secrets = Arc::new(work.keeper().fetch(&system, &work.manifest.secrets)?);
        context.reporter.send(Event::Phase { title: "observe".to_owned() });
        Self::ask(context, work, revision, system, secrets, &context.reporter).await
    }

    /// As [`Self::survey`] without secrets, for commands that make nothing.
    pub(in crate::cli) async fn look(
        context: &'c Context,
        work: &'c Work,
        revision: Revision,
    ) -> Result<Self, Failure> {
        let system = Arc::new(work.repo.load(&revision.id)?);
        Self::ask(context, work, revision, system, Arc::default(), &context.for_questions()).await
    }

    async fn ask(
        context: &'c Context,
        work: &'c Work,
        revision: Revision,
        system: Arc<System>,
        secrets: Arc<Secrets>,
        reporter: &Reporter,
    ) -> Result<Self, Failure> {
        let machines = all_machines(context, work, &system)?;
        let hosts = Hosts::connect(&work.project.dir, &machines, &system, reporter).await;
        let mut observed = observe(&hosts, &system).await;
        forget_lost(context, &system, &mut observed);
        Ok(Self { context, work, revision, system, secrets, hosts, observed })
    }

    pub(in crate::cli) fn plan(&self) -> Result<Plan, Failure> {
        plan::plan(&self.system, &self.revision.id, &self.observed, &self.secrets)
            .map_err(|error| self.no_plan(error))
    }

    pub(in crate::cli) fn plan_stop(&self) -> Result<Plan, Failure> {
        plan::stop(&self.system, &self.revision.id, &self.observed).map_err(|error| self.no_plan(error))
    }

    /// Everything that can be known before the first step; all problems in one list, nothing touched yet.
    pub(in crate::cli) async fn preflight(&self, plan: &Plan) -> Result<(), Failure> {
        let problems = super::preflight::problems(plan, &self.system, &self.hosts).await;
        let mut failure = Failure::error(match problems.len() {
            0 => return Ok(()),
            1 => "this deploy cannot succeed; nothing was changed".to_owned(),
            count => format!("this deploy cannot succeed for {count} reasons; nothing was changed"),
        });
        for problem in problems {
            failure
                .causes
                .push(std::iter::once(problem.message).chain(problem.causes).collect::<Vec<_>>().join(": "));
            for hint in problem.hints {
                if !failure.hints.contains(&hint) {
                    failure.hints.push(hint);
                }
            }
        }
        Err(failure)
    }

    /// Locks, makes sure that nothing moved meanwhile, runs the plan, and records the attempt, whatever became of it.
    pub(in crate::cli) async fn perform(&self, action: &str, plan: &Plan) -> Result<apply::Outcome, Failure> {
        let who = login::who()?;
        let cancel = self.context.interrupt.guard();
        let lock = apply::lock(&self.hosts, &self.system, &who.to_string()).await?;
        self.still_true(action, plan).await?;
        let runner = Runner {
            hosts: &self.hosts,
            system: Arc::clone(&self.system),
            secrets: Arc::clone(&self.secrets),
            reporter: self.context.reporter.clone(),
            revision: self.revision.id.clone(),
        };
        let outcome = runner.run(plan, cancel).await;
        self.context.reporter.end();
        let entry = self.entry(action, &who, plan, &outcome);
        let line = format!(
            "{} {} {} {} by {who}: {}",
            action,
            self.system.name,
            self.revision.short(),
            entry.result.words(),
            entry.summary
        );
        if let Err(failure) = lock.finish(&line).await {
            self.context.warn(format!("{failure}"));
        }
        self.work.repo.timeline_append(&entry, &who).map_err(|failure| unrecorded(&entry, failure))?;
        Ok(outcome)
    }

    /// Another `nsd` may have deployed between our question and our lock.
    async fn still_true(&self, action: &str, plan: &Plan) -> Result<(), Failure> {
        let mut observed = observe(&self.hosts, &self.system).await;
        observed.machines.retain(|name, _| self.observed.machines.contains_key(name));
        let again = match action {
            "stop" => plan::stop(&self.system, &self.revision.id, &observed),
            _ => plan::plan(&self.system, &self.revision.id, &observed, &self.secrets),
        };
        if again.map_err(|error| self.no_plan(error))? == *plan {
            return Ok(());
        }
        Err(Failure::new(Kind::Stale, "the machines changed since this plan was made; nothing was changed")
            .hint("run the command again: it plans anew"))
    }

    /// Records that the machines run this revision, if the timeline says otherwise.
    pub(in crate::cli) fn settle(&self, took: Duration) -> Result<(), Failure> {
        if self.work.repo.deployed(&self.system.topology)?.as_ref() == Some(&self.revision.id) {
            return Ok(());
        }
        let who = login::who()?;
        let summary = "nothing to do".to_owned();
        let entry = self.new_entry("deploy", &who, Outcome::Done, summary, took);
        self.work.repo.timeline_append(&entry, &who)
    }

    pub(in crate::cli) fn nothing_to_do(&self, plan: &Plan, took: Duration) -> String {
        let kept = plan.changes.iter().filter(|change| change.kind == ChangeKind::Keep).count();
        format!(
            "nothing to do: revision {} runs, {kept} {} on {} {} ({})",
            self.revision.short(),
            plural(kept, "instance"),
            self.system.machines.len(),
            plural(self.system.machines.len(), "machine"),
            seconds(took)
        )
    }

    /// Machines that could not be asked, as a failure; what the others told is shown before.
    pub(in crate::cli) fn all_answered(&self) -> Result<(), Failure> {
        let silent: BTreeMap<MachineName, String> = self
            .observed
            .machines
            .iter()
            .filter_map(|(name, state)| match state {
                MachineState::Unreachable { why } => Some((name.clone(), why.clone())),
                MachineState::Answered(_) => None,
            })
            .collect();
        if silent.is_empty() { Ok(()) } else { Err(unreachable(&self.hosts, &silent)) }
    }

    fn entry(&self, action: &str, who: &Person, plan: &Plan, outcome: &apply::Outcome) -> Entry {
        let (result, summary) = match &outcome.result {
            Ended::Completed => (Outcome::Done, counts(plan)),
            Ended::Partly { failed } => {
                (Outcome::Failed, failed.first().map_or_else(String::new, failed_words))
            }
            Ended::RolledBack { failed, left } if left.is_empty() => {
                (Outcome::RolledBack, failed_words(failed))
            }
            Ended::RolledBack { failed, .. } => (Outcome::Failed, failed_words(failed)),
            Ended::Interrupted { .. } => (Outcome::Interrupted, "Ctrl-C".to_owned()),
        };
        let mut entry = self.new_entry(action, who, result, summary, outcome.took);
        entry.machines = outcome
            .machines
            .iter()
            .map(|one| MachineEntry {
                machine: one.machine.clone(),
                steps: one.steps,
                failed: one.failed.clone(),
            })
            .collect();
        entry
    }

    fn new_entry(
        &self,
        action: &str,
        who: &Person,
        result: Outcome,
        summary: String,
        took: Duration,
    ) -> Entry {
        let about = (&self.system.topology, self.revision.id.as_str());
        Entry::new(action, who, about, (result, summary), took)
    }

    fn no_plan(&self, error: PlanError) -> Failure {
        match error {
            PlanError::Unreachable(machines) => unreachable(&self.hosts, &machines),
            PlanError::MissingSecrets(_) => {
                Failure::new(Kind::System, error.to_string()).hint("declare them in [secrets] of system.toml")
            }
        }
    }
}

/// The machines of the revision and those that the deployed one still has: what was taken out must be cleared away.
fn all_machines(
    context: &Context,
    work: &Work,
    system: &System,
) -> Result<BTreeMap<MachineName, Machine>, Failure> {
    let mut machines = system.machines.clone();
    let Some(deployed) = work.repo.deployed(&system.topology)? else { return Ok(machines) };
    match work.repo.load(&deployed) {
        Ok(deployed) => {
            for (name, machine) in deployed.machines {
                machines.entry(name).or_insert(machine);
            }
        }
        // Written by another version of nsd: no reason to deploy never again.
        Err(failure) => context.warn(format!("{failure}: machines that only it names are not looked at")),
    }
    Ok(machines)
}

/// A machine that is no longer wanted and does not answer (it was switched off for good) holds nothing up.
fn forget_lost(context: &Context, system: &System, observed: &mut Observed) {
    observed.machines.retain(|name, state| {
        let lost = !system.machines.contains_key(name) && matches!(state, MachineState::Unreachable { .. });
        if lost {
            context.warn(format!(
                "{name} is no longer in the system and does not answer: what runs there stays"
            ));
        }
        !lost
    });
}

/// Every machine that could not be asked, each with its reason and what to do.
fn unreachable(hosts: &Hosts, machines: &BTreeMap<MachineName, String>) -> Failure {
    let names = machines.keys().map(MachineName::as_str).collect::<Vec<_>>().join(", ");
    let mut failure = Failure::new(Kind::Unreachable, format!("cannot ask {names}; nothing was changed"));
    for (name, why) in machines {
        let known = hosts.unreachable().find(|(other, _)| *other == name).map(|(_, unreachable)| unreachable);
        let causes = known.map(|known| known.causes.join(": ")).filter(|causes| !causes.is_empty());
        failure.causes.push(causes.map_or_else(|| why.clone(), |causes| format!("{why}: {causes}")));
        for hint in known.into_iter().flat_map(|known| &known.hints) {
            if !failure.hints.contains(hint) {
                failure.hints.push(hint.clone());
            }
        }
    }
    failure
}

/// What a person should agree to, if anything stops or goes away.
pub(in crate::cli) fn question(plan: &Plan) -> Option<String> {
    let count =
        |wanted: fn(&ChangeKind) -> bool| plan.changes.iter().filter(|change| wanted(&change.kind)).count();
    let replaced = count(|kind| matches!(kind, ChangeKind::Replace { .. }));
    let removed = count(|kind| matches!(kind, ChangeKind::Remove { .. }));
    let parts: Vec<String> = [(replaced, "replaced"), (removed, "removed")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {} will be {what}", plural(count, "instance")))
        .collect();
    (!parts.is_empty()).then(|| format!("{}. Go on?", parts.join(", ")))
}

/// The last line: what was done, where, how long.
pub(in crate::cli) fn summary(scene: &Scene<'_>, plan: &Plan, took: Duration) -> String {
    let machines = scene.observed.machines.len();
    format!(
        "deployed {} {} {}: {} on {machines} {} in {}",
        scene.system.name,
        scene.system.topology,
        scene.context.screen.palette.bold(scene.revision.short()),
        counts(plan),
        plural(machines, "machine"),
        seconds(took)
    )
}

/// `2 created, 1 replaced, 3 kept`.
fn counts(plan: &Plan) -> String {
    let names = ["created", "started", "updated", "replaced", "removed", "kept"];
    let mut numbers = [0_usize; 6];
    for change in &plan.changes {
        numbers[match change.kind {
            ChangeKind::Create => 0,
            ChangeKind::Start => 1,
            ChangeKind::Update { .. } => 2,
            ChangeKind::Replace { .. } => 3,
            ChangeKind::Remove { .. } => 4,
            ChangeKind::Keep => 5,
        }] += 1;
    }
    let parts: Vec<String> = names
        .iter()
        .zip(numbers)
        .filter(|(_, number)| *number > 0)
        .map(|(name, number)| format!("{number} {name}"))
        .collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// The machines are as the entry says, whatever git says.
fn unrecorded(entry: &Entry, failure: Failure) -> Failure {
    let message =
        format!("the {} is {}, but the timeline could not be written", entry.action, entry.result.words());
    let causes = std::iter::once(failure.message).chain(failure.causes).collect();
    Failure { message, causes, ..failure }
}

fn failed_words(failed: &apply::StepFailure) -> String {
    format!("{}: {}: {}", failed.machine, failed.step, failed.why)
}

pub(in crate::cli) fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}
