use std::sync::Arc;

use nsd_wire::Publish;

use super::*;

fn message(payload: &[u8], expiry: Option<u32>) -> Arc<Message> {
    let mut publish = Publish { qos: Qos::ExactlyOnce, ..Publish::new("t", payload) };
    publish.properties.message_expiry = expiry;
    Arc::new(Message::new(&publish).unwrap())
}

fn limits(messages: usize, policy: QueuePolicy) -> Limits {
    Limits { queue_messages: messages, queue_policy: policy, ..Limits::default() }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
}

fn add_as(queue: &mut Queue, qos: Qos, message: Arc<Message>, limits: &Limits) -> Place {
    let place = queue.place(&message, false, limits);
    if let Place::Taken { seq, .. } = place {
        let since = now();
        queue.push(Entry { seq, qos, retain: false, ids: Box::default(), since, message, received: false });
    }
    place
}

fn add(queue: &mut Queue, qos: Qos) -> Place {
    add_as(queue, qos, message(b"x", None), &Limits::default())
}

/// What would be sent: `P id` (`D` for one more time), `R id`, `E seq`.
fn sent(queue: &mut Queue, window: u16) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(next) = queue.next(window, now()) {
        all.push(match next {
            Next::Publish { id, dup, .. } => format!("{}{}", if dup { "D" } else { "P" }, id.get()),
            Next::Release(id) => format!("R{}", id.get()),
            Next::Expired(seq) => format!("E{seq}"),
        });
    }
    all
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

#[test]
fn what_was_not_acknowledged_is_sent_again_in_order_and_under_the_same_identifiers() {
    let mut queue = Queue::default();
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::AtLeastOnce] {
        add(&mut queue, qos);
    }
    assert_eq!(sent(&mut queue, 4), ["P1", "P2", "P3", "P4"]);
    assert_eq!(queue.on_pubrec(id(2), ReasonCode::Success), (Settled::Release(ReasonCode::Success), Some(1)));
    assert_eq!(queue.on_puback(id(3)), (Settled::Done, Some(2)));
    assert_eq!(queue.in_flight(), 3);
    queue.rewind();
    assert_eq!(sent(&mut queue, 10), ["D1", "R2", "D4", "P5"]);
    assert_eq!(queue.on_pubcomp(id(2)), (Settled::Done, Some(1)));
    for (number, seq) in [(1, 0), (5, 4)] {
        assert_eq!(queue.on_puback(id(number)), (Settled::Done, Some(seq)));
    }
    assert_eq!(queue.on_pubrec(id(4), ReasonCode::QuotaExceeded), (Settled::Done, Some(3)));
    assert!(queue.is_empty() && queue.bytes() == 0 && queue.in_flight() == 0);
}

#[test]
fn acknowledgements_that_fit_nothing_change_nothing() {
    let mut queue = Queue::default();
    let not_found = Settled::Release(ReasonCode::PacketIdentifierNotFound);
    add(&mut queue, Qos::AtLeastOnce);
    add(&mut queue, Qos::ExactlyOnce);
    // Not sent yet.
    assert_eq!(queue.on_puback(id(1)), (Settled::Unknown, None));
    sent(&mut queue, 10);
    assert_eq!(queue.on_puback(id(2)), (Settled::Unknown, None));
    assert_eq!(queue.on_pubrec(id(1), ReasonCode::Success), (not_found, None));
    assert_eq!(queue.on_pubcomp(id(2)), (Settled::Unknown, None));
    assert_eq!(queue.on_puback(id(9)), (Settled::Unknown, None));
    queue.on_pubrec(id(2), ReasonCode::Success);
    assert_eq!(queue.on_pubrec(id(2), ReasonCode::Success), (Settled::Release(ReasonCode::Success), None));
    assert_eq!(queue.len(), 2);
}

#[test]
fn a_full_queue_drops_what_was_never_sent() {
    let limits = limits(3, QueuePolicy::DropOldest);
    let mut queue = Queue::default();
    for _ in 0..3 {
        add_as(&mut queue, Qos::AtLeastOnce, message(b"x", None), &limits);
    }
    assert_eq!(sent(&mut queue, 1), ["P1"]);
    let place = add_as(&mut queue, Qos::AtLeastOnce, message(b"x", None), &limits);
    let Place::Taken { seq: 3, instead_of } = place else { panic!("{place:?}") };
    assert_eq!(instead_of.iter().map(Displaced::seq).collect::<Vec<_>>(), [1]);
    queue.on_puback(id(1));
    assert_eq!(sent(&mut queue, 9), ["P3", "P4"]);
    // Everything is on its way: the new one has no place.
    add_as(&mut queue, Qos::AtLeastOnce, message(b"x", None), &limits);
    assert_eq!(sent(&mut queue, 9), ["P5"]);
    assert_eq!(add_as(&mut queue, Qos::AtLeastOnce, message(b"x", None), &limits), Place::Full);
    assert_eq!(queue.len(), 3);
}

#[test]
fn what_was_displaced_for_nothing_has_its_old_place() {
    let limits = limits(3, QueuePolicy::DropOldest);
    for sent_meanwhile in [false, true] {
        let mut queue = Queue::default();
        for _ in 0..3 {
            add_as(&mut queue, Qos::AtLeastOnce, message(b"x", None), &limits);
        }
        let (refused, bytes) = (message(b"x", None), queue.bytes());
        let Place::Taken { instead_of, .. } = queue.place(&refused, false, &limits) else {
            panic!("a place")
        };
        if sent_meanwhile {
            assert_eq!(sent(&mut queue, 9), ["P2", "P3"]);
        }
        queue.give_back(&refused);
        instead_of.into_iter().for_each(|displaced| queue.put_back(displaced));
        assert_eq!((queue.len(), queue.bytes()), (3, bytes));
        if sent_meanwhile {
            assert_eq!(queue.on_puback(id(2)).0, Settled::Done);
            queue.rewind();
            assert_eq!(sent(&mut queue, 9), ["P1", "D3"]);
        } else {
            assert_eq!(sent(&mut queue, 9), ["P1", "P2", "P3"]);
        }
    }
}

#[test]
fn the_other_policies() {
    for (policy, expected) in
        [(QueuePolicy::DropNewest, Place::Full), (QueuePolicy::Disconnect, Place::Overrun)]
    {
        let limits = limits(1, policy);
        let mut queue = Queue::default();
        add_as(&mut queue, Qos::AtLeastOnce, message(b"x", None), &limits);
        assert_eq!(add_as(&mut queue, Qos::AtLeastOnce, message(b"x", None), &limits), expected);
    }
    let tiny = Limits { queue_bytes: 10, ..Limits::default() };
    assert_eq!(add_as(&mut Queue::default(), Qos::AtLeastOnce, message(&[0; 99], None), &tiny), Place::Full);
}

#[test]
fn who_keeps_up_is_given_more_than_the_limit() {
    let limits = limits(2, QueuePolicy::DropNewest);
    let mut queue = Queue::default();
    for _ in 0..5 {
        let message = message(b"x", None);
        assert!(matches!(queue.place(&message, true, &limits), Place::Taken { .. }));
    }
    assert!(queue.is_crowded());
    assert_eq!(queue.place(&message(b"x", None), false, &limits), Place::Full);
}

#[test]
fn what_has_expired_is_not_sent_unless_that_had_begun() {
    let mut queue = Queue::default();
    for expiry in [None, Some(0), Some(60)] {
        add_as(&mut queue, Qos::AtLeastOnce, message(b"x", expiry), &Limits::default());
    }
    assert_eq!(sent(&mut queue, 9), ["P1", "E1", "P3"]);
    queue.rewind();
    let late = now() + Duration::from_secs(600);
    assert!(matches!(queue.next(9, late), Some(Next::Publish { dup: true, waited: 600, .. })));
    assert!(matches!(queue.next(9, late), Some(Next::Publish { dup: true, .. })));
    assert!(queue.next(9, late).is_none());
    assert_eq!(queue.len(), 2);
}

fn entry(seq: Seq, received: bool) -> Entry {
    Entry {
        seq,
        qos: Qos::ExactlyOnce,
        retain: false,
        ids: Box::default(),
        since: now(),
        message: message(b"x", None),
        received,
    }
}

#[test]
fn what_arrives_with_its_place_is_known_once_and_places_that_were_never_seen_stay_empty() {
    let limits = Limits::default();
    let mut queue = Queue::restored(Vec::new(), 5, None);
    for seq in [5, 5, 4, 8, 7, 9] {
        queue.arrive(entry(seq, false), &limits);
    }
    assert_eq!((queue.len(), queue.next_place()), (3, 10));
    assert_eq!(sent(&mut queue, 9), ["P6", "P9", "P10"]);
    for number in [6, 9, 10] {
        queue.on_pubrec(id(number), ReasonCode::Success);
        queue.on_pubcomp(id(number));
    }
    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}

#[test]
fn what_is_known_to_have_been_sent_is_sent_again_and_the_rest_for_the_first_time() {
    let mut queue = Queue::restored(vec![entry(5, false), entry(6, true), entry(8, false)], 9, Some(8));
    assert_eq!(queue.sent_below(), 7, "behind the last one that was sent");
    assert_eq!(sent(&mut queue, 9), ["D6", "R7", "P9"]);
    assert_eq!(queue.sent_below(), 9);
}

#[test]
fn restored_messages_go_on_where_they_were() {
    let mut queue = Queue::restored(vec![entry(65_533, false), entry(65_535, true)], 70_000, None);
    assert_eq!(sent(&mut queue, 9), ["D65534", "R1"]);
    assert_eq!(queue.on_pubcomp(id(1)), (Settled::Done, Some(65_535)));
    assert_eq!(add(&mut queue, Qos::AtLeastOnce), Place::Taken { seq: 70_000, instead_of: vec![] });
    assert_eq!(sent(&mut queue, 9), ["P4466"]);
    assert_eq!(queue.on_puback(id(4466)), (Settled::Done, Some(70_000)));
}

/// Against a plain list of what was put in: nothing is lost, doubled or out of order, whatever the client does.
#[test]
fn a_storm_of_everything() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let (mut queue, limits) = (Queue::default(), Limits { queue_messages: 50, ..Limits::default() });
        let (mut flying, mut waiting): (Vec<(u16, bool)>, usize) = (Vec::new(), 0);
        for _ in 0..400 {
            match random.u8(0..10) {
                0..=3 => {
                    let qos = if random.bool() { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
                    match add_as(&mut queue, qos, message(b"x", None), &limits) {
                        Place::Taken { instead_of, .. } => waiting = waiting + 1 - instead_of.len(),
                        _ => assert_eq!(waiting, 0, "only what flies cannot be dropped"),
                    }
                }
                4..=5 => {
                    while let Some(Next::Publish { id, entry, .. }) = queue.next(8, now()) {
                        flying.push((id.get(), entry.qos == Qos::AtLeastOnce));
                        waiting -= 1;
                    }
                }
                6..=8 if !flying.is_empty() => {
                    let (number, once) = flying.remove(random.usize(..flying.len()));
                    if once {
                        assert_eq!(queue.on_puback(id(number)).0, Settled::Done);
                    } else {
                        assert!(matches!(
                            queue.on_pubrec(id(number), ReasonCode::Success).0,
                            Settled::Release(_)
                        ));
                        assert_eq!(queue.on_pubcomp(id(number)).0, Settled::Done);
                    }
                }
                _ => {
                    queue.rewind();
                    let again: Vec<u16> =
                        sent(&mut queue, 8).iter().map(|text| text[1..].parse().unwrap()).collect();
                    let expected: Vec<u16> = flying.iter().map(|(id, _)| *id).collect();
                    assert!(again.starts_with(&expected) || expected.is_empty());
                    queue.rewind();
                    // Sent now, of whatever kind they are: acknowledged as their kind needs.
                    let mut newly = Vec::new();
                    while let Some(Next::Publish { id, entry, .. }) = queue.next(8, now()) {
                        newly.push((id.get(), entry.qos == Qos::AtLeastOnce));
                    }
                    waiting -= newly.len() - flying.len();
                    flying = newly;
                }
            }
            assert_eq!(queue.len(), flying.len() + waiting);
        }
    }
}

#[test]
fn a_million_of_empty_messages_is_not_nothing() {
    let limits =
        Limits { queue_bytes: 16 * 1024, queue_policy: QueuePolicy::DropNewest, ..Limits::default() };
    let (mut queue, message) = (Queue::default(), message(b"", None));
    let taken = (0..1_000_000).take_while(|_| queue.place(&message, true, &limits) != Place::Full).count();
    assert!(taken * size_of::<Slot>() <= 4 * limits.queue_bytes, "{taken}");
}
