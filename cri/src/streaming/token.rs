//! Tokens: the secret in a URL, good for one use of one kind within a minute.
//!
//! Owns what each token stands for until it is used or too old. A token is 128 random bits, so it can neither be guessed nor met twice;
//! it is found by hash and not by comparing texts, so how long a look-up takes tells nothing about tokens that are nearly right.
//!
//! Bounds: how many tokens there are, and how many bytes their commands have together. What has expired goes when the next token is
//! given or used, and by one task that lives while there are any, so that a daemon that nobody asks holds nothing.

use super::grant::Grant;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a token is good for.
const LIFE: Duration = Duration::from_secs(60);
/// Tokens at once, those of calls whose client never came included.
const OUTSTANDING: usize = 1000;
/// What the grants may take together, in bytes: a command may be as long as a message.
const BYTES: usize = 64 << 20;

/// No token is given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Too many calls were made whose clients have not come yet.
    #[error("hand out a URL: {OUTSTANDING} are outstanding already, each for a minute at most")]
    TooMany,
    /// The commands of these calls are too long together.
    #[error("hand out a URL: the commands of those outstanding are longer than 64 MiB together")]
    TooLong,
    /// The kernel has no random numbers.
    #[error("draw a token: {0}")]
    Random(#[from] getrandom::Error),
}

type Token = [u8; 16];

/// The outstanding tokens. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens(Arc<Mutex<Outstanding>>);

#[derive(Debug, Default)]
struct Outstanding {
    grants: HashMap<Token, Grant>,
    /// By age. All live equally long, so the first to expire is the first.
    order: VecDeque<(Instant, Token)>,
    bytes: usize,
    sweeping: bool,
}

impl Tokens {
    /// A token for this grant, as text.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) fn give(&self, grant: Grant) -> Result<String, TokenError> {
        let mut token = Token::default();
        getrandom::fill(&mut token)?;
        let mut outstanding = self.lock();
        outstanding.forget_old();
        if outstanding.grants.len() >= OUTSTANDING {
            return Err(TokenError::TooMany);
        }
        if outstanding.bytes.saturating_add(grant.size()) > BYTES {
            return Err(TokenError::TooLong);
        }
        outstanding.bytes += grant.size();
        outstanding.grants.insert(token, grant);
        outstanding.order.push_back((Instant::now() + LIFE, token));
        if !std::mem::replace(&mut outstanding.sweeping, true) {
            tokio::spawn(self.clone().sweep());
        }
        Ok(hex::encode(token))
    }

    /// What this text is a token for. It is none from now on, whatever becomes of the grant.
    pub(crate) fn take(&self, text: &str) -> Option<Grant> {
        let mut token = Token::default();
        hex::decode_to_slice(text, &mut token).ok()?;
        let mut outstanding = self.lock();
        outstanding.forget_old();
        let grant = outstanding.grants.remove(&token)?;
        outstanding.bytes -= grant.size();
        Some(grant)
    }

    /// Forgets what expires, until there is nothing left.
    async fn sweep(self) {
        loop {
            let next = {
                let mut outstanding = self.lock();
                outstanding.forget_old();
                let next = outstanding.order.front().map(|(expires, _)| *expires);
                outstanding.sweeping = next.is_some();
                next
            };
            let Some(next) = next else { return };
            tokio::time::sleep_until(next).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outstanding> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outstanding {
    fn forget_old(&mut self) {
        let now = Instant::now();
        while let Some((expires, token)) = self.order.front().copied() {
            if expires > now {
                return;
            }
            self.order.pop_front();
            // One that was used has gone already.
            if let Some(grant) = self.grants.remove(&token) {
                self.bytes -= grant.size();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streaming::grant::{Exec, Forward, Wanted};

    fn forward(pod: &str) -> Grant {
        Grant::Forward(Forward { pod: pod.to_owned(), ports: Vec::new() })
    }

    fn pod(grant: Option<Grant>) -> Option<String> {
        match grant {
            Some(Grant::Forward(forward)) => Some(forward.pod),
            Some(Grant::Exec(_) | Grant::Attach(_)) | None => None,
        }
    }

    #[tokio::test]
    async fn a_token_is_good_once() {
        let tokens = Tokens::default();
        let (one, other) = (tokens.give(forward("a")).unwrap(), tokens.give(forward("b")).unwrap());
        assert_eq!((one.len(), one == other), (32, false));
        assert_eq!(pod(tokens.take(&other)).as_deref(), Some("b"));
        assert_eq!(pod(tokens.take(&other)), None);
        assert_eq!(pod(tokens.take(&one)).as_deref(), Some("a"));
        for wrong in ["", "x", &one[1..], &format!("{one}00"), &"0".repeat(32), "/../", "é"] {
            assert_eq!(pod(tokens.take(wrong)), None, "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_for_a_minute_and_leaves_nothing() {
        let tokens = Tokens::default();
        let (used, old) = (tokens.give(forward("a")).unwrap(), tokens.give(forward("b")).unwrap());
        tokio::time::sleep(LIFE - Duration::from_secs(1)).await;
        assert!(tokens.take(&used).is_some());
        let young = tokens.give(forward("c")).unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(tokens.take(&old).is_none());
        assert_eq!(tokens.lock().order.len(), 1, "only the young one is left, unasked");
        assert!(tokens.take(&young).is_some());
        tokio::time::sleep(LIFE).await;
        let outstanding = tokens.lock();
        let left = (outstanding.grants.len(), outstanding.order.len(), outstanding.bytes);
        assert_eq!((left, outstanding.sweeping), ((0, 0, 0), false));
    }

    #[tokio::test(start_paused = true)]
    async fn outstanding_tokens_are_bounded_and_places_come_back() {
        let tokens = Tokens::default();
        let all: Vec<_> = (0..OUTSTANDING).map(|_| tokens.give(forward("a")).unwrap()).collect();
        assert_eq!(tokens.give(forward("a")), Err(TokenError::TooMany));
        tokens.take(&all[500]).unwrap();
        tokens.give(forward("a")).unwrap();
        assert_eq!(tokens.give(forward("a")), Err(TokenError::TooMany));
        tokio::time::sleep(LIFE).await;
        tokens.give(forward("a")).unwrap();
    }

    #[tokio::test]
    async fn the_memory_of_long_commands_is_bounded() {
        let tokens = Tokens::default();
        let long = || {
            Grant::Exec(Exec {
                container: "a".to_owned(),
                command: vec!["x".repeat(15 << 20)],
                wanted: Wanted::default(),
                whom: crate::streaming::grant::ExecAs::default(),
            })
        };
        let given: Vec<_> = (0..4).map(|_| tokens.give(long()).unwrap()).collect();
        assert_eq!(tokens.give(long()), Err(TokenError::TooLong));
        tokens.take(&given[0]).unwrap();
        tokens.give(long()).unwrap();
    }
}
