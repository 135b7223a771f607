use futures_util::future::join_all;
use serde_json::json;

use super::chosen;
use crate::cli::Context;
use crate::cli::context::together;
use crate::failure::{Failure, Kind};
use crate::host::{self, HostKey};
use crate::system::MachineName;

/// Record the host keys of machines, after showing their fingerprints
///
/// nsd connects only to machines whose key it knows. The keys are kept in `known_hosts` beside system.toml; they are public
/// and may be committed. Compare the fingerprints with what the machine itself tells: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`
///
///   nsd mach trust                # all machines
///   nsd mach trust mqtt-3
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// Machines; left out, all
    names: Vec<String>,
}

/// What a machine shows beside what is known of it.
struct Shown {
    name: MachineName,
    new: Vec<HostKey>,
    changed: Vec<HostKey>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let dir = &work.project.dir;
    let machines = chosen(&work, &args.names)?;
    let asked = machines.iter().map(|(name, machine)| async move {
        (name.clone(), compare(name, host::trust(dir, name, machine).await, host::known(dir, name, machine)))
    });
    let mut shown = Vec::new();
    let mut failures = Vec::new();
    for (name, result) in join_all(asked).await {
        match result {
            Ok(one) => shown.push(one),
            Err(failure) => failures.push((name, failure)),
        }
    }
    context.reporter.end();
    let fresh: Vec<&Shown> =
        shown.iter().filter(|one| !one.new.is_empty() || !one.changed.is_empty()).collect();
    if !context.screen.json {
        fresh.iter().for_each(|one| context.screen.say(&text(one)));
    }
    if !fresh.is_empty() {
        let changed = fresh.iter().filter(|one| !one.changed.is_empty()).count();
        let question = match changed {
            0 => format!("Trust the keys of {} machine(s)?", fresh.len()),
            _ => format!(
                "{changed} machine(s) show OTHER keys than before: reinstalled, or somebody in between. Trust them?"
            ),
        };
        context.must_confirm(&question).await?;
        let keys: Vec<HostKey> =
            fresh.iter().flat_map(|one| one.new.iter().chain(&one.changed)).cloned().collect();
        host::remember(dir, &keys)?;
    }
    let trusted: Vec<&MachineName> = fresh.iter().map(|one| &one.name).collect();
    context.screen.show(&json!({ "trusted": trusted, "known": shown.len() - trusted.len() }), || match fresh
        .len()
    {
        0 if shown.is_empty() => String::new(),
        0 => format!("all keys are known already ({} machine(s))", shown.len()),
        count => format!("recorded the keys of {count} machine(s) in {}", dir.join("known_hosts").display()),
    });
    together(failures, "machines did not show their keys").map_or(Ok(()), Err)
}

fn compare(
    name: &MachineName,
    shown: Result<Vec<HostKey>, Failure>,
    known: Result<Vec<HostKey>, Failure>,
) -> Result<Shown, Failure> {
    let (shown, known) = (shown?, known?);
    if shown.is_empty() {
        return Err(Failure::new(Kind::Unreachable, "it shows no host key"));
    }
    let unknown = shown
        .into_iter()
        .filter(|key| !known.iter().any(|known| known.kind == key.kind && known.key == key.key));
    let (changed, new) = unknown.partition(|key| known.iter().any(|known| known.kind == key.kind));
    Ok(Shown { name: name.clone(), new, changed })
}

fn text(one: &Shown) -> String {
    let line =
        |key: &HostKey, mark: &str| format!("{}  {:20} {}{mark}", one.name, key.kind, key.fingerprint());
    let new = one.new.iter().map(|key| line(key, ""));
    let changed = one.changed.iter().map(|key| line(key, "  CHANGED"));
    new.chain(changed).collect::<Vec<_>>().join("\n")
}
