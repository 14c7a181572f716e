//! davit-shim: the parent of a pod's processes.

fn main() {}
