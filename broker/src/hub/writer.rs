//! The writing end of a client's plain socket, for who has a message and finds the client at rest: its connection need
//! not be woken then, which mostly means another thread. What is read, and all else that is written, is the
//! connection's.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;

#[derive(Debug)]
pub struct Writer(Arc<TcpStream>);

impl Writer {
    /// As much as the socket takes now.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    /// Nothing is written any more, by anybody.
    pub(super) fn cut(self) {
        // Whose other end is gone already needs it no more.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

impl From<Arc<TcpStream>> for Writer {
    fn from(socket: Arc<TcpStream>) -> Self {
        Self(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::Instant;

    use nsd_wire::{Publish, Version};
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use crate::hub::{Capacity, Card, Outbox, Parcel, Put, Taken, Terms};

    /// A client's side of the socket, and its outbox.
    async fn attached() -> (TcpStream, Outbox) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, introduced(accepted(&listener).await.into()))
    }

    async fn accepted(listener: &TcpListener) -> Arc<mio::net::TcpStream> {
        let socket = listener.accept().await.unwrap().0.into_std().unwrap();
        Arc::new(mio::net::TcpStream::from_std(socket))
    }

    fn introduced(writer: super::Writer) -> Outbox {
        let outbox = Outbox::new(1, "c".into(), None);
        let capacity =
            Capacity { version: Version::V311, window: 1, packet_bytes: usize::MAX, topic_aliases: 0 };
        outbox.attach_first(capacity, None);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let card = Arc::new(Card::new(address, None, Version::V311, 0, Instant::now()));
        outbox.introduce(1, card, Some(writer));
        outbox
    }

    fn deliver(outbox: &Outbox, payload: &[u8]) -> Put {
        outbox.deliver(&Parcel::live(&Publish::new("t", payload), None), &Terms::default())
    }

    fn take(outbox: &Outbox, rests: bool) -> Taken {
        outbox.take(1, &Context::from_waker(Waker::noop()), true, rests)
    }

    #[tokio::test]
    async fn a_client_at_rest_gets_a_message_without_its_connection() {
        let (mut client, outbox) = attached().await;
        take(&outbox, true);
        for _ in 0..2 {
            assert_eq!(deliver(&outbox, b"hi"), Put::Wake);
            outbox.pass_on();
            let mut packet = [0; 7];
            client.read_exact(&mut packet).await.unwrap();
            assert_eq!(&packet, b"\x30\x05\0\x01thi");
        }
        assert_eq!(outbox.card().unwrap().bytes(), (0, 14));
        assert!(take(&outbox, true).bytes.is_empty());
        outbox.hang_up(1);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "nobody holds the socket any more");
    }

    /// What is said to a client whose session ends here would look like the rest of the packet.
    #[tokio::test]
    async fn behind_half_a_packet_nothing_is_written_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = accepted(&listener).await;
        let outbox = introduced(Arc::clone(&socket).into());
        take(&outbox, true);
        // Each is written at once, but for the last one.
        loop {
            deliver(&outbox, &[2; 4000]);
            outbox.pass_on();
            // Nothing is there but what could not be written.
            if outbox.giveable() > 0 {
                break;
            }
        }
        assert!(outbox.close().is_empty());
        let mut came = Vec::new();
        client.read_to_end(&mut came).await.unwrap();
        let written = (&*socket).write(b"a last word");
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn what_the_connection_has_to_say_comes_first() {
        let (_client, outbox) = attached().await;
        let left = |outbox: &Outbox| {
            deliver(outbox, b"hi");
            outbox.pass_on();
            !take(outbox, true).bytes.is_empty()
        };
        assert!(left(&outbox), "it has not looked yet");
        assert!(left(&outbox), "it has taken something to write");
        take(&outbox, false);
        assert!(left(&outbox), "it has something of its own");
        take(&outbox, true);
        outbox.hold_back();
        assert!(left(&outbox), "it is about to have");
        take(&outbox, true);
        assert!(!left(&outbox));
    }

    #[tokio::test]
    async fn much_is_left_to_the_connection_and_so_is_what_a_full_socket_does_not_take() {
        let (mut client, outbox) = attached().await;
        take(&outbox, true);
        deliver(&outbox, &[1; crate::limits::PASSED_ON]);
        outbox.pass_on();
        let taken = take(&outbox, true);
        assert!(taken.bytes.len() > crate::limits::PASSED_ON && taken.written == 0);
        let (mut whole, mut taken) = (0, take(&outbox, true));
        while taken.bytes.is_empty() {
            deliver(&outbox, &[2; 4000]);
            outbox.pass_on();
            taken = take(&outbox, true);
            whole += 1;
        }
        assert!(taken.written < taken.bytes.len());
        let whole = (whole - 1) * taken.bytes.len();
        outbox.hang_up(1);
        let mut came = Vec::new();
        client.read_to_end(&mut came).await.unwrap();
        assert_eq!(came.len(), whole + taken.written);
        assert_eq!(&came[whole..], &taken.bytes[..taken.written]);
    }
}
