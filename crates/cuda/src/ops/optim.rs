//! Optimizer steps: one launch for all parameters of a dtype (of up to 54; a group with more takes several).

use kiln_backend::{DType, Error, OptimRule, OptimSlot, Result, View};

use super::launch::{Tag, launch};
use crate::{device::Device, params::Optim, view::Tensor};

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

impl Device {
    pub(super) fn optimizer_step_impl(&self, rule: &OptimRule, lr: f64, slots: &mut [OptimSlot]) -> Result<()> {
        let op = name(rule);
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
        for dtype in FLOATS {
            if slots.iter().any(|slot| slot.param.dtype() == dtype) {
                self.step_of_dtype(rule, lr, slots, dtype)?;
            }
        }
        Ok(())
    }

    fn step_of_dtype(&self, rule: &OptimRule, lr: f64, slots: &mut [OptimSlot], dtype: DType) -> Result<()> {
        let op = name(rule);
        let mut step = Optim::new(rule, lr);
        for slot in slots.iter_mut().filter(|slot| slot.param.dtype() == dtype) {
            let param = &slot.param;
            let dense = |view: View<'_>| -> Result<u64> {
                let tensor = Tensor::read(self, op, view)?.of(op, dtype)?.shaped(op, param.layout)?;
                if tensor.layout.is_contiguous() {
                    Ok(tensor.address)
                } else {
                    Err(Error::argument(op, "parameters, gradients and states must be contiguous"))
                }
            };
            // Written to by the kernel: each is borrowed exclusively by its slot.
            let addresses = [dense(View { buffer: &*param.buffer, layout: param.layout })?, dense(slot.grad)?];
            let mut states = [0; 3];
            for (to, state) in states.iter_mut().zip(&slot.states) {
                *to = dense(View { buffer: &*state.buffer, layout: state.layout })?;
            }
            let numel = param.layout.numel() as u64;
            if numel == 0 {
                continue;
            }
            let push = |to: &mut Optim| to.push(rule, lr, addresses, &states, numel, slot.step);
            if !push(&mut step) {
                self.launch_step(op, dtype, step)?;
                step = Optim::new(rule, lr);
                push(&mut step);
            }
        }
        self.launch_step(op, dtype, step)
    }

    fn launch_step(&self, op: &'static str, dtype: DType, step: Optim) -> Result<()> {
        if step.blocks() == 0 {
            return Ok(());
        }
        launch!(self, OPTIM, op, Tag::of(dtype), step.blocks(), step)
    }
}
