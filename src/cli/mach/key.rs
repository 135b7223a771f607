use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde_json::json;

use super::chosen;
use crate::cli::Context;
use crate::cli::context::{Work, together};
use crate::failure::{Failure, Kind};
use crate::host;
use crate::report::Event;
use crate::system::Reach;

/// Make the system's own SSH key pair, and put its public half on the machines
///
/// The pair stands beside system.toml under the name that `[ssh] identity` gives;
/// the private half is kept out of git.
///
///   nsd mach key                  # make it, print the public half
///   nsd mach key --install        # and append it to authorized_keys on every machine
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// Append the public half to `authorized_keys` of the machines, connecting as you would by hand
    #[arg(long)]
    install: bool,
    /// Machines; left out, all
    #[arg(requires = "install")]
    names: Vec<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    if args.install {
        chosen(&work, &args.names)?;
    }
    let (path, declared) = key_path(&work)?;
    let new = !path.exists();
    if new {
        generate(&path, work.manifest.name.as_str()).await?;
    }
    ignore(&work.project.dir, &path)?;
    let public = public_half(&path)?;
    let json = json!({ "key": path, "public": public.trim(), "new": new });
    context.screen.show(&json, || {
        let made = if new { "made" } else { "there already:" };
        format!("{made} {}\n\n{}", path.display(), public.trim())
    });
    if !declared {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        context.warn(format!("system.toml does not use it yet; add:  [ssh] identity = \"{name}\""));
    }
    if args.install { install(context, &work, &args.names, &public).await } else { Ok(()) }
}

/// The identity that the machines share; without one the name that we propose.
fn key_path(work: &Work) -> Result<(PathBuf, bool), Failure> {
    let identities: BTreeSet<PathBuf> = super::remote(work)
        .into_values()
        .filter_map(|machine| match machine.reach {
            Reach::Ssh { identity, .. } => identity,
            Reach::Process | Reach::Docker => None,
        })
        .collect();
    let mut identities = identities.into_iter();
    match (identities.next(), identities.next()) {
        (Some(one), None) => Ok((work.project.dir.join(one), true)),
        (None, _) => Ok((work.project.dir.join(format!("{}-key", work.manifest.name)), false)),
        (Some(_), Some(_)) => Err(Failure::new(Kind::Usage, "the machines have different identities")
            .hint("choose a topology: `--topology NAME`, or give all machines one key in [ssh]")),
    }
}

async fn generate(path: &Path, system: &str) -> Result<(), Failure> {
    let output = tokio::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C"])
        .arg(format!("nsd {system}"))
        .arg("-f")
        .arg(path)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|error| {
            Failure::error("cannot run `ssh-keygen`").because(&error).hint("install the OpenSSH client")
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::error(format!("cannot make the key {}", path.display()))
        .cause(String::from_utf8_lossy(&output.stderr).trim()))
}

fn public_half(path: &Path) -> Result<String, Failure> {
    let public = PathBuf::from(format!("{}.pub", path.display()));
    std::fs::read_to_string(&public).map_err(|error| {
        Failure::error(format!("cannot read the public half {}", public.display()))
            .because(&error)
            .hint(format!("make it again: `ssh-keygen -y -f {} > {}`", path.display(), public.display()))
    })
}

/// The private half must not be committed by accident.
fn ignore(dir: &Path, key: &Path) -> Result<(), Failure> {
    let Ok(name) = key.strip_prefix(dir) else { return Ok(()) };
    let file = dir.join(".gitignore");
    let entry = format!("/{}", name.display());
    let mut text = std::fs::read_to_string(&file).unwrap_or_default();
    if text.lines().any(|line| line.trim() == entry || line.trim() == entry.trim_start_matches('/')) {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&entry);
    text.push('\n');
    crate::project::write_atomically(&file, text.as_bytes(), 0o644)
}

async fn install(context: &Context, work: &Work, names: &[String], public: &str) -> Result<(), Failure> {
    let machines = chosen(work, names)?;
    let installs = machines.iter().map(|(name, machine)| async move {
        let began = std::time::Instant::now();
        let added = host::install_key(&work.project.dir, name, machine, public).await;
        if let Ok(added) = &added {
            let what = if *added { "key installed" } else { "key was there already" }.to_owned();
            context.reporter.send(Event::Done { who: name.to_string(), what, took: began.elapsed() });
        }
        (name.clone(), added)
    });
    let failures: Vec<_> = join_all(installs)
        .await
        .into_iter()
        .filter_map(|(name, result)| Some((name, result.err()?)))
        .collect();
    together(failures, "machines did not take the key").map_or(Ok(()), Err)
}
