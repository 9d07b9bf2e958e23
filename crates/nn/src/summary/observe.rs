//! Notes which layers run while a summary is made.

use std::{cell::RefCell, ops::Range};

use kiln_tensor::{Result, Shape, Tensor, autograd::traced_steps};

use crate::module::ModuleTree;

/// A layer's run.
pub(crate) struct Run {
    /// Where the layer is in memory, and its type: layers without fields may share an address.
    pub layer: (usize, String),
    pub parameters: usize,
    pub output: Shape,
    /// Its operations in the trace.
    pub steps: Range<usize>,
}

thread_local! {
    static RUNS: RefCell<Option<Vec<Run>>> = const { RefCell::new(None) };
}

/// Runs `f` and notes the layers of Kiln that run on this thread, in the order in which they end.
pub(crate) fn observe<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Run>)> {
    /// Puts the outer notes back, also when `f` panics.
    struct Restore(Option<Vec<Run>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RUNS.replace(self.0.take());
        }
    }
    let restore = Restore(RUNS.replace(Some(Vec::new())));
    let result = f();
    let runs = RUNS.take().unwrap_or_default();
    drop(restore);
    Ok((result?, runs))
}

/// Whether layers are noted: containers then run one layer after the other, and fuse none.
pub(crate) fn is_observed() -> bool {
    RUNS.with_borrow(Option::is_some)
}

/// A layer begins; what it gives to [`ran`].
pub(crate) fn begins() -> Option<usize> {
    if is_observed() { traced_steps() } else { None }
}

/// A layer that began at `begin` gave `output`.
pub(crate) fn ran<M: ModuleTree + ?Sized>(layer: &M, begin: Option<usize>, output: &Tensor) {
    let (Some(begin), Some(end)) = (begin, traced_steps()) else { return };
    let run = Run {
        layer: (layer.address(), layer.type_name().to_owned()),
        parameters: layer.num_parameters(),
        output: *output.shape(),
        steps: begin..end,
    };
    RUNS.with_borrow_mut(|runs| {
        if let Some(runs) = runs {
            runs.push(run);
        }
    });
}
