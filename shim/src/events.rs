//! Tells subscribers what happens. Never waits for one: who falls behind is cut off, and subscribes again.

use davit_proto::shim::Event;
use futures_util::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::Status;

/// How many events may wait for one subscriber.
const QUEUE: usize = 64;
/// How many subscribers there may be: the daemon is one, people at a shell a few.
const SUBSCRIBERS: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Events {
    subscribers: Mutex<Vec<mpsc::Sender<Event>>>,
}

impl Events {
    /// A subscription that begins with `backlog`; `None` if there are too many.
    pub(crate) fn subscribe(&self, backlog: VecDeque<Event>) -> Option<Subscription> {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|s| !s.is_closed());
        if subscribers.len() >= SUBSCRIBERS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        subscribers.push(sender);
        Some(Subscription { backlog, receiver, over: false })
    }

    /// Tells everybody.
    pub(crate) fn publish(&self, event: &Event) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|s| s.try_send(event.clone()).is_ok());
    }

    /// Cuts everybody off.
    pub(crate) fn close(&self) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A stream of events. Ends with an error if the subscriber was cut off.
#[derive(Debug)]
pub(crate) struct Subscription {
    backlog: VecDeque<Event>,
    receiver: mpsc::Receiver<Event>,
    over: bool,
}

impl Stream for Subscription {
    type Item = Result<Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.backlog.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        if self.over {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(context).map(|event| {
            Some(event.ok_or_else(|| {
                self.over = true;
                Status::unavailable("the subscriber fell behind, or the shim ends: subscribe again")
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    fn event(n: usize) -> Event {
        Event { id: n.to_string(), kind: None }
    }

    #[tokio::test]
    async fn who_falls_behind_gets_what_was_queued_and_then_an_error() {
        let events = Events::default();
        let mut slow = events.subscribe(VecDeque::from([event(1000)])).unwrap();
        (0..QUEUE + 5).for_each(|n| events.publish(&event(n)));
        assert_eq!(slow.next().await.unwrap().unwrap().id, "1000");
        for n in 0..QUEUE {
            assert_eq!(slow.next().await.unwrap().unwrap(), event(n));
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(slow.next().await.is_none());
    }

    #[test]
    fn the_number_of_subscribers_is_bounded_and_those_that_left_do_not_count() {
        let events = Events::default();
        let mut held: Vec<_> =
            (0..SUBSCRIBERS).map(|_| events.subscribe(VecDeque::new()).unwrap()).collect();
        assert!(events.subscribe(VecDeque::new()).is_none());
        held.pop();
        assert!(events.subscribe(VecDeque::new()).is_some());
    }
}
