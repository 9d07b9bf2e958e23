//! Containers as modules: their elements are named by position or key, as in PyTorch's `ModuleList`,
//! `ParameterList` and `ModuleDict`.

use std::{any::Any, collections::BTreeMap};

use kiln_tensor::Result;
use serde_json::Value;

use super::{
    field::{Field, FieldKind},
    hooks::Hooks,
    tree::{ModuleTree, Part, PartMut},
};

use crate::saved::Describing;

const fn name_of_list(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Parameter => "ParameterList",
        FieldKind::Buffer => "BufferList",
        FieldKind::Module | FieldKind::Plain => "ModuleList",
    }
}

/// A container counts as a module unless its elements are plain configuration.
macro_rules! field_of_elements {
    ([$($generics:tt)*] $ty:ty, $kind:expr) => {
        impl<$($generics)*> Field for $ty {
            const KIND: FieldKind = if matches!($kind, FieldKind::Plain) { FieldKind::Plain } else { FieldKind::Module };
            fn visit_field<'a>(&'a self, name: &str, each: &mut dyn FnMut(&str, Part<'a>)) {
                if !matches!(Self::KIND, FieldKind::Plain) {
                    each(name, Part::Module(self));
                }
            }
            fn visit_field_mut<'a>(&'a mut self, name: &str, each: &mut dyn FnMut(&str, PartMut<'a>)) {
                if !matches!(Self::KIND, FieldKind::Plain) {
                    each(name, PartMut::Module(self));
                }
            }
        }
    };
}

macro_rules! list {
    ($([$($generics:tt)*] $ty:ty;)*) => {$(
        impl<$($generics)*> ModuleTree for $ty {
            fn type_name(&self) -> &str {
                name_of_list(T::KIND)
            }
            fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
                for (i, element) in self.iter().enumerate() {
                    element.visit_field(&i.to_string(), each);
                }
            }
            fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
                for (i, element) in self.iter_mut().enumerate() {
                    element.visit_field_mut(&i.to_string(), each);
                }
            }
            fn folds_equal_children(&self) -> bool {
                true
            }
        }
        field_of_elements!([$($generics)*] $ty, T::KIND);
    )*};
}
list! {
    [T: Field] Vec<T>;
    [T: Field, const N: usize] [T; N];
}

macro_rules! tuple {
    ($($ty:ident $i:tt),*) => {
        impl<$($ty: Field),*> ModuleTree for ($($ty,)*) {
            fn type_name(&self) -> &str {
                "ModuleList"
            }
            fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
                $(self.$i.visit_field(stringify!($i), each);)*
            }
            fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
                $(self.$i.visit_field_mut(stringify!($i), each);)*
            }
            fn folds_equal_children(&self) -> bool {
                true
            }
        }
        field_of_elements!(
            [$($ty: Field),*] ($($ty,)*),
            if $(matches!($ty::KIND, FieldKind::Plain))&&* { FieldKind::Plain } else { FieldKind::Module }
        );
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);

impl<T: Field> ModuleTree for BTreeMap<String, T> {
    fn type_name(&self) -> &str {
        if matches!(T::KIND, FieldKind::Parameter) { "ParameterDict" } else { "ModuleDict" }
    }
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
        for (name, element) in self {
            element.visit_field(name, each);
        }
    }
    fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        for (name, element) in self {
            element.visit_field_mut(name, each);
        }
    }
}
field_of_elements!([T: Field] BTreeMap<String, T>, T::KIND);

/// Transparent: forwards to the module inside, which may be a `dyn Module`.
impl<M: ModuleTree + ?Sized> ModuleTree for Box<M> {
    fn type_name(&self) -> &str {
        (**self).type_name()
    }
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
        (**self).visit(each);
    }
    fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        (**self).visit_mut(each);
    }
    fn extra_repr(&self) -> String {
        (**self).extra_repr()
    }
    fn folds_equal_children(&self) -> bool {
        (**self).folds_equal_children()
    }
    fn hooks(&self) -> Option<&Hooks> {
        (**self).hooks()
    }
    fn as_any(&self) -> Option<&dyn Any> {
        (**self).as_any()
    }
    fn address(&self) -> usize {
        (**self).address()
    }
    fn architecture(&self, at: &mut Describing) -> Result<Value> {
        (**self).architecture(at)
    }
}

impl<M: ModuleTree + ?Sized> Field for Box<M> {
    const KIND: FieldKind = FieldKind::Module;
    fn visit_field<'a>(&'a self, name: &str, each: &mut dyn FnMut(&str, Part<'a>)) {
        each(name, Part::Module(self));
    }
    fn visit_field_mut<'a>(&'a mut self, name: &str, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        each(name, PartMut::Module(self));
    }
}
