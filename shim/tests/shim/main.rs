//! The built shim, real OCI runtimes, real namespaces, mounts and cgroups. Needs root, crun, runc and a static busybox; fails
//! without them.
//!
//! Every test ends with [`harness::Pod::finish`], which checks that nothing is left: process, mount, cgroup, runtime state.

#[cfg(test)]
mod attach;
#[cfg(test)]
mod checkpoint;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod namespaces;
#[cfg(test)]
mod ready;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod userns;
