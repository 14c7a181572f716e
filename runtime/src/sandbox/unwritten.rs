//! Records that could not be written: a full disk, one that fails.
//!
//! Owns that they are tried again, once a second, until they stand. What has happened has happened, whether or not there is room to write it down: a
//! container that has started or ended is shown as it is, and a pod can always be stopped, which may be what makes room. Until the record is written,
//! the pod's shim is the one that a new daemon learns the truth from.

use super::slot::Slot;
use super::task::Pod;
use crate::container::ContainerEvent;
use crate::id::ContainerId;
use crate::store::{StoreError, write_json};
use std::time::Duration;

/// Between two tries.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// How the pod's record on disk is to the one that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDisk {
    /// The same.
    Current,
    /// It could not be replaced yet.
    Older,
}

impl Pod {
    /// Whether there is something to be tried again. While the pod is ending, its files may be gone already.
    pub(super) fn owes_records(&self) -> bool {
        !self.ending
            && (self.on_disk == OnDisk::Older || self.slots.values().any(Slot::owes_record))
    }

    /// Tries it.
    pub(super) fn write_owed_records(&mut self) {
        if self.on_disk == OnDisk::Older && self.save().is_ok() {
            self.on_disk = OnDisk::Current;
            tracing::info!(sandbox = %self.record.id, "the pod's record is written, at last");
        }
        let owing: Vec<ContainerId> = self
            .slots
            .values()
            .filter(|slot| slot.owes_record())
            .map(|slot| slot.record.id.clone())
            .collect();
        for id in owing {
            if self.write_container(&id).is_ok() {
                tracing::info!(container = %id, "the container's record is written, at last");
            }
        }
    }

    /// Writes the pod's record, now or as soon as that works.
    pub(super) fn save_now_or_later(&mut self) {
        if let Err(error) = self.save() {
            self.on_disk = OnDisk::Older;
            tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "the pod's record could not be written; it is tried again");
        }
    }

    /// Moves a container on, writes that down, now or as soon as that works, and shows it. What makes no sense any more is dropped: it was overtaken. In
    /// this order: what was told before it was written would be told again by the next daemon.
    pub(super) fn apply(&mut self, id: &ContainerId, event: ContainerEvent) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        if slot.starting.is_some() {
            slot.early_exit = Some(event);
            return;
        }
        match slot.apply(event) {
            Ok(true) => {}
            Ok(false) => return,
            Err(denied) => {
                tracing::debug!(container = %id, %denied, "an event came too late");
                return;
            }
        }
        if let Err(error) = self.write_container(id) {
            tracing::error!(container = %id, error = &error as &dyn std::error::Error, "the container's record could not be written; it is tried again");
        }
        self.publish();
    }

    fn write_container(&mut self, id: &ContainerId) -> Result<(), StoreError> {
        let path = self.shared.layout.container_record(&self.record.id, id);
        let Some(slot) = self.slots.get_mut(id) else { return Ok(()) };
        let written = write_json(&path, &slot.record);
        slot.unwritten = written.is_err();
        written
    }
}
