//! Where a client is, and what is told of it.

use std::process::Command;

use nsd_edge::admin::{Method, StatusCode};
use nsd_wire::{Connect, Version};
use tokio::io::AsyncWriteExt;

use crate::support::device::Device;
use crate::support::witness::Witness;
use crate::support::{BINARY, Balancer, CHECK, blocks, free_address, listen, page, typed};

#[tokio::test]
async fn who_tells_where_a_client_is_and_sessions_count_them() {
    let b1 = Witness::start().await;
    let address = free_address();
    let balancer = Balancer::start(address, &listen(address, CHECK, &[("b1", b1.address)])).await;
    let mut device = Device::come(address, "line 7/gate&way", Version::V5).await.unwrap();
    let _others = Device::many(address, "other", 3, Version::V311).await;
    let message = device.message("t", b"payload");
    device.stream.write_all(&message).await.unwrap();
    device.hear().await;
    let mut ask = Command::new(BINARY);
    ask.args(["admin", "--socket"]).arg(balancer.path("admin.sock")).args(["who", "line 7/gate&way"]);
    let output = ask.output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let session = &told["sessions"][0];
    for (key, value) in [
        ("client", "line 7/gate&way"),
        ("frontend", "mqtt"),
        ("backend", "mqtt"),
        ("server", "b1"),
        ("version", "5"),
        ("source", &device.stream.local_addr().unwrap().to_string()),
    ] {
        assert_eq!(session[key], value, "{told}");
    }
    assert_eq!((&session["tls"], &session["user"]), (&false.into(), &serde_json::Value::Null), "{told}");
    assert!(session["bytes_up"].as_u64() > Some(message.len() as u64), "{told}");
    let (status, told) = balancer.ask(Method::GET, "/who?client=nobody", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{told}");
    let (_, told) = balancer.ask(Method::GET, "/sessions", None).await;
    assert_eq!((&told["sessions"], &told["by_version"]["3.1.1"]), (&4.into(), &3.into()), "{told}");
    assert_eq!(told["by_server"]["mqtt/b1"], 4, "{told}");
}

#[tokio::test]
async fn the_access_log_tells_messages_and_goodbyes_and_user_names_if_asked() {
    let b1 = Witness::start().await;
    for (user_names, told) in [("", false), ("[log]\nuser_names = true\n", true)] {
        let address = free_address();
        let settings = format!("{user_names}{}", listen(address, CHECK, &[("b1", b1.address)]));
        let balancer = Balancer::start(address, &settings).await;
        let connect = Connect { user_name: Some("anna"), ..Connect::new(Version::V311, "device \"1\"") };
        let mut device = Device::come_as(address, &connect).await.unwrap();
        let message = device.message("t", b"payload");
        device.stream.write_all(&[&message[..], b"\xe0\0"].concat()).await.unwrap();
        device.hear().await;
        drop(device);
        balancer.wait_for_log("end=\"client-disconnect\"").await;
        let line = balancer.log().lines().find(|line| line.contains("client-disconnect")).unwrap().to_owned();
        let expected = r#"id="device \"1\"" server="b1" version="3.1.1""#;
        assert!(line.contains(expected) && line.contains("messages_up=1"), "{line}");
        assert_eq!(line.contains("user=\"anna\""), told, "{line}");
    }
}

/// What the page of the sessions shows is what there is: its file is a good one, its commands are understood.
#[tokio::test]
async fn the_page_of_the_sessions_is_true() {
    let page = page("balancer-sessions.md");
    let b1 = Witness::start().await;
    let address = free_address();
    let balancer = Balancer::start(address, &listen(address, CHECK, &[("mqtt-1", b1.address)])).await;
    balancer.wait_for_state("mqtt-1", "healthy").await;
    let _device = Device::come(address, "device-17", Version::V311).await.unwrap();
    for example in blocks(&page, "toml") {
        std::fs::write(balancer.path("page.toml"), &example).unwrap();
        let output =
            Command::new(BINARY).arg("--check").arg("--config").arg(balancer.path("page.toml")).output();
        assert!(output.unwrap().status.success(), "{example}");
    }
    let commands = blocks(&page, "sh").concat();
    assert_eq!(commands.lines().count(), 10, "{commands}");
    // Not the drains first: they send the device away.
    for line in commands.lines().rev() {
        typed(line, &balancer);
    }
}
