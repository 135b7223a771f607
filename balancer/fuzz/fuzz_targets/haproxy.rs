//! A `haproxy.cfg`: no text makes the converter panic; what it makes is TOML whatever the names in the file are, and where
//! it is no settings a note says so; each note has a line of the text and says something.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nsd_balancer::convert::haproxy;
use nsd_balancer::settings;
use nsd_edge::config::Problem;

fuzz_target!(|text: &str| {
    let lines = text.lines().count().max(1);
    let is_told = |note: &Problem| {
        assert!((1..=lines).contains(&note.line), "{note} of {lines} lines");
        assert!(!note.what.is_empty() && !note.what.contains('\n'), "{note:?}");
    };
    match haproxy(text) {
        Ok(made) => {
            made.notes.iter().for_each(is_told);
            assert!(made.toml.parse::<toml::Table>().is_ok(), "{}", made.toml);
            if settings::parse(&made.toml).is_err() {
                let says_so = |note: &Problem| note.what.starts_with("in what was made");
                assert!(made.notes.iter().any(says_so), "{}", made.toml);
            }
            let again = haproxy(text).expect("the same text");
            assert_eq!((again.toml, again.notes), (made.toml, made.notes));
        }
        Err(note) => is_told(&note),
    }
});
