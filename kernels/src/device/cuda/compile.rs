//! The run-time compiler, and the folder of what it compiled.

use std::ffi::{CString, c_char};
use std::panic;
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result, sys};
use rayon::prelude::*;

use super::{HOPPER_MODULES, Kernel, MODULES, Module};
use crate::{Error, Result};

/// The instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// Compute capability 8.0: runs on all devices from there on.
    Sm80,
    /// Compute capability 9.0 with what only Hopper has.
    Sm90a,
}

impl Architecture {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sm80, Self::Sm90a];

    /// The compiler's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm90a => "sm_90a",
        }
    }

    /// The code that a device of this compute capability runs, if any: code runs on later devices of its generation.
    pub(super) fn of_capability(capability: (u32, u32)) -> Option<String> {
        match capability {
            (9, 0) => Some(Self::Sm90a.name().to_owned()),
            (major, minor) if major >= 8 => Some(format!("sm_{major}{minor}")),
            _ => None,
        }
    }
}

/// What a compiled kernel takes of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelUse {
    /// The module that defines it.
    pub module: &'static str,
    /// Its name.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// The most registers that it may take.
    pub most_registers: u32,
    /// Bytes of a thread's stack, in memory.
    pub stack_bytes: u32,
    /// Bytes of registers that were written to memory for want of more.
    pub spilled_bytes: u32,
    /// Bytes of shared memory that it declares.
    pub shared_bytes: u32,
}

/// Compiles every kernel of this crate, and says what each takes.
///
/// # Errors
///
/// [`Error::NoCompiler`] when `libnvrtc` is not found; [`Error::Compile`] when a kernel does not compile, waits for a
/// product right after its beginning, or the compiler does not say what it takes.
pub fn compile_kernels(architecture: Architecture) -> Result<Vec<KernelUse>> {
    let of_hopper = if architecture == Architecture::Sm90a { HOPPER_MODULES } else { &[] };
    let modules = MODULES.par_iter().chain(of_hopper);
    let of_modules: Vec<_> = modules.map(|module| compile_module(module, architecture)).collect::<Result<_>>()?;
    Ok(of_modules.into_iter().flatten().collect())
}

fn compile_module(module: &Module, architecture: Architecture) -> Result<Vec<KernelUse>> {
    let compiled = compile(module, architecture.name())?;
    let failed = |log: String| Error::Compile { module: module.name, log };
    // What the assembler says where registers of a product are touched before it is done.
    if compiled.log.contains("serialized") {
        return Err(failed(compiled.log));
    }
    let found = uses_of(&compiled.log);
    if let Some((name, _)) = found.iter().find(|(name, _)| !module.kernels.iter().any(|kernel| kernel.name == *name)) {
        return Err(failed(format!("`{name}` is not in the module's list")));
    }
    let use_of = |kernel: &Kernel| {
        let of_name = found.iter().find(|(name, _)| name == kernel.name);
        let (_, used) = of_name.ok_or_else(|| failed(format!("nothing is said about `{}`", kernel.name)))?;
        Ok(KernelUse { module: module.name, most_registers: kernel.most_registers, ..used.clone() })
    };
    module.kernels.iter().map(use_of).collect()
}

struct Compiled {
    cubin: Vec<u8>,
    log: String,
}

/// Options besides the architecture.
const OPTIONS: [&str; 3] = ["--std=c++17", "--extra-device-vectorization", "--ptxas-options=-v"];

fn compile(module: &Module, architecture: &str) -> Result<Compiled> {
    // cudarc panics when it does not find the library, so it is looked for first.
    // SAFETY: loading the compiler's library runs only its own initialisation.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoCompiler);
    }
    let failed = |log: String| Error::Compile { module: module.name, log };
    // It panics too when the library lacks a function.
    panic::catch_unwind(|| compile_by_library(module, architecture))
        .unwrap_or_else(|_| Err("the compiler's library lacks a function that is needed".to_owned()))
        .map_err(failed)
}

fn compile_by_library(module: &Module, architecture: &str) -> Result<Compiled, String> {
    struct Program(sys::nvrtcProgram);
    impl Drop for Program {
        fn drop(&mut self) {
            // SAFETY: the program was created and is destroyed once; a failure has no remedy.
            let _ = unsafe { result::destroy_program(self.0) };
        }
    }
    let source = CString::new(module.source).expect("sources have no zero bytes");
    let name = CString::new(format!("{}.cu", module.name)).expect("names have no zero bytes");
    let program = result::create_program(&source, Some(&name)).map_err(|error| error.to_string())?;
    let program = Program(program);
    let mut options = vec![format!("--gpu-architecture={architecture}")];
    options.extend(OPTIONS.map(str::to_owned));
    // SAFETY: the program is alive, and so are source and name.
    let outcome = unsafe { result::compile_program(program.0, &options) };
    // SAFETY: as before.
    let log = unsafe { result::get_program_log(program.0) }.map_err(|error| error.to_string())?;
    let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).take_while(|&byte| byte != 0).collect();
    let log = String::from_utf8_lossy(&log).into_owned();
    if let Err(error) = outcome {
        return Err(format!("{error}\n{log}"));
    }
    let mut n_bytes = 0;
    // SAFETY: the program is alive and compiled for a device, so that there is code; `n_bytes` lives through the call.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut n_bytes) }.result().map_err(|error| error.to_string())?;
    let mut cubin = vec![0_u8; n_bytes];
    // SAFETY: as before, and there is room for as many bytes as the compiler said.
    unsafe { sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast::<c_char>()) }
        .result()
        .map_err(|error| error.to_string())?;
    Ok(Compiled { cubin, log })
}

/// What the assembler's log says of each kernel.
fn uses_of(log: &str) -> Vec<(String, KernelUse)> {
    let mut uses: Vec<(String, KernelUse)> = Vec::new();
    let before = |line: &str, unit: &str| -> Option<u32> {
        line[..line.find(unit)?].split(|c: char| !c.is_ascii_digit()).rfind(|word| !word.is_empty())?.parse().ok()
    };
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            let use_ = KernelUse {
                module: "",
                kernel: kernel.clone(),
                registers: 0,
                most_registers: 0,
                stack_bytes: 0,
                spilled_bytes: 0,
                shared_bytes: 0,
            };
            uses.push((kernel, use_));
        } else if let Some((_, last)) = uses.last_mut() {
            if let Some(bytes) = before(line, " bytes stack frame") {
                last.stack_bytes = bytes;
                last.spilled_bytes = before(line, " bytes spill stores").unwrap_or(0);
            }
            if let Some(registers) = before(line, " registers") {
                last.registers = registers;
                last.shared_bytes = before(line, " bytes smem").unwrap_or(0);
            }
        }
    }
    uses
}

/// The compiled code of a module: from the folder if it is there whole, else from the compiler.
///
/// A file's name holds a hash of source, options, architecture and the driver's version; its last bytes are a checksum
/// of the others.
pub(super) fn cubin(module: &Module, architecture: &str, driver: i32, folder: Option<&Path>) -> Result<Vec<u8>> {
    let path = folder.map(|folder| path_of(module, architecture, driver, folder));
    if let Some(path) = &path
        && let Some(cubin) = read(path)
    {
        return Ok(cubin);
    }
    let compiled = compile(module, architecture)?;
    if let Some(path) = &path {
        write(path, &compiled.cubin);
    }
    Ok(compiled.cubin)
}

fn path_of(module: &Module, architecture: &str, driver: i32, folder: &Path) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    for part in [module.source, architecture, &OPTIONS.join(" "), &driver.to_string()] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let hash = hasher.finalize().to_hex();
    folder.join(format!("{}-{architecture}-{}.cubin", module.name, &hash[..32]))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let sum = bytes.split_off(bytes.len().checked_sub(blake3::OUT_LEN)?);
    (blake3::hash(&bytes).as_bytes() == sum.as_slice()).then_some(bytes)
}

/// Keeps compiled code; one that cannot be kept is compiled again the next time.
fn write(path: &Path, cubin: &[u8]) {
    let mut bytes = cubin.to_vec();
    bytes.extend_from_slice(blake3::hash(cubin).as_bytes());
    let own = path.with_extension(format!("{}.tmp", std::process::id()));
    let folder = path.parent().expect("the file is in a folder");
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&own, &bytes))
        .and_then(|()| std::fs::rename(&own, path));
    if written.is_err() {
        // What remains of it is nothing that is read.
        let _ = std::fs::remove_file(&own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Module = Module { name: "example", source: "", kernels: &[] };

    #[test]
    fn what_is_kept_is_read_and_damaged_files_are_not() {
        let folder = std::env::temp_dir().join(format!("raglan-cubin-{}", std::process::id()));
        let path = path_of(&SOURCE, "sm_80", 12_080, &folder);
        write(&path, b"code");
        assert_eq!(read(&path).as_deref(), Some(&b"code"[..]));
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(&path), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path), None, "byte {at}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn source_architecture_and_driver_have_files_of_their_own() {
        let other = Module { source: "//", ..SOURCE };
        let folder = Path::new("kernels");
        let paths = [
            path_of(&SOURCE, "sm_80", 12_080, folder),
            path_of(&other, "sm_80", 12_080, folder),
            path_of(&SOURCE, "sm_90a", 12_080, folder),
            path_of(&SOURCE, "sm_80", 12_090, folder),
        ];
        for (i, path) in paths.iter().enumerate() {
            assert!(paths[..i].iter().all(|other| other != path));
        }
    }

    #[test]
    fn devices_before_ampere_are_refused_and_hopper_has_its_own_code() {
        assert_eq!(Architecture::of_capability((7, 5)), None);
        assert_eq!(Architecture::of_capability((8, 6)).as_deref(), Some("sm_86"));
        assert_eq!(Architecture::of_capability((9, 0)).as_deref(), Some("sm_90a"));
        assert_eq!(Architecture::of_capability((12, 0)).as_deref(), Some("sm_120"));
    }

    #[test]
    fn the_assemblers_log_is_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a_kernel' for 'sm_80'\n\
            ptxas info    : Function properties for a_kernel\n\
            \x20   16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 64 registers, used 1 barriers, 1024 bytes smem, 388 bytes cmem[0]\n";
        let uses = uses_of(log);
        assert_eq!(uses.len(), 1);
        let KernelUse { kernel, registers, stack_bytes, spilled_bytes, shared_bytes, .. } = &uses[0].1;
        assert_eq!(
            (kernel.as_str(), *registers, *stack_bytes, *spilled_bytes, *shared_bytes),
            ("a_kernel", 64, 16, 8, 1024)
        );
    }

    /// Compiles for both architectures where the compiler is found; `RAGLAN_REQUIRE_NVRTC` makes its want an error.
    #[test]
    fn every_kernel_compiles_without_spills_and_within_its_registers() {
        let mut too_much = Vec::new();
        for architecture in Architecture::ALL {
            let uses = match compile_kernels(architecture) {
                Err(Error::NoCompiler) if std::env::var_os("RAGLAN_REQUIRE_NVRTC").is_none() => {
                    eprintln!("skipped: libnvrtc is not found, so that no kernel was compiled");
                    return;
                }
                uses => uses.unwrap_or_else(|error| panic!("{error}")),
            };
            for used in &uses {
                let KernelUse { module, kernel, registers, most_registers, stack_bytes, spilled_bytes, shared_bytes } =
                    used;
                println!(
                    "{} {module} {kernel}: {registers} registers of {most_registers}, {stack_bytes} bytes of stack, \
                     {spilled_bytes} spilled, {shared_bytes} of shared memory",
                    architecture.name()
                );
                if *spilled_bytes + *stack_bytes > 0 || !(1..=*most_registers).contains(registers) {
                    too_much.push(kernel.clone());
                }
            }
        }
        assert!(too_much.is_empty(), "{too_much:?}");
    }
}
