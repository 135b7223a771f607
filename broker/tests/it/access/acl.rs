//! The ACL file on the wire.

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Version, Will};
use sha2::Digest;

use super::{Files, as_user, eventually_logged, told};
use crate::support::{Broker, Client, SOON, eventually, port};

const ALLOWED: ReasonCode = ReasonCode::Success;
const REFUSED: ReasonCode = ReasonCode::NotAuthorized;

const RULES: &str = "\
# anonymous clients
topic read news/#
topic write in
user anna
topic home/#
topic deny home/safe/#
topic read $SYS/#
topic write $SYS/x
user bert
topic read #
topic deny secret/#
pattern read to/%u/#
pattern write from/%u/%c
";

/// A password file of users whose passwords are their names.
pub(super) fn password_file(files: &Files, users: &[&str]) -> String {
    let line = |user: &&str| {
        let digest = sha2::Sha256::new().chain_update([0]).chain_update(user).finalize();
        format!("{user}:$sha256$00${}\n", hex::encode(digest))
    };
    files.write("passwords", &users.iter().map(line).collect::<String>())
}

fn guarded(files: &Files, users: &[&str], rules: &str) -> Broker {
    let passwords = password_file(files, users);
    let acl = files.write("acl", rules);
    Broker::start(&format!(
        "allow_anonymous = true\n[access]\npassword_file = \"{passwords}\"\nacl_file = \"{acl}\"\n\
         [sys]\ninterval = \"0s\"" // What is granted there would come in between.
    ))
}

fn as_client<'c>(user: &'c str, id: &'c str) -> Connect<'c> {
    Connect { client_id: id, ..as_user(Version::V5, user, user) }
}

#[test]
fn every_kind_of_line() {
    const NOBODY: usize = 0;
    const ANNA: usize = 1;
    const BERT: usize = 2;
    const CARL: usize = 3;
    let files = Files::new();
    let broker = guarded(&files, &["anna", "bert", "carl"], RULES);
    let known = [("anna", "c2"), ("bert", "c3"), ("carl", "c1")]
        .map(|(user, id)| Client::connect(broker.address, &as_client(user, id)));
    let mut clients = vec![broker.client(Version::V5, "nobody")];
    clients.extend(known);
    for (client, filter, expected) in [
        (NOBODY, "news/today", ALLOWED),
        (NOBODY, "news/#", ALLOWED),
        (NOBODY, "#", REFUSED),
        (NOBODY, "$SYS/#", REFUSED),
        (ANNA, "home/#", REFUSED),
        (ANNA, "home/+", REFUSED),
        (ANNA, "home/kitchen/+", ALLOWED),
        (ANNA, "news/today", REFUSED),
        (ANNA, "$SYS/broker/#", ALLOWED),
        (ANNA, "to/anna/#", ALLOWED),
        (ANNA, "to/bert/#", REFUSED),
        (ANNA, "to/+/x", REFUSED),
        (BERT, "open/#", ALLOWED),
        (BERT, "#", REFUSED),
        (BERT, "+/x", REFUSED),
        (BERT, "secret", REFUSED),
        (BERT, "$SYS/#", REFUSED),
        (CARL, "open/x", REFUSED),
        (CARL, "to/carl/+", ALLOWED),
    ] {
        assert_eq!(clients[client].subscribe(filter, Qos::AtMostOnce), expected, "{filter}");
    }
    for (client, topic, expected) in [
        (NOBODY, "in", ALLOWED),
        (NOBODY, "news/today", REFUSED),
        (ANNA, "home/x", ALLOWED),
        (ANNA, "home/safe", REFUSED),
        (ANNA, "home/safe/x", REFUSED),
        (ANNA, "$SYS/x", REFUSED),
        (ANNA, "from/anna/c2", ALLOWED),
        (ANNA, "from/anna/c1", REFUSED),
        (ANNA, "from/bert/c2", REFUSED),
        (BERT, "open/x", REFUSED),
        (CARL, "from/carl/c1", ALLOWED),
    ] {
        assert_eq!(clients[client].publish(topic, b"x", Qos::AtLeastOnce), expected, "{topic}");
    }
    let will = Some(Will::new("home/safe/x", b"x"));
    assert_eq!(Client::refused(broker.address, &Connect { will, ..as_client("anna", "c9") }), REFUSED);
    let mut old =
        Client::connect(broker.address, &Connect { version: Version::V311, ..as_client("anna", "c4") });
    old.send(&Packet::Publish(Publish::new("home/safe/x", b"x")));
    assert!(old.is_closed(SOON));
}

/// The real Mosquitto, with our files; killed when dropped.
struct Mosquitto {
    address: std::net::SocketAddr,
    process: std::process::Child,
}

impl Mosquitto {
    fn start(files: &Files) -> Self {
        let address: std::net::SocketAddr = ([127, 0, 0, 1], port()).into();
        let settings = format!(
            "listener {} 127.0.0.1\nuser root\nallow_anonymous true\npassword_file {}\nacl_file {}\n",
            address.port(),
            files.path("passwords").display(),
            files.path("acl").display()
        );
        let file = files.write("mosquitto.conf", &settings);
        let null = std::process::Stdio::null;
        let process = std::process::Command::new("mosquitto").args(["-c", &file]).stderr(null()).spawn();
        let process = process.expect("mosquitto is installed");
        eventually("mosquitto listens", SOON, || std::net::TcpStream::connect(address).is_ok());
        Self { address, process }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn mosquitto_understands_the_same_files_alike() {
    const USERS: [Option<&str>; 4] = [None, Some("anna"), Some("bert"), Some("carl")];
    let files = Files::new();
    let passwords = files.write("passwords", "");
    for user in USERS.into_iter().flatten() {
        let done =
            std::process::Command::new("mosquitto_passwd").args(["-b", &passwords, user, user]).status();
        assert!(done.expect("mosquitto_passwd is installed").success());
    }
    let acl = files.write("acl", RULES);
    let ours = Broker::start(&format!(
        "allow_anonymous = true\n[access]\npassword_file = \"{passwords}\"\nacl_file = \"{acl}\""
    ));
    let theirs = Mosquitto::start(&files);
    for user in USERS {
        for id in ["c1", "carl", "+", "c#"] {
            let connect = user.map_or(Connect::new(Version::V5, id), |user| as_client(user, id));
            let mut clients =
                [ours.address, theirs.address].map(|address| Client::connect(address, &connect));
            for topic in [
                "in",
                "news/today",
                "home",
                "home/x",
                "home/safe",
                "home/safe/x",
                "home/safes",
                "secret/x",
                "open/x",
                "to/anna/x",
                "from/anna/c1",
                "from/carl/c1",
                "from/carl/carl",
                "from/bert/c2",
                "from//c1",
                "from/carl",
            ] {
                let [ours, theirs] = clients
                    .each_mut()
                    .map(|client| client.publish(topic, b"x", Qos::AtLeastOnce).is_failure());
                assert_eq!(ours, theirs, "{user:?} {id} {topic}: refused here, refused there");
            }
        }
    }
}

#[test]
fn names_with_wildcards_and_separators_widen_nothing() {
    let files = Files::new();
    let rules = "pattern readwrite u/%u/#\npattern readwrite c/%c/#\npattern read all/%u\n";
    let users = ["+", "a#", "a/b", "$SYS", "fine"];
    let broker = guarded(&files, &users, rules);
    for user in ["+", "a#", "a/b", "$SYS"] {
        let mut client = Client::connect(broker.address, &as_client(user, "id"));
        for filter in ["u/+/#", "u/#", "u/a/b/#", "u/fine/x", "all/+", "all/#", "all/fine"] {
            assert_eq!(client.subscribe(filter, Qos::AtMostOnce), REFUSED, "{user} {filter}");
        }
        assert_eq!(client.publish("u/a/b/x", b"x", Qos::AtLeastOnce), REFUSED, "{user}");
        assert_eq!(client.subscribe("c/id/#", Qos::AtMostOnce), ALLOWED, "{user}");
    }
    for id in ["+", "#", "a/b", "+/+"] {
        let mut client = Client::connect(broker.address, &as_client("fine", id));
        for filter in ["c/+/#", "c/#", "c/a/b/#", "c/+/+/x", "c/id/x"] {
            assert_eq!(client.subscribe(filter, Qos::AtMostOnce), REFUSED, "{id} {filter}");
        }
        assert_eq!(client.publish("c/a/b/x", b"x", Qos::AtLeastOnce), REFUSED, "{id}");
        assert_eq!(client.subscribe("u/fine/#", Qos::AtMostOnce), ALLOWED, "{id}");
    }
}

#[test]
fn a_user_called_plus_is_not_everybody_under_the_articles_rule() {
    let files = Files::new();
    let passwords = password_file(&files, &["+"]);
    let broker = Broker::start(&format!("[access]\npassword_file = \"{passwords}\""));
    let mut client = Client::connect(broker.address, &as_user(Version::V5, "+", "+"));
    for filter in ["devices/+/x", "devices/+", "devices/#"] {
        assert_eq!(client.subscribe(filter, Qos::AtMostOnce), REFUSED, "{filter}");
    }
}

#[test]
fn rule_and_file_must_both_allow_it() {
    let files = Files::new();
    let acl = files.write("acl", "topic readwrite a/#\n");
    let broker = Broker::start(&format!(
        "allow_anonymous = true\n[access]\ntopic_rule = \"second-level-is-device\"\nacl_file = \"{acl}\"\ndevices = false"
    ));
    let mut client = broker.client(Version::V5, "c");
    assert_eq!(client.subscribe("a/b", Qos::AtMostOnce), REFUSED);
}

#[test]
fn a_changed_file_counts_for_who_is_connected_and_a_bad_one_changes_nothing() {
    let files = Files::new();
    let broker = guarded(&files, &["anna"], "user anna\ntopic readwrite a\n");
    let mut anna = Client::connect(broker.address, &as_client("anna", "c1"));
    assert_eq!(anna.publish("a", b"x", Qos::AtLeastOnce), ALLOWED);
    files.replace("acl", "user anna\ntopic readwrite a\ntopic readwrite b\ntopic raed c\n");
    eventually_logged(&broker, "acl:4: `raed` is none of read, write, readwrite, deny");
    assert_eq!(anna.publish("b", b"x", Qos::AtLeastOnce), REFUSED);
    assert_eq!(anna.publish("a", b"x", Qos::AtLeastOnce), ALLOWED);
    files.replace("acl", "user anna\ntopic readwrite b\n");
    eventually("the new file counts", SOON, || anna.publish("a", b"x", Qos::AtLeastOnce) == REFUSED);
    assert_eq!(anna.publish("b", b"x", Qos::AtLeastOnce), ALLOWED);
    assert_eq!(anna.subscribe("a", Qos::AtMostOnce), REFUSED);
    assert_eq!(told(&broker, &as_client("anna", "c1")), ALLOWED);
}

/// A client id is a name that anybody may give: what waits under it is not for everybody.
#[test]
fn a_session_goes_on_only_for_who_may_hear_all_of_it() {
    let files = Files::new();
    let rules = "pattern readwrite to/%u/#\nuser boss\ntopic readwrite #\n";
    let broker = guarded(&files, &["anna", "bert", "boss"], rules);
    let staying = |user: &'static str| {
        let mut connect = Connect { clean_start: false, ..as_client(user, "shared") };
        connect.properties.session_expiry = Some(600);
        let mut client = Client::open(broker.address, Version::V5);
        let present = client.login(&connect);
        (client, present)
    };
    let (mut anna, _) = staying("anna");
    assert_eq!(anna.subscribe("to/anna/#", Qos::AtLeastOnce), ReasonCode::GrantedQos1);
    anna.disconnect();
    let mut boss = Client::connect(broker.address, &as_client("boss", "boss"));
    assert_eq!(boss.publish("to/anna/x", b"1", Qos::AtLeastOnce), ALLOWED);
    let (mut anna, present) = staying("anna");
    assert!(present);
    assert_eq!(anna.message().topic, "to/anna/x");
    anna.disconnect();
    assert_eq!(boss.publish("to/anna/x", b"2", Qos::AtLeastOnce), ALLOWED);
    let (mut bert, present) = staying("bert");
    assert!(!present, "it was anna's");
    assert_eq!(boss.publish("to/anna/x", b"3", Qos::AtLeastOnce), ALLOWED);
    assert_eq!(bert.subscribe("to/bert/#", Qos::AtLeastOnce), ReasonCode::GrantedQos1);
    assert_eq!(boss.publish("to/bert/x", b"4", Qos::AtLeastOnce), ALLOWED);
    assert_eq!(bert.message().payload, b"4", "nothing of anna's came before");
}
