//! Optimizer steps: one launch for up to 71 parameters of a dtype (VGG19 with batch norm has 70); larger groups take
//! several launches. Parameters in `f32` count together, whether their gradients are in `f32` or in half precision.

use kiln_backend::{
    Arguments, Checked, CopyArgs, CopyBackend, DType, OptimArgs, OptimBackend, OptimRule, OptimScaling, OptimSlot,
    Result,
};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    generator::Drawn,
    params::{Addresses, Optim},
    view::Access,
};

/// The dtypes of parameters and their gradients, one launch each.
const KINDS: [(DType, DType); 6] = [
    (DType::F32, DType::F16),
    (DType::F32, DType::BF16),
    (DType::F32, DType::F32),
    (DType::F64, DType::F64),
    (DType::F16, DType::F16),
    (DType::BF16, DType::BF16),
];

/// The name of a rule, and of its kernel for parameters in `f32` with gradients in half precision.
fn name(rule: &OptimRule, grad: Option<DType>) -> &'static str {
    let names = match rule {
        OptimRule::Sgd { .. } => ["sgd", "sgd_f16", "sgd_bf16"],
        OptimRule::Adam { .. } => ["adam", "adam_f16", "adam_bf16"],
        OptimRule::RmsProp { .. } => ["rmsprop", "rmsprop_f16", "rmsprop_bf16"],
        OptimRule::Adagrad { .. } => ["adagrad", "adagrad_f16", "adagrad_bf16"],
    };
    match grad {
        Some(DType::F16) => names[1],
        Some(DType::BF16) => names[2],
        _ => names[0],
    }
}

/// What all launches of a step have in common.
struct Step<'a> {
    rule: &'a OptimRule,
    /// Addresses.
    lr: u64,
    scale: u64,
    found_inf: u64,
}

impl OptimBackend for CudaBackend {
    fn optimizer_step(&self, args: Checked<OptimArgs>) -> Result<()> {
        let device = self.0;
        let OptimArgs { rule, lr, scaling, mut slots } = args.into_inner();
        let access = Access { device, op: name(&rule, None) };
        let lr = access.read(lr)?.address;
        let (mut scale, mut found_inf) = (0, 0);
        if let Some(scaling) = scaling {
            let OptimScaling { found_inf: found, scale: factor } = scaling;
            found_inf = access.read(found)?.address;
            scale = access.read_if(factor)?.map_or(0, |scale| scale.address);
        }
        let step = Step { rule: &rule, lr, scale, found_inf };
        device.generator.step(device.stream, &device.uploads, |drawn| {
            let mut rest: Vec<&OptimSlot> = slots.iter().collect();
            for kind in KINDS {
                if !rest.iter().any(|slot| is_of(slot, kind)) {
                    continue;
                }
                let (now, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(|slot| joins(slot, kind));
                device.step_of_dtypes(&step, &now, kind, drawn)?;
                rest = later;
            }
            Ok(())
        })?;
        if Optim::takes_low(&rule) {
            return Ok(());
        }
        slots.iter_mut().try_for_each(|OptimSlot { param, low, .. }| {
            let Some(low) = low else { return Ok(()) };
            self.copy(CopyArgs { x: param.as_view(), out: low.reborrow() }.checked()?)
        })
    }
}

fn is_of(slot: &OptimSlot, kind: (DType, DType)) -> bool {
    (slot.param.dtype(), slot.grad.dtype()) == kind
}

/// Whether the launch for these dtypes can take a parameter.
fn joins(slot: &OptimSlot, (param, grad): (DType, DType)) -> bool {
    is_of(slot, (param, grad)) || is_of(slot, (param, param))
}

impl Device {
    fn step_of_dtypes(
        &self,
        step: &Step<'_>,
        slots: &[&OptimSlot],
        kind: (DType, DType),
        drawn: &mut Drawn<'_>,
    ) -> Result<()> {
        let access = Access { device: self, op: name(step.rule, (kind.0 != kind.1).then_some(kind.1)) };
        let new = || Optim {
            scale: step.scale,
            found_inf: step.found_inf,
            ..Optim::new(step.rule, step.lr, self.generator.address)
        };
        let mut launch = new();
        for slot in slots {
            // The kernel writes these; each is borrowed exclusively by its slot.
            let mut states = [0; 3];
            for (to, state) in states.iter_mut().zip(&slot.states) {
                *to = access.read(state.as_view())?.address;
            }
            let low = access.read_if(slot.low.as_ref().map(|low| low.as_view()))?;
            let addresses = Addresses {
                param: access.read(slot.param.as_view())?.address,
                grad: access.read(slot.grad)?.address,
                own_grad: slot.grad.dtype() != kind.1,
                states,
                count: access.read(slot.count.as_view())?.address,
                low: low.map(|low| (low.address, low.dtype)),
            };
            let numel = slot.param.layout.numel() as u64;
            if !launch.push(addresses, numel) {
                self.launch_step(access.op, kind.0, launch, drawn)?;
                launch = new();
                launch.push(addresses, numel);
            }
        }
        self.launch_step(access.op, kind.0, launch, drawn)
    }

    fn launch_step(&self, op: &'static str, dtype: DType, mut step: Optim, drawn: &mut Drawn<'_>) -> Result<()> {
        step.drawn = drawn.blocks();
        launch!(self, OPTIM, op, Tag::of(dtype), step.blocks.max(1), step)?;
        drawn.counted();
        Ok(())
    }
}
