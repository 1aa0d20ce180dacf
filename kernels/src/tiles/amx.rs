//! The tiles of AMX, one instruction a method.

use std::arch::asm;
use std::sync::OnceLock;

use super::{TileConfig, TileUnit};

/// The processor's tiles.
///
/// The compiler knows nothing of these registers and never uses them, so that what one `asm!` leaves in a tile is there
/// for the next; all are taken to read and write memory, and stay in the order that is written.
#[derive(Default)]
pub struct Amx;

impl Amx {
    /// Whether the processor has tiles with products of bytes and of bf16, and the system lets this process use them.
    pub fn runs_here() -> bool {
        static RUNS: OnceLock<bool> = OnceLock::new();
        // Miri, which checks the other forms, has neither CPUID nor assembly.
        *RUNS.get_or_init(|| !cfg!(miri) && processor_has_it() && system_keeps_it() && permitted())
    }
}

/// CPUID: tiles, both products, and a palette of eight tiles of sixteen rows of sixty-four bytes.
fn processor_has_it() -> bool {
    #[allow(unused_unsafe, reason = "the function is unsafe in older compilers")]
    // SAFETY: every x86-64 processor has the instruction.
    let cpuid = |leaf, part| unsafe { std::arch::x86_64::__cpuid_count(leaf, part) };
    let has = |bits: u32, bit: u32| bits & (1 << bit) != 0;
    if cpuid(0, 0).eax < 0x1d || !has(cpuid(1, 0).ecx, 27) {
        return false;
    }
    let features = cpuid(7, 0).edx;
    let palette = cpuid(0x1d, 1);
    has(features, 22) // bf16
        && has(features, 24) // tiles
        && has(features, 25) // bytes
        && cpuid(0x1d, 0).eax >= 1
        && palette.ebx & 0xffff >= 64
        && palette.ebx >> 16 >= 8
        && palette.ecx & 0xffff >= 16
}

/// XCR0: whether the system keeps the tiles' shapes (17) and contents (18) when it switches threads.
fn system_keeps_it() -> bool {
    let low: u32;
    // SAFETY: CPUID said that the system has enabled this instruction (`processor_has_it` asks for bit 27 first).
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
    low >> 17 & 3 == 3
}

/// Asks Linux for the tiles, once for all threads of the process: `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let status: i64;
    // SAFETY: the call takes two numbers and touches no memory of ours; the kernel changes `rcx` and `r11`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

impl TileUnit for Amx {
    #[inline(always)]
    unsafe fn configure(&mut self, config: &TileConfig) {
        // SAFETY: the caller promises the unit; a `TileConfig` is 64 bytes of a valid layout.
        unsafe { asm!("ldtilecfg [{config}]", config = in(reg) config, options(nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn zero<const T: usize>(&mut self) {
        // SAFETY: the caller promises the unit and the tile's shape.
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the caller promises the unit, the tile's shape and the memory.
        unsafe {
            asm!(
                "tileloadd tmm{t}, [{from} + 1*{stride}]",
                t = const T, from = in(reg) from, stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: the caller promises the unit, the tile's shape and the memory.
        unsafe {
            asm!(
                "tilestored [{to} + 1*{stride}], tmm{t}",
                t = const T, to = in(reg) to, stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn add_bf16_products<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: the caller promises the unit and the shapes.
        unsafe {
            asm!(
                "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                c = const C, a = const A, b = const B,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn add_byte_products<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: the caller promises the unit and the shapes.
        unsafe {
            asm!(
                "tdpbusd tmm{c}, tmm{a}, tmm{b}",
                c = const C, a = const A, b = const B,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn release(&mut self) {
        // SAFETY: the caller promises the unit.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }
}
