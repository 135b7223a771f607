use std::path::Path;

use futures_util::future::join_all;
use serde_json::json;

use super::{chosen, none_by_ssh, remote, topologies};
use crate::builder;
use crate::cli::Context;
use crate::cli::context::{Work, together};
use crate::cli::rev::roll::plural;
use crate::failure::Failure;
use crate::host::{self, HostKey};
use crate::system::Reach;

/// Record the host keys of machines and git hosts, after showing their fingerprints
///
/// nsd connects only to hosts whose key it knows: machines, and those that
/// repositories are fetched from over SSH. The keys are kept in `known_hosts`
/// beside system.toml; they are public and may be committed. Compare the
/// fingerprints with what the git host publishes, or the machine itself tells:
/// `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`
///
///   nsd mach trust                # all machines and git hosts
///   nsd mach trust mqtt-3
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// Machines; left out, all of them and the git hosts
    names: Vec<String>,
}

/// Who is asked for keys.
struct Asked {
    /// `mqtt-1`, or `git 10.0.0.2` with the processes that come from there.
    label: String,
    reach: Reach,
}

/// What a host shows beside what is known of it.
struct Shown {
    label: String,
    new: Vec<HostKey>,
    changed: Vec<HostKey>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let dir = &work.project.dir;
    let asked = asked(&work, &args.names)?;
    let mut shown = Vec::new();
    let mut failures = Vec::new();
    for (one, result) in asked.iter().zip(join_all(asked.iter().map(|one| ask(dir, one))).await) {
        match result {
            Ok(one) => shown.push(one),
            Err(failure) => failures.push((one.label.clone(), failure)),
        }
    }
    context.reporter.end();
    let fresh: Vec<&Shown> =
        shown.iter().filter(|one| !one.new.is_empty() || !one.changed.is_empty()).collect();
    if !context.screen.json {
        fresh.iter().for_each(|one| context.screen.say(&text(one)));
    }
    if !fresh.is_empty() {
        context.must_confirm(&question(&fresh)).await?;
        let keys: Vec<HostKey> =
            fresh.iter().flat_map(|one| one.new.iter().chain(&one.changed)).cloned().collect();
        host::remember(dir, &keys)?;
    }
    let trusted: Vec<&str> = fresh.iter().map(|one| one.label.as_str()).collect();
    let json = json!({ "trusted": trusted, "known": shown.len() - trusted.len() });
    context.screen.show(&json, || match fresh.len() {
        0 if shown.is_empty() => String::new(),
        0 => format!("all keys are known already ({})", hosts(shown.len())),
        count => format!("recorded the keys of {} in {}", hosts(count), dir.join("known_hosts").display()),
    });
    together(failures, "hosts did not show their keys").map_or(Ok(()), Err)
}

/// The machines named; with no name, every machine that is reached by SSH and every git host.
fn asked(work: &Work, names: &[String]) -> Result<Vec<Asked>, Failure> {
    let machines = if names.is_empty() { remote(work) } else { chosen(work, names)? };
    let machines = machines.into_iter().map(|(name, machine)| (name.to_string(), machine.reach));
    let mut asked: Vec<Asked> = machines.map(|(label, reach)| Asked { label, reach }).collect();
    if names.is_empty() {
        asked.extend(git_hosts(work));
    }
    if asked.is_empty() { Err(none_by_ssh(work)) } else { Ok(asked) }
}

fn git_hosts(work: &Work) -> impl Iterator<Item = Asked> {
    let repositories: Vec<_> =
        topologies(work).into_iter().flat_map(|(name, _)| work.manifest.repositories(name)).collect();
    let pairs = repositories.iter().map(|(process, url, _)| (process, url.as_str()));
    builder::git_hosts(pairs).into_iter().map(|(name, host)| {
        let processes: Vec<String> = host.processes.iter().map(ToString::to_string).collect();
        Asked { label: format!("git {name} ({})", processes.join(", ")), reach: host.reach }
    })
}

async fn ask(dir: &Path, asked: &Asked) -> Result<Shown, Failure> {
    let shown = host::trust(dir, &asked.label, &asked.reach).await?;
    let known = host::known(dir, &asked.label, &asked.reach)?;
    let unknown = shown
        .into_iter()
        .filter(|key| !known.iter().any(|known| known.kind == key.kind && known.key == key.key));
    let (changed, new) = unknown.partition(|key| known.iter().any(|known| known.kind == key.kind));
    Ok(Shown { label: asked.label.clone(), new, changed })
}

fn question(fresh: &[&Shown]) -> String {
    match fresh.iter().filter(|one| !one.changed.is_empty()).count() {
        0 => format!("Trust the keys of {}?", hosts(fresh.len())),
        1 => "1 host shows OTHER keys than before: made anew, or somebody in between. Trust them?".to_owned(),
        changed => format!(
            "{changed} hosts show OTHER keys than before: made anew, or somebody in between. Trust them?"
        ),
    }
}

fn hosts(count: usize) -> String {
    format!("{count} {}", plural(count, "host"))
}

fn text(one: &Shown) -> String {
    let line =
        |key: &HostKey, mark: &str| format!("{}  {:20} {}{mark}", one.label, key.kind, key.fingerprint());
    let new = one.new.iter().map(|key| line(key, ""));
    let changed = one.changed.iter().map(|key| line(key, "  CHANGED"));
    new.chain(changed).collect::<Vec<_>>().join("\n")
}
