//! Autograd: a tape that records which operations made a tensor, and how gradients flow back through them.
//!
//! While recording is on, an operation with an operand that requires gradients makes a `Node`, which holds its gradient
//! rule, the tensors that it saved, and edges to its inputs. [`backward`] walks the nodes from the newest to the oldest
//! and calls the same backend primitives as the forward pass.
//!
//! With [`create_graph`](BackwardOptions::create_graph) the backward pass itself is recorded, for gradients of gradients:
//! rules then use operations on tensors, not primitives. Follows
//! <https://docs.pytorch.org/docs/stable/notes/autograd.html>. Not supported: forward mode.
//!
//! A tensor owns its history, and a history's nodes own tensors, so the files of these types (`meta`, `node`, `rule`, `saved`,
//! `fused_relu`, `hook`, `post_accumulate`) import each other and `tensor.rs` of the crate. The other files use them, and are
//! not used by them.

mod accumulation;
mod anomaly;
mod composed;
mod engine;
mod function;
mod functional;
mod fused_relu;
mod gradcheck;
mod graph;
mod hook;
mod hooks;
mod meta;
mod mode;
mod node;
mod options;
mod post_accumulate;
mod record;
mod rule;
mod run_hooks;
mod saved;
mod tensor;
mod trace;

pub use anomaly::{AnomalyGuard, anomaly, detect_anomaly, is_anomaly_enabled};
pub use engine::{backward, grad, grad_with};
pub use function::{BackwardCtx, Function, FunctionCtx, apply};
pub use functional::{hessian, hvp, jacobian, jvp, vjp};
pub use gradcheck::{GradcheckOptions, gradcheck, gradcheck_with, gradgradcheck, gradgradcheck_with};
pub use graph::{GradFn, graph_dot, graph_text};
pub use hooks::HookHandle;
pub use mode::{GradModeGuard, enable_grad, grad_enabled, is_grad_enabled, no_grad, no_grad_guard};
pub use options::BackwardOptions;
pub use post_accumulate::BackwardPass;
pub use trace::{Attribute, Step, Trace, trace, trace_with_reads, traced_steps};

pub(crate) use composed::record_gradient;
pub(crate) use fused_relu::{FusedReluBackward, ReluEpilogue};
pub(crate) use meta::Meta;
pub(crate) use node::Edge;
pub(crate) use record::{copy_slices_node, is_recorded, record, record_all, record_node};
pub(crate) use rule::{Arrived, Ctx, Grads, one};
pub(crate) use trace::{hides, is_tracing, untraced};
