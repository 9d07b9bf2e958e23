//! `Field`: the types that a module's fields may have.

use std::{marker::PhantomData, path::PathBuf, time::Duration};

use kiln_tensor::{DType, Device, Reduction, Scalar, Shape};

use super::{
    hooks::Hooks,
    tree::{Part, PartMut},
};
use crate::parameter::{Buffer, Parameter, Training};

/// What a type of field holds; for a container, what its elements hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Nothing that belongs to the module's state.
    Plain,
    /// Parameters.
    Parameter,
    /// Buffers.
    Buffer,
    /// Modules, or the training switch.
    Module,
}

/// A type that may be a field of a struct with `#[derive(Module)]`; [`Module`](crate::Module) lists them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of a module",
    label = "neither a module, `Parameter` or `Buffer`, nor plain configuration",
    note = "wrap a trained tensor in `Parameter::new(…)?` and any other tensor in `Buffer::new(…)`",
    note = "derive `Module` for a struct of layers; mark anything else with `#[module(skip)]`"
)]
pub trait Field: Send + Sync {
    /// What it holds.
    const KIND: FieldKind;

    /// Calls `each` with the field named `name`, if it is part of the module's state.
    fn visit_field<'a>(&'a self, name: &str, each: &mut dyn FnMut(&str, Part<'a>));

    /// [`visit_field`](Field::visit_field) with mutable access.
    fn visit_field_mut<'a>(&'a mut self, name: &str, each: &mut dyn FnMut(&str, PartMut<'a>));
}

macro_rules! leaf {
    ($($ty:ident $kind:ident;)*) => {$(
        impl Field for $ty {
            const KIND: FieldKind = FieldKind::$kind;
            fn visit_field<'a>(&'a self, name: &str, each: &mut dyn FnMut(&str, Part<'a>)) {
                each(name, Part::$ty(self));
            }
            fn visit_field_mut<'a>(&'a mut self, name: &str, each: &mut dyn FnMut(&str, PartMut<'a>)) {
                each(name, PartMut::$ty(self));
            }
        }
    )*};
}
leaf! {
    Parameter Parameter;
    Buffer Buffer;
    Training Module;
}

macro_rules! plain {
    ($([$($generics:tt)*] $ty:ty;)*) => {$(
        impl<$($generics)*> Field for $ty {
            const KIND: FieldKind = FieldKind::Plain;
            fn visit_field<'a>(&'a self, _: &str, _: &mut dyn FnMut(&str, Part<'a>)) {}
            fn visit_field_mut<'a>(&'a mut self, _: &str, _: &mut dyn FnMut(&str, PartMut<'a>)) {}
        }
    )*};
    ($($ty:ident)*) => { plain! { $([] $ty;)* } };
}
plain!(bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 String PathBuf Duration);
plain!(DType Device Hooks Reduction Scalar Shape);
plain! {
    [] ();
    ['s] &'s str;
    [T: Send + Sync + ?Sized] PhantomData<T>;
}

/// Visits the value if it is `Some`.
impl<T: Field> Field for Option<T> {
    const KIND: FieldKind = T::KIND;
    fn visit_field<'a>(&'a self, name: &str, each: &mut dyn FnMut(&str, Part<'a>)) {
        if let Some(field) = self {
            field.visit_field(name, each);
        }
    }
    fn visit_field_mut<'a>(&'a mut self, name: &str, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        if let Some(field) = self {
            field.visit_field_mut(name, each);
        }
    }
}
