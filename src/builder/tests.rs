//! With real repositories on the disk: what is fetched, what is exported, what is refused.

use std::io::Read;
use std::sync::Mutex;

use futures_util::TryStreamExt;
use git2::{IndexEntry, IndexTime, Oid, Repository, Signature};

use super::*;
use crate::host::Chunks;
use crate::report::Listener;

struct Silent;

impl Listener for Silent {
    fn on(&self, _: &Event) {}
}

/// Remembers output lines.
struct Lines(Arc<Mutex<Vec<String>>>);

impl Listener for Lines {
    fn on(&self, event: &Event) {
        if let Event::Output { line, .. } = event {
            self.0.lock().unwrap().push(line.clone());
        }
    }
}

const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;

struct Bench {
    folder: tempfile::TempDir,
    origin: Repository,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let origin = Repository::init_bare(folder.path().join("origin.git")).unwrap();
        Self { folder, origin }
    }

    /// Commits exactly these files to a branch.
    fn commit(&self, branch: &str, files: &[(&str, u32, &str)]) -> String {
        let mut index = git2::Index::new().unwrap();
        for (path, mode, content) in files {
            let id = match *mode {
                SUBMODULE => Oid::from_str(&"1".repeat(40)).unwrap(),
                _ => self.origin.blob(content.as_bytes()).unwrap(),
            };
            let time = IndexTime::new(0, 0);
            let path = path.as_bytes().to_vec();
            let entry = IndexEntry {
                ctime: time,
                mtime: time,
                dev: 0,
                ino: 0,
                mode: *mode,
                uid: 0,
                gid: 0,
                file_size: 0,
                id,
                flags: 0,
                flags_extended: 0,
                path,
            };
            index.add(&entry).unwrap();
        }
        let tree = self.origin.find_tree(index.write_tree_to(&self.origin).unwrap()).unwrap();
        let who = Signature::now("a", "a@example.org").unwrap();
        let name = format!("refs/heads/{branch}");
        let parent = self.origin.find_reference(&name).ok().map(|head| head.peel_to_commit().unwrap());
        let parents: Vec<_> = parent.iter().collect();
        self.origin.commit(Some(&name), &who, &who, "m", &tree, &parents).unwrap().to_string()
    }

    fn url(&self) -> String {
        self.origin.path().display().to_string()
    }

    fn remote(&self) -> Remote {
        Remote::new(self.folder.path(), &self.url(), Vec::new())
    }

    fn build(&self, commit: &str) -> Build {
        Build {
            repository: self.url(),
            reference: None,
            commit: commit.into(),
            folder: String::new(),
            dockerfile: "Dockerfile".into(),
            args: BTreeMap::new(),
            build_script: None,
            on: None,
            tag: "x:1".into(),
        }
    }

    fn clone(&self, commit: &str) -> Result<PathBuf, Failure> {
        self.remote().fetch(&self.folder.path().join("sources"), commit, &mut |_, _| {})
    }
}

/// Path, mode and content (or a link's target) of each entry.
async fn unpack(context: Chunks) -> BTreeMap<String, (u32, String)> {
    let bytes: Vec<_> = context.try_collect().await.unwrap();
    let bytes = bytes.concat();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            content = format!("-> {}", target.display());
        }
        files.insert(entry.path().unwrap().display().to_string(), (entry.header().mode().unwrap(), content));
    }
    files
}

#[test]
fn hosts_that_repositories_go_to_by_ssh_are_told_once() {
    let [api, web, docs] = ["api", "web", "docs"].map(|name| name.parse::<ProcessName>().unwrap());
    let hosts = git_hosts([
        (&api, "git@10.0.0.2:api.git"),
        (&web, "ssh://git@10.0.0.2/web.git"),
        (&web, "ssh://git@10.0.0.2:2222/web.git"),
        (&docs, "https://example.org/docs.git"),
        (&docs, "/srv/docs.git"),
    ]);
    let told: Vec<_> =
        hosts.iter().map(|(name, host)| (name.as_str(), host.processes.iter().collect::<Vec<_>>())).collect();
    assert_eq!(told, [("10.0.0.2", vec![&api, &web]), ("10.0.0.2:2222", vec![&web])]);
    let reach = |port| Reach::Ssh { host: "10.0.0.2".into(), port, user: Some("git".into()), identity: None };
    assert_eq!((&hosts["10.0.0.2"].reach, &hosts["10.0.0.2:2222"].reach), (&reach(None), &reach(Some(2222))));
}

#[tokio::test]
async fn the_pinned_commit_is_exported_and_nothing_else() {
    let bench = Bench::new();
    let commit = bench.commit(
        "main",
        &[
            ("app/Dockerfile", FILE, "FROM x"),
            ("app/run.sh", PROGRAM, "#!"),
            ("app/link", LINK, "run.sh"),
            ("top", FILE, ""),
        ],
    );
    let later = bench.commit("main", &[("app/Dockerfile", FILE, "FROM later")]);
    assert_eq!(bench.remote().pin(Some("main")).unwrap(), later);
    let build = Build { folder: "app".into(), ..bench.build(&commit) };
    let reporter = Reporter::new(Silent);
    let work = Work { build: &build, who: "p", reporter: &reporter };
    let clone = bench.clone(&commit).unwrap();
    let files = unpack(work.export(&clone).unwrap()).await;
    let expected = [("Dockerfile", 0o644, "FROM x"), ("link", 0o755, "-> run.sh"), ("run.sh", 0o755, "#!")];
    let expected = expected.map(|(path, mode, content)| (path.to_owned(), (mode, content.to_owned())));
    assert_eq!(files, BTreeMap::from(expected));
}

#[test]
fn what_cannot_be_built_is_refused_by_name() {
    let bench = Bench::new();
    let reporter = Reporter::new(Silent);
    let refusal = |build: Build| {
        let work = Work { build: &build, who: "p", reporter: &reporter };
        work.export(&bench.clone(&build.commit).unwrap()).err().unwrap()
    };
    let plain = bench.commit("main", &[("docker/Dockerfile.prod", FILE, ""), ("Dockerfile.dev", FILE, "")]);
    let missing = refusal(bench.build(&plain));
    assert!(missing.message.contains("has no `Dockerfile` in its top folder"), "{missing:?}");
    assert_eq!(missing.hints, ["there is Dockerfile.dev, docker/Dockerfile.prod"]);
    let folder = refusal(Build { folder: "nowhere".into(), ..bench.build(&plain) });
    assert!(folder.message.contains("the folder `nowhere` is not in"), "{folder:?}");
    let module = bench.commit("main", &[("Dockerfile", FILE, ""), ("deps/lib", SUBMODULE, "")]);
    let submodule = refusal(bench.build(&module));
    assert!(submodule.message.contains("`deps/lib` is a submodule"), "{submodule:?}");
    let gone = bench.clone(&"2".repeat(40)).unwrap_err();
    assert!(gone.message.contains("does not have the commit 2222"), "{gone:?}");
}

#[tokio::test]
async fn a_script_runs_in_the_sources_and_its_failure_shows_its_last_lines() {
    let bench = Bench::new();
    let commit = bench
        .commit("main", &[("app/Dockerfile", FILE, ""), ("app/make.sh", FILE, "echo made >made; echo told")]);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let reporter = Reporter::new(Lines(Arc::clone(&heard)));
    let build = Build { folder: "app".into(), ..bench.build(&commit) };
    let work = Work { build: &build, who: "p", reporter: &reporter };
    let clone = bench.clone(&commit).unwrap();
    let folder = work.run_script(&clone, "make.sh").await.unwrap();
    let files = unpack(tree::pack_folder(folder.path().join("app"))).await;
    assert_eq!(files["made"].1, "made\n");
    assert_eq!(*heard.lock().unwrap(), ["told"]);
    let failure = work.run_script(&clone, "echo first; echo why >&2; exit 2").await.unwrap_err();
    assert!(failure.message.contains("the build script failed (exit status: 2)"), "{failure:?}");
    assert!(failure.causes[0].ends_with("first\nwhy"), "{failure:?}");
    let lost = work.run_script(&clone, "rm Dockerfile").await.unwrap_err();
    assert!(lost.message.contains("has no `Dockerfile`"), "{lost:?}");
}
