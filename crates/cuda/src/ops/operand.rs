//! Operands of element-wise kernels that are a tensor or a number.

use kiln_backend::{Operand, Result, Scalar};

use crate::{device::Device, params::Place, view::Tensor};

/// An operand of an element-wise kernel: the address of a tensor, or null and a number.
pub(super) struct Input<'a> {
    pub(super) place: Option<Place<'a>>,
    pub(super) address: u64,
    pub(super) scalar: Scalar,
}

impl<'a> Input<'a> {
    pub(super) fn new(device: &Device, op: &'static str, operand: Operand<'a>) -> Result<Input<'a>> {
        Ok(match operand {
            Operand::Tensor(view) => {
                let tensor = Tensor::read(device, op, view)?;
                Input { place: Some(tensor.place()), address: tensor.address, scalar: Scalar::Int(0) }
            }
            Operand::Scalar(scalar) => Input { place: None, address: 0, scalar },
        })
    }
}
