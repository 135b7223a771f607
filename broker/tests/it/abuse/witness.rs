//! Two clients that behave. Each of their messages is acknowledged and arrives, in reasonable time, whatever the others
//! do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Publish, Qos, ReasonCode, Version};

use crate::support::Client;

const TOPIC: &str = "witness/says";
/// Between two messages: they watch, they do not load.
const PAUSE: Duration = Duration::from_millis(10);
/// One answer, or one message: nothing takes long, but the machine may be busy.
const REASONABLE: Duration = Duration::from_secs(10);

pub(super) struct Witness {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Exchanges>,
}

struct Exchanges {
    count: u32,
    slowest: Duration,
}

impl Witness {
    pub(super) fn start(address: SocketAddr) -> Self {
        let mut subscriber = Client::connect(address, &Connect::new(Version::V5, "witness-hears"));
        subscriber.subscribe(TOPIC, Qos::AtLeastOnce);
        let mut publisher = Client::connect(address, &Connect::new(Version::V311, "witness-says"));
        let mut exchanges = Exchanges { count: 0, slowest: Duration::ZERO };
        (0..100).for_each(|_| exchanges.one(&mut publisher, &mut subscriber));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                exchanges.one(&mut publisher, &mut subscriber);
                std::thread::sleep(PAUSE);
            }
            exchanges.one(&mut publisher, &mut subscriber);
            exchanges
        });
        Self { stop, work }
    }

    /// One more exchange, now that the abuse is over. How long the slowest of all took.
    pub(super) fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.work.join().expect("the well-behaved clients were served all the while").slowest
    }
}

impl Exchanges {
    /// A client that waits for longer than is reasonable fails the test.
    fn one(&mut self, publisher: &mut Client, subscriber: &mut Client) {
        let (started, payload) = (Instant::now(), self.count.to_be_bytes());
        let publish = Publish { qos: Qos::AtLeastOnce, ..Publish::new(TOPIC, &payload) };
        assert_eq!(publisher.publish_within(REASONABLE, publish), ReasonCode::Success);
        let message = subscriber.message_within(REASONABLE).expect("the message comes");
        assert_eq!(message.payload, payload);
        self.slowest = self.slowest.max(started.elapsed());
        self.count += 1;
    }
}
