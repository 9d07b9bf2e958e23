//! Optimizer steps: what a rule's kernel needs.

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

/// Where what belongs to a parameter lies.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The parameter.
    pub param: u64,
    /// Its gradient.
    pub grad: u64,
    /// Its states, in the order of [`OptimRule`].
    pub states: [u64; 3],
    /// The number of its steps.
    pub count: u64,
}

impl Optim {
    /// A step of `rule` without parameters, with the addresses of the learning rate and of the device's progress.
    #[must_use]
    pub fn new(rule: &OptimRule, lr: u64, progress: u64) -> Optim {
        let (scalars, flags) = match *rule {
            OptimRule::Sgd { momentum, dampening, nesterov, weight_decay, maximize } => (
                [momentum, 1.0 - dampening, weight_decay, 0.0, 0.0, 0.0],
                flags([(maximize, MAXIMIZE), (nesterov, NESTEROV), (momentum != 0.0, MOMENTUM)]),
            ),
            OptimRule::Adam { beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize } => {
                let (apart, decay) = if decoupled { (weight_decay, 0.0) } else { (0.0, weight_decay) };
                ([beta1, beta2, eps, decay, apart, 0.0], flags([(maximize, MAXIMIZE), (amsgrad, AMSGRAD)]))
            }
            OptimRule::RmsProp { alpha, eps, weight_decay, momentum, centered, maximize } => (
                [alpha, 1.0 - alpha, eps, momentum, weight_decay, 0.0],
                flags([(maximize, MAXIMIZE), (momentum != 0.0, MOMENTUM), (centered, CENTERED)]),
            ),
            OptimRule::Adagrad { lr_decay, weight_decay, eps, maximize } => {
                ([eps, weight_decay, lr_decay, 0.0, 0.0, 0.0], flags([(maximize, MAXIMIZE)]))
            }
        };
        let none = OptimSlot { param: 0, grad: 0, states: [0; 3], numel: 0, first_block: 0, count: 0 };
        Optim { lr, progress, drawn: 0, scalars, flags, slots: 0, slot: [none; OPTIM_SLOTS] }
    }

    /// Appends a parameter of `numel` elements, or says that there is no room.
    pub fn push(&mut self, Addresses { param, grad, states, count }: Addresses, numel: u64) -> bool {
        let used = self.slots as usize;
        let first_block = u64::from(self.blocks());
        let all_blocks = first_block + numel.div_ceil(OPTIM_BLOCK);
        // Block numbers have 31 bits.
        if used == OPTIM_SLOTS || (used > 0 && all_blocks > i32::MAX as u64) {
            return false;
        }
        self.slot[used] = OptimSlot { param, grad, states, numel, first_block, count };
        self.slots += 1;
        true
    }

    /// How many blocks the parameters so far need. (Without elements there may be none; a step is counted by one.)
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
        let rule = OptimRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true, weight_decay: 0.1, maximize: false };
        let mut step = Optim::new(&rule, 16, 32);
        assert_eq!((step.blocks(), step.flags, step.scalars[..3] == [0.9, 1.0, 0.1]), (0, NESTEROV | MOMENTUM, true));
        let at = Addresses { param: 1, grad: 2, states: [3, 0, 0], count: 8 };
        assert!(step.push(at, 0));
        assert_eq!((step.blocks(), step.slots), (0, 1));
        for i in 1..OPTIM_SLOTS as u64 {
            assert!(step.push(at, 4097));
            assert_eq!(u64::from(step.blocks()), 2 * i);
        }
        assert!(!step.push(at, 1));
        assert_eq!((step.slot[0].first_block, step.slot[1].first_block, step.slot[2].first_block), (0, 0, 2));
    }
}
