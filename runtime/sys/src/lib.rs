//! Calls into the kernel.
