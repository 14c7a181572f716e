//! Waiting for tasks that run side by side. Owns what becomes of those that the executor's own end cuts off.

use tokio::task::JoinSet;

/// What the tasks came to, in the order of their ends. Those that were cut off, as all are when the daemon ends, came to nothing: whoever
/// waits here is about to be cut off, too.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut found = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(value) => found.push(value),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_cut_off) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_is_cut_off_comes_to_nothing_and_the_others_to_something() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { 1 });
        tasks.spawn(std::future::pending()).abort();
        tasks.spawn(async { 2 });
        let mut found = all(tasks).await;
        found.sort_unstable();
        assert_eq!(found, [1, 2]);
    }

    #[tokio::test]
    #[should_panic(expected = "no good")]
    async fn a_panic_goes_on() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { panic!("no good") });
        all::<()>(tasks).await;
    }
}
