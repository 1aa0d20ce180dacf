//! Finding NVIDIA devices without ever failing for want of one.

use std::panic;

use cudarc::driver::{DriverError, result, sys};

use crate::{Error, Result};

/// The NVIDIA devices of this machine, each as its name and memory; none when there is no driver.
///
/// # Errors
///
/// [`Error::Cuda`] when there is a driver and it does not answer.
pub fn cuda_devices() -> Result<Vec<String>> {
    // cudarc panics when it does not find the library, so it is looked for first.
    // SAFETY: loading the driver's library runs only its own initialisation.
    if !unsafe { sys::is_culib_present() } {
        return Ok(Vec::new());
    }
    // It panics too when the library lacks a function, as one of an old driver may.
    match panic::catch_unwind(devices) {
        Ok(Ok(devices)) => Ok(devices),
        Ok(Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE))) => Ok(Vec::new()),
        Ok(Err(error)) => Err(Error::Cuda { problem: error.to_string() }),
        Err(_) => Err(Error::Cuda { problem: "its library lacks a function that is needed".to_owned() }),
    }
}

fn devices() -> Result<Vec<String>, DriverError> {
    result::init()?;
    let mut devices = Vec::new();
    for ordinal in 0..result::device::get_count()? {
        let device = result::device::get(ordinal)?;
        let name = result::device::get_name(device)?;
        // SAFETY: the device comes from the driver.
        let bytes = unsafe { result::device::total_mem(device) }?;
        devices.push(format!("{name}, {:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_answers_with_and_without_a_device() {
        match cuda_devices() {
            Ok(devices) if devices.is_empty() => {
                eprintln!("no CUDA device: only the probe's absence of panics is tested");
            }
            Ok(devices) => assert!(devices.iter().all(|device| device.ends_with("GiB"))),
            Err(error) => assert!(matches!(error, Error::Cuda { .. })),
        }
    }
}
