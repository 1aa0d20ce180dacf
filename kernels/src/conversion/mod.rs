//! From one kind of numbers to another, where a device's kernels want different ones.

pub(crate) mod cuda;
