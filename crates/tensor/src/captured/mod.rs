//! Steps that are captured once and launched as a whole: [`CapturedStep`], and what operations, layers and optimizers tell
//! a capture.

mod record;
mod step;
mod tree;

pub use kiln_backend::is_capturing;
pub use record::{before_launch, on_host, valid_while};
pub(crate) use record::{
    note_changed, note_grad_read, note_grad_replaced, refuse_elsewhere, refuse_read, refuse_upload,
};
pub use step::CapturedStep;
pub use tree::TensorTree;

use kiln_backend::Result;

/// For operations and layers that do what cannot be captured, such as to change their own state on the host: an error if the
/// work of this thread is being captured, and then the capture fails, whatever becomes of the error.
///
/// # Errors
/// [`ErrorKind::Capture`](kiln_backend::ErrorKind::Capture) with this operation and reason.
pub fn unless_capturing(op: &'static str, reason: &str) -> Result<()> {
    kiln_backend::unless_capturing(op, reason)
}
