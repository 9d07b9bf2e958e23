//! Optimizer steps: what a rule's kernel needs, computed in `f64` as Python does.

use kiln_backend::OptimRule;

use super::{OPTIM_BLOCK, OPTIM_SLOTS, Optim, OptimSlot};

const MAXIMIZE: u32 = 1;
const NESTEROV: u32 = 2;
const MOMENTUM: u32 = 4;
const AMSGRAD: u32 = 8;
const CENTERED: u32 = 16;

fn flags<const N: usize>(all: [(bool, u32); N]) -> u32 {
    all.into_iter().filter(|(on, _)| *on).fold(0, |sum, (_, flag)| sum | flag)
}

impl Optim {
    /// A step of `rule` without parameters.
    #[must_use]
    pub fn new(rule: &OptimRule, lr: f64) -> Optim {
        let (scalars, flags) = match *rule {
            OptimRule::Sgd { momentum, dampening, nesterov, weight_decay, maximize } => (
                [lr, momentum, 1.0 - dampening, weight_decay, 0.0, 0.0],
                flags([(maximize, MAXIMIZE), (nesterov, NESTEROV), (momentum != 0.0, MOMENTUM)]),
            ),
            OptimRule::Adam { beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize } => {
                let (decay, shrink) = if decoupled { (0.0, 1.0 - lr * weight_decay) } else { (weight_decay, 1.0) };
                let scalars = [1.0 - beta1, beta2, 1.0 - beta2, eps, decay, shrink];
                (scalars, flags([(maximize, MAXIMIZE), (amsgrad, AMSGRAD)]))
            }
            OptimRule::RmsProp { alpha, eps, weight_decay, momentum, centered, maximize } => (
                [lr, alpha, 1.0 - alpha, eps, momentum, weight_decay],
                flags([(maximize, MAXIMIZE), (momentum != 0.0, MOMENTUM), (centered, CENTERED)]),
            ),
            OptimRule::Adagrad { weight_decay, eps, maximize, .. } => {
                ([eps, weight_decay, 0.0, 0.0, 0.0, 0.0], flags([(maximize, MAXIMIZE)]))
            }
        };
        let none =
            OptimSlot { param: 0, grad: 0, states: [0; 3], numel: 0, first_block: 0, step_size: 0.0, correction: 0.0 };
        Optim { scalars, flags, slots: 0, slot: [none; OPTIM_SLOTS] }
    }

    /// Appends a parameter of `numel` elements in its step number `step`, or says that there is no room.
    /// `states` are the addresses of its states, in the order of [`OptimRule`].
    pub fn push(
        &mut self,
        rule: &OptimRule,
        lr: f64,
        addresses: [u64; 2],
        states: &[u64],
        numel: u64,
        step: u64,
    ) -> bool {
        let used = self.slots as usize;
        let first_block = u64::from(self.blocks());
        let all_blocks = first_block + numel.div_ceil(OPTIM_BLOCK);
        // Block numbers have 31 bits.
        if used == OPTIM_SLOTS || (used > 0 && all_blocks > i32::MAX as u64) {
            return false;
        }
        let count = step as f64;
        let (step_size, correction) = match *rule {
            OptimRule::Sgd { .. } => (0.0, if step <= 1 { 1.0 } else { 0.0 }),
            OptimRule::Adam { beta1, beta2, .. } => (lr / (1.0 - beta1.powf(count)), (1.0 - beta2.powf(count)).sqrt()),
            OptimRule::RmsProp { .. } => (0.0, 0.0),
            OptimRule::Adagrad { lr_decay, .. } => (lr / (1.0 + (count - 1.0) * lr_decay), 0.0),
        };
        let mut all = [0; 3];
        for (to, from) in all.iter_mut().zip(states) {
            *to = *from;
        }
        let [param, grad] = addresses;
        self.slot[used] = OptimSlot { param, grad, states: all, numel, first_block, step_size, correction };
        self.slots += 1;
        true
    }

    /// How many blocks the parameters so far need.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        let last = (self.slots as usize).checked_sub(1).map(|i| &self.slot[i]);
        last.map_or(0, |slot| (slot.first_block + slot.numel.div_ceil(OPTIM_BLOCK)).min(i32::MAX as u64) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fill_up() {
        let rule = OptimRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true, weight_decay: 0.0, maximize: false };
        let mut step = Optim::new(&rule, 0.1);
        assert_eq!((step.blocks(), step.flags, step.scalars[..3] == [0.1, 0.9, 1.0]), (0, NESTEROV | MOMENTUM, true));
        for i in 0..OPTIM_SLOTS as u64 {
            assert!(step.push(&rule, 0.1, [1, 2], &[3], 4097, i + 1));
            assert_eq!(u64::from(step.blocks()), 2 * (i + 1));
        }
        assert!(!step.push(&rule, 0.1, [1, 2], &[3], 1, 1));
        assert_eq!((step.slot[0].correction, step.slot[1].correction, step.slot[1].first_block), (1.0, 0.0, 2));
    }
}
