//! What the machine offers to the kernels.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
pub use cuda::cuda_devices;

/// The instruction set that a kernel's fast form is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CpuForm {
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// 64-bit ARM.
    Neon,
    /// Any processor: loops that the compiler vectorises.
    Portable,
}

impl CpuForm {
    /// The fastest form that this processor runs.
    #[inline]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self::Neon;
        }
        Self::Portable
    }

    /// Every form that this processor runs, fastest first; [`CpuForm::Portable`] is always the last.
    pub fn available() -> Vec<Self> {
        let best = Self::best();
        let mut forms = vec![best];
        #[cfg(target_arch = "x86_64")]
        if best == Self::Avx512
            && std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
        {
            forms.push(Self::Avx2);
        }
        if best != Self::Portable {
            forms.push(Self::Portable);
        }
        forms
    }
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
        detect!("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16");
        detect!("avx512fp16", "avxvnni");
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
    fn the_portable_form_is_always_there_and_the_best_comes_first() {
        let forms = CpuForm::available();
        assert_eq!(forms.first(), Some(&CpuForm::best()));
        assert_eq!(forms.last(), Some(&CpuForm::Portable));
    }

    #[test]
    fn features_are_named_once() {
        let mut features = cpu_features();
        let n = features.len();
        features.sort_unstable();
        features.dedup();
        assert_eq!(features.len(), n);
        assert_eq!(CpuForm::best() == CpuForm::Avx512, features.contains(&"avx512f"));
    }
}
