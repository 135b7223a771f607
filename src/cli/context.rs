//! What every command gets: the global options, the ways to speak, and how to stop.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{LocalModes, OptionalActions, Termios};
use tokio_util::sync::CancellationToken;

use super::Global;
use crate::failure::{Failure, Kind};
use crate::history::{Repo, Revision};
use crate::keeper::Keeper;
use crate::manifest::{self, Manifest, Problem};
use crate::project::Project;
use crate::report::{Bars, Event, Json, Lines, Palette, Reporter, Screen, Silent};
use crate::secret::Secret;
use crate::system::{Instance, System, TopologyName};

/// How Ctrl-C reaches a command. Most commands just end; one that changes machines takes the matter into its own hands.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    token: CancellationToken,
    guarded: Arc<AtomicBool>,
    endless: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on the command itself ends in good order when the token is cancelled.
    pub(super) fn guard(&self) -> CancellationToken {
        self.guarded.store(true, Ordering::Release);
        self.token.clone()
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.guarded.load(Ordering::Acquire)
    }

    /// Ctrl-C is how this command is meant to end: nothing need be said about it.
    pub(super) fn is_the_end(&self) {
        self.endless.store(true, Ordering::Release);
    }

    pub(super) fn is_endless(&self) -> bool {
        self.endless.load(Ordering::Acquire)
    }

    /// `false` when it was asked for before: the second Ctrl-C.
    pub(super) fn raise(&self) -> bool {
        let first = !self.token.is_cancelled();
        self.token.cancel();
        first
    }
}

pub(super) struct Context {
    pub(super) global: Global,
    pub(super) screen: Screen,
    pub(super) reporter: Reporter,
    pub(super) interrupt: Interrupt,
}

impl Context {
    pub(super) fn new(global: Global, interrupt: Interrupt) -> Self {
        let color = global.wants_color();
        let verbosity = global.verbosity();
        let palette = Palette::new(color && std::io::stderr().is_terminal());
        let live = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none() && verbosity >= 0;
        let reporter = match (global.json, live) {
            (true, _) => Reporter::new(Json),
            (false, true) => Reporter::new(Bars::new(palette, verbosity)),
            (false, false) => Reporter::new(Lines::new(palette, verbosity)),
        };
        Self { screen: Screen::new(global.json, color), reporter, interrupt, global }
    }

    /// For questions whose answer is the result itself: their events are told only with `-v`.
    pub(super) fn for_questions(&self) -> Reporter {
        if self.global.verbosity() > 0 { self.reporter.clone() } else { Reporter::new(Silent) }
    }

    pub(super) fn warn(&self, what: impl Into<String>) {
        self.reporter.send(Event::Warning { who: String::new(), what: what.into() });
    }

    pub(super) fn project(&self) -> Result<Project, Failure> {
        let start = self.global.directory.as_deref().unwrap_or(Path::new("."));
        Project::find(start, self.global.system.as_deref())
    }

    /// The system of this folder: project, manifest and history.
    pub(super) fn work(&self) -> Result<Work, Failure> {
        Work::open(self.project()?, self.global.topology.as_deref())
    }

    /// Asks a person at a terminal before something is lost; a script has made up its mind by calling.
    pub(super) async fn confirm(&self, question: &str) -> Result<(), Failure> {
        if self.agreed() || !self.has_person() {
            return Ok(());
        }
        self.agree(question).await
    }

    /// Asks what nobody but a person may decide; without a terminal `-y` must have been given.
    pub(super) async fn must_confirm(&self, question: &str) -> Result<(), Failure> {
        if self.agreed() {
            return Ok(());
        }
        if !self.has_person() {
            return Err(Failure::new(Kind::Usage, format!("{question} Nobody can answer here"))
                .hint("say `-y` to agree beforehand"));
        }
        self.agree(question).await
    }

    /// One line from the terminal. Read by a thread of its own, so that Ctrl-C still ends the program.
    pub(super) async fn ask(&self, question: &str) -> Result<String, Failure> {
        self.reporter.end();
        let _ = std::io::stderr().lock().write_all(question.as_bytes());
        let read = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
        });
        let cannot = |error: &dyn std::error::Error| {
            Failure::error("cannot read an answer from the terminal").because(error)
        };
        let answer = read.await.map_err(|error| cannot(&error))?.map_err(|error| cannot(&error))?;
        Ok(answer.trim().to_owned())
    }

    /// As [`Self::ask`], and what is typed is not shown.
    pub(super) async fn ask_secret(&self, question: &str) -> Result<Secret, Failure> {
        let silence = Silence::new();
        let answer = self.ask(question).await;
        drop(silence);
        let _ = std::io::stderr().lock().write_all(b"\n");
        answer.map(Secret::new)
    }

    fn agreed(&self) -> bool {
        self.global.yes || std::env::var_os("NSD_AUTO_CONFIRM").is_some()
    }

    fn has_person(&self) -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && std::env::var_os("CI").is_none()
    }

    async fn agree(&self, question: &str) -> Result<(), Failure> {
        if self.ask(&format!("{question} [y/N] ")).await?.eq_ignore_ascii_case("y") {
            Ok(())
        } else {
            Err(Failure::new(Kind::Interrupted, "not agreed to; nothing was changed"))
        }
    }
}

/// The terminal shows nothing of what is typed until this is dropped, also by Ctrl-C.
struct Silence {
    before: Option<Termios>,
}

impl Silence {
    fn new() -> Self {
        let before = rustix::termios::tcgetattr(std::io::stdin()).ok();
        if let Some(mut silent) = before.clone() {
            silent.local_modes.remove(LocalModes::ECHO);
            let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &silent);
        }
        Self { before }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// A moment in RFC 3339 as people here would write it.
pub(super) fn local_time(time: &str) -> String {
    let local = |time: jiff::Timestamp| {
        time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    };
    time.parse().map_or_else(|_| time.to_owned(), local)
}

/// A system that a command works on.
pub(super) struct Work {
    pub(super) project: Project,
    pub(super) manifest: Manifest,
    pub(super) repo: Repo,
    /// As given by `--topology`.
    asked: Option<TopologyName>,
}

impl Work {
    fn open(project: Project, asked: Option<&str>) -> Result<Self, Failure> {
        let text = project.text()?;
        let manifest = manifest::read(&text).map_err(|problems| invalid(&project, &text, problems))?;
        let asked = asked.map(|name| parse_topology(name, &manifest)).transpose()?;
        let repo = Repo::open(&project.dir, &project.state, &manifest.name)?;
        Ok(Self { project, manifest, repo, asked })
    }

    pub(super) fn keeper(&self) -> Keeper {
        Keeper::new(&self.project)
    }

    /// The topology of this command: `--topology`, else the one compiled last, else the only one.
    pub(super) fn topology(&self) -> Result<TopologyName, Failure> {
        let known = self.manifest.topologies();
        let current = || self.project.current().filter(|name| known.contains_key(name));
        let only = || known.keys().next().filter(|_| known.len() == 1).cloned();
        self.asked.clone().or_else(current).or_else(only).ok_or_else(|| {
            Failure::new(Kind::Usage, "which topology? None was compiled here yet")
                .hint(format!(
                    "compile one first: `nsd sys compile {}`",
                    list_topologies(&self.manifest, "|")
                ))
                .hint("or name it: `--topology NAME`")
        })
    }

    /// For `nsd up`: as [`Self::topology`], but a system with a `local` topology need not say more.
    pub(super) fn topology_or_local(&self) -> Result<TopologyName, Failure> {
        self.topology().or_else(|failure| {
            self.manifest.topologies().keys().find(|name| name.as_str() == "local").cloned().ok_or(failure)
        })
    }

    pub(super) fn asked_topology(&self) -> Option<&TopologyName> {
        self.asked.as_ref()
    }

    pub(super) fn named_topology(&self, name: &str) -> Result<TopologyName, Failure> {
        parse_topology(name, &self.manifest)
    }

    pub(super) fn revision(&self, wanted: &str) -> Result<Revision, Failure> {
        self.repo.resolve(&self.topology()?, wanted)
    }

    /// What is wrong with this system's files, as one failure.
    pub(super) fn invalid(&self, problems: Vec<Problem>) -> Failure {
        let text = self.project.text().unwrap_or_default();
        invalid(&self.project, &text, problems)
    }
}

fn parse_topology(name: &str, manifest: &Manifest) -> Result<TopologyName, Failure> {
    let known = manifest.topologies().keys();
    if let Some(found) = known.clone().find(|known| known.as_str() == name) {
        return Ok(found.clone());
    }
    let failure = Failure::new(Kind::Usage, format!("{} has no topology `{name}`", manifest.name));
    let likely = known.max_by(|one, other| {
        strsim::jaro_winkler(name, one.as_str()).total_cmp(&strsim::jaro_winkler(name, other.as_str()))
    });
    Err(match likely {
        Some(likely) if strsim::jaro_winkler(name, likely.as_str()) > 0.75 => {
            failure.hint(format!("did you mean `{likely}`?"))
        }
        _ => failure.hint(format!("it has: {}", list_topologies(manifest, ", "))),
    })
}

fn list_topologies(manifest: &Manifest, separator: &str) -> String {
    manifest.topologies().keys().map(TopologyName::as_str).collect::<Vec<_>>().join(separator)
}

/// All problems, each with the line of the file that it is about.
fn invalid(project: &Project, text: &str, problems: Vec<Problem>) -> Failure {
    let file = project.shown();
    let count = problems.len();
    let what = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    let mut failure = Failure::new(Kind::System, format!("{what} in {file}"));
    failure.faults = problems.into_iter().map(|problem| fault(&file, text, problem)).collect();
    failure
}

fn fault(file: &str, text: &str, problem: Problem) -> crate::failure::Fault {
    let source = text.lines().nth(problem.line.saturating_sub(1)).unwrap_or_default().to_owned();
    let (at, what) = (problem.at, problem.what);
    crate::failure::Fault {
        file: file.to_owned(),
        line: problem.line,
        column: problem.column,
        source,
        at,
        what,
        hint: problem.hint,
    }
}

/// `ADDRESS:PORT` of the first port that an instance offers; `-` when it offers none.
pub(super) fn address(system: &System, instance: &Instance) -> String {
    let address = system.machines.get(&instance.name.machine).map(|machine| machine.address.as_str());
    match (address, instance.container.ports.first()) {
        (Some(address), Some(port)) => format!("{}:{}", port.ip.as_deref().unwrap_or(address), port.host),
        _ => "-".to_owned(),
    }
}

/// Failures of several things at once as one; `None` when there is none.
pub(super) fn together<N: std::fmt::Display>(failures: Vec<(N, Failure)>, what: &str) -> Option<Failure> {
    let count = failures.len();
    let mut failures = failures.into_iter();
    let (name, first) = failures.next()?;
    // Some failures name what they are about themselves.
    let named = |name: &N, message: &str| {
        let name = name.to_string();
        if message.starts_with(&name) { message.to_owned() } else { format!("{name}: {message}") }
    };
    if count == 1 {
        return Some(Failure { message: named(&name, &first.message), ..first });
    }
    let mut all = Failure::new(first.kind, format!("{count} {what}"));
    for (name, failure) in std::iter::once((name, first)).chain(failures) {
        let message = named(&name, &failure.message);
        all.causes.push(std::iter::once(message).chain(failure.causes).collect::<Vec<_>>().join(": "));
        for hint in failure.hints {
            if !all.hints.contains(&hint) {
                all.hints.push(hint);
            }
        }
    }
    Some(all)
}
