//! Optimizer steps: one launch for all parameters of a dtype (of up to 71, which VGG19 with batch-norm has 70 of; a group with more takes several).

use kiln_backend::{DType, Error, OptimBackend, OptimRule, OptimSlot, Result, View};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    generator::Drawn,
    params::{Addresses, Optim},
    view::Tensor,
};

fn name(rule: &OptimRule) -> &'static str {
    match rule {
        OptimRule::Sgd { .. } => "sgd",
        OptimRule::Adam { .. } => "adam",
        OptimRule::RmsProp { .. } => "rmsprop",
        OptimRule::Adagrad { .. } => "adagrad",
    }
}

/// The dtypes that optimizers take.
const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

impl OptimBackend for CudaBackend {
    fn optimizer_step(&self, rule: &OptimRule, lr: View, slots: &mut [OptimSlot]) -> Result<()> {
        let device = self.0;
        let op = name(rule);
        let lr = device.number(op, lr, DType::F64)?;
        // All are checked before any is changed.
        for slot in slots.iter() {
            let dtype = slot.param.dtype();
            if !FLOATS.contains(&dtype) {
                return Err(Error::dtype(op, dtype, "parameters are floats"));
            }
            if slot.states.len() != rule.states() {
                let message = format!("{} states are needed, {} were given", rule.states(), slot.states.len());
                return Err(Error::argument(op, message));
            }
        }
        device.generator.step(device.stream, &device.uploads, |drawn| {
            for dtype in FLOATS {
                if slots.iter().any(|slot| slot.param.dtype() == dtype) {
                    device.step_of_dtype(rule, lr, slots, dtype, drawn)?;
                }
            }
            Ok(())
        })
    }
}

impl Device {
    /// The address of one number.
    fn number(&self, op: &'static str, view: View<'_>, dtype: DType) -> Result<u64> {
        let tensor = Tensor::read(self, op, view)?.of(op, dtype)?;
        match tensor.layout.numel() {
            1 => Ok(tensor.address),
            _ => Err(Error::shape(op, "one number", tensor.layout.shape())),
        }
    }

    fn step_of_dtype(
        &self,
        rule: &OptimRule,
        lr: u64,
        slots: &[OptimSlot],
        dtype: DType,
        drawn: &mut Drawn<'_>,
    ) -> Result<()> {
        let op = name(rule);
        let new = || Optim::new(rule, lr, self.generator.address);
        let mut step = new();
        for slot in slots.iter().filter(|slot| slot.param.dtype() == dtype) {
            let layout = slot.param.layout;
            let dense = |view: View<'_>| -> Result<u64> {
                let tensor = Tensor::read(self, op, view)?.of(op, dtype)?.shaped(op, layout)?;
                if tensor.layout.is_contiguous() {
                    Ok(tensor.address)
                } else {
                    Err(Error::argument(op, "parameters, gradients and states must be contiguous"))
                }
            };
            // Written to by the kernel: each is borrowed exclusively by its slot.
            let mut states = [0; 3];
            for (to, state) in states.iter_mut().zip(&slot.states) {
                *to = dense(View { buffer: &*state.buffer, layout: state.layout })?;
            }
            let count = View { buffer: &*slot.count.buffer, layout: slot.count.layout };
            let addresses = Addresses {
                param: dense(View { buffer: &*slot.param.buffer, layout })?,
                grad: dense(slot.grad)?,
                states,
                count: self.number(op, count, DType::I64)?,
            };
            let numel = layout.numel() as u64;
            if !step.push(addresses, numel) {
                self.launch_step(op, dtype, step, drawn)?;
                step = new();
                step.push(addresses, numel);
            }
        }
        self.launch_step(op, dtype, step, drawn)
    }

    fn launch_step(&self, op: &'static str, dtype: DType, mut step: Optim, drawn: &mut Drawn<'_>) -> Result<()> {
        step.drawn = drawn.blocks();
        launch!(self, OPTIM, op, Tag::of(dtype), step.blocks.max(1), step)?;
        drawn.counted();
        Ok(())
    }
}
