//! The way between the two processes: messages with files, each whole or not at all (SOCK_SEQPACKET). Both ends make sure
//! that the other one is of the same user.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nsd_edge::socket_file::SocketFile;
use rustix::cmsg_space;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
    connect, listen, recvmsg, sendmsg, shutdown, socket_with,
};
use rustix::process::geteuid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::message::{self, LISTED, LONGEST, Message, SESSIONS};

const FILES: usize = if 2 * SESSIONS > LISTED { 2 * SESSIONS } else { LISTED };
/// Takers that wait to be answered.
const BACKLOG: i32 = 4;

/// One side of it.
#[derive(Debug)]
pub(crate) struct Channel(AsyncFd<OwnedFd>);

/// Where a running process can be asked.
#[derive(Debug)]
pub(crate) struct Door {
    socket: AsyncFd<OwnedFd>,
    file: SocketFile,
}

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; an OwnedFd never changes its descriptor, the one danger"
)]
fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}

impl Channel {
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = open()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        let theirs = socket_peercred(&socket)?.uid;
        let ours = geteuid();
        if theirs != ours {
            let problem = format!("the other process is of user {}, not {}", theirs.as_raw(), ours.as_raw());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        set_socket_send_buffer_size(&socket, 2 * LONGEST)?;
        Ok(Self(watched(socket)?))
    }

    /// Cancel safe: it was said, or not.
    pub(crate) async fn say(&self, message: &impl Message, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = message::encode(message).map_err(io::Error::other)?;
        let send = |socket: &OwnedFd| {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
                return Err(io::Error::other("too many files for a message"));
            }
            Ok(sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// From now on the other side says no more, and learns so; what it has said can still be heard.
    pub(crate) fn close_hearing(&self) {
        // Where the other side is gone already, there is nothing to close.
        let _ = shutdown(self.0.get_ref(), Shutdown::Read);
    }

    /// The next message and its files, perhaps fewer than were sent: the kernel leaves out those that there is no room for.
    /// `None`: the other side has ended. Cancel safe.
    pub(crate) async fn hear<M: Message>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let receive = |socket: &OwnedFd| {
            let mut bytes = vec![0; LONGEST];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            if received.flags.contains(ReturnFlags::TRUNC) {
                return Err(io::Error::other("a message is too long"));
            }
            let files = |message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            };
            let files: Vec<OwnedFd> = control.drain().filter_map(files).flatten().collect();
            bytes.truncate(received.bytes);
            Ok((bytes, files))
        };
        let (bytes, files) = match self.0.async_io(Interest::READABLE, receive).await {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let message = message::decode(&bytes).map_err(io::Error::other)?;
        Ok(Some((message, files)))
    }
}

impl Door {
    /// Made, and not in its place yet.
    pub(crate) fn aside(path: &Path) -> io::Result<Self> {
        let make = |path: &Path| {
            let socket = open()?;
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        let (socket, file) = SocketFile::aside(path, make)?;
        Ok(Self { socket: watched(socket)?, file })
    }

    pub(crate) fn put(&self) -> io::Result<()> {
        self.file.put()
    }

    pub(crate) async fn accept(&self) -> io::Result<Channel> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = |socket: &OwnedFd| Ok(accept_with(socket.as_fd(), flags)?);
        Channel::new(self.socket.async_io(Interest::READABLE, accept).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::super::message::{FromNew, FromOld};
    use super::*;

    async fn pair() -> (Channel, Channel, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("door");
        let door = Door::aside(&path).unwrap();
        assert!(Channel::connect(&path).is_err());
        door.put().unwrap();
        let one = Channel::connect(&path).unwrap();
        (one, door.accept().await.unwrap(), directory)
    }

    #[tokio::test]
    async fn messages_arrive_whole_in_order_and_with_their_files() {
        let (new, old, _directory) = pair().await;
        new.say(&FromNew::Hello { version: 1 }, &[]).await.unwrap();
        new.say(&FromNew::Stopping, &[]).await.unwrap();
        let (hello, _) = old.hear::<FromNew>().await.unwrap().unwrap();
        assert_eq!(hello, FromNew::Hello { version: 1 });
        let (stopping, _) = old.hear::<FromNew>().await.unwrap().unwrap();
        assert_eq!(stopping, FromNew::Stopping);

        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let files = vec![theirs.as_fd(); FILES];
        old.say(&FromOld::Yours, &files).await.unwrap();
        let (_, mut files) = new.hear::<FromOld>().await.unwrap().unwrap();
        assert_eq!(files.len(), FILES);
        ours.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(files.remove(FILES - 1)).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");

        drop(old);
        assert!(new.hear::<FromOld>().await.unwrap().is_none());
        assert!(new.say(&FromNew::Stopping, &[]).await.is_err());
    }

    #[tokio::test]
    async fn who_no_longer_hears_still_knows_what_was_said() {
        let (new, old, _directory) = pair().await;
        new.say(&FromNew::Have { batch: 1, sessions: 2 }, &[]).await.unwrap();
        old.close_hearing();
        assert!(new.say(&FromNew::Stopping, &[]).await.is_err());
        let (have, _) = old.hear::<FromNew>().await.unwrap().unwrap();
        assert_eq!(have, FromNew::Have { batch: 1, sessions: 2 });
        assert!(old.hear::<FromNew>().await.unwrap().is_none());
        old.say(&FromOld::Yours, &[]).await.unwrap();
        assert!(new.hear::<FromOld>().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_is_heard() {
        let (new, old, _directory) = pair().await;
        old.say(&FromOld::Withdrawn { why: "so".to_owned() }, &[]).await.unwrap();
        drop(old);
        let heard = new.hear::<FromOld>().await.unwrap();
        assert!(matches!(heard, Some((FromOld::Withdrawn { .. }, _))));
        assert!(new.hear::<FromOld>().await.unwrap().is_none());
    }
}
