//! `Saved` for field types: how parameters, buffers, containers and plain values are written and restored.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use kiln_tensor::{DType, PoolDivisor, Result, Tensor};
use serde_json::json;

use super::{Saved, Value, describing::Describing, restoring::Restoring};
use crate::{
    module::Module,
    parameter::{Buffer, Parameter, Training},
};

macro_rules! by_serde {
    ($($ty:ty)*) => {$(
        impl Saved for $ty {
            fn save(&self, at: &mut Describing) -> Result<Value> {
                serde_json::to_value(self).map_err(|e| at.wrong(e))
            }
            fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<$ty> {
                serde_json::from_value(value.clone()).map_err(|e| at.wrong(e))
            }
        }
    )*};
}
by_serde!(bool char u8 u16 u32 u64 usize i8 i16 i32 i64 isize String PathBuf Duration);

macro_rules! floats {
    ($($ty:ty)*) => {$(
        impl Saved for $ty {
            fn save(&self, _: &mut Describing) -> Result<Value> {
                // JSON cannot represent numbers that are not finite.
                Ok(if self.is_finite() { json!(self) } else { json!(self.to_string().to_lowercase()) })
            }
            fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<$ty> {
                match value {
                    Value::String(text) => match text.as_str() {
                        "inf" => Ok(<$ty>::INFINITY),
                        "-inf" => Ok(<$ty>::NEG_INFINITY),
                        "nan" => Ok(<$ty>::NAN),
                        _ => Err(at.wrong(format!("{text:?} is not a number"))),
                    },
                    _ => serde_json::from_value(value.clone()).map_err(|e| at.wrong(e)),
                }
            }
        }
    )*};
}
floats!(f32 f64);

impl Saved for DType {
    fn save(&self, _: &mut Describing) -> Result<Value> {
        Ok(json!(self.torch_name()))
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<DType> {
        let found = DType::ALL.into_iter().find(|dtype| value == dtype.torch_name());
        found.ok_or_else(|| at.wrong(format!("{value} is not a dtype")))
    }
}

/// Makes an enum without fields plain configuration of a module ([`Field`](crate::Field)) that is saved by its
/// variants' names.
///
/// ```
/// # use kiln_nn::saved_choice;
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// enum PaddingMode { Zeros, Reflect }
/// saved_choice!(PaddingMode { Zeros "zeros", Reflect "reflect" });
/// ```
#[macro_export]
macro_rules! saved_choice {
    ($ty:ty { $($variant:ident $name:literal),* $(,)? }) => {
        impl $crate::Field for $ty {
            const KIND: $crate::FieldKind = $crate::FieldKind::Plain;
            fn visit_field<'a>(&'a self, _: &str, _: &mut dyn FnMut(&str, $crate::Part<'a>)) {}
            fn visit_field_mut<'a>(&'a mut self, _: &str, _: &mut dyn FnMut(&str, $crate::PartMut<'a>)) {}
        }

        impl $crate::saved::Saved for $ty {
            fn save(&self, _: &mut $crate::saved::Describing) -> ::std::result::Result<$crate::saved::Value, $crate::saved::Error> {
                let name = match self { $(<$ty>::$variant => $name,)* };
                Ok($crate::saved::Value::from(name))
            }
            fn restore(
                value: &$crate::saved::Value,
                at: &mut $crate::saved::Restoring<'_>,
            ) -> ::std::result::Result<$ty, $crate::saved::Error> {
                match value.as_str() {
                    $(Some($name) => Ok(<$ty>::$variant),)*
                    _ => Err(at.wrong(format!("{value} is not one of {}", [$($name),*].join(", ")))),
                }
            }
        }
    };
}

/// Saved as `true` for `count_include_pad`, `false` without it, or the divisor.
impl Saved for PoolDivisor {
    fn save(&self, _: &mut Describing) -> Result<Value> {
        Ok(match self {
            PoolDivisor::WithPadding => json!(true),
            PoolDivisor::Inside => json!(false),
            PoolDivisor::Fixed(divisor) => json!(divisor),
        })
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<PoolDivisor> {
        match value {
            Value::Bool(true) => Ok(PoolDivisor::WithPadding),
            Value::Bool(false) => Ok(PoolDivisor::Inside),
            _ => i64::restore(value, at).map(PoolDivisor::Fixed),
        }
    }
}

impl Saved for Training {
    fn save(&self, _: &mut Describing) -> Result<Value> {
        Ok(json!(self.is_on()))
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Training> {
        let switch = Training::default();
        switch.set(bool::restore(value, at)?);
        Ok(switch)
    }
}

/// `{name: value}`, or the path of the same tensor seen earlier.
fn save_tensor(tensor: &Tensor, name: &str, value: bool, at: &mut Describing) -> Value {
    match at.tensor(tensor) {
        Some(path) => json!({ "same": path }),
        None => json!({ name: value }),
    }
}

fn same(value: &Value) -> Option<&str> {
    value.get("same")?.as_str()
}

impl Saved for Parameter {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        Ok(save_tensor(self, "requires_grad", self.requires_grad(), at))
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Parameter> {
        if let Some(path) = same(value) {
            return Parameter::tied(at.same(path)?);
        }
        let requires_grad = value.get("requires_grad").and_then(Value::as_bool);
        let requires_grad = requires_grad.ok_or_else(|| at.wrong("expected a parameter"))?;
        let parameter = Parameter::new(at.tensor()?).map_err(|e| at.wrong(e))?;
        parameter.set_requires_grad(requires_grad)?;
        at.made(&parameter);
        Ok(parameter)
    }
}

impl Saved for Buffer {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        Ok(save_tensor(self, "persistent", self.is_persistent(), at))
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Buffer> {
        if let Some(path) = same(value) {
            return Ok(Buffer::tied(at.same(path)?));
        }
        let persistent = value.get("persistent").and_then(Value::as_bool);
        let persistent = persistent.ok_or_else(|| at.wrong("expected a buffer"))?;
        let tensor = at.tensor()?;
        let buffer = if persistent { Buffer::new(tensor) } else { Buffer::non_persistent(tensor) };
        at.made(&buffer);
        Ok(buffer)
    }
}

impl<T: Saved> Saved for Option<T> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        self.as_ref().map_or(Ok(Value::Null), |value| value.save(at))
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Option<T>> {
        if value.is_null() { Ok(None) } else { T::restore(value, at).map(Some) }
    }
}

fn save_all<'t, T: Saved + 't>(items: impl IntoIterator<Item = &'t T>, at: &mut Describing) -> Result<Value> {
    let save = |(i, item): (usize, &T)| at.inside(&i.to_string(), |at| item.save(at));
    items.into_iter().enumerate().map(save).collect::<Result<Vec<_>>>().map(Value::Array)
}

fn list<'v>(value: &'v Value, at: &Restoring<'_>) -> Result<&'v [Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| at.wrong("expected a list"))
}

impl<T: Saved> Saved for Vec<T> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        save_all(self, at)
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Vec<T>> {
        let items = list(value, at)?.iter().enumerate();
        items.map(|(i, item)| at.inside(&i.to_string(), |at| T::restore(item, at))).collect()
    }
}

impl<T: Saved, const N: usize> Saved for [T; N] {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        save_all(self, at)
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<[T; N]> {
        let items = Vec::restore(value, at)?;
        let count = items.len();
        items.try_into().map_err(|_| at.wrong(format!("expected {N} elements, found {count}")))
    }
}

macro_rules! tuple {
    ($count:literal $($ty:ident $i:tt),*) => {
        impl<$($ty: Saved),*> Saved for ($($ty,)*) {
            fn save(&self, at: &mut Describing) -> Result<Value> {
                Ok(Value::Array(vec![$(at.inside(stringify!($i), |at| self.$i.save(at))?),*]))
            }
            fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<($($ty,)*)> {
                match list(value, at)? {
                    items if items.len() == $count => {
                        Ok(($(at.inside(stringify!($i), |at| $ty::restore(&items[$i], at))?,)*))
                    }
                    items => Err(at.wrong(format!("{} elements are there, and {} are wanted", items.len(), $count))),
                }
            }
        }
    };
}
tuple!(1 A 0);
tuple!(2 A 0, B 1);
tuple!(3 A 0, B 1, C 2);
tuple!(4 A 0, B 1, C 2, D 3);

impl<T: Saved> Saved for BTreeMap<String, T> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        let save = |(name, item): (&String, &T)| Ok((name.clone(), at.inside(name, |at| item.save(at))?));
        self.iter().map(save).collect::<Result<_>>().map(Value::Object)
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<BTreeMap<String, T>> {
        let items = value.as_object().ok_or_else(|| at.wrong("expected an object"))?;
        let restore = |(name, item): (&String, &Value)| Ok((name.clone(), at.inside(name, |at| T::restore(item, at))?));
        items.iter().map(restore).collect()
    }
}

/// What a box may hold: a known type, or any module.
pub trait Boxed {
    #[doc(hidden)]
    fn save_inside(&self, at: &mut Describing) -> Result<Value>;
    #[doc(hidden)]
    fn restore_boxed(value: &Value, at: &mut Restoring<'_>) -> Result<Box<Self>>;
}

impl<T: Saved> Boxed for T {
    fn save_inside(&self, at: &mut Describing) -> Result<Value> {
        self.save(at)
    }
    fn restore_boxed(value: &Value, at: &mut Restoring<'_>) -> Result<Box<T>> {
        T::restore(value, at).map(Box::new)
    }
}

impl Boxed for dyn Module {
    fn save_inside(&self, at: &mut Describing) -> Result<Value> {
        self.architecture(at)
    }
    fn restore_boxed(value: &Value, at: &mut Restoring<'_>) -> Result<Box<dyn Module>> {
        at.any(value)
    }
}

impl<T: Boxed + ?Sized> Saved for Box<T> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        (**self).save_inside(at)
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Box<T>> {
        T::restore_boxed(value, at)
    }
}
