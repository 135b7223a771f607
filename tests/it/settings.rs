//! What nsd renders for the servers that come with it, the servers themselves take: every system, every topology.

use std::path::Path;
use std::process::Command;

use crate::support::{Home, servers};

#[test]
fn servers_take_the_settings_that_are_rendered_for_them() {
    let home = Home::with_servers();
    let pem = certificate(&home);
    home.write("password", "sesame\n");
    let mut taken = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/systems")).unwrap() {
        let file = entry.unwrap().path().join("system.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        taken.extend(checked(&home, &text, &pem));
    }
    home.ok("", "sys create shop");
    taken.extend(checked(&home, &std::fs::read_to_string(home.path("shop/system.toml")).unwrap(), &pem));
    for expected in [
        "lelylan-mqtt local broker",
        "lelylan-mqtt local balancer",
        "lelylan-mqtt direct broker",
        "lelylan-mqtt direct balancer",
        "quickstart local broker",
        "quickstart local balancer",
        "single-host server broker",
        "shop local broker",
        "shop local balancer",
    ] {
        assert!(taken.iter().any(|one| one == expected), "{expected} was not checked: {taken:?}");
    }
}

/// Compiles each topology of a system and has the servers check their settings; tells which were.
fn checked(home: &Home, system: &str, pem: &Path) -> Vec<String> {
    let parsed: toml::Table = system.parse().unwrap();
    let name = parsed["name"].as_str().unwrap();
    let mut taken = Vec::new();
    for topology in parsed["topology"].as_table().unwrap().keys() {
        home.write(&format!("{name}/system.toml"), system);
        home.ok(name, &format!("sys compile {topology}"));
        let revision = home.ok(name, "rev get head --json").json();
        for instance in revision["system"]["instances"].as_array().unwrap() {
            for file in instance["container"]["files"].as_array().into_iter().flatten() {
                let server = match file["to"].as_str().unwrap() {
                    "/etc/nsd/broker.toml" => "broker",
                    "/etc/nsd/balancer.toml" => "balancer",
                    _ => continue,
                };
                check(home, server, file["content"].as_str().unwrap(), pem);
                taken.push(format!("{name} {topology} {server}"));
            }
        }
    }
    taken
}

/// Runs `--check` on the settings as they are, but for the paths that exist only where the server runs.
fn check(home: &Home, server: &str, settings: &str, pem: &Path) {
    let mut settings: toml::Table = settings.parse().unwrap();
    for listen in settings["listen"].as_array_mut().unwrap() {
        if let Some(tls) = listen.get_mut("tls") {
            tls["certificates"] = toml::Value::Array(vec![pem.display().to_string().into()]);
        }
    }
    if let Some(file) = settings.get_mut("store").and_then(|store| store.get_mut("password_file")) {
        *file = home.path("password").display().to_string().into();
    }
    let path = home.path("settings.toml");
    std::fs::write(&path, settings.to_string()).unwrap();
    let output = Command::new(servers().join(format!("nsd-{server}")))
        .arg("--config")
        .arg(&path)
        .arg("--check")
        .output()
        .unwrap();
    assert!(output.status.success(), "nsd-{server}: {}\n{settings}", String::from_utf8_lossy(&output.stderr));
}

fn certificate(home: &Home) -> std::path::PathBuf {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    home.write("certs/x.pem", &format!("{}{}", certificate.pem(), key.serialize_pem()));
    home.path("certs/x.pem")
}
