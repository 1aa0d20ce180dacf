//! Scores, the files that hold them, and the report.

mod report;
mod result_file;
mod trec_eval;
