//! When the nftables table is written: before it is needed, and when somebody has removed it.
//!
//! Owns what masquerading lacks, as the status tells it. What is in the table is [`super::firewall`]'s.

use super::{Bridge, lock};
use crate::error::chain;
use crate::network::netfilter::Netfilter;
use crate::network::nftables;
use std::sync::atomic::Ordering;

impl Bridge {
    /// What masquerading lacks.
    pub(in crate::network) fn masquerade_problem(&self) -> Option<String> {
        lock(&self.masquerade_problem).clone()
    }

    /// Whether somebody has removed the table that was written: `nft flush ruleset`, as firewalls' services do when they start. The next who wants it
    /// writes it anew, then.
    pub(in crate::network) fn is_table_lost(&self) -> bool {
        if !self.installed.load(Ordering::Acquire) {
            return false;
        }
        let mut open = lock(&self.netfilter);
        let there = match open.take().map_or_else(Netfilter::open, Ok) {
            Ok(netfilter) => {
                let there = nftables::is_there(&netfilter, &self.config.table);
                // One that has failed may have an answer in it that is not the next question's.
                *open = there.is_ok().then_some(netfilter);
                there
            }
            Err(error) => Err(error),
        };
        match there {
            Ok(true) => false,
            Ok(false) => true,
            // Nothing can be said.
            Err(_) => false,
        }
    }

    /// Writes the table anew, unless it is there by now.
    pub(in crate::network) fn restore_table(&self) {
        let mut firewall = lock(&self.firewall);
        if self.is_table_lost() {
            tracing::warn!(
                table = self.config.table,
                "somebody has removed the nftables table: it is written anew"
            );
            let done = firewall.install();
            *lock(&self.masquerade_problem) = done.err().map(|error| chain(&error));
        }
    }

    /// Without masquerading pods can't reach the world, but each other and the host: told in the status, not an error of the pod.
    pub(super) fn ensure_masquerade(&self) {
        if self.is_table_lost() {
            self.restore_table();
        } else if self.config.ip_masq && !self.installed.load(Ordering::Acquire) {
            let done = lock(&self.firewall).ensure();
            *lock(&self.masquerade_problem) = done.err().map(|error| chain(&error));
        }
    }
}
