//! davit's own events: the journal, filtered, to a client that may be slow.
//!
//! Owns what a client is told of events that it does not get. Holds no more of them than a handful for a client that does not read: it has its place in the
//! journal's window, and nothing else.

use super::Streamed;
use super::event_filter::Filter;
use davit_proto::admin;
use davit_runtime::Runtime;
use davit_runtime::journal::{Entry, Gap, Item, Reader, Start};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// The type of what is no event.
const MISSED: &str = "missed";

/// Whether a client stays for what is still to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

/// One client's stream.
struct Telling {
    reader: Reader,
    filter: Filter,
    follow: Follow,
    /// When it ends by itself.
    deadline: Option<Instant>,
    /// What is not kept any more is told to those who asked for it.
    not_kept: Told,
    queue: VecDeque<admin::Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
}

/// Begins to tell.
pub(super) fn stream(
    runtime: &Runtime,
    request: admin::EventsRequest,
) -> Result<Streamed<admin::Event>, Status> {
    let admin::EventsRequest {
        follow,
        since,
        until,
        after,
        types,
        ids,
        pods,
        containers,
        images,
        namespaces,
        labels,
    } = request;
    let things = [ids, pods, containers, images, namespaces, labels];
    let filter = Filter::new(&types, things, (since, until)).map_err(Status::invalid_argument)?;
    let start = match (after, since) {
        (Some(after), _) => Start::After(after),
        (None, Some(_)) => Start::Oldest,
        (None, None) if follow => Start::Now,
        (None, None) => Start::Oldest,
    };
    let reader = runtime.journal(start);
    let reader = reader.map_err(|error| Status::out_of_range(format!("after: {error}")))?;
    let oldest = reader.oldest();
    let cut = after.is_some() || since.is_some_and(|since| oldest.is_none_or(|at| at >= since));
    let telling = Telling {
        reader,
        filter,
        follow: if follow { Follow::Yes } else { Follow::No },
        deadline: until.map(deadline),
        not_kept: if cut { Told::Yes } else { Told::No },
        queue: VecDeque::new(),
    };
    let events = futures_util::stream::unfold(telling, |mut telling| async move {
        let event = telling.next().await?;
        Some((Ok(event), telling))
    });
    Ok(Box::pin(events))
}

/// The moment by the clock that does not jump.
fn deadline(until: i64) -> Instant {
    let left = until.saturating_sub(davit_runtime::now());
    Instant::now() + Duration::from_nanos(u64::try_from(left).unwrap_or(0))
}

impl Telling {
    async fn next(&mut self) -> Option<admin::Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            let items = match (self.follow, self.deadline) {
                (Follow::No, _) => self.reader.ready(),
                (Follow::Yes, None) => self.reader.next().await,
                // What is there already comes first, however late it is.
                (Follow::Yes, Some(deadline)) => tokio::select! {
                    biased;
                    items = self.reader.next() => items,
                    () = tokio::time::sleep_until(deadline) => Vec::new(),
                },
            };
            if items.is_empty() {
                return None;
            }
            self.take(&items);
        }
    }

    /// Queues what of these the client wants.
    fn take(&mut self, items: &[Item]) {
        let mut items = items.iter().peekable();
        while let Some(item) = items.next() {
            match item {
                Item::Event(entry) if self.filter.fits(entry) => {
                    self.queue.push_back(to_wire(entry));
                }
                Item::Event(_) => {}
                Item::Missed { why: Gap::NotKept, .. } if self.not_kept == Told::No => {}
                Item::Missed { count, why } => {
                    // Before the time that was asked for, nothing is missed.
                    let earlier = match (why, items.peek()) {
                        (Gap::NotStored, Some(Item::Event(next))) => self.filter.is_before(next),
                        (_, _) => false,
                    };
                    if !earlier {
                        self.queue.push_back(missed(*count, *why));
                    }
                }
            }
        }
    }
}

fn to_wire(entry: &Entry) -> admin::Event {
    let Entry { number, at, what, id, name, pod, pod_name, namespace, image, labels, attributes } =
        entry;
    admin::Event {
        number: *number,
        time: *at,
        r#type: what.word().to_owned(),
        id: id.clone(),
        name: name.clone(),
        pod_id: pod.clone(),
        pod_name: pod_name.clone(),
        namespace: namespace.clone(),
        image: image.clone(),
        labels: labels.clone(),
        attributes: attributes.clone(),
        missed: 0,
    }
}

fn missed(count: u64, why: Gap) -> admin::Event {
    let reason = match why {
        Gap::NotKept => "not kept any more",
        Gap::TooSlow => "too slow",
        Gap::NotStored => "could not be stored",
    };
    admin::Event {
        time: davit_runtime::now(),
        r#type: MISSED.to_owned(),
        attributes: BTreeMap::from([("reason".to_owned(), reason.to_owned())]),
        missed: count,
        ..admin::Event::default()
    }
}
