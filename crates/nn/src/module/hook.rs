//! The functions that hooks of modules call.

use std::sync::Arc;

use kiln_tensor::{Result, Tensor};

use super::tree::ModuleTree;

type Before = Arc<dyn Fn(&dyn ModuleTree, &Tensor) -> Result<Option<Tensor>> + Send + Sync>;
type After = Arc<dyn Fn(&dyn ModuleTree, &Tensor, &Tensor) -> Result<Option<Tensor>> + Send + Sync>;
/// A function of the module's type, and of the gradient of its output, before the module's own backward pass.
pub(super) type BackwardPre = Arc<dyn Fn(&str, &Tensor) -> Result<Option<Tensor>> + Send + Sync>;
/// A function of the module's type, and of the gradients of its input and of its output.
pub(super) type Backward = Arc<dyn Fn(&str, Option<&Tensor>, &Tensor) -> Result<Option<Tensor>> + Send + Sync>;

/// A function of the user's, before the computation or after it, or before its backward pass or after it.
#[derive(Clone)]
pub(super) enum Hook {
    Before(Before),
    After(After),
    BackwardPre(BackwardPre),
    Backward(Backward),
}
