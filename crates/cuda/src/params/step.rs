//! The parameters of the fused optimizer kernels: hyperparameters, and up to 71 tensors in one launch.

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

/// The addresses of a parameter and its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The parameter.
    pub param: u64,
    /// Its gradient.
    pub grad: u64,
    /// Its states, in the order of [`OptimRule`].
    pub states: [u64; 3],
    /// The step count.
    pub count: u64,
}

impl Optim {
    /// A step of `rule` with no parameters yet, with the addresses of the learning rate and of the device's generator
    /// state.
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
        let none = OptimSlot { param: 0, grad: 0, states: [0; 3], count: 0, first_block: 0, tail: 0 };
        Optim { lr, progress, drawn: 0, scalars, flags, slots: 0, blocks: 0, unused: 0, slot: [none; OPTIM_SLOTS] }
    }

    /// Appends a parameter of `numel` elements; returns `false` if there is no room.
    pub fn push(&mut self, Addresses { param, grad, states, count }: Addresses, numel: u64) -> bool {
        let (used, first_block) = (self.slots as usize, self.blocks);
        let blocks = numel.div_ceil(OPTIM_BLOCK);
        let all_blocks = u64::from(first_block) + blocks;
        // Block numbers have 31 bits.
        if used == OPTIM_SLOTS || (used > 0 && all_blocks > i32::MAX as u64) {
            return false;
        }
        let tail = (numel - blocks.saturating_sub(1) * OPTIM_BLOCK) as u32;
        self.slot[used] = OptimSlot { param, grad, states, count, first_block, tail };
        self.slots += 1;
        self.blocks = all_blocks.min(i32::MAX as u64) as u32;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fill_up() {
        let rule = OptimRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true, weight_decay: 0.1, maximize: false };
        let mut step = Optim::new(&rule, 16, 32);
        assert_eq!((step.blocks, step.flags, step.scalars[..3] == [0.9, 1.0, 0.1]), (0, NESTEROV | MOMENTUM, true));
        let at = Addresses { param: 1, grad: 2, states: [3, 0, 0], count: 8 };
        assert!(step.push(at, 0));
        assert_eq!((step.blocks, step.slots), (0, 1));
        for i in 1..OPTIM_SLOTS as u64 {
            assert!(step.push(at, 4097));
            assert_eq!(u64::from(step.blocks), 2 * i);
            assert_eq!(step.slot[i as usize].tail, 1);
        }
        assert!(!step.push(at, 1));
        let tails = [0, 1, 4095, 4096, 4097, 8192].map(|numel| {
            let mut step = Optim::new(&rule, 16, 32);
            assert!(step.push(at, numel));
            (step.blocks, step.slot[0].tail)
        });
        assert_eq!(tails, [(0, 0), (1, 1), (1, 4095), (1, 4096), (2, 1), (2, 4096)]);
        assert_eq!((step.slot[0].first_block, step.slot[1].first_block, step.slot[2].first_block), (0, 0, 2));
    }
}
