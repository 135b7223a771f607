//! The settings file: no text makes the reader panic; each problem has a line of the text and says something; what is
//! understood is understood the same once more, and has the shape that the rest relies on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nsd_balancer::settings;

fuzz_target!(|text: &str| {
    let parsed = settings::parse(text);
    assert_eq!(settings::parse(text), parsed);
    match parsed {
        Ok(settings) => {
            assert!(!settings.frontends.is_empty(), "nothing to listen on");
            for backend in &settings.backends {
                assert!(!backend.name.is_empty());
                assert!(backend.servers.iter().all(|server| server.weight <= 256));
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
            for problem in problems {
                assert!((1..=lines).contains(&problem.line), "{problem} of {lines} lines");
                assert!(!problem.what.is_empty());
            }
        }
    }
});
