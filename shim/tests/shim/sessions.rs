//! Sessions by their bytes: what no daemon of ours would send.

use crate::harness::{PATIENCE, Pod, eventually, random};
use crate::streams::{finish, running};
use davit_proto::session::{ANSWER_LIMIT, Frames, encode};
use davit_proto::shim::session_answer::Kind;
use davit_proto::shim::{
    OpenAttach, OpenExec, Resize, SessionAnswer, SessionRequest, session_request,
};
use davit_sys::passing;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::Code;

const RUNTIME: &str = crate::harness::RUNTIMES[0];

async fn connect(pod: &Pod) -> UnixStream {
    UnixStream::connect(pod.dir.join("s")).await.unwrap()
}

fn pipes(n: usize) -> Vec<OwnedFd> {
    (0..n).map(|_| pipe_with(PipeFlags::CLOEXEC).unwrap().1).collect()
}

async fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) {
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    passing::send(stream, bytes, &borrowed).await.unwrap();
}

/// The next message; `None` if the connection ends.
async fn answer(stream: &UnixStream, frames: &mut Frames) -> Option<Kind> {
    let read = async {
        loop {
            if let Some(answer) = frames.next::<SessionAnswer>(ANSWER_LIMIT).unwrap() {
                return answer.kind;
            }
            let mut buffer = [0; 4096];
            let read = passing::receive(stream, &mut buffer).await.map_or(0, |r| r.bytes);
            if read == 0 {
                return None;
            }
            frames.feed(&buffer[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap()
}

async fn refused(pod: &Pod, bytes: &[u8], descriptors: &[OwnedFd]) -> (Code, String) {
    let stream = connect(pod).await;
    send(&stream, bytes, descriptors).await;
    let mut frames = Frames::default();
    let Some(Kind::Refused(refused)) = answer(&stream, &mut frames).await else {
        panic!("no refusal")
    };
    assert!(answer(&stream, &mut frames).await.is_none(), "nothing after it");
    (Code::from(refused.code), refused.message)
}

fn request(kind: session_request::Kind) -> Vec<u8> {
    encode(&SessionRequest { kind: Some(kind) })
}

fn cat(pod: &Pod) -> OpenExec {
    let process = pod.process(&["/bin/cat".to_owned()]).to_string().into_bytes();
    OpenExec { id: "c".into(), exec_id: random(), process, stdin: true, ..OpenExec::default() }
}

fn reader() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

#[tokio::test]
async fn what_is_no_opening_is_refused_by_what_is_wrong_with_it() {
    let pod = running(RUNTIME).await;
    let before = pod.descriptors();
    let exec = |change: &dyn Fn(&mut OpenExec)| {
        let mut exec = cat(&pod);
        change(&mut exec);
        request(session_request::Kind::Exec(exec))
    };
    let attach = OpenAttach { id: "none".into(), ..OpenAttach::default() };
    let file = || vec![OwnedFd::from(std::fs::File::open("/dev/null").unwrap())];
    let resize = Resize { width: 1, height: 1 };
    let cases: Vec<(&str, Vec<u8>, Vec<OwnedFd>, Code)> = vec![
        ("a message of 4194305 bytes", vec![0, 0x40, 0, 1], vec![], Code::InvalidArgument),
        ("a message that is none", vec![0, 0, 0, 1, 0xff], vec![], Code::InvalidArgument),
        ("does not know its kind", vec![0, 0, 0, 0], vec![], Code::Unimplemented),
        (
            "no opening message",
            request(session_request::Kind::Resize(resize)),
            vec![],
            Code::Unimplemented,
        ),
        ("descriptors \"0\": not as many", exec(&|_| {}), vec![], Code::InvalidArgument),
        ("descriptors \"2\": not as many", exec(&|_| {}), pipes(2), Code::InvalidArgument),
        ("descriptors \"1\": one of them is no pipe", exec(&|_| {}), file(), Code::InvalidArgument),
        (
            "exec_id \"\": it is empty",
            exec(&|e| e.exec_id.clear()),
            pipes(1),
            Code::InvalidArgument,
        ),
        ("no container \"none\" here", exec(&|e| e.id = "none".into()), pipes(1), Code::NotFound),
        (
            "no container \"none\" here",
            request(session_request::Kind::Attach(attach)),
            vec![],
            Code::NotFound,
        ),
    ];
    for (wanted, bytes, descriptors, code) in cases {
        let (found, message) = refused(&pod, &bytes, &descriptors).await;
        assert_eq!(found, code, "{message}");
        assert!(message.contains(wanted), "{message:?} has no {wanted:?}");
    }
    let (code, message) = refused(&pod, &exec(&|e| e.process = b"{".to_vec()), &pipes(1)).await;
    assert!(matches!(code, Code::Aborted), "{code}: {message}");
    eventually("no descriptor is left", || (pod.descriptors() <= before).then_some(())).await;
    finish(pod).await;
}

#[tokio::test]
async fn more_descriptors_than_a_message_may_have_are_closed_and_refused() {
    let pod = running(RUNTIME).await;
    let before = pod.descriptors();
    let bytes = request(session_request::Kind::Exec(cat(&pod)));
    for n in [passing::MOST, 9, 200] {
        let stream = connect(&pod).await;
        let own = pipes(n);
        let borrowed: Vec<_> = own.iter().map(OwnedFd::as_fd).collect();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&borrowed)));
        let slices = [std::io::IoSlice::new(&bytes)];
        rustix::net::sendmsg(&stream, &slices, &mut control, rustix::net::SendFlags::empty())
            .unwrap();
        let mut frames = Frames::default();
        let Some(Kind::Refused(refused)) = answer(&stream, &mut frames).await else {
            panic!("no refusal")
        };
        assert_eq!(Code::from(refused.code), Code::InvalidArgument, "{}", refused.message);
    }
    eventually("no descriptor is left", || (pod.descriptors() <= before).then_some(())).await;
    finish(pod).await;
}

#[tokio::test]
async fn nonsense_in_the_middle_hangs_up_and_an_unknown_kind_is_passed_over() {
    let pod = running(RUNTIME).await;
    for (bytes, lives) in [
        (vec![0, 0, 0, 3, 0xa2, 0x06, 0], true),
        (vec![0, 0, 0x10, 1], false),
        (vec![0, 0, 0, 1, 0xff], false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), false),
    ] {
        let (stdin, keep) = reader();
        let stream = connect(&pod).await;
        send(&stream, &request(session_request::Kind::Exec(cat(&pod))), &[stdin]).await;
        let mut frames = Frames::default();
        assert!(matches!(answer(&stream, &mut frames).await, Some(Kind::Opened(_))));
        send(&stream, &bytes, &pipes(2)).await;
        if lives {
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(keep);
            let last = answer(&stream, &mut frames).await;
            assert!(matches!(&last, Some(Kind::Exit(exit)) if exit.code == 0), "{last:?}");
        } else {
            assert_eq!(answer(&stream, &mut frames).await, None);
            drop(keep);
        }
    }
    finish(pod).await;
}

#[tokio::test]
async fn more_sessions_than_fit_are_refused_and_calls_go_on() {
    let mut pod = running(RUNTIME).await;
    let before = pod.descriptors();
    let attach = OpenAttach { id: "c".into(), ..OpenAttach::default() };
    let bytes = request(session_request::Kind::Attach(attach));
    let mut open = Vec::new();
    for _ in 0..128 {
        let stream = connect(&pod).await;
        send(&stream, &bytes, &[]).await;
        let mut frames = Frames::default();
        assert!(matches!(answer(&stream, &mut frames).await, Some(Kind::Opened(_))));
        open.push(stream);
    }
    let (code, message) = refused(&pod, &bytes, &[]).await;
    assert_eq!(
        (code, message.as_str()),
        (Code::ResourceExhausted, "the pod has 128 streams open, the most it can have")
    );
    let request = pod.exec_request("c", &["/bin/true"]);
    assert_eq!(pod.exec(request).await.unwrap().2.exit.unwrap().code, 0);
    drop(open);
    eventually("they are gone", || (pod.descriptors() <= before).then_some(())).await;
    let stream = connect(&pod).await;
    send(&stream, &bytes, &[]).await;
    assert!(matches!(answer(&stream, &mut Frames::default()).await, Some(Kind::Opened(_))));
    drop(stream);
    finish(pod).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_a_word_costs_nobody_anything() {
    let mut pod = running(RUNTIME).await;
    let before = pod.descriptors();
    let silent = connect(&pod).await;
    let half = connect(&pod).await;
    send(&half, &[0, 0], &[]).await;
    let request = pod.exec_request("c", &["/bin/true"]);
    assert_eq!(pod.exec(request).await.unwrap().2.exit.unwrap().code, 0);
    eventually("the shim hangs up", || (pod.descriptors() <= before).then_some(())).await;
    drop((silent, half));
    finish(pod).await;
}
