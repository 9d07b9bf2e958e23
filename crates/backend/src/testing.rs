//! Operands for tests of the contracts: a dtype and a layout, without memory.

use std::any::Any;

use crate::{
    dtype::DType,
    layout::Layout,
    shape::Shape,
    view::{Buffer, View, ViewMut},
};

/// A buffer that has a dtype and nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory(pub(crate) DType);

impl Memory {
    pub(crate) fn view<'a>(&'a self, layout: &'a Layout) -> View<'a> {
        View { buffer: self, layout }
    }

    pub(crate) fn view_mut<'a>(&'a mut self, layout: &'a Layout) -> ViewMut<'a> {
        ViewMut { buffer: self, layout }
    }
}

impl Buffer for Memory {
    fn dtype(&self) -> DType {
        self.0
    }

    fn len(&self) -> usize {
        0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A row-major layout.
pub(crate) fn layout(dims: &[usize]) -> Layout {
    Layout::contiguous(Shape::new(dims).unwrap())
}
