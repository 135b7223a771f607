//! Packets that must be refused, each with the clause that says so and the reason that a v5 peer is told.

use nsd_wire::{DecodeError::*, *};

use Version::{V5, V31, V311};

const V3: &[Version] = &[V31, V311];
const NEW: &[Version] = &[V311, V5];
const ALL: &[Version] = &Version::ALL;

/// What the case is about, the versions it holds for, the packet in hexadecimal, the code that v5 is told.
type Case = (&'static str, &'static [Version], &'static str, u8);

const MALFORMED: u8 = 0x81;
const PROTOCOL: u8 = 0x82;

#[rustfmt::skip]
const FIXED_HEADER: &[Case] = &[
    ("MQTT-2.1.3-1 CONNECT flags",       NEW, "11 00", MALFORMED),
    ("MQTT-2.1.3-1 CONNACK flags",       ALL, "21 02 00 00", MALFORMED),
    ("MQTT-2.1.3-1 PUBACK flags",        ALL, "42 02 00 01", MALFORMED),
    ("MQTT-2.1.3-1 PUBREC flags",        ALL, "52 02 00 01", MALFORMED),
    ("MQTT-3.6.1-1 PUBREL flags 0",      ALL, "60 02 00 01", MALFORMED),
    ("MQTT-3.6.1-1 PUBREL flags F",      ALL, "6f 02 00 01", MALFORMED),
    ("MQTT-3.6.1-1 PUBREL with DUP",     NEW, "6a 02 00 01", MALFORMED),
    ("MQTT-2.1.3-1 PUBCOMP flags",       ALL, "78 02 00 01", MALFORMED),
    ("MQTT-3.8.1-1 SUBSCRIBE flags",     ALL, "80 06 00 01 00 01 61 00", MALFORMED),
    ("MQTT-3.8.1-1 SUBSCRIBE with DUP",  NEW, "8a 06 00 01 00 01 61 00", MALFORMED),
    ("MQTT-2.1.3-1 SUBACK flags",        V3,  "92 03 00 01 00", MALFORMED),
    ("MQTT-3.10.1-1 UNSUBSCRIBE flags",  ALL, "a0 05 00 01 00 01 61", MALFORMED),
    ("MQTT-2.1.3-1 UNSUBACK flags",      V3,  "b1 02 00 01", MALFORMED),
    ("MQTT-2.1.3-1 PINGREQ flags",       ALL, "c1 00", MALFORMED),
    ("MQTT-2.1.3-1 PINGRESP flags",      ALL, "d8 00", MALFORMED),
    ("MQTT-3.14.1-1 DISCONNECT flags",   ALL, "ef 00", MALFORMED),
    ("MQTT-3.15.1-1 AUTH flags",         &[V5], "f1 00", MALFORMED),
    ("AUTH is reserved before v5",       V3,  "f0 00", MALFORMED),
    ("MQTT-3.12: PINGREQ has no body",   ALL, "c0 01 00", MALFORMED),
    ("MQTT-3.13: PINGRESP has no body",  ALL, "d0 01 00", MALFORMED),
    ("MQTT-3.14: DISCONNECT v3 is empty", V3, "e0 01 00", MALFORMED),
];

#[rustfmt::skip]
const CONNECT: &[Case] = &[
    ("an empty CONNECT",                      ALL, "10 00", MALFORMED),
    ("MQTT-3.1.2-1 protocol name",            ALL, "10 0a 00 04 4d 51 54 58 04 02 00 3c", 0x84),
    ("MQTT-3.1.2-1 case of the name",         ALL, "10 0c 00 04 6d 71 74 74 04 02 00 3c 00 00", 0x84),
    ("MQTT-3.1.2-2 level 6",                  ALL, "10 0c 00 04 4d 51 54 54 06 02 00 3c 00 00", 0x84),
    ("MQTT-3.1.2-2 level 3 named MQTT",       ALL, "10 0c 00 04 4d 51 54 54 03 02 00 3c 00 00", 0x84),
    ("MQTT-3.1.2-2 level 4 named MQIsdp",     ALL, "10 0e 00 06 4d 51 49 73 64 70 04 02 00 3c 00 00", 0x84),
    ("MQTT-3.1.2-3 reserved flag",            ALL, "10 0c 00 04 4d 51 54 54 04 03 00 3c 00 00", MALFORMED),
    ("MQTT-3.1.2-3 reserved flag, v5",        ALL, "10 0d 00 04 4d 51 54 54 05 03 00 3c 00 00 00", MALFORMED),
    ("MQTT-3.1.2-11 will QoS without a will", ALL, "10 0c 00 04 4d 51 54 54 04 0a 00 3c 00 00", MALFORMED),
    ("MQTT-3.1.2-13 will RETAIN without one", ALL, "10 0c 00 04 4d 51 54 54 04 22 00 3c 00 00", MALFORMED),
    ("MQTT-3.1.2-12 will QoS 3",              ALL, "10 12 00 04 4d 51 54 54 04 1e 00 3c 00 00 00 01 61 00 01 62", MALFORMED),
    ("MQTT-3.1.2-22 password alone, v3",      ALL, "10 0f 00 04 4d 51 54 54 04 42 00 3c 00 00 00 01 70", PROTOCOL),
    ("MQTT-3.1.2-22 password alone, 3.1",     ALL, "10 11 00 06 4d 51 49 73 64 70 03 42 00 3c 00 00 00 01 70", PROTOCOL),
    ("MQTT-3.1.2-19 promised user is missing", ALL, "10 0c 00 04 4d 51 54 54 04 82 00 3c 00 00", MALFORMED),
    ("MQTT-3.1.3-1 promised will is missing", ALL, "10 0c 00 04 4d 51 54 54 04 06 00 3c 00 00", MALFORMED),
    ("MQTT-3.1.3-4 client id is UTF-8",       ALL, "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 ff", MALFORMED),
    ("MQTT-1.5.4-2 U+0000 in the client id",  ALL, "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 00", MALFORMED),
    ("MQTT-3.1.3-11 user name is UTF-8",      ALL, "10 0f 00 04 4d 51 54 54 04 82 00 3c 00 00 00 01 ff", MALFORMED),
    ("MQTT-4.7.1-1 wildcard in will topic",   ALL, "10 11 00 04 4d 51 54 54 04 06 00 3c 00 00 00 01 23 00 00", MALFORMED),
    ("MQTT-4.7.3-1 empty will topic",         ALL, "10 10 00 04 4d 51 54 54 04 06 00 3c 00 00 00 00 00 00", MALFORMED),
    ("bytes after the payload",               ALL, "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 00 00", MALFORMED),
    ("v5 without a property length",          ALL, "10 0a 00 04 4d 51 54 54 05 02 00 3c", MALFORMED),
    ("properties run past the packet",        ALL, "10 0d 00 04 4d 51 54 54 05 02 00 3c 7f 00 00", MALFORMED),
    ("MQTT-2.2.2.2 unknown property",         ALL, "10 0f 00 04 4d 51 54 54 05 02 00 3c 02 7e 00 00 00", MALFORMED),
    ("MQTT-2.2.2.2 property of another packet", ALL, "10 10 00 04 4d 51 54 54 05 02 00 3c 03 23 00 01 00 00", MALFORMED),
    ("3.1.2.11.2 session expiry twice",       ALL, "10 17 00 04 4d 51 54 54 05 02 00 3c 0a 11 00 00 00 01 11 00 00 00 01 00 00", PROTOCOL),
    ("3.1.2.11.3 receive maximum 0",          ALL, "10 10 00 04 4d 51 54 54 05 02 00 3c 03 21 00 00 00 00", PROTOCOL),
    ("3.1.2.11.4 maximum packet size 0",      ALL, "10 12 00 04 4d 51 54 54 05 02 00 3c 05 27 00 00 00 00 00 00", PROTOCOL),
    ("3.1.2.11.6 request response info 2",    ALL, "10 0f 00 04 4d 51 54 54 05 02 00 3c 02 19 02 00 00", PROTOCOL),
    ("3.1.2.11.7 request problem info 2",     ALL, "10 0f 00 04 4d 51 54 54 05 02 00 3c 02 17 02 00 00", PROTOCOL),
    ("3.1.2.11.10 auth data without method",  ALL, "10 11 00 04 4d 51 54 54 05 02 00 3c 04 16 00 01 78 00 00", PROTOCOL),
    ("3.1.2.11.9 auth method twice",          ALL, "10 13 00 04 4d 51 54 54 05 02 00 3c 06 15 00 00 15 00 00 00 00", PROTOCOL),
    ("a value runs past the properties",      ALL, "10 11 00 04 4d 51 54 54 05 02 00 3c 04 15 00 09 78 00 00", MALFORMED),
    ("half a user property",                  ALL, "10 11 00 04 4d 51 54 54 05 02 00 3c 04 26 00 01 78 00 00", MALFORMED),
    ("U+0000 in a user property",             ALL, "10 13 00 04 4d 51 54 54 05 02 00 3c 06 26 00 01 00 00 00 00 00", MALFORMED),
    ("3.1.3.2.2 will delay outside a will",   ALL, "10 12 00 04 4d 51 54 54 05 02 00 3c 05 18 00 00 00 01 00 00", MALFORMED),
    ("3.1.3.2.3 will payload format 2",       ALL, "10 15 00 04 4d 51 54 54 05 06 00 3c 00 00 00 02 01 02 00 01 61 00 00", PROTOCOL),
    ("MQTT-3.1.3-15 will response topic",     ALL, "10 17 00 04 4d 51 54 54 05 06 00 3c 00 00 00 04 08 00 01 2b 00 01 61 00 00", PROTOCOL),
];

#[rustfmt::skip]
const CONNACK: &[Case] = &[
    ("MQTT-3.2.2-1 reserved flags",             NEW, "20 02 02 00", MALFORMED),
    ("MQTT-3.2.2-6 session with a refusal",     &[V311], "20 02 01 05", PROTOCOL),
    ("MQTT-3.2.2-6 session with a refusal",     &[V5], "20 03 01 87 00", PROTOCOL),
    ("3.2.2.3 reserved return code",            V3,  "20 02 00 06", MALFORMED),
    ("MQTT-3.2.2-7 undefined reason code",      &[V5], "20 03 00 7f 00", MALFORMED),
    ("MQTT-3.2.2-7 reason of another packet",   &[V5], "20 03 00 8e 00", PROTOCOL),
    ("the property length is missing",          &[V5], "20 02 00 00", MALFORMED),
    ("bytes follow",                            V3,  "20 03 00 00 00", MALFORMED),
    ("too short",                               ALL, "20 01 00", MALFORMED),
    ("3.2.2.3.3 receive maximum 0",             &[V5], "20 06 00 00 03 21 00 00", PROTOCOL),
    ("3.2.2.3.4 maximum QoS 2",                 &[V5], "20 05 00 00 02 24 02", PROTOCOL),
    ("3.2.2.3.5 retain available 2",            &[V5], "20 05 00 00 02 25 02", PROTOCOL),
    ("3.2.2.3.11 wildcard available 2",         &[V5], "20 05 00 00 02 28 02", PROTOCOL),
    ("3.2.2.3.12 identifiers available 2",      &[V5], "20 05 00 00 02 29 02", PROTOCOL),
    ("3.2.2.3.13 shared available 2",           &[V5], "20 05 00 00 02 2a 02", PROTOCOL),
    ("3.2.2.3.6 maximum packet size 0",         &[V5], "20 08 00 00 05 27 00 00 00 00", PROTOCOL),
];

#[rustfmt::skip]
const PUBLISH: &[Case] = &[
    ("MQTT-3.3.1-4 QoS 3",                       ALL, "36 05 00 01 61 00 01", MALFORMED),
    ("MQTT-3.3.1-2 DUP with QoS 0",              NEW, "38 04 00 01 61 00", MALFORMED),
    ("MQTT-2.2.1-2 packet identifier 0",         ALL, "32 06 00 01 61 00 00 00", PROTOCOL),
    ("the packet identifier is missing",         ALL, "32 04 00 01 61 00", MALFORMED),
    ("MQTT-3.3.2-2 wildcard +",                  ALL, "30 04 00 01 2b 00", MALFORMED),
    ("MQTT-3.3.2-2 wildcard #",                  ALL, "30 06 00 03 61 2f 23 00", MALFORMED),
    ("MQTT-4.7.3-2 U+0000",                      ALL, "30 04 00 01 00 00", MALFORMED),
    ("MQTT-3.3.2-1 UTF-8",                       ALL, "30 04 00 01 ff 00", MALFORMED),
    ("MQTT-1.5.4-1 a surrogate",                 ALL, "30 06 00 03 ed a0 80 00", MALFORMED),
    ("MQTT-4.7.3-1 empty topic",                 V3,  "30 03 00 00 78", MALFORMED),
    ("3.3.2.1 empty topic without alias",        &[V5], "30 03 00 00 00", PROTOCOL),
    ("an empty PUBLISH",                         ALL, "30 00", MALFORMED),
    ("the topic runs past the packet",           ALL, "30 03 00 02 61", MALFORMED),
    ("the property length is missing",           &[V5], "30 03 00 01 61", MALFORMED),
    ("the property length is cut",               &[V5], "30 04 00 01 61 80", MALFORMED),
    ("MQTT-1.5.5-1 long property length",        &[V5], "30 05 00 01 61 80 00", MALFORMED),
    ("properties run past the packet",           &[V5], "30 05 00 01 61 05 01", MALFORMED),
    ("MQTT-3.3.2-8 topic alias 0",               &[V5], "30 07 00 01 61 03 23 00 00", 0x94),
    ("3.3.2.3.4 topic alias twice",              &[V5], "30 0a 00 01 61 06 23 00 01 23 00 01", PROTOCOL),
    ("3.3.2.3.2 payload format 7",               &[V5], "30 06 00 01 61 02 01 07", PROTOCOL),
    ("MQTT-3.3.2-14 wildcard in response topic", &[V5], "30 08 00 01 61 04 08 00 01 23", PROTOCOL),
    ("MQTT-4.7.3-1 empty response topic",        &[V5], "30 07 00 01 61 03 08 00 00", PROTOCOL),
    ("3.3.2.3.8 subscription identifier 0",      &[V5], "30 06 00 01 61 02 0b 00", PROTOCOL),
    ("MQTT-1.5.5-1 long subscription id",        &[V5], "30 07 00 01 61 03 0b 81 00", MALFORMED),
    ("3.3.2.3.3 message expiry twice",           &[V5], "30 0e 00 01 61 0a 02 00 00 00 01 02 00 00 00 01", PROTOCOL),
    ("2.2.2.2 property of another packet",       &[V5], "30 09 00 01 61 05 11 00 00 00 01", MALFORMED),
];

#[rustfmt::skip]
const ACKS: &[Case] = &[
    ("MQTT-2.2.1-3 PUBACK 0",                 ALL, "40 02 00 00", PROTOCOL),
    ("MQTT-2.2.1-3 PUBREC 0",                 ALL, "50 02 00 00", PROTOCOL),
    ("MQTT-2.2.1-3 PUBREL 0",                 ALL, "62 02 00 00", PROTOCOL),
    ("MQTT-2.2.1-3 PUBCOMP 0",                ALL, "70 02 00 00", PROTOCOL),
    ("PUBACK is too short",                   ALL, "40 01 00", MALFORMED),
    ("an empty PUBACK",                       ALL, "40 00", MALFORMED),
    ("bytes follow before v5",                V3,  "40 03 00 01 00", MALFORMED),
    ("bytes follow the properties",           &[V5], "40 05 00 01 00 00 00", MALFORMED),
    ("MQTT-3.4.2-1 undefined reason",         &[V5], "40 03 00 01 7f", MALFORMED),
    ("MQTT-3.4.2-1 reason of another packet", &[V5], "40 03 00 01 92", PROTOCOL),
    ("MQTT-3.5.2-1 reason of another packet", &[V5], "50 03 00 01 92", PROTOCOL),
    ("MQTT-3.6.2-1 reason of another packet", &[V5], "62 03 00 01 10", PROTOCOL),
    ("MQTT-3.7.2-1 reason of another packet", &[V5], "70 03 00 01 10", PROTOCOL),
    ("3.4.2.2.2 reason string twice",         &[V5], "40 0a 00 01 00 06 1f 00 00 1f 00 00", PROTOCOL),
    ("2.2.2.2 property of another packet",    &[V5], "40 07 00 01 00 03 23 00 01", MALFORMED),
];

#[rustfmt::skip]
const SUBSCRIBE: &[Case] = &[
    ("MQTT-2.2.1-3 packet identifier 0",        V3,  "82 06 00 00 00 01 61 00", PROTOCOL),
    ("MQTT-2.2.1-3 packet identifier 0",        &[V5], "82 07 00 00 00 00 01 61 00", PROTOCOL),
    ("MQTT-3.8.3-2 no filter",                  V3,  "82 02 00 01", PROTOCOL),
    ("MQTT-3.8.3-2 no filter",                  &[V5], "82 03 00 01 00", PROTOCOL),
    ("MQTT-3.8.3-1 UTF-8",                      V3,  "82 06 00 01 00 01 ff 00", MALFORMED),
    ("MQTT-4.7.3-1 empty filter",               V3,  "82 05 00 01 00 00 00", MALFORMED),
    ("MQTT-4.7.1-1 # is not last",              V3,  "82 08 00 01 00 03 23 2f 61 00", MALFORMED),
    ("MQTT-4.7.1-1 # is not alone",             V3,  "82 07 00 01 00 02 61 23 00", MALFORMED),
    ("MQTT-4.7.1-2 + is not alone",             V3,  "82 07 00 01 00 02 2b 61 00", MALFORMED),
    ("MQTT-4.7.3-2 U+0000",                     V3,  "82 06 00 01 00 01 00 00", MALFORMED),
    ("the options are missing",                 V3,  "82 05 00 01 00 01 61", MALFORMED),
    ("the second filter is cut",                V3,  "82 08 00 01 00 01 61 00 00 01", MALFORMED),
    ("MQTT-3.8.3-4 QoS 3",                      V3,  "82 06 00 01 00 01 61 03", MALFORMED),
    ("MQTT-3.8.3-4 options of v5 before it",    V3,  "82 06 00 01 00 01 61 04", MALFORMED),
    ("3.8.3.1 QoS 3",                           &[V5], "82 07 00 01 00 00 01 61 03", PROTOCOL),
    ("MQTT-3.8.3-5 reserved bits",              &[V5], "82 07 00 01 00 00 01 61 40", MALFORMED),
    ("3.8.3.1 retain handling 3",               &[V5], "82 07 00 01 00 00 01 61 30", PROTOCOL),
    ("MQTT-3.8.3-4 no local on a shared one",   &[V5], "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 67 2f 61 04", PROTOCOL),
    ("MQTT-4.8.2-1 share name is empty",        &[V5], "82 0f 00 01 00 00 09 24 73 68 61 72 65 2f 2f 61 00", MALFORMED),
    ("MQTT-4.8.2-2 share name has a wildcard",  &[V5], "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 2b 2f 61 00", MALFORMED),
    ("MQTT-4.8.2-2 no filter after the share",  &[V5], "82 0f 00 01 00 00 09 24 73 68 61 72 65 2f 67 2f 00", MALFORMED),
    ("MQTT-4.8.2-2 the share name alone",       &[V5], "82 0e 00 01 00 00 08 24 73 68 61 72 65 2f 67 00", MALFORMED),
    ("3.8.2.1.2 subscription identifier 0",     &[V5], "82 09 00 01 02 0b 00 00 01 61 00", PROTOCOL),
    ("3.8.2.1.2 subscription identifier twice", &[V5], "82 0b 00 01 04 0b 01 0b 02 00 01 61 00", PROTOCOL),
    ("MQTT-2.2.1-3 UNSUBSCRIBE 0",              V3,  "a2 05 00 00 00 01 61", PROTOCOL),
    ("MQTT-3.10.3-2 UNSUBSCRIBE without filter", V3, "a2 02 00 01", PROTOCOL),
    ("MQTT-3.10.3-2 UNSUBSCRIBE without filter", &[V5], "a2 03 00 01 00", PROTOCOL),
    ("MQTT-3.10.3-1 UTF-8",                     V3,  "a2 05 00 01 00 01 ff", MALFORMED),
    ("MQTT-4.7.1-2 UNSUBSCRIBE a+",             V3,  "a2 06 00 01 00 02 61 2b", MALFORMED),
    ("2.2.2.2 subscription id in UNSUBSCRIBE",  &[V5], "a2 08 00 01 02 0b 01 00 01 61", MALFORMED),
];

#[rustfmt::skip]
const SUBACK: &[Case] = &[
    ("MQTT-2.2.1-3 packet identifier 0",  V3,  "90 03 00 00 00", PROTOCOL),
    ("MQTT-3.9.3-2 reserved code",        V3,  "90 03 00 01 03", MALFORMED),
    ("MQTT-3.9.3-2 undefined code",       &[V5], "90 04 00 01 00 03", MALFORMED),
    ("MQTT-3.9.3-2 code of another",      &[V5], "90 04 00 01 00 11", PROTOCOL),
    ("no code",                           V3,  "90 02 00 01", PROTOCOL),
    ("no code",                           &[V5], "90 03 00 01 00", PROTOCOL),
    ("UNSUBACK 0",                        ALL, "b0 02 00 00", PROTOCOL),
    ("UNSUBACK with codes before v5",     V3,  "b0 03 00 01 00", MALFORMED),
    ("UNSUBACK without codes",            &[V5], "b0 03 00 01 00", PROTOCOL),
    ("MQTT-3.11.3-2 code of another",     &[V5], "b0 04 00 01 00 01", PROTOCOL),
];

#[rustfmt::skip]
const END: &[Case] = &[
    ("MQTT-3.14.2-1 undefined reason",        &[V5], "e0 01 7f", MALFORMED),
    ("MQTT-3.14.2-1 reason of another",       &[V5], "e0 01 10", PROTOCOL),
    ("bytes follow",                          &[V5], "e0 03 00 00 00", MALFORMED),
    ("3.14.2.2.2 session expiry twice",       &[V5], "e0 0c 00 0a 11 00 00 00 01 11 00 00 00 01", PROTOCOL),
    ("2.2.2.2 property of another packet",    &[V5], "e0 05 00 03 23 00 01", MALFORMED),
    ("3.15.2.2.2 AUTH without a method",      &[V5], "f0 02 18 00", PROTOCOL),
    ("3.15.2.2.3 AUTH data without a method", &[V5], "f0 06 18 04 16 00 01 78", PROTOCOL),
    ("AUTH with a reason alone",              &[V5], "f0 01 18", MALFORMED),
    ("MQTT-3.15.2-1 reason of another",       &[V5], "f0 06 87 04 15 00 01 78", PROTOCOL),
    ("AUTH with bytes behind it",             &[V5], "f0 07 18 04 15 00 01 78 00", MALFORMED),
];

fn hex(text: &str) -> Vec<u8> {
    text.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn every_rule_is_kept() {
    for table in [FIXED_HEADER, CONNECT, CONNACK, PUBLISH, ACKS, SUBSCRIBE, SUBACK, END] {
        for &(what, versions, text, code) in table {
            let bytes = hex(text);
            let length = frame(&bytes, usize::MAX).unwrap().unwrap().len();
            assert_eq!(length, bytes.len(), "the case itself is framed wrong: {what}");
            for &version in versions {
                let error = read(version, &bytes, usize::MAX).expect_err(what);
                assert_eq!(error.reason() as u8, code, "{what} in {version:?}: {error}");
            }
        }
    }
}

/// The tables must not pass because a packet is wrong in another way: most cases have a neighbour that is right.
#[test]
fn the_valid_neighbours_are_taken() {
    #[rustfmt::skip]
    let neighbours: &[(&[Version], &str)] = &[
        (ALL, "10 0c 00 04 4d 51 54 54 04 02 00 3c 00 00"),
        (ALL, "10 0d 00 04 4d 51 54 54 05 02 00 3c 00 00 00"),
        (ALL, "10 0e 00 06 4d 51 49 73 64 70 03 02 00 3c 00 00"),
        (ALL, "10 12 00 04 4d 51 54 54 04 16 00 3c 00 00 00 01 61 00 01 62"),  // a will of QoS 2
        (ALL, "10 12 00 04 4d 51 54 54 04 c2 00 3c 00 00 00 01 75 00 01 ff"),  // a password of any bytes
        (ALL, "10 10 00 04 4d 51 54 54 04 c2 00 3c 00 00 00 00 00 00"),        // name and password empty, not absent
        (ALL, "10 10 00 04 4d 51 54 54 05 42 00 3c 00 00 00 00 01 70"),        // v5: a password alone
        (ALL, "10 0e 00 06 4d 51 49 73 64 70 03 82 00 3c 00 00"),              // 3.1: the promised name is missing
        (ALL, "10 0e 00 06 4d 51 49 73 64 70 03 03 00 3c 00 00"),              // 3.1: that bit is unused
        (&[V31], "20 02 01 00"), (&[V311], "20 02 01 00"), (&[V5], "20 03 01 00 00"),
        (&[V31], "38 04 00 01 61 00"),                                         // 3.1 says nothing of DUP with QoS 0
        (&[V31], "6a 02 00 01"), (&[V31], "8a 06 00 01 00 01 61 00"), (&[V31], "aa 05 00 01 00 01 61"),
        (&[V5], "30 06 00 00 03 23 00 01"),                                    // an alias for the topic
        (&[V5], "40 02 00 01"), (&[V5], "40 03 00 01 10"), (&[V5], "40 04 00 01 00 00"),
        (&[V5], "62 03 00 01 92"),
        (V3, "82 06 00 01 00 01 61 02"), (&[V5], "82 07 00 01 00 00 01 61 2e"),
        (V3, "82 0d 00 01 00 08 24 73 68 61 72 65 2f 67 00"),                  // `$share` is a plain level before v5
        (&[V5], "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 67 2f 61 02"),
        (V3, "90 03 00 01 80"), (&[V5], "90 04 00 01 00 a2"),
        (V3, "b0 02 00 01"), (&[V5], "b0 04 00 01 00 11"),
        (ALL, "e0 00"), (&[V5], "e0 01 04"), (&[V5], "e0 02 8e 00"), (&[V5], "e0 01 8c"),
        (&[V5], "f0 00"), (&[V5], "f0 06 18 04 15 00 01 78"),
        (ALL, "c0 00"), (ALL, "d0 00"),
    ];
    for &(versions, text) in neighbours {
        for &version in versions {
            let bytes = hex(text);
            let found = read(version, &bytes, usize::MAX);
            assert!(
                matches!(found, Ok(Some((_, length))) if length == bytes.len()),
                "{text} in {version:?}: {found:?}"
            );
        }
    }
}

#[test]
fn an_unknown_level_is_told_so_in_its_own_form() {
    for (level, answer) in
        [(6, &b"\x20\x03\x00\x84\x00"[..]), (2, b"\x20\x02\x00\x01"), (0x84, b"\x20\x03\x00\x84\x00")]
    {
        let mut bytes = hex("10 0c 00 04 4d 51 54 54 00 02 00 3c 00 00");
        bytes[8] = level;
        let error = read(V311, &bytes, usize::MAX).unwrap_err();
        assert_eq!(error, ReadError::Decode(UnsupportedVersion { level }));
        let written = connack::unsupported_version(level);
        assert_eq!(written, answer);
        let version = if level > 4 { V5 } else { V311 };
        let refusal = Packet::ConnAck(ConnAck::new(false, ReasonCode::UnsupportedProtocolVersion));
        assert_eq!(read(version, written, usize::MAX), Ok(Some((refusal, written.len()))));
    }
    let other = hex("10 0c 00 04 41 4d 51 50 00 00 09 01 00 00");
    assert_eq!(read(V311, &other, usize::MAX), Err(ReadError::Decode(UnknownProtocol)));
}

#[test]
fn a_connect_tells_its_own_version() {
    for wanted in Version::ALL {
        let mut bytes = Vec::new();
        Connect::new(wanted, "me").encode(wanted, &mut bytes).unwrap();
        for asked in Version::ALL {
            let Ok(Some((Packet::Connect(connect), _))) = read(asked, &bytes, usize::MAX) else {
                panic!("it is a CONNECT")
            };
            assert_eq!((connect.version, connect.client_id), (wanted, "me"));
        }
    }
}

/// The frame says how long the body is; a caller that passes another one is told so.
#[test]
fn a_body_of_another_length_is_refused() {
    let frame = frame(&[0x40, 0x02], usize::MAX).unwrap().unwrap();
    for body in [&b"\0"[..], b"\0\x01\0", b""] {
        assert!(matches!(decode(V311, frame, body), Err(Malformed(_))));
    }
    assert!(decode(V311, frame, b"\0\x01").is_ok());
}
