//! Two machines joined by a cable that can be cut; tests of the servers take this file in. Who is behind a cut cable is half
//! open: nothing comes from there any more, not even that it is gone.
//!
//! The machines are network namespaces. Each is held by a process that ends with this one, however that ends, and the
//! kernel takes the cable away with them. Nothing of it has a name that another test could meet.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NEAR_CARD: &str = "02:00:00:00:00:01";
const FAR_CARD: &str = "02:00:00:00:00:02";

pub(crate) struct Cable {
    /// At [`NEAR`].
    pub(crate) near: Machine,
    /// At [`FAR`].
    pub(crate) far: Machine,
}

pub(crate) struct Machine {
    holder: Child,
}

impl Cable {
    pub(crate) fn lay() -> Self {
        let (near, far) = (Machine::boot(), Machine::boot());
        let far_holder = far.holder.id();
        near.ip(&format!(
            "link add cable address {NEAR_CARD} type veth peer name cable address {FAR_CARD} netns {far_holder}"
        ));
        for (machine, address) in [(&near, NEAR), (&far, FAR)] {
            machine.ip(&format!("address add {address}/24 dev cable"));
            machine.ip("link set cable up");
        }
        // As if a router stood between them: nothing tells the near machine whether the far one is there.
        near.ip(&format!("neighbour replace {FAR} lladdr {FAR_CARD} dev cable nud permanent"));
        Self { near, far }
    }

    /// What is sent from now on, either way, is lost.
    pub(crate) fn cut(&self) {
        self.far.ip("link set cable down");
    }

    pub(crate) fn mend(&self) {
        self.far.ip("link set cable up");
    }
}

impl Machine {
    fn boot() -> Self {
        let mut holder = tool("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` of util-linux is there");
        let mut said = String::new();
        let heard = holder.stdout.as_mut().map(|stdout| BufReader::new(stdout).read_line(&mut said));
        let machine = Self { holder };
        let up = matches!(heard, Some(Ok(_))) && said == "up\n";
        assert!(up, "no network namespace can be made: run the tests as root, with `ip` of iproute2");
        machine
    }

    /// To run a program there.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = tool("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command
    }

    /// Sockets that `action` makes are that machine's, for as long as there are.
    pub(crate) fn does<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.holder.id())).expect("its network");
        let there = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("it may be entered");
            action()
        };
        thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// How often something was sent again from there, because nothing had come back.
    pub(crate) fn sent_again(&self) -> u64 {
        let counts = fs::read_to_string(format!("/proc/{}/net/snmp", self.holder.id())).expect("its counts");
        let mut lines =
            counts.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(str::split_whitespace);
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let found = names.zip(values).find(|(name, _)| *name == "RetransSegs");
        found.and_then(|(_, value)| value.parse().ok()).expect("how often")
    }

    fn ip(&self, words: &str) {
        let done =
            self.command("ip").args(words.split(' ')).status().expect("`nsenter` of util-linux is there");
        assert!(done.success(), "ip {words}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Not everybody's path leads to them.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
