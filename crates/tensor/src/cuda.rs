//! What CUDA has on this machine.

/// What is used of the driver, of each GPU, of cuBLASLt, cuDNN and NVRTC (with version and file), and of the kernels that are
/// built in; what is missing, with where it was sought and how to mend it; and which fallbacks this process has taken. It
/// opens no device, and works without a GPU, a driver, or the crate feature `cuda`. Each line is for people to read.
#[must_use]
pub fn report() -> String {
    crate::device::cuda_report()
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_a_report_in_every_build() {
        let report = super::report();
        let wanted = if cfg!(feature = "cuda") { "driver " } else { "the feature `cuda`" };
        assert!(report.contains(wanted), "{report}");
    }
}
