//! Host keys of git hosts: shown with who needs them, recorded, and then believed.

use std::process::{Child, Command, Stdio};

use crate::history::SYSTEM;
use crate::support::{Home, eventually};

const PORT: u16 = 25_922;

/// An SSH server with a key of its own, which lets nobody in.
struct GitHost(Child);

impl GitHost {
    fn start(home: &Home) -> Self {
        let key = home.path("host_key");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        // As root, it insists on this folder.
        let _ = std::fs::create_dir_all("/run/sshd");
        let listen = format!("ListenAddress=127.0.0.1:{PORT}");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", "/dev/null", "-o", &listen, "-o", "PidFile=none", "-h"])
            .arg(key)
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd is installed (package openssh-server)");
        let host = Self(child);
        eventually(10, "sshd listens", || std::net::TcpStream::connect(("127.0.0.1", PORT)).ok());
        host
    }
}

impl Drop for GitHost {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn git_hosts_are_trusted_like_machines() {
    let home = Home::new();
    let _git = GitHost::start(&home);
    let repository = format!("repository = \"ssh://git@127.0.0.1:{PORT}/clock.git\"");
    home.sample(&SYSTEM.replace("program = [\"sleep\", \"3600\"]", &repository));

    let unknown = home.nsd("sample", "sys compile local");
    assert_eq!(unknown.code, 1, "{}", unknown.all());
    assert!(unknown.stderr.contains("is not known here: SHA256:"), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("`nsd mach trust`"), "{}", unknown.stderr);

    let unanswered = home.nsd("sample", "mach trust");
    assert_eq!(unanswered.code, 64, "nobody can be asked: {}", unanswered.all());
    assert!(!home.path("sample/known_hosts").exists());

    let trusted = home.ok("sample", "mach trust -y");
    let label = format!("git 127.0.0.1:{PORT} (clock)  ssh-ed25519 ");
    assert!(trusted.stdout.contains(&label), "{}", trusted.stdout);
    let known = std::fs::read_to_string(home.path("sample/known_hosts")).unwrap();
    assert!(known.starts_with(&format!("[127.0.0.1]:{PORT} ssh-ed25519 ")), "{known}");

    // Now it gets as far as its keys, of which there are none.
    let known = home.nsd("sample", "sys compile local");
    assert!(known.stderr.contains("no access"), "{}", known.all());
    let again = home.ok("sample", "mach trust");
    assert_eq!(again.stdout, "all keys are known already (1 host)\n");

    // A host that shows another key than before is not believed.
    let other = std::fs::read_to_string(home.path("sample/known_hosts")).unwrap();
    let (place, _) = other.split_once(" ssh-ed25519 ").unwrap();
    let forged = "AAAAC3NzaC1lZDI1NTE5AAAAIAnR0LkMUVhLhnQbPVKfX1QB/YXZVnsN4CVVFmwO0rYk";
    home.write("sample/known_hosts", &format!("{place} ssh-ed25519 {forged}\n"));
    let changed = home.nsd("sample", "sys compile local");
    assert!(changed.stderr.contains("has CHANGED"), "{}", changed.all());
    let asked = home.nsd("sample", "mach trust");
    assert!(asked.stdout.contains("CHANGED") && asked.stderr.contains("OTHER keys"), "{}", asked.all());
}
