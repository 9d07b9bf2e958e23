//! The settings that must be equal on both sides of a comparison: precision, and cuDNN's benchmark mode.
//! `peers/pytorch.py` has the same ones under the same names.
//!
//! `KILN_BENCH_PRECISION` lists `f32`, `tf32` and `bf16`; `KILN_BENCH_BENCHMARK` lists `off` and `on`. By default a GPU
//! is measured with all of them, the CPU in `f32`.

use std::fmt;

use kiln::{Float32Precision, prelude::*, set_convolution_benchmark, set_float32_matmul_precision};

/// In what type products and convolutions are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `f32`, TensorFloat-32 not allowed.
    F32,
    /// `f32`, whose factors may be rounded to TensorFloat-32.
    Tf32,
    /// Images in `bf16` and channels-last memory; networks in `f32`, whose forward pass is in a region of autocast to `bf16`.
    Bf16,
}

/// One way to run a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub precision: Precision,
    /// Whether the quickest algorithm of a convolution is found by trying, as by `torch.backends.cudnn.benchmark`.
    pub benchmark: bool,
}

impl Settings {
    /// What is asked for on a device.
    ///
    /// # Errors
    /// A variable holds another word.
    pub fn asked(device: Device) -> anyhow::Result<Vec<Settings>> {
        let all = device.is_cuda();
        let precisions = list("KILN_BENCH_PRECISION", if all { "f32,tf32,bf16" } else { "f32" }, |word| match word {
            "f32" => Some(Precision::F32),
            "tf32" => Some(Precision::Tf32),
            "bf16" => Some(Precision::Bf16),
            _ => None,
        })?;
        let benchmarks = list("KILN_BENCH_BENCHMARK", if all { "off,on" } else { "off" }, |word| match word {
            "off" => Some(false),
            "on" => Some(true),
            _ => None,
        })?;
        let with = |precision| benchmarks.iter().map(move |&benchmark| Settings { precision, benchmark });
        Ok(precisions.into_iter().flat_map(with).collect())
    }

    /// Sets what counts for the whole process.
    pub fn apply(self) {
        let allowed = self.precision == Precision::Tf32;
        set_float32_matmul_precision(if allowed { Float32Precision::High } else { Float32Precision::Highest });
        set_convolution_benchmark(self.benchmark);
    }

    /// The dtype of operands.
    pub fn dtype(self) -> DType {
        if self.precision == Precision::Bf16 { DType::BF16 } else { DType::F32 }
    }

    /// A batch of images in the dtype and the memory format of these settings.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn images(self, x: &Tensor) -> kiln::Result<Tensor> {
        let x = x.to_dtype(self.dtype())?;
        if self.precision == Precision::Bf16 && x.rank() == 4 { x.channels_last() } else { Ok(x) }
    }
}

/// As in `tf32, benchmark`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.precision {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16 channels-last",
        })?;
        f.write_str(if self.benchmark { ", benchmark" } else { "" })
    }
}

/// The words of an environment variable.
fn list<T>(name: &str, default: &str, of: impl Fn(&str) -> Option<T>) -> anyhow::Result<Vec<T>> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| of(word).ok_or_else(|| anyhow::anyhow!("{name}={text}: {word:?} is unknown"))).collect()
}
