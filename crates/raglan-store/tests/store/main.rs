//! Behaviour of the index folder: what is committed stays, what is damaged is named, what is killed leaves no trace.

mod concurrency;
mod damage;
mod fixture;
mod generations;
mod kill;
mod random_access;
