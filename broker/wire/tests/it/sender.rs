//! Rules that depend on which side sends.

use nsd_wire::*;

fn refused(packet: Packet<'_>, sender: Sender, version: Version) -> bool {
    packet
        .check_sender(sender, version)
        .inspect_err(|e| assert_eq!(e.reason(), ReasonCode::ProtocolError))
        .is_err()
}

#[test]
fn each_kind_goes_its_way() {
    let id = PacketId::MIN;
    let filters = [SubscribeFilter { filter: "a", options: SubscribeOptions::default() }];
    let codes = [ReasonCode::Success];
    let ack = Ack::new(id);
    let of_client = [
        Packet::Connect(Connect::new(Version::V5, "")),
        Packet::Subscribe(Subscribe::new(id, &filters)),
        Packet::Unsubscribe(Unsubscribe::new(id, &["a"])),
        Packet::PingReq,
    ];
    let of_server = [
        Packet::ConnAck(ConnAck::default()),
        Packet::SubAck(SubAck::new(id, &codes)),
        Packet::UnsubAck(UnsubAck::new(id, &codes)),
        Packet::PingResp,
    ];
    let of_both = [
        Packet::Publish(Publish::new("a", b"")),
        Packet::PubAck(ack),
        Packet::PubRec(ack),
        Packet::PubRel(ack),
        Packet::PubComp(ack),
        Packet::Disconnect(Disconnect::default()),
        Packet::Auth(Auth::default()),
    ];
    for (packets, client, server) in
        [(&of_client[..], true, false), (&of_server[..], false, true), (&of_both[..], true, true)]
    {
        for &packet in packets {
            assert_eq!(!refused(packet, Sender::Client, Version::V5), client, "{packet:?}");
            assert_eq!(!refused(packet, Sender::Server, Version::V5), server, "{packet:?}");
        }
    }
    assert!(refused(Packet::Disconnect(Disconnect::default()), Sender::Server, Version::V311));
}

#[test]
fn fields_of_one_side() {
    let ids = [SubscriptionId::new(1).unwrap()];
    let mut publish = Publish::new("a", b"");
    publish.properties.subscription_ids = SubscriptionIds::from_list(&ids);
    assert!(refused(Packet::Publish(publish), Sender::Client, Version::V5), "MQTT-3.3.4-6");
    assert!(!refused(Packet::Publish(publish), Sender::Server, Version::V5));

    let mut disconnect = Disconnect::default();
    disconnect.properties.session_expiry = Some(1);
    assert!(refused(Packet::Disconnect(disconnect), Sender::Server, Version::V5), "MQTT-3.14.2-2");
    assert!(!refused(Packet::Disconnect(disconnect), Sender::Client, Version::V5));
    disconnect.properties = DisconnectProperties { server_reference: Some("x"), ..Default::default() };
    assert!(refused(Packet::Disconnect(disconnect), Sender::Client, Version::V5));
}
