//! Index a folder, search it, answer from it: the parts of raglan put together.
