//! Why something was refused, in words for who looks after a client; programs go by the code. They name limits as they
//! stand in the settings, and nothing that a client could not know: no rule, no other client, no address.

use std::collections::BTreeSet;

use nsd_wire::{EncodeError, PacketType, ReasonCode};

/// What a packet of this kind says beside its code; `None`: nothing was refused.
pub(super) fn words(kind: PacketType, reason: ReasonCode) -> Option<&'static str> {
    let refuses = reason.is_failure() || reason == ReasonCode::NoSubscriptionExisted;
    refuses.then(|| {
        let special = match kind {
            PacketType::ConnAck => of_connack(reason),
            PacketType::PubAck | PacketType::PubRec => of_publish(reason),
            PacketType::SubAck => of_suback(reason),
            PacketType::UnsubAck => of_unsuback(reason),
            PacketType::Disconnect => of_disconnect(reason),
            _ => None,
        };
        special.unwrap_or_else(|| of_any(reason))
    })
}

/// Of a packet with a code for each of many, the words for all that were refused, each once.
pub(super) fn words_for_all(kind: PacketType, reasons: &[ReasonCode]) -> Option<String> {
    let different: BTreeSet<_> = reasons.iter().copied().collect();
    let all: Vec<_> = different.into_iter().filter_map(|reason| words(kind, reason)).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn of_connack(reason: ReasonCode) -> Option<&'static str> {
    Some(match reason {
        ReasonCode::ImplementationSpecificError => {
            "the client's Maximum Packet Size is less than the answers to it need"
        }
        ReasonCode::NotAuthorized => "this client may not come in, or not with this will",
        ReasonCode::ServerUnavailable => "the server cannot let this client in now; try again later",
        ReasonCode::ServerBusy => "a later connection of this client id was faster",
        ReasonCode::TopicNameInvalid => {
            "the will's topic has more levels than are taken (limit `topic_levels`)"
        }
        ReasonCode::QuotaExceeded => {
            "quota: there is no room for one more session or client (limits `sessions`, `memory`; or the store is full)"
        }
        _ => return None,
    })
}

fn of_publish(reason: ReasonCode) -> Option<&'static str> {
    Some(match reason {
        ReasonCode::NotAuthorized => "this client has no right to publish to this topic",
        ReasonCode::QuotaExceeded => {
            "quota: there is no room to keep this message (limits `retained`, `retained_bytes`, `memory`; or the store is full)"
        }
        ReasonCode::ImplementationSpecificError => "a message like this cannot be kept",
        ReasonCode::UnspecifiedError => "this message could not be stored",
        _ => return None,
    })
}

fn of_suback(reason: ReasonCode) -> Option<&'static str> {
    Some(match reason {
        ReasonCode::NotAuthorized => "this client has no right to subscribe to this filter",
        ReasonCode::TopicFilterInvalid => "the filter has more levels than are taken (limit `topic_levels`)",
        ReasonCode::QuotaExceeded => {
            "quota: no more subscriptions are taken (limits `subscriptions_per_client`, `subscription_bytes`, \
             `subscriptions`; or the store is full)"
        }
        ReasonCode::UnspecifiedError => "this subscription could not be stored",
        _ => return None,
    })
}

fn of_unsuback(reason: ReasonCode) -> Option<&'static str> {
    Some(match reason {
        ReasonCode::NoSubscriptionExisted => "this client has no such subscription",
        ReasonCode::UnspecifiedError => "the end of this subscription could not be stored",
        _ => return None,
    })
}

fn of_disconnect(reason: ReasonCode) -> Option<&'static str> {
    Some(match reason {
        ReasonCode::NotAuthorized => "this client has no right to do this, or its right to be here has ended",
        ReasonCode::TopicNameInvalid => "the topic has more levels than are taken (limit `topic_levels`)",
        ReasonCode::QuotaExceeded => {
            "quota: too much waits for this client (limits `queue_messages`, `queue_bytes`, `memory`)"
        }
        _ => return None,
    })
}

fn of_any(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::ProtocolError => "the protocol does not allow this packet here",
        ReasonCode::BadAuthenticationMethod => "clients are not authenticated by this method here",
        ReasonCode::KeepAliveTimeout => "nothing was heard for one and a half times the keep alive",
        ReasonCode::SessionTakenOver => "another connection has this client id now",
        ReasonCode::PacketIdentifierNotFound => "no message with this packet identifier is under way",
        ReasonCode::ReceiveMaximumExceeded => "more messages at once than the server's Receive Maximum",
        ReasonCode::TopicAliasInvalid => "a topic alias above the server's Topic Alias Maximum",
        ReasonCode::PacketTooLarge => "a packet larger than the server's Maximum Packet Size",
        ReasonCode::RetainNotSupported => "no messages are retained here (limit `retained`)",
        ReasonCode::SharedSubscriptionsNotSupported => {
            "subscriptions are not shared where nodes have a store together"
        }
        _ => reason.text(),
    }
}

/// Writes the first form of a packet that is no larger than the `most` that its receiver takes, or the last one.
pub(super) fn write<F: Copy>(
    out: &mut Vec<u8>,
    most: u32,
    forms: &[F],
    encode: impl Fn(F, &mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let before = out.len();
    for form in forms {
        out.truncate(before);
        encode(*form, out)?;
        if out.len() - before <= most as usize {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nsd_wire::{Disconnect, Version};

    use super::*;

    #[test]
    fn what_is_refused_has_words_and_nothing_else() {
        for kind in [PacketType::ConnAck, PacketType::PubAck, PacketType::PubRec, PacketType::PubComp] {
            for &reason in ReasonCode::ALL.iter().filter(|reason| reason.belongs_to(kind)) {
                assert_eq!(words(kind, reason).is_some(), reason.is_failure(), "{kind:?} {reason}");
            }
        }
        assert_eq!(words(PacketType::UnsubAck, ReasonCode::Success), None);
        assert!(words(PacketType::UnsubAck, ReasonCode::NoSubscriptionExisted).is_some());
    }

    #[test]
    fn limits_are_named_as_they_stand_in_the_settings() {
        let document = include_str!("../../../docs/broker-limits.md");
        let mut named = 0;
        for kind in PacketType::ALL {
            for &reason in ReasonCode::ALL.iter().filter(|reason| reason.belongs_to(kind)) {
                for limit in words(kind, reason).unwrap_or_default().split('`').skip(1).step_by(2) {
                    assert!(document.contains(&format!("`{limit}`")), "{limit} of {kind:?} {reason}");
                    named += 1;
                }
            }
        }
        assert!(named > 10, "{named}");
    }

    #[test]
    fn the_same_is_said_once() {
        let (no, full) = (ReasonCode::NotAuthorized, ReasonCode::QuotaExceeded);
        let said = words_for_all(PacketType::SubAck, &[full, ReasonCode::Success, no, full, no]).unwrap();
        let one = |reason| words(PacketType::SubAck, reason).unwrap();
        assert_eq!(said, format!("{}; {}", one(no), one(full)));
        assert_eq!(words_for_all(PacketType::SubAck, &[ReasonCode::GrantedQos1]), None);
    }

    #[test]
    fn words_are_written_as_long_as_the_packet_is_taken() {
        let encode = |words: Option<&str>, out: &mut Vec<u8>| {
            let mut goodbye = Disconnect::new(ReasonCode::QuotaExceeded);
            goodbye.properties.reason_string = words;
            goodbye.encode(Version::V5, out)
        };
        let long = "x".repeat(200);
        let words = Some(long.as_str());
        let (mut whole, mut bare) = (Vec::new(), Vec::new());
        encode(words, &mut whole).unwrap();
        encode(None, &mut bare).unwrap();
        let length = u32::try_from(whole.len()).unwrap();
        for (most, expected) in [(length, &whole), (length - 1, &bare), (u32::MAX, &whole), (0, &bare)] {
            let mut out = b"before".to_vec();
            write(&mut out, most, &[words, None], encode).unwrap();
            assert_eq!(out.strip_prefix(b"before"), Some(&expected[..]), "{most}");
        }
    }
}
