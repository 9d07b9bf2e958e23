//! Training steps that are captured as a graph and then launched as a whole: [`CapturedStep`], and what operations, layers
//! and optimizers tell a capture.

mod record;
mod refuse;
mod step;
mod tree;

pub use kiln_backend::is_capturing;
pub use record::{before_launch, valid_while};
pub(crate) use record::{is_grad_new, note_grad_read, note_grad_replaced, note_low_copy};
pub use refuse::on_host;
pub(crate) use refuse::{refuse_elsewhere, refuse_read, refuse_upload};
pub use step::CapturedStep;
pub use tree::TensorTree;

use kiln_backend::Result;

/// An error if this thread captures. Call it before doing what cannot be captured, such as changing a layer's state on the
/// host. The capture then fails, even if the caller ignores the error.
///
/// # Errors
/// [`ErrorKind::Capture`](kiln_backend::ErrorKind::Capture) with this operation and reason.
pub fn unless_capturing(op: &'static str, reason: &str) -> Result<()> {
    kiln_backend::unless_capturing(op, reason)
}
