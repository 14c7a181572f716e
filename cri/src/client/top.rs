//! `davit top`: what runs here and what it uses, live.
//!
//! Owns the screen while it lasts. Colours only where they are wanted (`NO_COLOR`); where there is no terminal, one table and the end. A terminal that
//! closes ends it: its signal, its keys and the drawing each tell.
//!
//! ```text
//! every interval ─► look ─► rows ─┐
//! keys (a thread) ─► sort, view ──┼─► draw ─► …        q, ^C, SIGHUP, SIGTERM, no terminal any more ─► as it was before
//! ```

use super::connect::Daemon;
use super::error::ClientError;
use super::format::{Ids, Row as _, show};
use super::usage::{Field, Use, Watch, by_pod, sort};
use crate::cli::{TopArgs, Written};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// From the first look to the second, whose rates are the first that can be told.
const FIRST: Duration = Duration::from_millis(500);
/// Keys that wait to be looked at.
const KEYS: usize = 16;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Each container.
    Containers,
    /// Each pod.
    Pods,
}

/// How it is looked at.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// From one look to the next.
    pub(crate) interval: Duration,
    /// The order.
    pub(crate) sort: Field,
    /// Containers or pods.
    pub(crate) of: Of,
    /// Only these containers, by id; none: all.
    pub(crate) wanted: BTreeSet<String>,
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Sort(Field),
    Other,
    End,
}

/// `davit top`.
pub(crate) async fn top(daemon: Daemon, args: &TopArgs) -> Result<(), ClientError> {
    let TopArgs { interval, sort, pods } = args;
    let view = View {
        interval: Duration::from_secs(*interval),
        sort: *sort,
        of: if *pods { Of::Pods } else { Of::Containers },
        wanted: BTreeSet::new(),
    };
    if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        return live(daemon, view).await;
    }
    let mut watch = Watch::new(daemon);
    watch.look().await?;
    tokio::time::sleep(FIRST).await;
    let rows = rows(watch.look().await?, &view);
    show(&rows, &Written::default())
}

/// Until somebody ends it.
///
/// # Errors
/// The daemon can't be asked, or the terminal not be used. One that has gone is no error.
pub(crate) async fn live(daemon: Daemon, view: View) -> Result<(), ClientError> {
    let mut screen = ratatui::try_init().map_err(ClientError::Terminal)?;
    let ended = show_live(&mut screen, daemon, view).await;
    // One that has gone needs nothing.
    drop(ratatui::try_restore());
    ended
}

async fn show_live(
    screen: &mut DefaultTerminal,
    daemon: Daemon,
    mut view: View,
) -> Result<(), ClientError> {
    let take = |kind| signal(kind).map_err(ClientError::Signals);
    let mut hangup = take(SignalKind::hangup())?;
    let mut terminate = take(SignalKind::terminate())?;
    let mut keys = read_keys();
    let mut watch = Watch::new(daemon);
    let mut found = watch.look().await?;
    let mut next = tokio::time::Instant::now() + FIRST;
    loop {
        let rows = rows(found.clone(), &view);
        if screen.draw(|frame| draw(frame, &rows, &view)).is_err() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                found = watch.look().await?;
                next = tokio::time::Instant::now() + view.interval;
            }
            event = keys.recv() => match event.as_ref().map(wish) {
                Some(Some(Wish::Sort(field))) => view.sort = field,
                Some(Some(Wish::Other)) => {
                    view.of = if view.of == Of::Pods { Of::Containers } else { Of::Pods };
                }
                // A new size, or a key without a meaning.
                Some(None) => {}
                Some(Some(Wish::End)) | None => return Ok(()),
            },
            _ = hangup.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// Reads keys in a thread that nobody waits for; the channel ends when there is nobody who could type.
fn read_keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn wish(event: &Event) -> Option<Wish> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return None;
    };
    let key = if let KeyCode::Char(key) = code {
        *key
    } else if *code == KeyCode::Esc {
        'q'
    } else if *code == KeyCode::Tab {
        't'
    } else {
        return None;
    };
    match (modifiers.contains(KeyModifiers::CONTROL), key) {
        (true, 'c' | 'd') | (false, 'q') => Some(Wish::End),
        (false, 'c') => Some(Wish::Sort(Field::Cpu)),
        (false, 'm') => Some(Wish::Sort(Field::Memory)),
        (false, 'p') => Some(Wish::Sort(Field::Pids)),
        (false, 'i') => Some(Wish::Sort(Field::Io)),
        (false, 'n') => Some(Wish::Sort(Field::Net)),
        (false, 'a') => Some(Wish::Sort(Field::Name)),
        (false, 't') => Some(Wish::Other),
        (_, _) => None,
    }
}

fn rows(mut found: Vec<Use>, view: &View) -> Vec<Use> {
    found.retain(|one| view.wanted.is_empty() || view.wanted.contains(&one.id));
    if view.of == Of::Pods {
        found = by_pod(&found);
    }
    sort(&mut found, view.sort);
    found
}

/// Which column something is sorted by.
fn column(field: Field) -> usize {
    match field {
        Field::Name => 1,
        Field::Cpu => 3,
        Field::Memory => 4,
        Field::Pids => 6,
        Field::Net => 7,
        Field::Io => 8,
    }
}

/// Whether colours are wanted (no-color.org).
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn draw(frame: &mut Frame<'_>, rows: &[Use], view: &View) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    // The sum of none is -0.
    let cpu = rows.iter().filter_map(|one| one.cpu_percent).fold(0.0, |sum, one| sum + one);
    let memory: u64 = rows.iter().map(|one| one.memory).sum();
    let kind = match (view.of, rows.len()) {
        (Of::Pods, 1) => "pod",
        (Of::Pods, _) => "pods",
        (Of::Containers, 1) => "container",
        (Of::Containers, _) => "containers",
    };
    let memory = indicatif::BinaryBytes(memory);
    let sum = format!("davit: {} {kind}, CPU {cpu:.1}%, memory {memory}", rows.len());
    frame.render_widget(Paragraph::new(sum), head);
    frame.render_widget(table(rows, view), body);
    let help = "q quit   sort: c cpu, m memory, p pids, i disk, n net, a name   t pods/containers";
    let style = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(help).style(style), foot);
}

fn table<'a>(rows: &[Use], view: &View) -> Table<'a> {
    let (colours, sorted) = (colours(), column(view.sort));
    let headings = Use::HEADINGS.iter().enumerate().map(|(at, heading)| {
        let mut style = Style::new().add_modifier(Modifier::BOLD);
        if at == sorted {
            style = style.add_modifier(Modifier::UNDERLINED);
        }
        Cell::from(*heading).style(style)
    });
    let lines = rows.iter().map(|one| {
        let busy = one.cpu_percent.is_some_and(|percent| percent >= 80.0);
        let style = match (colours, one.paused, busy) {
            (true, true, _) => Style::new().fg(Color::Blue),
            (true, false, true) => Style::new().fg(Color::Red),
            (_, _, _) => Style::new(),
        };
        Row::new(one.line(Ids::Short)).style(style)
    });
    let widths = [13, 16, 20, 8, 11, 8, 6, 24, 24].map(Constraint::Length);
    Table::new(lines, widths).header(Row::new(headings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn view(of: Of) -> View {
        View { interval: FIRST, sort: Field::Memory, of, wanted: BTreeSet::new() }
    }

    fn one(name: &str, memory: u64) -> Use {
        Use {
            id: name.repeat(10),
            name: name.to_owned(),
            pod: "p".to_owned(),
            pod_name: "shop".to_owned(),
            cpu_percent: Some(12.5),
            memory,
            ..Use::default()
        }
    }

    fn screen(of: Of, width: u16) -> String {
        let view = view(of);
        let rows = rows(vec![one("web", 1 << 20), one("db", 3 << 20)], &view);
        let mut terminal = Terminal::new(TestBackend::new(width, 6)).unwrap();
        terminal.draw(|frame| draw(frame, &rows, &view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_who_uses_most_first() {
        let shown = screen(Of::Containers, 150);
        assert!(shown.contains("2 containers, CPU 25.0%, memory 4.00 MiB"), "{shown}");
        assert!(shown.find("db").unwrap() < shown.find("web").unwrap(), "{shown}");
        assert!(shown.contains("q quit"), "{shown}");
        let pods = screen(Of::Pods, 150);
        assert!(pods.contains("1 pod,") && pods.contains("shop"), "{pods}");
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn_on() {
        for width in [1, 7, 40, 300] {
            screen(Of::Containers, width);
        }
    }

    #[test]
    fn keys_sort_switch_and_end() {
        let press = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = |key| press(KeyCode::Char(key), KeyModifiers::NONE);
        assert_eq!(plain('q'), Some(Wish::End));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::End));
        assert_eq!(plain('c'), Some(Wish::Sort(Field::Cpu)));
        assert_eq!(plain('t'), Some(Wish::Other));
        assert_eq!(plain('z'), None);
        assert_eq!(wish(&Event::Resize(1, 1)), None);
    }
}
