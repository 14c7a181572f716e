//! A program that goes on while a test talks to it and reads what it prints.
//!
//! Owns the process and the thread that reads its output. A program that still runs when this is dropped is killed.

use crate::host::eventually;
use anyhow::{Context, Result, bail, ensure};
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long it may take to print or do what is waited for.
const WAIT: Duration = Duration::from_secs(20);

/// A program that was started.
#[derive(Debug)]
pub struct Live {
    child: Child,
    printed: Arc<Mutex<Vec<u8>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Live {
    /// Starts it, with its standard streams in the test's hands; both outputs come together.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let printed = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(stream) = child.stdout.take() {
            readers.push(read(stream, Arc::clone(&printed)));
        }
        if let Some(stream) = child.stderr.take() {
            readers.push(read(stream, Arc::clone(&printed)));
        }
        Ok(Self { child, printed, readers })
    }

    /// All that it has printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// Waits until it has printed this.
    ///
    /// # Errors
    /// If it does not or has ended before, with what it has printed.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let what = format!("{text:?} is printed");
        let found = eventually(WAIT, &what, || {
            let ended = self.child.try_wait().context("look after it")?;
            let printed = self.printed().contains(text);
            match ended {
                Some(status) if !printed => {
                    self.join();
                    ensure!(self.printed().contains(text), "it ended with {status}");
                    Ok(Some(()))
                }
                _ => Ok(printed.then_some(())),
            }
        });
        found.with_context(|| format!("it printed {:?}", self.printed()))
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// If it does not read.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("its standard input is closed")?;
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).context("write to it")
    }

    /// Closes its standard input and waits until it ends by itself: all that it printed.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub fn finish(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let status = self.wait()?;
        self.join();
        if !status.success() {
            bail!("it ended with {status} and printed {:?}", self.printed());
        }
        Ok(self.printed())
    }

    /// After its end: waits until all that it printed is read. A reader that panicked has left what it read until then.
    fn join(&mut self) {
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        eventually(WAIT, "it ends", || self.child.try_wait().context("look after it"))
            .with_context(|| format!("it printed {:?}", self.printed()))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read(
    mut stream: impl std::io::Read + Send + 'static,
    printed: Arc<Mutex<Vec<u8>>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
            printed.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    })
}
