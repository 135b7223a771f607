//! Any valid packet of a version.
//!
//! Packets borrow, so what they borrow from is leaked: some megabytes in a test process that soon ends.

use std::num::{NonZeroU16, NonZeroU32};

use nsd_wire::*;
use proptest::{collection::vec, option::of, prelude::*, sample::select, string::string_regex};

pub(crate) fn packet(version: Version) -> BoxedStrategy<Packet<'static>> {
    let acks = (packet_id(), any::<u8>(), reason_properties(version)).boxed();
    let ack = move |kind: AckKind| {
        let make = move |(packet_id, code, properties)| {
            let reason = reason(version, kind.packet_type(), code);
            let ack = Ack { packet_id, reason, properties };
            match kind {
                AckKind::PubAck => Packet::PubAck(ack),
                AckKind::PubRec => Packet::PubRec(ack),
                AckKind::PubRel => Packet::PubRel(ack),
                AckKind::PubComp => Packet::PubComp(ack),
            }
        };
        acks.clone().prop_map(make).boxed()
    };
    let mut any = vec![
        connect(version),
        connack(version),
        publish(version).prop_map(Packet::Publish).boxed(),
        ack(AckKind::PubAck),
        ack(AckKind::PubRec),
        ack(AckKind::PubRel),
        ack(AckKind::PubComp),
        subscribe(version),
        suback(version),
        unsubscribe(version),
        unsuback(version),
        Just(Packet::PingReq).boxed(),
        Just(Packet::PingResp).boxed(),
        disconnect(version),
    ];
    if version.is_v5() {
        any.push(auth());
    }
    proptest::strategy::Union::new(any).boxed()
}

pub(crate) fn publish(version: Version) -> BoxedStrategy<Publish<'static>> {
    let flags = (any::<bool>(), any::<bool>(), qos(), packet_id());
    (flags, topic(), any::<bool>(), publish_properties(version), bytes(300))
        .prop_map(|((dup, retain, qos, id), topic, alias_alone, properties, payload)| {
            let above_zero = qos != Qos::AtMostOnce;
            let alias_alone = alias_alone && properties.topic_alias.is_some();
            Publish {
                dup: dup && above_zero,
                qos,
                retain,
                topic: if alias_alone { "" } else { topic },
                packet_id: above_zero.then_some(id),
                properties,
                payload,
            }
        })
        .boxed()
}

fn connect(version: Version) -> BoxedStrategy<Packet<'static>> {
    let flags = (any::<bool>(), any::<u16>());
    (flags, text(30), connect_properties(version), of(will(version)), of(text(20)), of(bytes(20)))
        .prop_map(move |((clean_start, keep_alive), client_id, properties, will, user_name, password)| {
            let password = password.filter(|_| version.is_v5() || user_name.is_some());
            let connect = Connect {
                version,
                clean_start,
                keep_alive,
                client_id,
                properties,
                will,
                user_name,
                password,
            };
            Packet::Connect(connect)
        })
        .boxed()
}

fn will(version: Version) -> BoxedStrategy<Will<'static>> {
    let properties = (
        of(any::<u32>()),
        of(select(&[PayloadFormat::Bytes, PayloadFormat::Utf8][..])),
        of(any::<u32>()),
        of(text(10)),
        of(topic()),
        of(bytes(10)),
        user(),
    )
        .prop_map(
            |(
                delay,
                payload_format,
                message_expiry,
                content_type,
                response_topic,
                correlation_data,
                user,
            )| {
                WillProperties {
                    delay,
                    payload_format,
                    message_expiry,
                    content_type,
                    response_topic,
                    correlation_data,
                    user,
                }
            },
        );
    (qos(), any::<bool>(), topic(), bytes(50), only_v5(version, properties))
        .prop_map(|(qos, retain, topic, payload, properties)| Will {
            qos,
            retain,
            topic,
            payload,
            properties,
        })
        .boxed()
}

fn connect_properties(version: Version) -> BoxedStrategy<ConnectProperties<'static>> {
    let numbers = (of(any::<u32>()), of(any::<NonZeroU16>()), of(any::<NonZeroU32>()), of(any::<u16>()));
    let any = (numbers, of(any::<bool>()), of(any::<bool>()), of(authentication()), user()).prop_map(
        |(numbers, request_response_information, request_problem_information, authentication, user)| {
            let (session_expiry, receive_maximum, maximum_packet_size, topic_alias_maximum) = numbers;
            ConnectProperties {
                session_expiry,
                receive_maximum,
                maximum_packet_size,
                topic_alias_maximum,
                request_response_information,
                request_problem_information,
                authentication,
                user,
            }
        },
    );
    only_v5(version, any)
}

fn connack(version: Version) -> BoxedStrategy<Packet<'static>> {
    let numbers = (
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(any::<NonZeroU32>()),
        of(any::<u16>()),
        of(any::<u16>()),
    );
    let switches =
        (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()));
    let texts = (of(text(10)), of(text(10)), of(text(10)), of(text(10)));
    let properties = (numbers, switches, texts, of(authentication()), user()).prop_map(
        |(n, b, t, authentication, user)| ConnAckProperties {
            session_expiry: n.0,
            receive_maximum: n.1,
            maximum_qos: b.0.map(|one| if one { Qos::AtLeastOnce } else { Qos::AtMostOnce }),
            retain_available: b.1,
            maximum_packet_size: n.2,
            assigned_client_id: t.0,
            topic_alias_maximum: n.3,
            reason_string: t.1,
            wildcard_subscription_available: b.2,
            subscription_ids_available: b.3,
            shared_subscription_available: b.4,
            server_keep_alive: n.4,
            response_information: t.2,
            server_reference: t.3,
            authentication,
            user,
        },
    );
    (any::<bool>(), any::<u8>(), only_v5(version, properties))
        .prop_map(move |(present, code, properties)| {
            let reason = if version.is_v5() {
                reason(version, PacketType::ConnAck, code)
            } else {
                ConnectReturnCode::from_u8(code % 6).unwrap().reason()
            };
            let session_present = present && !reason.is_failure() && version != Version::V31;
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        })
        .boxed()
}

fn publish_properties(version: Version) -> BoxedStrategy<PublishProperties<'static>> {
    let any = (
        of(select(&[PayloadFormat::Bytes, PayloadFormat::Utf8][..])),
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(topic()),
        of(bytes(10)),
        of(text(10)),
        vec(subscription_id(), 0..4),
        user(),
    )
        .prop_map(
            |(
                payload_format,
                message_expiry,
                topic_alias,
                response_topic,
                correlation,
                content,
                ids,
                user,
            )| {
                PublishProperties {
                    payload_format,
                    message_expiry,
                    topic_alias,
                    response_topic,
                    correlation_data: correlation,
                    content_type: content,
                    subscription_ids: SubscriptionIds::from_list(ids.leak()),
                    user,
                }
            },
        );
    only_v5(version, any)
}

fn subscribe(version: Version) -> BoxedStrategy<Packet<'static>> {
    let properties = (of(subscription_id()), user())
        .prop_map(|(subscription_id, user)| SubscribeProperties { subscription_id, user });
    let options =
        (0_u8..3, any::<bool>(), any::<bool>(), 0_u8..3).prop_map(move |(qos, local, rap, handling)| {
            let byte = if version.is_v5() {
                qos | u8::from(local) << 2 | u8::from(rap) << 3 | handling << 4
            } else {
                qos
            };
            SubscribeOptions::from_u8(byte).unwrap()
        });
    let entry = (filter(version), options).prop_map(|(filter, mut options)| {
        options.no_local &= !topic::Shared::is_shared(filter);
        SubscribeFilter { filter, options }
    });
    (packet_id(), only_v5(version, properties), vec(entry, 1..5))
        .prop_map(|(packet_id, properties, filters)| {
            let filters = SubscribeFilters::from_list(filters.leak());
            Packet::Subscribe(Subscribe { packet_id, properties, filters })
        })
        .boxed()
}

fn unsubscribe(version: Version) -> BoxedStrategy<Packet<'static>> {
    let properties = user().prop_map(|user| UnsubscribeProperties { user });
    (packet_id(), only_v5(version, properties), vec(filter(version), 1..5))
        .prop_map(|(packet_id, properties, filters)| {
            let filters = UnsubscribeFilters::from_list(filters.leak());
            Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters })
        })
        .boxed()
}

fn suback(version: Version) -> BoxedStrategy<Packet<'static>> {
    (packet_id(), reason_properties(version), vec(any::<u8>(), 1..6))
        .prop_map(move |(packet_id, properties, codes)| {
            let codes = ReasonCodes::from_list(codes_of(version, PacketType::SubAck, &codes));
            Packet::SubAck(SubAck { packet_id, properties, codes })
        })
        .boxed()
}

fn unsuback(version: Version) -> BoxedStrategy<Packet<'static>> {
    (packet_id(), reason_properties(version), vec(any::<u8>(), 1..6))
        .prop_map(move |(packet_id, properties, codes)| {
            let codes = if version.is_v5() { codes_of(version, PacketType::UnsubAck, &codes) } else { &[] };
            Packet::UnsubAck(UnsubAck { packet_id, properties, codes: ReasonCodes::from_list(codes) })
        })
        .boxed()
}

fn disconnect(version: Version) -> BoxedStrategy<Packet<'static>> {
    let properties = (of(any::<u32>()), of(text(10)), of(text(10)), user()).prop_map(
        |(session_expiry, reason_string, server_reference, user)| DisconnectProperties {
            session_expiry,
            reason_string,
            server_reference,
            user,
        },
    );
    (any::<u8>(), only_v5(version, properties))
        .prop_map(move |(code, properties)| {
            Packet::Disconnect(Disconnect {
                reason: reason(version, PacketType::Disconnect, code),
                properties,
            })
        })
        .boxed()
}

fn auth() -> BoxedStrategy<Packet<'static>> {
    let properties =
        (authentication(), of(text(10)), user()).prop_map(|(authentication, reason_string, user)| {
            AuthProperties { authentication: Some(authentication), reason_string, user }
        });
    let long = (any::<u8>(), properties).prop_map(|(code, properties)| {
        Packet::Auth(Auth { reason: reason(Version::V5, PacketType::Auth, code), properties })
    });
    prop_oneof![9 => long, 1 => Just(Packet::Auth(Auth::default()))].boxed()
}

fn reason_properties(version: Version) -> BoxedStrategy<ReasonProperties<'static>> {
    let any =
        (of(text(10)), user()).prop_map(|(reason_string, user)| ReasonProperties { reason_string, user });
    only_v5(version, any)
}

/// One of the codes of a kind, chosen by a number; before v5 there is none but success.
fn reason(version: Version, kind: PacketType, number: u8) -> ReasonCode {
    if !version.is_v5() {
        return ReasonCode::Success;
    }
    let codes: Vec<_> = ReasonCode::ALL.iter().filter(|code| code.belongs_to(kind)).collect();
    *codes[usize::from(number) % codes.len()]
}

fn codes_of(version: Version, kind: PacketType, numbers: &[u8]) -> &'static [ReasonCode] {
    const BEFORE_V5: [ReasonCode; 4] =
        [ReasonCode::Success, ReasonCode::GrantedQos1, ReasonCode::GrantedQos2, ReasonCode::UnspecifiedError];
    let code = |&number: &u8| {
        if version.is_v5() { reason(version, kind, number) } else { BEFORE_V5[usize::from(number) % 4] }
    };
    numbers.iter().map(code).collect::<Vec<_>>().leak()
}

fn only_v5<T: Default + Clone + std::fmt::Debug + 'static>(
    version: Version,
    any: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if version.is_v5() {
        prop_oneof![1 => Just(T::default()), 4 => any].boxed()
    } else {
        Just(T::default()).boxed()
    }
}

fn qos() -> impl Strategy<Value = Qos> {
    (0_u8..3).prop_map(|qos| Qos::from_u8(qos).unwrap())
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>().prop_map(PacketId::from)
}

fn subscription_id() -> impl Strategy<Value = SubscriptionId> {
    prop_oneof![1_u32..300, 1_u32..=268_435_455].prop_map(|id| SubscriptionId::new(id).unwrap())
}

fn authentication() -> impl Strategy<Value = Authentication<'static>> {
    (text(10), of(bytes(10))).prop_map(|(method, data)| Authentication { method, data })
}

fn user() -> impl Strategy<Value = UserProperties<'static>> {
    vec((text(8), text(8)), 0..4).prop_map(|pairs| UserProperties::from_pairs(pairs.leak()))
}

fn bytes(most: usize) -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..=most).prop_map(|bytes| &*bytes.leak())
}

fn text(most: usize) -> BoxedStrategy<&'static str> {
    leaked(format!("[^\\x00]{{0,{most}}}"))
}

fn topic() -> BoxedStrategy<&'static str> {
    leaked("[^+#\\x00]{1,30}".to_owned())
}

fn filter(version: Version) -> BoxedStrategy<&'static str> {
    let level = "(\\+|[^+#/\\x00$]{0,5})";
    let plain = leaked(format!("({level}/){{0,3}}({level}/|#|\\+|x)"));
    let shared = leaked(format!("\\$share/[a-z]{{1,4}}/({level}/){{0,3}}(#|\\+|x)"));
    if version.is_v5() { prop_oneof![plain, shared].boxed() } else { plain }
}

fn leaked(regex: String) -> BoxedStrategy<&'static str> {
    string_regex(&regex).unwrap().prop_map(|text| &*text.leak()).boxed()
}
