//! Literate programs on the library.
