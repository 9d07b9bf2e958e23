//! The parameters of the kernels for many tensors: optimizer steps with up to 71 parameters in one launch, and gradients that
//! are unscaled, up to 254 of them.

use kiln_backend::{DType, OptimRule};

use super::{OPTIM_BLOCK, OPTIM_SLOTS, Optim, OptimSlot, UNSCALE_SLOTS, Unscale, UnscaleSlot};

const MAXIMIZE: u32 = 1;
const NESTEROV: u32 = 2;
const MOMENTUM: u32 = 4;
const AMSGRAD: u32 = 8;
const CENTERED: u32 = 16;
/// The number of states begins at this bit of the flags.
const STATES: u32 = 8;

/// Flags beside the number of elements in the last block of a tensor.
const PACKED: u32 = 1 << 31;
const LOW_F16: u32 = 1 << 30;
const LOW_BF16: u32 = 1 << 29;
const OWN_GRAD: u32 = 1 << 28;

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
    /// Whether the gradient is of the parameter's dtype although the launch is for gradients in half precision.
    pub own_grad: bool,
    /// Its states, in the order of [`OptimRule`].
    pub states: [u64; 3],
    /// The step count.
    pub count: u64,
    /// What receives the rounded parameter, and its dtype, if that is wanted and there is a place for it
    /// ([`Optim::takes_low`]).
    pub low: Option<(u64, DType)>,
}

/// How a tensor of `numel` elements continues the blocks of a launch that has `first` of them: the number of blocks then, and
/// the elements in the last one. `None` if block numbers, of 31 bits, do not suffice.
fn blocks_after(first: u32, is_first: bool, numel: u64) -> Option<(u32, u32)> {
    let blocks = numel.div_ceil(OPTIM_BLOCK);
    let all_blocks = u64::from(first) + blocks;
    if !is_first && all_blocks > i32::MAX as u64 {
        return None;
    }
    let tail = (numel - blocks.saturating_sub(1) * OPTIM_BLOCK) as u32;
    Some((all_blocks.min(i32::MAX as u64) as u32, tail))
}

fn packed(addresses: &[u64]) -> u32 {
    if addresses.iter().all(|address| address.is_multiple_of(16)) { PACKED } else { 0 }
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
        let flags = flags | (rule.states() as u32) << STATES;
        let (scale, found_inf, slot) = (0, 0, [none; OPTIM_SLOTS]);
        Optim { lr, progress, scale, found_inf, drawn: 0, scalars, flags, slots: 0, blocks: 0, unused: 0, slot }
    }

    /// Whether the launch can write rounded parameters, too: their addresses take the place of a state that is not in use.
    #[must_use]
    pub fn takes_low(rule: &OptimRule) -> bool {
        rule.states() < 3
    }

    /// Appends a parameter of `numel` elements; returns `false` if there is no room.
    pub fn push(&mut self, Addresses { param, grad, own_grad, mut states, count, low }: Addresses, numel: u64) -> bool {
        let (used, first_block) = (self.slots as usize, self.blocks);
        let room = blocks_after(first_block, used == 0, numel).filter(|_| used < OPTIM_SLOTS);
        let Some((blocks, mut tail)) = room else { return false };
        let in_use = (self.flags >> STATES) as usize;
        if let (Some((address, dtype)), Some(place)) = (low, states.get_mut(in_use)) {
            *place = address;
            tail |= if dtype == DType::F16 { LOW_F16 } else { LOW_BF16 };
        }
        tail |= if own_grad { OWN_GRAD } else { 0 };
        // What is not in use is 0, a multiple of 16.
        let [a, b, c] = states;
        tail |= packed(&[param, grad, a, b, c]);
        self.slot[used] = OptimSlot { param, grad, states, count, first_block, tail };
        self.slots += 1;
        self.blocks = blocks;
        true
    }
}

impl Unscale {
    /// A launch without gradients yet, with the addresses of the scale, 0 if there is none, and of what tells whether there was
    /// an infinity.
    #[must_use]
    pub fn new(scale: u64, found_inf: u64) -> Unscale {
        let none = UnscaleSlot { grad: 0, first_block: 0, tail: 0 };
        Unscale { scale, found_inf, slots: 0, blocks: 0, slot: [none; UNSCALE_SLOTS] }
    }

    /// Appends a gradient of `numel` elements; returns `false` if there is no room.
    pub fn push(&mut self, grad: u64, numel: u64) -> bool {
        let (used, first_block) = (self.slots as usize, self.blocks);
        let room = blocks_after(first_block, used == 0, numel).filter(|_| used < UNSCALE_SLOTS);
        let Some((blocks, tail)) = room else { return false };
        self.slot[used] = UnscaleSlot { grad, first_block, tail: tail | packed(&[grad]) };
        self.slots += 1;
        self.blocks = blocks;
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
        let flags = NESTEROV | MOMENTUM | 1 << STATES;
        assert_eq!((step.blocks, step.flags, step.scalars[..3] == [0.9, 1.0, 0.1]), (0, flags, true));
        let at = Addresses { param: 1, grad: 2, own_grad: false, states: [3, 0, 0], count: 8, low: None };
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

        let mut unscale = Unscale::new(16, 32);
        assert!((0..UNSCALE_SLOTS).all(|_| unscale.push(8, 4097)) && !unscale.push(8, 1));
        assert_eq!((unscale.blocks, unscale.slot[1].first_block, unscale.slot[1].tail), (508, 2, 1));
    }

    #[test]
    fn slots_tell_what_their_addresses_are() {
        let rule = OptimRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true, weight_decay: 0.1, maximize: false };
        let at = Addresses { param: 16, grad: 32, own_grad: false, states: [48, 0, 0], count: 8, low: None };
        let push = |at| {
            let mut step = Optim::new(&rule, 16, 32);
            assert!(step.push(at, 5));
            (step.slot[0].states, step.slot[0].tail)
        };
        assert_eq!(push(at), ([48, 0, 0], 5 | PACKED));
        assert_eq!(push(Addresses { grad: 24, ..at }), ([48, 0, 0], 5));
        assert_eq!(push(Addresses { own_grad: true, ..at }), ([48, 0, 0], 5 | PACKED | OWN_GRAD));
        assert_eq!(push(Addresses { low: Some((64, DType::F16)), ..at }), ([48, 64, 0], 5 | PACKED | LOW_F16));
        assert_eq!(push(Addresses { low: Some((66, DType::BF16)), ..at }), ([48, 66, 0], 5 | LOW_BF16));
    }
}
