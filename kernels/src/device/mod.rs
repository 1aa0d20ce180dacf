//! What the machine offers to the kernels.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;

#[cfg(target_arch = "x86_64")]
pub use crate::tiles::{TileProducts, multiply_tiles};
#[cfg(feature = "cuda")]
pub use cuda::cuda_devices;

use std::sync::OnceLock;

/// The instruction set that a kernel's fast form is written for, from the slowest to the fastest.
///
/// A kernel that has no form for one uses the next lower that the processor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CpuForm {
    /// Any processor: loops that the compiler vectorises.
    Portable,
    /// 64-bit ARM.
    Neon,
    /// 64-bit ARM with DotProd: products of bytes that add up four at a time.
    NeonDotprod,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with VNNI: products of bytes that add up four at a time.
    Avx512Vnni,
    /// AVX-512 with VNNI and products of bf16 that add up in pairs, where these are twice as fast as those of `f32`.
    Avx512Bf16,
    /// AVX-512 with VNNI and the tiles of AMX, for bytes and for bf16.
    Amx,
}

impl CpuForm {
    /// Every form there is, fastest first, whether this processor runs it or not.
    pub const ALL: [Self; 8] = [
        Self::Amx,
        Self::Avx512Bf16,
        Self::Avx512Vnni,
        Self::Avx512,
        Self::Avx2,
        Self::NeonDotprod,
        Self::Neon,
        Self::Portable,
    ];

    /// The name that `RAGLAN_CPU` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }

    /// The fastest form that this processor runs, and that the environment variable `RAGLAN_CPU` allows: a form's
    /// name there hides all that is faster.
    #[inline]
    pub fn best() -> Self {
        static BEST: OnceLock<CpuForm> = OnceLock::new();
        *BEST.get_or_init(|| Self::best_below(&std::env::var("RAGLAN_CPU").unwrap_or_default()))
    }

    /// The fastest form that this processor runs and that is no faster than the one of this name, if one has it.
    fn best_below(name: &str) -> Self {
        let limit = Self::ALL.into_iter().find(|form| form.name() == name).unwrap_or(Self::Amx);
        Self::ALL.into_iter().find(|&form| form <= limit && form.runs_here()).unwrap_or(Self::Portable)
    }

    /// Every form that this processor runs, fastest first; [`CpuForm::Portable`] is always the last.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|form| form.runs_here()).collect()
    }

    fn runs_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        macro_rules! all {
            ($($name:tt),*) => { true $(&& std::arch::is_x86_feature_detected!($name))* };
        }
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => all!("avx2", "fma", "f16c"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Self::Avx2.runs_here() && all!("avx512f", "avx512bw", "avx512dq", "avx512vl"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.runs_here() && all!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512Vnni.runs_here() && all!("avx512bf16") && pairs_of_bf16_are_fast(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Vnni.runs_here() && crate::tiles::Amx::runs_here(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => Self::Neon.runs_here() && std::arch::is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
    }
}

/// Whether products of bf16 in AVX-512 are twice as fast as those of `f32`: AMD's are; Intel's are half as fast.
#[cfg(target_arch = "x86_64")]
fn pairs_of_bf16_are_fast() -> bool {
    let maker = std::arch::x86_64::__cpuid(0);
    [maker.ebx, maker.edx, maker.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
}

/// The processor's features that raglan's kernels can use, by the names the processor's makers use.
pub fn cpu_features() -> Vec<&'static str> {
    #[allow(unused_mut, reason = "other architectures add nothing")]
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_x86_feature_detected!($name) { features.push($name); })* };
        }
        detect!(
            "sse4.2",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vnni",
            "avx512bf16"
        );
        detect!("avx512fp16", "avxvnni");
        if crate::tiles::Amx::runs_here() {
            features.extend(["amx-tile", "amx-int8", "amx-bf16"]);
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { features.push($name); })* };
        }
        detect!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2");
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_form_is_always_there_and_forms_are_in_order() {
        let forms = CpuForm::available();
        assert!(forms.contains(&CpuForm::best()));
        assert!(forms.is_sorted_by(|a, b| a > b));
        assert_eq!(forms.last(), Some(&CpuForm::Portable));
    }

    #[test]
    fn each_form_is_chosen_by_its_name_and_the_fastest_without() {
        let available = CpuForm::available();
        for &form in &available {
            assert_eq!(CpuForm::best_below(form.name()), form);
        }
        for form in CpuForm::ALL.into_iter().filter(|form| !available.contains(form)) {
            let chosen = CpuForm::best_below(form.name());
            assert!(chosen < form && available.contains(&chosen), "{form:?} is not there, {chosen:?} is slower");
        }
        assert_eq!(CpuForm::best_below(""), available[0]);
        assert_eq!(CpuForm::best_below("abacus"), available[0]);
    }

    #[test]
    fn features_are_named_once() {
        let mut features = cpu_features();
        let n = features.len();
        features.sort_unstable();
        features.dedup();
        assert_eq!(features.len(), n);
        assert_eq!(CpuForm::available().contains(&CpuForm::Avx512), features.contains(&"avx512dq"));
    }
}
