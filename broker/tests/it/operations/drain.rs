//! Clients are sent away at a rate, and told where to go.

use std::net::TcpStream;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Packet, ReasonCode, Version};

use crate::support::{Broker, Client, SOON, eventually};

/// The DISCONNECT that comes next: its code, and the server it names.
fn sent_away(client: &mut Client) -> (ReasonCode, Option<String>) {
    client.expect(|packet| match packet {
        Packet::Disconnect(disconnect) => {
            Some((disconnect.reason, disconnect.properties.server_reference.map(str::to_owned)))
        }
        _ => None,
    })
}

#[test]
fn a_drain_sends_everybody_away_at_its_rate() {
    let broker = Broker::anonymous();
    let mut clients: Vec<_> =
        (0..20).map(|number| broker.client(Version::V5, &format!("c{number}"))).collect();
    let started = Instant::now();
    let (code, out, _) = broker.admin(&["drain", "--rate", "20/s"]);
    assert_eq!((code, out.as_str()), (0, "draining 20 clients, for about 1s\n"));
    let (ready, health) = broker.ask("health");
    assert!(!ready && health["ready"] == false && health["live"] == true, "{health}");
    assert!(TcpStream::connect(broker.address).is_err(), "nobody comes in");
    for client in &mut clients {
        assert_eq!(sent_away(client), (ReasonCode::ServerShuttingDown, None));
        assert!(client.is_closed(SOON));
    }
    assert!(started.elapsed() > Duration::from_millis(700), "not all at once: {:?}", started.elapsed());
    eventually("it is done", SOON, || {
        broker.admin(&["drain", "--status"]).1 == "drained: 20 told to go, 0 still here\n"
    });
    assert!(!broker.ask("health").0, "and stays closed");
}

/// [MQTT5-3.1.2-24]
#[test]
fn who_is_sent_away_is_told_where_to_go_unless_that_does_not_fit() {
    let broker = Broker::anonymous();
    for (words, reason) in [
        (&["drain", "--redirect", "the-other-one.example:1883"][..], ReasonCode::UseAnotherServer),
        (&["drain", "--redirect", "the-other-one.example:1883", "--moved"], ReasonCode::ServerMoved),
    ] {
        let mut new = broker.client(Version::V5, "new");
        let mut old = broker.client(Version::V311, "old");
        // With the place and nothing else it has 33 bytes.
        let [mut small, mut smaller] = [(33, "small"), (32, "smaller")].map(|(most, id)| {
            let mut connect = Connect::new(Version::V5, id);
            connect.properties.maximum_packet_size = NonZeroU32::new(most);
            Client::connect(broker.address, &connect)
        });
        assert_eq!(broker.admin(words).0, 0);
        let place = Some("the-other-one.example:1883".to_owned());
        assert_eq!(sent_away(&mut new), (reason, place.clone()));
        assert_eq!(sent_away(&mut small), (reason, place));
        assert_eq!(sent_away(&mut smaller), (reason, None));
        assert!(old.is_closed(SOON));
        eventually("it is done", SOON, || broker.admin(&["drain", "--status"]).1.starts_with("drained"));
        assert_eq!(broker.admin(&["drain", "--cancel"]).0, 0);
    }
}

#[test]
fn a_cancelled_drain_leaves_who_is_still_there_and_lets_others_in() {
    let broker = Broker::anonymous();
    let mut clients: Vec<_> =
        (0..5).map(|number| broker.client(Version::V5, &format!("c{number}"))).collect();
    assert_eq!(broker.admin(&["drain", "--rate", "1/min"]).0, 0);
    assert_eq!(broker.admin(&["drain", "--cancel"]).1, "not draining, clients may come\n");
    assert!(broker.ask("health").0);
    broker.client(Version::V5, "new").ping();
    let stayed = clients
        .iter_mut()
        .map(|client| client.next(Duration::from_millis(50), |_| ()))
        .filter(Result::is_err)
        .count();
    assert!(stayed >= 4, "{stayed}");
    assert_eq!(broker.admin(&["drain", "--cancel"]).0, 1, "there is nothing to cancel any more");
}

#[test]
fn a_drain_that_ends_the_process() {
    let mut broker = Broker::anonymous();
    let mut client = broker.client(Version::V5, "c");
    assert_eq!(broker.admin(&["drain", "--rate", "100/s", "--stop"]).0, 0);
    assert_eq!(sent_away(&mut client).0, ReasonCode::ServerShuttingDown);
    assert_eq!(broker.wait(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_a_slow_drain() {
    let mut broker = Broker::anonymous();
    let mut clients: Vec<_> =
        (0..5).map(|number| broker.client(Version::V5, &format!("c{number}"))).collect();
    assert_eq!(broker.admin(&["drain", "--rate", "1/min"]).0, 0);
    broker.signal("-TERM");
    assert_eq!(broker.wait(), Some(0));
    assert!(clients.iter_mut().all(|client| sent_away(client).0 == ReasonCode::ServerShuttingDown));
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let broker = Broker::anonymous();
    for (words, code) in [
        (&["drain", "--rate", "0/s"][..], 1),
        (&["drain", "--rate", "fast"], 1),
        (&["drain", "--redirect", "x:y:z"], 1),
        (&["drain", "--redirect", ""], 1),
        (&["drain", "--moved"], 64),
        (&["drain", "--cancel", "--stop"], 64),
    ] {
        assert_eq!(broker.admin(words).0, code, "{words:?}");
    }
    assert!(broker.ask("health").0, "nothing was begun");
}
