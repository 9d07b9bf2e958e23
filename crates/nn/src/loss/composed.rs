//! Common parts of the losses that are composed of tensor operations: their structs, and reduction.

use kiln_tensor::{Error, Reduction, Result, Tensor};

/// Loss structs with a reduction and settings, each with PyTorch's name and default.
macro_rules! composed {
    ($(
        $(#[$doc:meta])*
        $name:ident $([$weight:ident $weight_doc:literal])? {
            $($field:ident: $ty:ty = $default:expr, $field_doc:literal;)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Module)]
        pub struct $name {
            $($weight: Option<Buffer>,)?
            reduction: Reduction,
            $($field: $ty,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($weight: None,)? reduction: Reduction::Mean, $($field: $default,)* }
            }
        }

        #[located(site)]
        impl $name {
            /// A loss with PyTorch's defaults.
            #[must_use]
            pub fn new() -> $name {
                $name::default()
            }

            /// How elements are combined: [`Reduction::Mean`] by default.
            #[must_use]
            pub fn reduction(mut self, reduction: Reduction) -> $name {
                self.reduction = reduction;
                self
            }

            $(
                #[doc = $weight_doc]
                #[must_use]
                pub fn $weight(self, $weight: Tensor) -> $name {
                    $name { $weight: Some(Buffer::new($weight)), ..self }
                }
            )?

            $(
                #[doc = $field_doc]
                #[must_use]
                pub fn $field(self, $field: $ty) -> $name {
                    $name { $field, ..self }
                }
            )*
        }
    )*};
}
pub(super) use composed;

/// Applies the reduction to the losses of elements or samples.
pub(super) fn reduced(losses: Tensor, reduction: Reduction) -> Result<Tensor> {
    match reduction {
        Reduction::None => Ok(losses),
        Reduction::Mean => losses.mean(()),
        Reduction::Sum => losses.sum(()),
    }
}

/// Refuses a target of another shape: broadcasting it would hide a mistake.
pub(super) fn same_shape(op: &'static str, input: &Tensor, target: &Tensor) -> Result<()> {
    if input.shape() == target.shape() {
        return Ok(());
    }
    Err(Error::shapes(op, input.shape(), target.shape(), "the target must have the input's shape"))
}

/// `x * log(y)`, 0 where `x` is 0.
pub(super) fn x_log_y(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let zero = x.eq(0.0)?;
    // Ignored elements are replaced by one, so that their gradient is not NaN.
    let y = zero.where_cond(1.0, y)?;
    zero.where_cond(0.0, &x.mul(&y.log()?)?)
}
