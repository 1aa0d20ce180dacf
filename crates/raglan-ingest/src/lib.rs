//! Folder walk, readers by format, chunkers.
