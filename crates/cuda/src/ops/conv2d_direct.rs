//! `conv2d` and its gradients without cuDNN: the kernel for problems that it has no plan for, in any layout and size.

use std::cell::Cell;

use kiln_backend::{Conv2d, Conv2dDirection, Result};

use super::launch::{Tag, launch};
use crate::{device::Device, params::Convolution, view::Tensor};

thread_local! {
    static ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Calls `body`. Convolutions that this thread computes meanwhile do not use cuDNN, so that tests can check the kernel on
/// problems for which cuDNN has plans.
pub fn with_direct_convolutions<R>(body: impl FnOnce() -> R) -> R {
    /// Restores the setting when dropped, also if `body` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ONLY.set(self.0);
        }
    }
    let _restore = Restore(ONLY.replace(true));
    body()
}

/// Whether cuDNN is bypassed.
pub(super) fn is_asked_for() -> bool {
    ONLY.get()
}

impl Device {
    /// Queues the convolution, without bias and ReLU, of operands that have elements.
    pub(super) fn convolve_directly(
        &'static self,
        direction: Conv2dDirection,
        rule: &Conv2d,
        [x, w, y]: [&Tensor; 3],
    ) -> Result<()> {
        let extent = |tensor: &Tensor, dim: usize| tensor.layout.dims().get(dim).map_or(1, |&extent| extent);
        let taps = [extent(w, 2), extent(w, 3)];
        let (op, [a, b, out], terms) = match direction {
            Conv2dDirection::GradInput => {
                ("grad_input", [y, w, x], [extent(w, 0) / rule.groups.max(1), taps[0], taps[1]])
            }
            Conv2dDirection::GradWeight => ("grad_weight", [x, y, w], [extent(y, 0), extent(y, 2), extent(y, 3)]),
            _ => ("forward", [x, w, y], [extent(w, 1), taps[0], taps[1]]),
        };
        let layouts = |of: [&Tensor; 3]| of.map(|tensor| *tensor.layout);
        let (all, ordered) = (layouts([x, w, y]), layouts([a, b, out]));
        let params = Convolution::new(rule, all.each_ref(), ordered.each_ref(), terms);
        launch!(self, CONV2D, op, Tag::of(x.dtype), params.blocks(), params, a.address, b.address, out.address)
    }
}
