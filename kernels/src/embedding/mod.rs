//! The first step of an encoder on a device: rows of tables.

pub(crate) mod cuda;
