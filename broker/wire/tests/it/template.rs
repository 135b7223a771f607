//! A template writes what `Publish::encode` would.

use std::num::NonZeroU16;

use nsd_wire::*;
use proptest::prelude::*;

use crate::arbitrary;

fn written(template: &Template, version: Version, delivery: &Delivery<'_>) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    template.write(version, delivery, &mut bytes).unwrap();
    let mut in_two = Vec::new();
    template.write_head(version, delivery, &mut in_two).unwrap();
    in_two.extend(template.payload());
    assert_eq!(&bytes[6..], in_two, "head and payload make the packet");
    assert_eq!(template.packet_len(version, delivery), Ok(in_two.len()));
    in_two
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_receiver_gets_its_own(
        message in arbitrary::publish(Version::V5),
        receiver in arbitrary::publish(Version::V5),
        alias in 0_usize..3,
        waited in any::<u32>(),
    ) {
        prop_assume!(!message.topic.is_empty());
        let template = Template::new(&message).unwrap();
        prop_assert_eq!(template.topic(), message.topic);
        prop_assert_eq!(template.message_expiry(), message.properties.message_expiry);
        let ids: Vec<_> = receiver.properties.subscription_ids.iter().collect();
        let number = NonZeroU16::new(5).unwrap();
        let alias = [None, Some(Alias::Set(number)), Some(Alias::Use(number))][alias];
        let Publish { dup, retain, qos, packet_id, .. } = receiver;
        let delivery = Delivery { dup, retain, qos, packet_id, subscription_ids: &ids, alias, waited };

        let mut wanted = Publish { dup, retain, qos, packet_id, ..message };
        wanted.properties.message_expiry = message.properties.message_expiry.map(|e| e.saturating_sub(waited));
        wanted.properties.subscription_ids = SubscriptionIds::from_list(&ids);
        wanted.properties.topic_alias = alias.map(|_| number);
        if matches!(alias, Some(Alias::Use(_))) {
            wanted.topic = "";
        }
        let bytes = written(&template, Version::V5, &delivery);
        prop_assert_eq!(read(Version::V5, &bytes, usize::MAX), Ok(Some((Packet::Publish(wanted), bytes.len()))));

        let v3 = Publish { topic: message.topic, properties: PublishProperties::default(), ..wanted };
        let mut plain = Vec::new();
        v3.encode(Version::V311, &mut plain).unwrap();
        prop_assert_eq!(written(&template, Version::V311, &delivery), plain);
    }

    #[test]
    fn what_can_be_copied_is_what_would_be_written(message in arbitrary::publish(Version::V5)) {
        for (from, to) in [(Version::V5, Version::V5), (Version::V31, Version::V311), (Version::V311, Version::V31)] {
            let message = if from.is_v5() || message.topic.is_empty() {
                message
            } else {
                Publish { properties: PublishProperties::default(), ..message }
            };
            if !message.can_be_copied(from, to) {
                continue;
            }
            let mut original = Vec::new();
            message.encode(from, &mut original).unwrap();
            let delivered = written(&Template::new(&message).unwrap(), to, &Delivery::default());
            prop_assert_eq!(delivered, original);
        }
    }
}

#[test]
fn what_must_not_be_copied() {
    let plain = Publish::new("t", b"x");
    assert!(plain.can_be_copied(Version::V5, Version::V5));
    assert!(plain.can_be_copied(Version::V31, Version::V311));
    assert!(!plain.can_be_copied(Version::V5, Version::V311));
    assert!(!plain.can_be_copied(Version::V311, Version::V5));
    assert!(!Publish { retain: true, ..plain }.can_be_copied(Version::V5, Version::V5));
    let above = Publish { qos: Qos::AtLeastOnce, packet_id: Some(PacketId::MIN), ..plain };
    assert!(!above.can_be_copied(Version::V5, Version::V5));
    let mut aliased = plain;
    aliased.properties.topic_alias = NonZeroU16::new(1);
    assert!(!aliased.can_be_copied(Version::V5, Version::V5));
}

#[test]
fn identifier_and_qos_go_together() {
    let template = Template::new(&Publish::new("t", b"x")).unwrap();
    let mut out = b"kept".to_vec();
    let without = Delivery { qos: Qos::AtLeastOnce, ..Delivery::default() };
    let with = Delivery { packet_id: Some(PacketId::MIN), ..Delivery::default() };
    for delivery in [without, with] {
        assert_eq!(template.write(Version::V5, &delivery, &mut out), Err(EncodeError::PacketId));
        assert_eq!(template.write_head(Version::V311, &delivery, &mut out), Err(EncodeError::PacketId));
        assert_eq!(out, b"kept");
    }
}

#[test]
fn payload_format_is_checked_when_asked_for() {
    let mut publish = Publish::new("t", &[0xff]);
    assert!(publish.payload_fits_format());
    publish.properties.payload_format = Some(PayloadFormat::Utf8);
    assert!(!publish.payload_fits_format());
    publish.payload = "é".as_bytes();
    assert!(publish.payload_fits_format());
}
