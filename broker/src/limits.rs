//! Every limit of the broker, why it is what it is, and what happens when it is reached.

use std::time::Duration;

/// The limits that an operator may set, in `[limits]` of the settings, and for clients of one listener in its
/// `[listen.limits]`. All others are the constants below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A client must have sent its whole CONNECT by then, or is closed: an open socket costs a descriptor.
    pub connect_deadline: Duration,
    /// Largest packet taken from a client; a larger one ends the connection (v5: 0x95). Told to v5 clients in CONNACK.
    pub packet_bytes: usize,
    /// Levels of a topic or filter; matching recurses by level. More is an invalid topic (v5: 0x90 / 0x8F).
    pub topic_levels: usize,
    /// Filters one client may hold; the next is refused in its SUBACK (0x97).
    pub subscriptions_per_client: usize,
    /// Bytes of all filters of one client: ten thousand of 64 KiB would be 650 MB. The next is refused (0x97).
    pub subscription_bytes: usize,
    /// Subscriptions of all clients of this node, connected or away; the next is refused (0x97). Each takes some hundred
    /// bytes. Also those of all sessions in Redis, for one more of such a session: every node knows all of them.
    pub subscriptions: usize,
    /// QoS 1 and 2 messages a client may have unacknowledged by us (v5: Receive Maximum in CONNACK; a v5 client over it
    /// is disconnected with 0x93, a v3 client is simply not read from until there is room).
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages sent and not yet acknowledged by one client; further ones wait in its queue.
    pub send_window: u16,
    /// Topic aliases a v5 client may set, and as many are used toward it if it allows them; a higher one ends its
    /// connection (0x94). An alias costs its topic's bytes.
    pub topic_aliases: u16,
    /// Longest silence a client may ask for; one that asks for more, or for no limit, gets this one (v5: Server Keep
    /// Alive; v3 cannot be told, and is closed after one and a half times as long all the same). Zero: as the client likes.
    pub keep_alive: u16,
    /// How long a session may outlive its connection; who asks for more gets this (v5: told in CONNACK).
    pub session_expiry: Duration,
    /// QoS 1 and 2 messages that wait for one session, in number and in bytes of their packets.
    pub queue_messages: usize,
    pub queue_bytes: usize,
    /// What happens to a session that has reached either.
    pub queue_policy: QueuePolicy,
    /// Retained messages of one node's own store; a further topic is refused (v5: 0x97). In Redis, its memory decides.
    /// Zero: nothing is retained, with either store (v5: told in CONNACK); who sends a retained message, or would have a
    /// retained will, is sent away (0x9A).
    pub retained: usize,
    /// Bytes of these, with what keeps them; a message that has no room is refused like a topic too many.
    pub retained_bytes: usize,
    /// Packets a second that make others work (PUBLISH, SUBSCRIBE, UNSUBSCRIBE), and bytes a second of any packets, that
    /// are taken from one client; 0: as many as it likes. A client may be a second ahead; then it is not read from until
    /// it is not any more, and nothing is lost.
    pub messages_per_second: u32,
    pub bytes_per_second: usize,
    /// Sessions of this node, their clients connected or away: who asks for one more that outlives its connection is
    /// refused (0x97). A session that nobody comes back to is kept for `session_expiry`.
    pub sessions: usize,
    /// Bytes that wait for all clients of this node, in outboxes and queues, and that have come of unfinished packets.
    /// Over it, new connections and messages for persistent sessions are refused (0x97), and the receivers that hold
    /// most are disconnected, largest first.
    pub memory: usize,
}

/// What gives way when a session's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuePolicy {
    /// The message that has waited longest and was never sent.
    DropOldest,
    /// The new message.
    DropNewest,
    /// The client: it is disconnected (0x97) and its session ends.
    Disconnect,
}

impl Limits {
    /// How many seconds a session is kept whose client asks for so many.
    pub fn expiry(&self, asked: u32) -> u32 {
        asked.min(u32::try_from(self.session_expiry.as_secs()).unwrap_or(u32::MAX))
    }

    /// Whether messages are retained at all.
    pub fn retains(&self) -> bool {
        self.retained > 0
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_deadline: Duration::from_secs(10),
            packet_bytes: 1024 * 1024,
            topic_levels: 128,
            subscriptions_per_client: 10_000,
            subscription_bytes: 1024 * 1024,
            subscriptions: 5_000_000,
            receive_maximum: 1024,
            send_window: 4096,
            topic_aliases: 64,
            keep_alive: 0,
            // What Mosquitto calls forever is a leak; two weeks outlast holidays.
            session_expiry: Duration::from_secs(14 * 86_400),
            queue_messages: 1000,
            queue_bytes: 4 * 1024 * 1024,
            queue_policy: QueuePolicy::DropOldest,
            retained: 1_000_000,
            retained_bytes: 512 * 1024 * 1024,
            messages_per_second: 0,
            bytes_per_second: 0,
            sessions: 1_000_000,
            memory: 1024 * 1024 * 1024,
        }
    }
}

/// A whole admission (look-up, password check, ownership) may take this long; then the CONNECT is refused as unavailable.
pub const ADMISSION_DEADLINE: Duration = Duration::from_secs(5);
/// How often it is looked whether a connection that was taken over has passed on what it was about to: a moment.
pub const TAKING: Duration = Duration::from_millis(1);
/// Largest packet before a client is known: a CONNECT with the longest will a sane client sends.
pub const MAX_CONNECT_PACKET: usize = 128 * 1024;
/// Shared subscriptions one client may hold, each of which gets it a copy of its own: thousands would make one message
/// cost like thousands. The next is refused (0x97).
pub const SHARES_PER_CLIENT: u32 = 256;
/// Bytes that a publisher's thread writes to a receiver itself, and to how many receivers of one message: a wake-up of
/// another thread costs as much as a write, but many writes are shared out among threads.
pub const PASSED_ON: usize = 4096;
pub const PASSED_ON_TO: usize = 4;
/// Bytes waiting for one client above which its publishers are no longer read from.
pub const OUTBOX_MARK: usize = 512 * 1024;
/// Bytes waiting for one client above which also those wait for it who publish little: many of them are much together.
pub const OUTBOX_BRIM: usize = 2 * 1024 * 1024;
/// Bytes waiting for one client above which QoS 0 is dropped (counted) even before its publishers' patience ends.
pub const OUTBOX_CEILING: usize = 4 * 1024 * 1024;
/// Bytes a second that one publisher may put into outboxes over their mark before it waits for them: who fills them
/// waits, not who says something now and then.
pub const LITTLE: u32 = 16 * 1024;
/// Bytes of retained messages that a new subscription gets in one go, and a message more.
pub const RETAINED_SLICE_BYTES: usize = 256 * 1024;
/// Bytes of answers (PINGRESP, PUBACK, SUBACK, …) that a client has not taken, above which it is not read from: who asks
/// without listening waits.
pub const REPLIES_MARK: usize = 64 * 1024;
/// SUBSCRIBE packets of one client on their way to the other nodes, at which it is not read from.
pub const SUBSCRIBES_WAITING: usize = 64;
/// How long publishers wait for one receiver that takes nothing; after that it loses QoS 0 until it has caught up. All
/// waits count together, but for [`SHORT_WAIT`] of each.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Patience comes back so much slower than it is spent, in a minute: a receiver that reads now and then costs those who
/// write to it a twelfth of their time at most.
pub const PATIENCE_RETURNS: u32 = 12;
/// A wait that is no longer than this is how a publisher is made as slow as its receiver, and costs no patience. A client
/// that reads takes something far more often, also on a busy machine.
pub const SHORT_WAIT: Duration = Duration::from_millis(250);
/// Topics whose receivers one thread remembers; at the limit it forgets all and starts over.
pub const MATCH_CACHE: usize = 8192;
/// And what they may take: a topic can be of 64 KiB, and a hundred thousand may want it. One that is larger by itself is
/// looked up each time.
pub const MATCH_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// How often it is looked at what all clients hold.
pub const MEMORY_PACE: Duration = Duration::from_millis(250);
/// How often it is looked for retained messages that have expired, and at how many topics: a million of them take a few
/// minutes.
pub const EXPIRED_PACE: Duration = Duration::from_secs(1);
pub const EXPIRED_SLICE: usize = 4096;
/// Bytes waiting in one lane toward other nodes above which publishers wait, and twice that where QoS 0 is dropped.
pub const LANE_MARK: usize = 4 * 1024 * 1024;
/// Bytes packed into one message between nodes.
pub const BUS_PACKET: usize = 256 * 1024;
/// How long a client may take to accept our last bytes at its end.
pub const FAREWELL: Duration = Duration::from_millis(500);
/// How long a graceful stop waits for clients to be told before it aborts them.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(8);
/// How long a stopping node may take to hand over what is gathered and to leave the cluster; without Redis it just goes.
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(2);
/// argon2 runs at the same time: each takes a core and tens of megabytes for tens of milliseconds.
pub const PASSWORD_CHECKS: usize = 2;
/// How long a right password is remembered (as a keyed hash), so that a reconnecting fleet does not pay argon2 again.
pub const PASSWORD_MEMORY: Duration = Duration::from_secs(60);
/// How many right passwords are remembered; at the limit all are forgotten.
pub const PASSWORDS_REMEMBERED: usize = 10_000;
