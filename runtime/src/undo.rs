//! What takes back the steps of something that failed half-way.
//!
//! Owns the order (the last step first), that every step is tried whatever became of the others, and that none takes for ever. Each
//! step's own undo must be idempotent, because it is pushed before its step acts: a step that fails may have done half of its work.

use std::error::Error;
use std::pin::Pin;
use std::time::Duration;

type Step<'a> = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// How long one step's undo may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// The steps so far.
#[derive(Default)]
pub(crate) struct Undo<'a> {
    steps: Vec<(&'static str, Step<'a>)>,
}

/// A step that could not be undone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UndoError {
    /// It failed.
    #[error("undo {step}")]
    Failed {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It took too long.
    #[error("undo {step}: not done within {} s", DEADLINE.as_secs())]
    Deadline {
        /// Which.
        step: &'static str,
    },
}

impl UndoError {
    /// What it was to undo, by the name that it was pushed with.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            Self::Failed { step, .. } | Self::Deadline { step } => step,
        }
    }
}

impl<'a> Undo<'a> {
    /// Pushes the undo of the step that comes next.
    pub(crate) fn push<E>(
        &mut self,
        step: &'static str,
        undo: impl Future<Output = Result<(), E>> + Send + 'a,
    ) where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.steps.push((step, Box::pin(async move { undo.await.map_err(Into::into) })));
    }

    /// Undoes all, the last step first; answers with what could not be.
    pub(crate) async fn run(self) -> Vec<UndoError> {
        let mut failed = Vec::new();
        for (step, undo) in self.steps.into_iter().rev() {
            match tokio::time::timeout(DEADLINE, undo).await {
                Ok(Ok(())) => {}
                Ok(Err(source)) => failed.push(UndoError::Failed { step, source }),
                Err(_) => failed.push(UndoError::Deadline { step }),
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn every_step_is_undone_in_reverse_whatever_fails() {
        let order = Mutex::new(Vec::new());
        let mut undo = Undo::default();
        for step in ["one", "two", "three"] {
            let order = &order;
            undo.push(step, async move {
                order.lock().unwrap().push(step);
                if step == "two" { Err("stuck") } else { Ok(()) }
            });
        }
        let failed = undo.run().await;
        assert_eq!(*order.lock().unwrap(), ["three", "two", "one"]);
        assert_eq!(failed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["undo two"]);
    }
}
