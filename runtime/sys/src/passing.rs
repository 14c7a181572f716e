//! Passing descriptors over a Unix socket, beside bytes.
//!
//! Owns the calls and their bounds, not what the bytes mean. A descriptor comes with the first byte that was sent along with it, so
//! whoever expects one asks for it at each read up to the end of the message.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    send as send_bytes, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most descriptors that [`send`] and [`receive`] pass at once.
pub const MOST: usize = 4;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST));

/// Sends all of `bytes`, at least one, and `descriptors` with the first of them. If the future is dropped, part of it may be sent.
///
/// # Errors
/// What sendmsg(2) says; `InvalidInput` for more than [`MOST`] descriptors.
pub async fn send(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut left = bytes;
    let mut descriptors = descriptors;
    while !left.is_empty() {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || send_now(stream, left, descriptors));
        match sent {
            Ok(sent) => {
                left = left.get(sent..).unwrap_or_default();
                descriptors = &[];
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn send_now(stream: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if descriptors.is_empty() {
        return Ok(send_bytes(stream, bytes, flags)?);
    }
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() > MOST || !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than fit"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// What one read brought.
#[derive(Debug, Default)]
pub struct Received {
    /// How many bytes of the buffer were filled; 0 at the end.
    pub bytes: usize,
    /// What came along, closed on exec.
    pub descriptors: Vec<OwnedFd>,
    /// More came than fits, or than this process may have open; those are closed.
    pub truncated: bool,
}

/// Reads some bytes, and the descriptors that come with them. Nothing is lost if the future is dropped.
///
/// # Errors
/// What recvmsg(2) says.
pub async fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive_now(stream, buffer)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

fn receive_now(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    Ok(receive_with(stream.as_fd(), buffer, RecvFlags::DONTWAIT)?)
}

/// A pair of sockets, closed on exec, on which each message arrives whole.
///
/// # Errors
/// What socketpair(2) says.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message on such a socket, which has room for it.
///
/// # Errors
/// What sendmsg(2) says: `BrokenPipe` if nobody is there any more; `InvalidInput` for more than [`MOST`] descriptors.
pub fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send_now(socket, bytes, descriptors).map(drop)
}

/// Waits for one, and blocks meanwhile. Without bytes there will be none.
///
/// # Errors
/// What recvmsg(2) says.
pub fn wait_for_message(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    loop {
        match receive_with(socket, buffer, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                Some(descriptors)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    // The space is padded, so that a few more may have fitted.
    let truncated = received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MOST;
    descriptors.truncate(MOST);
    Ok(Received { bytes: received.bytes, descriptors, truncated })
}

/// The first byte, which stays to be read; `None` at the end. Nothing is lost if the future is dropped.
///
/// # Errors
/// What recv(2) says.
pub async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    loop {
        stream.readable().await?;
        let mut byte = [0_u8];
        let peeked = stream.try_io(Interest::READABLE, || {
            Ok::<_, io::Error>(recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.1)
        });
        match peeked {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipes(n: usize) -> Vec<OwnedFd> {
        (0..n).map(|_| pipe_with(PipeFlags::CLOEXEC).unwrap().0).collect()
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn descriptors_come_with_the_first_byte_that_was_sent_with_them() {
        block_on(async {
            let (here, there) = UnixStream::pair().unwrap();
            let own = pipes(3);
            let borrowed: Vec<_> = own.iter().map(OwnedFd::as_fd).collect();
            send(&here, b"message", &borrowed).await.unwrap();
            assert_eq!(first_byte(&there).await.unwrap(), Some(b'm'));
            let mut buffer = [0; 4];
            let received = receive(&there, &mut buffer).await.unwrap();
            assert_eq!(
                (received.bytes, received.descriptors.len(), received.truncated),
                (4, 3, false)
            );
            let received = receive(&there, &mut buffer).await.unwrap();
            assert_eq!((received.bytes, received.descriptors.len()), (3, 0));
            drop(here);
            assert_eq!(receive(&there, &mut buffer).await.unwrap().bytes, 0);
            assert_eq!(first_byte(&there).await.unwrap(), None);
        });
    }

    #[test]
    fn a_message_arrives_whole_and_the_end_is_one_without_bytes() {
        let (here, there) = message_pair().unwrap();
        let own = pipes(3);
        let borrowed: Vec<_> = own.iter().map(OwnedFd::as_fd).collect();
        send_message(here.as_fd(), b"one", &borrowed).unwrap();
        send_message(here.as_fd(), b"two", &[]).unwrap();
        drop(here);
        let mut buffer = [0; 16];
        let mut next = || {
            let received = wait_for_message(there.as_fd(), &mut buffer).unwrap();
            (received.bytes, received.descriptors.len(), received.truncated)
        };
        assert_eq!([next(), next(), next()], [(3, 3, false), (3, 0, false), (0, 0, false)]);
        let (here, there) = message_pair().unwrap();
        drop(there);
        let error = send_message(here.as_fd(), b"one", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn more_descriptors_than_fit_are_refused_here_and_closed_there() {
        block_on(async {
            let (here, there) = UnixStream::pair().unwrap();
            let own = pipes(MOST + 1);
            let borrowed: Vec<_> = own.iter().map(OwnedFd::as_fd).collect();
            let error = send(&here, b"x", &borrowed).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            // As somebody else might send them.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
            sendmsg(&here, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
            let received = receive(&there, &mut [0; 4]).await.unwrap();
            assert_eq!((received.truncated, received.descriptors.len()), (true, MOST));
        });
    }
}
