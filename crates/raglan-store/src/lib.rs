//! The index folder: manifest, generations, ledger, chunk table, checksums, lock.
