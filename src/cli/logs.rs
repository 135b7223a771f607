use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::mpsc;

use super::Context;
use super::context::local_time;
use super::rev::roll::Scene;
use crate::failure::{Failure, Kind};
use crate::host::{LogLine, LogOptions};
use crate::plan::{ContainerName, MachineState, Observed};
use crate::system::{InstanceName, MachineName, System};

/// Show what the instances print, merged, each line with its instance
///
///   nsd logs -f                   # all of them, and go on
///   nsd logs mqtt --since 10m     # every instance of a process
///   nsd logs mqtt-1.mqtt.1 -n 20  # one instance
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// A process or an instance; left out, all
    of: Option<String>,
    /// Go on with new lines
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each instance
    #[arg(short = 'n', long, default_value_t = 100)]
    tail: usize,
    /// Only lines of this long ago or later, such as `10m`
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
}

/// Lines on their way to the screen; a slow reader holds the instances' readers up, and nothing is lost.
const QUEUE: usize = 1024;

struct Source {
    instance: InstanceName,
    container: ContainerName,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision("deployed").or_else(|_| work.revision("head"))?;
    let scene = Scene::look(context, &work, revision).await?;
    context.reporter.end();
    let sources = sources(&scene.system, &scene.observed, args.of.as_deref())?;
    let since =
        args.since.map(|ago| jiff::Timestamp::now().as_second().saturating_sub_unsigned(ago.as_secs()));
    let options = LogOptions { follow: args.follow, tail: Some(args.tail), since };
    if args.follow {
        context.interrupt.is_the_end();
    }
    let printer = Printer::new(context, &sources);
    let (sender, mut lines) = mpsc::channel::<(usize, LogLine)>(QUEUE);
    let reading = async {
        let readers =
            sources.iter().enumerate().map(|(at, source)| read(&scene, source, at, &options, sender.clone()));
        let results = join_all(readers).await;
        drop(sender);
        results
    };
    let printing = async {
        let mut kept = Vec::new();
        while let Some((at, line)) = lines.recv().await {
            if args.follow {
                printer.print(at, &line);
            } else {
                kept.push((at, line));
            }
            if context.screen.reader_left() {
                break;
            }
        }
        lines.close();
        // What is past is shown in the order in which it happened, across instances.
        kept.sort_by(|one, other| one.1.at.cmp(&other.1.at));
        kept.iter().for_each(|(at, line)| printer.print(*at, line));
    };
    let (results, ()) = tokio::join!(reading, printing);
    let failures = results
        .into_iter()
        .zip(&sources)
        .filter_map(|(result, source)| Some((source.instance.clone(), result.err()?)));
    super::context::together(failures.collect(), "logs cannot be read")
        .map_or_else(|| scene.all_answered(), Err)
}

/// Forwards the lines of one instance with its number.
async fn read(
    scene: &Scene<'_>,
    source: &Source,
    at: usize,
    options: &LogOptions,
    to: mpsc::Sender<(usize, LogLine)>,
) -> Result<(), Failure> {
    let host = scene.hosts.get(&source.instance.machine)?;
    let (sender, mut lines) = mpsc::channel(QUEUE);
    let reading = host.logs(&source.container, options, sender);
    let passing = async move {
        while let Some(line) = lines.recv().await {
            if to.send((at, line)).await.is_err() {
                break;
            }
        }
    };
    let (result, ()) = tokio::join!(reading, passing);
    result
}

/// Containers that run, or ran last, of what was asked for.
fn sources(system: &System, observed: &Observed, of: Option<&str>) -> Result<Vec<Source>, Failure> {
    let fits = |name: &InstanceName| {
        of.is_none_or(|of| {
            name.process.as_str() == of || name.to_string() == of || name.machine.as_str() == of
        })
    };
    let mut found: BTreeMap<&InstanceName, (&ContainerName, bool)> = BTreeMap::new();
    for state in observed.machines.values() {
        let MachineState::Answered(told) = state else { continue };
        for running in told.instances.iter().filter(|running| fits(&running.instance)) {
            let best = found.entry(&running.instance).or_insert((&running.container, running.state.runs()));
            if running.state.runs() && !best.1 {
                *best = (&running.container, true);
            }
        }
    }
    if found.is_empty() {
        return Err(nothing(system, observed, of));
    }
    Ok(found
        .into_iter()
        .map(|(instance, (container, _))| Source { instance: instance.clone(), container: container.clone() })
        .collect())
}

fn nothing(system: &System, observed: &Observed, of: Option<&str>) -> Failure {
    let known =
        system.instances.iter().map(|instance| instance.name.to_string()).collect::<Vec<_>>().join(", ");
    let asked =
        |machine: &MachineName| matches!(observed.machines.get(machine), Some(MachineState::Answered(_)));
    match of {
        Some(of)
            if !system.instances.iter().any(|instance| {
                instance.name.process.as_str() == of
                    || instance.name.to_string() == of
                    || instance.name.machine.as_str() == of
            }) =>
        {
            Failure::new(Kind::Usage, format!("`{of}` is no process, instance or machine of {}", system.name))
                .hint(format!("its instances: {known}"))
        }
        _ if !system.machines.keys().any(asked) => Failure::new(Kind::Unreachable, "no machine answers"),
        _ => Failure::error("nothing of this system runs").hint("start it: `nsd up`"),
    }
}

/// Lines with their instance in front, each instance in a colour of its own.
struct Printer<'c> {
    context: &'c Context,
    prefixes: Vec<String>,
    instances: Vec<InstanceName>,
}

impl<'c> Printer<'c> {
    fn new(context: &'c Context, sources: &[Source]) -> Self {
        let width = sources.iter().map(|source| source.instance.to_string().len()).max().unwrap_or(0);
        let palette = context.screen.palette;
        let prefix = |(at, source): (usize, &Source)| {
            palette.nth(at, &format!("{:width$} |", source.instance.to_string()))
        };
        Self {
            context,
            prefixes: sources.iter().enumerate().map(prefix).collect(),
            instances: sources.iter().map(|source| source.instance.clone()).collect(),
        }
    }

    fn print(&self, at: usize, line: &LogLine) {
        let screen = &self.context.screen;
        if screen.json {
            let stream = if line.stderr { "stderr" } else { "stdout" };
            screen.record(&json!({ "instance": self.instances[at], "at": line.at, "stream": stream, "line": line.text }));
        } else if self.context.global.verbosity() > 0 {
            screen.say(&format!("{} {} {}", self.prefixes[at], local_time(&line.at), line.text));
        } else {
            screen.say(&format!("{} {}", self.prefixes[at], line.text));
        }
    }
}
