//! davit's promises, against the real daemon. One program, so that it is linked once; one daemon per test.

#[cfg(test)]
mod access;
#[cfg(test)]
mod ahead;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod cdi;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod checkpoint;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod cli_lists;
#[cfg(test)]
mod cli_registry;
#[cfg(test)]
mod cli_streams;
#[cfg(test)]
mod cli_usage;
#[cfg(test)]
mod cli_verbs;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod crictl;
#[cfg(test)]
mod critest;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod events;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod exits;
#[cfg(test)]
mod failpoints;
#[cfg(test)]
mod hidden;
#[cfg(test)]
mod hostile_images;
#[cfg(test)]
mod hung;
#[cfg(test)]
mod hung_volumes;
#[cfg(test)]
mod ids;
#[cfg(test)]
mod image_volumes;
#[cfg(test)]
mod images;
#[cfg(test)]
mod info;
#[cfg(test)]
mod init_loss;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod kubelet_lifecycle;
#[cfg(test)]
mod kubelet_node;
#[cfg(test)]
mod kubelet_probes;
#[cfg(test)]
mod kubelet_security;
#[cfg(test)]
mod kubelet_streams;
#[cfg(test)]
mod kubelet_volumes;
#[cfg(test)]
mod large_input;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod mounts;
#[cfg(test)]
mod network;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod package;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod power;
#[cfg(test)]
mod reboot;
#[cfg(test)]
mod records;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod rollback;
#[cfg(test)]
mod sealed;
#[cfg(test)]
mod security;
#[cfg(test)]
mod shim_loss;
#[cfg(test)]
mod silent_shim;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod start;
#[cfg(test)]
mod startup;
#[cfg(test)]
mod stats;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod stream_attach;
#[cfg(test)]
mod stream_cycles;
#[cfg(test)]
mod stream_exec;
#[cfg(test)]
mod stream_forward;
#[cfg(test)]
mod stream_http;
#[cfg(test)]
mod stream_tls;
#[cfg(test)]
mod sweep;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upkeep;
#[cfg(test)]
mod userns;
