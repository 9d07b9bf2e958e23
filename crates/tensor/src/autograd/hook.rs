//! Hooks and `retain_grad`, as they are stored with a tensor or node.

use std::sync::{Arc, Weak};

use kiln_backend::Result;

use crate::tensor::{Inner, Tensor};

type HookFn = Arc<dyn Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync>;

/// A hook that the user registered.
#[derive(Clone)]
pub(crate) struct Hook {
    pub id: u64,
    pub run: HookFn,
}

pub(crate) type Hooks = Vec<Hook>;

/// An action on the gradient of one output of a node.
#[derive(Clone)]
pub(crate) struct OutputHook {
    pub output: usize,
    pub action: Action,
}

#[derive(Clone)]
pub(crate) enum Action {
    Call(Hook),
    /// `retain_grad`: store the gradient in this tensor.
    Keep(Weak<Inner>),
}
