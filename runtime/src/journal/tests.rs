use super::log::{self, Found};
use super::*;
use crate::oci::testing;
use crate::sandbox::SandboxView;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

fn entry(number: u64) -> Arc<Entry> {
    Arc::new(Entry {
        number,
        at: i64::try_from(number).unwrap(),
        what: What::ContainerExited,
        id: format!("id-{number}"),
        name: "a \"name\"\nof two lines".to_owned(),
        pod: String::new(),
        pod_name: String::new(),
        namespace: String::new(),
        image: String::new(),
        labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        attributes: BTreeMap::new(),
    })
}

fn entries(numbers: impl IntoIterator<Item = u64>) -> Vec<Arc<Entry>> {
    numbers.into_iter().map(entry).collect()
}

fn numbers(entries: &[Arc<Entry>]) -> Vec<u64> {
    entries.iter().map(|entry| entry.number).collect()
}

fn opened(directory: &Path, retain: usize) -> Found {
    log::open(directory, retain).unwrap()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    /// So many events happen.
    Append(usize),
    /// davit is killed and started.
    Restart,
    /// It is killed in the middle of a line: so many bytes of it were written.
    TornNew(usize),
    /// The power goes: so many of the last bytes had not reached the disk.
    TornOld(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..9_usize).prop_map(Step::Append),
        1 => Just(Step::Restart),
        1 => (1..60_usize).prop_map(Step::TornNew),
        1 => (1..50_u64).prop_map(Step::TornOld),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_last_events_are_kept_with_numbers_that_grow(
        retain in 0..7_usize,
        steps in proptest::collection::vec(step(), 1..25),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let current = dir.path().join("current.jsonl");
        let Found { mut log, mut next, .. } = opened(dir.path(), retain);
        let mut model: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Append(count) => {
                    let end = next + count as u64;
                    log.append(&entries(next..end), end).unwrap();
                    // Of more than are kept, the first are not even written.
                    model.extend(next.max(end.saturating_sub(retain as u64))..end);
                    next = end;
                    continue;
                }
                Step::Restart => {}
                Step::TornNew(bytes) => {
                    let line = serde_json::to_vec(&*entry(next)).unwrap();
                    let torn = line.get(..bytes).unwrap();
                    let file = OpenOptions::new().append(true).create(true).open(&current);
                    file.unwrap().write_all(torn).unwrap();
                }
                Step::TornOld(bytes) => {
                    let length = std::fs::metadata(&current).map_or(0, |found| found.len());
                    if length > 0 {
                        let file = OpenOptions::new().write(true).open(&current).unwrap();
                        file.set_len(length - bytes).unwrap();
                        model.pop();
                    }
                }
            }
            let found = opened(dir.path(), retain);
            let kept = model.get(model.len().saturating_sub(retain)..).unwrap();
            prop_assert_eq!(numbers(&found.entries), kept);
            prop_assert_eq!(found.next, next, "no number is given twice");
            (log, next) = (found.log, found.next);
            let lines: usize = ["current.jsonl", "previous.jsonl"]
                .iter()
                .map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default())
                .map(|text| text.lines().count())
                .sum();
            prop_assert!(lines <= 2 * retain, "{} lines", lines);
        }
        let found = opened(dir.path(), retain);
        let kept = model.get(model.len().saturating_sub(retain)..).unwrap();
        prop_assert_eq!(numbers(&found.entries), kept);
        prop_assert!(!dir.path().join("broken.jsonl").exists());
    }
}

#[test]
fn what_is_kept_follows_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let Found { mut log, .. } = opened(dir.path(), 5);
    log.append(&entries(1..13), 13).unwrap();
    for (retain, kept) in [(3, vec![10, 11, 12]), (100, vec![10, 11, 12]), (0, vec![])] {
        let found = opened(dir.path(), retain);
        assert_eq!((numbers(&found.entries), found.next), (kept, 13), "{retain}");
    }
    assert_eq!(names(dir.path()), BTreeSet::from(["next".to_owned()]), "0 keeps none");
}

#[test]
fn what_makes_no_sense_is_put_aside_and_costs_nothing_else() {
    let garbage: [&[u8]; 5] = [
        b"nonsense\n",
        b"{\"number\":2}\n",
        b"\0\0\0\0\n",
        b"\xff\xfe\n",
        b"{\"number\":18446744073709551615,\"at\":1,\"type\":\"pod.ready\",\"id\":\"x\"}\n",
    ];
    for garbage in garbage {
        let dir = tempfile::tempdir().unwrap();
        let Found { mut log, .. } = opened(dir.path(), 5);
        log.append(&entries(1..3), 3).unwrap();
        let path = dir.path().join("current.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(garbage).unwrap();
        let third = [serde_json::to_vec(&*entry(3)).unwrap(), b"\n".to_vec()].concat();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&third).unwrap();
        let found = opened(dir.path(), 5);
        assert_eq!((numbers(&found.entries), found.next), (vec![1, 2, 3], 4), "{garbage:?}");
        assert!(dir.path().join("broken.jsonl").exists());
        let again = opened(dir.path(), 5);
        assert_eq!(numbers(&again.entries), [1, 2, 3], "it was put right");
    }
}

#[test]
fn what_is_no_file_is_put_aside() {
    let place: [fn(&Path); 3] = [
        |path| std::fs::create_dir(path).unwrap(),
        |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        |path| {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        },
    ];
    for place in place {
        let dir = tempfile::tempdir().unwrap();
        place(&dir.path().join("current.jsonl"));
        let Found { mut log, .. } = opened(dir.path(), 5);
        log.append(&entries(1..3), 3).unwrap();
        assert_eq!(numbers(&opened(dir.path(), 5).entries), [1, 2]);
    }
}

#[test]
fn an_event_of_a_newer_davit_is_passed_over_and_its_number_taken() {
    let dir = tempfile::tempdir().unwrap();
    let Found { mut log, .. } = opened(dir.path(), 5);
    log.append(&entries(1..3), 3).unwrap();
    let foreign = b"{\"number\":7,\"at\":1,\"type\":\"volume.moved\",\"id\":\"x\",\"more\":[1]}\n";
    let path = dir.path().join("current.jsonl");
    OpenOptions::new().append(true).open(&path).unwrap().write_all(foreign).unwrap();
    let found = opened(dir.path(), 5);
    assert_eq!((numbers(&found.entries), found.next), (vec![1, 2], 8));
    assert!(!dir.path().join("broken.jsonl").exists());
}

#[test]
fn numbers_go_on_without_the_events_and_without_the_note() {
    let dir = tempfile::tempdir().unwrap();
    let Found { mut log, .. } = opened(dir.path(), 5);
    log.append(&entries(1..4), 4).unwrap();
    std::fs::remove_file(dir.path().join("next")).unwrap();
    assert_eq!(opened(dir.path(), 5).next, 4);
    std::fs::remove_file(dir.path().join("current.jsonl")).unwrap();
    assert_eq!(opened(dir.path(), 5).next, 4);
    for nonsense in ["", "x", "-1", "18446744073709551615", "99999999999999999999999"] {
        write(&dir.path().join("next"), nonsense.as_bytes());
        assert_eq!(opened(dir.path(), 5).next, 1, "{nonsense}");
    }
}

/// A small disk, which goes with it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Some(c"size=64k");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("davit-test", dir.path(), "tmpfs", flags, options).unwrap();
        Self(dir)
    }

    fn fill(&self) {
        let mut file = File::create(self.0.path().join("fill")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.0.path(), flags).unwrap();
    }
}

#[test]
fn a_full_disk_costs_the_events_that_have_no_room_and_no_number_is_given_twice() {
    let disk = SmallDisk::new();
    let directory = disk.0.path().join("events");
    let Found { mut log, .. } = opened(&directory, 1000);
    log.append(&entries(1..4), 4).unwrap();
    disk.fill();
    // What is left of a page has room for some.
    let refused = (1..200_u64).find_map(|round| {
        let (from, to) = (4 * round, 4 * round + 4);
        let refused = log.append(&entries(from..to), to).err()?;
        Some((from, to, refused))
    });
    let (from, to, refused) = refused.unwrap();
    assert_eq!(refused.source.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(refused.unwritten, 4);
    let found = opened(&directory, 1000);
    assert_eq!(numbers(&found.entries), (1..from).collect::<Vec<_>>(), "no torn line is left");
    assert_eq!(found.next, to, "noted in place");
    std::fs::remove_file(disk.0.path().join("fill")).unwrap();
    log.append(&entries(to..to + 2), to + 2).unwrap();
    let found = opened(&directory, 1000);
    assert_eq!(numbers(&found.entries), (1..from).chain(to..to + 2).collect::<Vec<_>>());
}

fn window(retain: usize, kept: impl IntoIterator<Item = u64>, next: u64) -> Arc<Window> {
    Arc::new(Window::new(retain, entries(kept), next))
}

fn reader(window: &Arc<Window>, start: Start) -> Reader {
    Reader::new(Arc::clone(window), start, Arc::new(Counters::default()).listen()).unwrap()
}

/// What a reader has got: numbers, and 0 minus what was missed.
fn got(items: &[Item]) -> Vec<i64> {
    let number = |number: u64| i64::try_from(number).unwrap();
    let one = |item: &Item| match item {
        Item::Event(entry) => number(entry.number),
        Item::Missed { count, .. } => -number(*count),
    };
    items.iter().map(one).collect()
}

#[test]
fn a_reader_begins_where_it_asks_to_and_is_told_what_is_not_there() {
    let window = window(3, [5, 6, 8], 9);
    for (start, told) in [
        (Start::Oldest, vec![-4, 5, 6, -1, 8]),
        (Start::After(0), vec![-4, 5, 6, -1, 8]),
        (Start::After(4), vec![5, 6, -1, 8]),
        (Start::After(6), vec![-1, 8]),
        (Start::After(8), vec![]),
        (Start::Now, vec![]),
    ] {
        assert_eq!(got(&reader(&window, start).ready()), told, "{start:?}");
    }
    let ahead = Reader::new(window, Start::After(9), Arc::new(Counters::default()).listen());
    assert_eq!(ahead.unwrap_err(), Ahead { asked: 9, last: 8 });
}

#[test]
fn none_are_replayed_where_none_are_kept_but_those_who_listen_hear_all() {
    let window = window(0, [], 4);
    let mut listening = reader(&window, Start::Now);
    window.show(entries(4..6), 6);
    assert_eq!(got(&listening.ready()), [4, 5]);
    assert_eq!(got(&reader(&window, Start::Oldest).ready()), [-5]);
    assert_eq!(got(&reader(&window, Start::After(4)).ready()), [-1]);
    assert_eq!(window.extent(), (0, 6));
}

#[test]
fn one_that_is_slow_is_told_what_it_missed_and_goes_on() {
    let counters = Arc::new(Counters::default());
    let window = window(2, [], 1);
    let mut slow = Reader::new(Arc::clone(&window), Start::Now, counters.listen()).unwrap();
    let mut quick = Reader::new(Arc::clone(&window), Start::Now, counters.listen()).unwrap();
    for number in 1..=1000 {
        window.show(entries([number]), number + 1);
        assert_eq!(got(&quick.ready()), [i64::try_from(number).unwrap()]);
    }
    let first = slow.ready();
    assert_eq!(first[0], Item::Missed { count: 744, why: Gap::TooSlow });
    let mut rest = got(&first[1..]);
    while let more @ [_, ..] = &*slow.ready() {
        rest.extend(got(more));
    }
    assert_eq!(rest, (745..=1000).collect::<Vec<_>>());
    let counts = counters.read();
    assert_eq!((counts.events_dropped, counts.listeners_told), (744, 1));
    assert_eq!(counts.event_listeners, 2);
    drop((slow, quick));
    assert_eq!(counters.read().event_listeners, 0);
}

fn pod_event(change: crate::events::Change) -> Event {
    let sandbox: Arc<SandboxView> = Arc::new(testing::sandbox_view());
    Event { id: sandbox.id.to_string(), change, at: 7, sandbox, container: None }
}

#[tokio::test]
async fn what_is_told_is_kept_over_a_restart_and_numbers_go_on() {
    use crate::events::Change;
    let (dir, counters) = (tempfile::tempdir().unwrap(), Arc::new(Counters::default()));
    let journal = Journal::open(dir.path(), 10).await.unwrap();
    let mut live = journal.read(Start::Now, &counters).unwrap();
    journal.inbox().pods(vec![pod_event(Change::Created), pod_event(Change::Started)]);
    journal.flush().await;
    let told = tokio::time::timeout(Duration::from_secs(10), live.next()).await.unwrap();
    assert_eq!(got(&told), [1, 2]);
    drop((journal, live));
    let journal = Journal::open(dir.path(), 10).await.unwrap();
    journal.inbox().pods(vec![pod_event(Change::Stopped)]);
    journal.flush().await;
    let mut replayed = journal.read(Start::After(1), &counters).unwrap();
    assert_eq!(got(&replayed.ready()), [2, 3]);
    assert_eq!(journal.stored(), Stored { retained: 3, not_stored: 0, next: 4 });
}

#[tokio::test]
async fn what_comes_too_fast_is_counted_and_leaves_a_gap_in_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), 10).await.unwrap();
    let event = pod_event(crate::events::Change::Created);
    // Nothing is awaited, so the writer gets no turn.
    for _ in 0..INBOX + 5 {
        journal.inbox().pods(vec![event.clone()]);
    }
    journal.flush().await;
    let all = INBOX as u64 + 5;
    assert_eq!(journal.stored(), Stored { retained: 10, not_stored: 5, next: all + 1 });
}

#[test]
fn an_event_is_bounded_whatever_it_is_of() {
    let mut view = testing::container_view();
    let mut spec = crate::container::ContainerSpec::clone(&view.spec);
    spec.name = "ü".repeat(1000);
    spec.labels = (0..1000).map(|at| (format!("label-{at}"), "v".repeat(50))).collect();
    view.spec = Arc::new(spec);
    let event = Event {
        id: view.id.to_string(),
        container: Some(Arc::new(view)),
        ..pod_event(crate::events::Change::Created)
    };
    let entry = describe::describe(&Told::Pod(event), 1).unwrap();
    assert_eq!((entry.what, entry.name.chars().count()), (What::ContainerCreated, 256));
    let left_out: usize = entry.attributes["labels_left_out"].parse().unwrap();
    assert_eq!(left_out + entry.labels.len(), 1000);
    assert!(serde_json::to_vec(&entry).unwrap().len() < 16 << 10);
}

#[test]
fn every_word_is_read_back() {
    for what in What::ALL {
        assert_eq!(what.word().parse(), Ok(what));
        assert!(["pod", "container", "image"].contains(&what.kind()));
        assert_eq!(serde_json::to_value(what).unwrap(), what.word());
    }
    assert!("pod.dancing".parse::<What>().is_err());
}
