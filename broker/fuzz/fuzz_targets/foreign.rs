//! Other brokers' files: no text makes a converter panic; what is made is TOML, or lines that the broker reads, whatever
//! the names in the file are; each note has a place and says something.

#![no_main]

use std::str;

use libfuzzer_sys::fuzz_target;
use nsd_broker::access::Acl;
use nsd_broker::access::passwords::Passwords;
use nsd_broker::convert::{self, Note};

fuzz_target!(|input: &[u8]| {
    let [kind, bytes @ ..] = input else { return };
    match (kind % 2, str::from_utf8(bytes)) {
        (0, Ok(text)) => mosquitto(text),
        (_, Ok(text)) => mosca(text),
        _ => {}
    }
});

fn are_told(notes: &[Note]) {
    for note in notes {
        assert!(!note.at.is_empty() && !note.what.is_empty() && !note.what.contains('\n'), "{note:?}");
    }
}

fn mosquitto(text: &str) {
    let lines = convert::lines("mosquitto.conf", text);
    let made = convert::mosquitto(&lines, "/etc/nsd");
    are_told(&made.notes);
    assert!(made.toml.parse::<toml::Table>().is_ok(), "{}", made.toml);
    for file in &made.certificates {
        let name = file.name.strip_prefix("/etc/nsd/").expect("it stands beside the settings");
        assert!(!name.contains('/') && made.toml.contains(name), "{file:?}");
    }
    let again = convert::mosquitto(&lines, "/etc/nsd");
    assert_eq!((again.toml, again.notes), (made.toml, made.notes));
}

fn mosca(text: &str) {
    let Ok(made) = convert::mosca(text) else { return };
    are_told(&made.notes);
    let users = made.passwords.lines().count();
    let read = Passwords::parse(&made.passwords);
    assert_eq!(read.map(|read| read.len()), Ok(users), "{}", made.passwords);
    assert!(Acl::parse(&made.acl).is_ok(), "{}", made.acl);
}
