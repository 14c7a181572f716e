//! OCI runtimes and the specs they are given.
