//! Optimizer steps: one launch for up to 71 parameters of a dtype (VGG19 with batch norm has 70); larger groups take
//! several launches.

use kiln_backend::{Checked, DType, OptimArgs, OptimBackend, OptimRule, OptimSlot, Result};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    generator::Drawn,
    params::{Addresses, Optim},
    view::Access,
};

fn name(rule: &OptimRule) -> &'static str {
    match rule {
        OptimRule::Sgd { .. } => "sgd",
        OptimRule::Adam { .. } => "adam",
        OptimRule::RmsProp { .. } => "rmsprop",
        OptimRule::Adagrad { .. } => "adagrad",
    }
}

impl OptimBackend for CudaBackend {
    fn optimizer_step(&self, args: Checked<OptimArgs>) -> Result<()> {
        let device = self.0;
        let OptimArgs { rule, lr, slots } = args.into_inner();
        let lr = Access { device, op: name(&rule) }.read(lr)?.address;
        device.generator.step(device.stream, &device.uploads, |drawn| {
            for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_float()) {
                if slots.iter().any(|slot| slot.param.dtype() == dtype) {
                    device.step_of_dtype(&rule, lr, &slots, dtype, drawn)?;
                }
            }
            Ok(())
        })
    }
}

impl Device {
    fn step_of_dtype(
        &self,
        rule: &OptimRule,
        lr: u64,
        slots: &[OptimSlot],
        dtype: DType,
        drawn: &mut Drawn<'_>,
    ) -> Result<()> {
        let access = Access { device: self, op: name(rule) };
        let new = || Optim::new(rule, lr, self.generator.address);
        let mut step = new();
        for slot in slots.iter().filter(|slot| slot.param.dtype() == dtype) {
            // The kernel writes these; each is borrowed exclusively by its slot.
            let mut states = [0; 3];
            for (to, state) in states.iter_mut().zip(&slot.states) {
                *to = access.read(state.as_view())?.address;
            }
            let addresses = Addresses {
                param: access.read(slot.param.as_view())?.address,
                grad: access.read(slot.grad)?.address,
                states,
                count: access.read(slot.count.as_view())?.address,
            };
            let numel = slot.param.layout.numel() as u64;
            if !step.push(addresses, numel) {
                self.launch_step(access.op, dtype, step, drawn)?;
                step = new();
                step.push(addresses, numel);
            }
        }
        self.launch_step(access.op, dtype, step, drawn)
    }

    fn launch_step(&self, op: &'static str, dtype: DType, mut step: Optim, drawn: &mut Drawn<'_>) -> Result<()> {
        step.drawn = drawn.blocks();
        launch!(self, OPTIM, op, Tag::of(dtype), step.blocks.max(1), step)?;
        drawn.counted();
        Ok(())
    }
}
