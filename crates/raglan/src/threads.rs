//! How many threads work.

use crate::Result;

/// Sets how many threads everything that works in parallel uses; the first call in a process counts.
///
/// Results do not depend on it.
///
/// # Errors
///
/// When threads cannot be started.
pub fn set_threads(threads: usize) -> Result<()> {
    // A second call finds the pool there already, which is not an error: the pool is the whole process's.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    Ok(())
}
