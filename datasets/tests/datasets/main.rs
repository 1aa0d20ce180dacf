//! Readers and writers of every form.

mod collections;
mod forms;
mod readers;
