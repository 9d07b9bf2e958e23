//! Where a walk through a model is, for the names of tensors and for errors.

use kiln_tensor::Error;

/// The current path in a walk through a model: names with dots between them.
#[derive(Default)]
pub(super) struct Path(Vec<String>);

impl Path {
    pub(super) fn push(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(super) fn pop(&mut self) {
        self.0.pop();
    }

    pub(super) fn text(&self) -> String {
        self.0.join(".")
    }

    pub(super) fn wrong(&self, op: &'static str, why: impl std::fmt::Display) -> Error {
        let at = if self.0.is_empty() { "the model".into() } else { self.text() };
        Error::argument(op, format!("{at}: {why}"))
    }
}
