//! Sources to images: pinned by git2, exported clean from the pinned commit, built by a Docker engine.
//!
//! What goes in decides the tag, so a tag that exists is never built again.

mod git;
mod image;
mod script;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::host::{Docker, Engine, Hosts};
use crate::report::{Event, Reporter};
use crate::system::{Build, ProcessName, Reach, System};

use git::{Remote, SshUrl};

/// What became of a build.
#[derive(Debug, Clone)]
pub struct Built {
    pub tag: String,
    /// The builder had it already.
    pub reused: bool,
    pub took: Duration,
}

/// A look-up that takes longer will not answer at all.
const PIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of a failed build or script that the failure shows.
const LAST_LINES: usize = 20;

/// A host that repositories are fetched from over SSH.
#[derive(Debug, PartialEq, Eq)]
pub struct GitHost {
    pub reach: Reach,
    /// The processes that are built from it.
    pub processes: BTreeSet<ProcessName>,
}

/// The git hosts of these repositories that go over SSH, each once: by `host` or `host:port`.
pub fn git_hosts<'r>(
    repositories: impl IntoIterator<Item = (&'r ProcessName, &'r str)>,
) -> BTreeMap<String, GitHost> {
    let mut hosts = BTreeMap::new();
    for (process, url) in repositories {
        let Some(parts) = SshUrl::parse(url) else { continue };
        let name = match parts.port {
            Some(port) => format!("{}:{port}", parts.host),
            None => parts.host.to_owned(),
        };
        let host = GitHost { reach: parts.reach(), processes: BTreeSet::new() };
        hosts.entry(name).or_insert(host).processes.insert(process.clone());
    }
    hosts
}

/// The commit that a branch, a tag or a commit of a repository stands for now; `None` is the remote's HEAD. `dir` is
/// the folder of `system.toml`; `identity`, the system's key, is relative to it.
pub async fn pin(
    dir: &Path,
    repository: &str,
    reference: Option<&str>,
    identity: Option<&Path>,
) -> Result<String, Failure> {
    let remote =
        Remote::new(dir, repository, identity.map(|identity| dir.join(identity)).into_iter().collect());
    let reference = reference.map(str::to_owned);
    let look_up = tokio::task::spawn_blocking(move || remote.pin(reference.as_deref()));
    match tokio::time::timeout(PIN_TIMEOUT, look_up).await {
        Ok(Ok(pinned)) => pinned,
        Ok(Err(error)) => Err(Failure::error("the git look-up broke off").because(&error)),
        Err(_) => Err(Failure::error(format!("{repository} does not answer within {PIN_TIMEOUT:?}"))),
    }
}

/// Builds one process of the system, unless its tag exists. `cache` keeps the clones: `.nsd/sources`.
pub async fn build(
    system: &System,
    process: &ProcessName,
    hosts: &Hosts,
    cache: &Path,
    reporter: &Reporter,
) -> Result<Built, Failure> {
    let started = Instant::now();
    let build = build_of(system, process)?;
    let docker = engine(hosts, system, process).await?;
    let there =
        docker.has_image(&build.tag).await.map_err(|error| docker.failed("look for the image", &error))?;
    if !there {
        let remote = Remote::new(hosts.dir(), &build.repository, identities(system, hosts.dir()));
        let work = Work { build, who: process.as_str(), reporter };
        let clone = work.fetch(remote, cache).await?;
        match &build.build_script {
            None => {
                let context = work.export(&clone)?;
                work.build_image(&docker, context).await?;
            }
            Some(script) => {
                let folder = work.run_script(&clone, script).await?;
                work.build_image(&docker, tree::pack_folder(folder.path().join(&build.folder))).await?;
            }
        }
    }
    Ok(Built { tag: build.tag.clone(), reused: there, took: started.elapsed() })
}

/// The engine that builds a process and keeps its image: the machine that the system names, else this machine's, else
/// the first machine that runs the process.
pub(crate) async fn engine(
    hosts: &Hosts,
    system: &System,
    process: &ProcessName,
) -> Result<Arc<Docker>, Failure> {
    let build = build_of(system, process)?;
    if let Some(name) = &build.on {
        return match &hosts.get(name)?.engine {
            Engine::Docker(docker) => Ok(Arc::clone(docker)),
            _ => Err(Failure::error(format!("{name} cannot build {process}: it has no Docker engine"))),
        };
    }
    if let Some(docker) = hosts.here().await {
        return Ok(Arc::clone(docker));
    }
    let runs_it = system.instances.iter().filter(|instance| &instance.name.process == process);
    for machine in runs_it.map(|instance| &instance.name.machine) {
        if let Engine::Docker(docker) = &hosts.get(machine)?.engine {
            return Ok(Arc::clone(docker));
        }
    }
    Err(Failure::error(format!("there is no Docker engine to build {process}"))
        .hint("install one on this machine, or name a builder machine in system.toml"))
}

/// One build in progress.
struct Work<'w> {
    build: &'w Build,
    who: &'w str,
    reporter: &'w Reporter,
}

impl Work<'_> {
    /// Brings the pinned commit into the local clone and returns where that is.
    async fn fetch(&self, remote: Remote, cache: &Path) -> Result<PathBuf, Failure> {
        let (cache, commit) = (cache.to_owned(), self.build.commit.clone());
        let (reporter, who) = (self.reporter.clone(), self.who.to_owned());
        let fetch = move || {
            remote.fetch(&cache, &commit, &mut |done, total| {
                reporter.send(Event::Progress { who: who.clone(), what: "fetch".into(), done, total });
            })
        };
        tokio::task::spawn_blocking(fetch)
            .await
            .map_err(|error| Failure::error("the git fetch broke off").because(&error))?
    }

    fn line(&self, line: &str) {
        self.reporter.send(Event::Output { who: self.who.to_owned(), line: line.to_owned() });
    }
}

fn build_of<'s>(system: &'s System, process: &ProcessName) -> Result<&'s Build, Failure> {
    system
        .builds
        .get(process)
        .ok_or_else(|| Failure::error(format!("{process} is not built from a repository")))
}

/// The keys that the system itself reaches its machines with; they may open its repositories too.
fn identities(system: &System, dir: &Path) -> Vec<PathBuf> {
    let mut identities = Vec::new();
    for machine in system.machines.values() {
        if let Reach::Ssh { identity: Some(identity), .. } = &machine.reach {
            let path = dir.join(identity);
            if !identities.contains(&path) {
                identities.push(path);
            }
        }
    }
    identities
}
