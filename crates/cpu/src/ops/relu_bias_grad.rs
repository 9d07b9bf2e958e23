//! `relu_bias_grad`: the two passes of the trait's default, which are not worth fusing on a CPU.

use kiln_backend::ReluBiasGradBackend;

use crate::device::CpuBackend;

impl ReluBiasGradBackend for CpuBackend {}
