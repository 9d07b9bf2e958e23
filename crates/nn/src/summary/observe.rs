//! Records which layers run while a summary is made.

use std::{cell::RefCell, ops::Range};

use kiln_tensor::{Result, Shape, Tensor, autograd::traced_steps};

use crate::module::ModuleTree;

/// The run of a layer.
pub(crate) struct Run {
    /// The layer's address and type: layers without fields may share an address.
    pub layer: (usize, String),
    pub parameters: usize,
    pub output: Shape,
    /// The range of its operations in the trace.
    pub steps: Range<usize>,
}

thread_local! {
    static RUNS: RefCell<Option<Vec<Run>>> = const { RefCell::new(None) };
}

/// Runs `f` and records the layers of Kiln that run on this thread, in the order in which they end.
pub(crate) fn observe<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Run>)> {
    /// Restores the outer record, also when `f` panics.
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

/// Whether layers are being recorded: containers then run layers one by one, and fuse none.
pub(crate) fn is_observed() -> bool {
    RUNS.with_borrow(Option::is_some)
}

/// Call when a layer begins; pass the result to [`ran`].
pub(crate) fn begins() -> Option<usize> {
    if is_observed() { traced_steps() } else { None }
}

/// Records that a layer that began at `begin` returned `output`.
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
