//! OCI runtimes and the specs they are given.

pub(crate) mod mountinfo;
