//! The gradient through ReLU to a bias: the two passes of the trait's default, of which neither is worth fusing here.

use kiln_backend::ReluBiasGradBackend;

use crate::CpuBackend;

impl ReluBiasGradBackend for CpuBackend {}
