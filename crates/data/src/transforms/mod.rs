//! Transforms of samples, with the names and the results of `torchvision.transforms`.
//!
//! [`DatasetExt::transform`](crate::DatasetExt::transform) applies a transform when a sample is read, on the loader's
//! worker threads; [`Transform::apply`] applies it to one value. A sequence of transforms is a tuple:
//!
//! ```
//! use kiln_data::transforms::{CenterCrop, Compose, Image, Normalize, Resize, ToTensor, Transform};
//!
//! let prepare = Compose((
//!     Resize::shorter(256),
//!     CenterCrop::square(224),
//!     ToTensor,
//!     Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])?,
//! ));
//! let photograph = Image::new(300, 400, 3, vec![128; 300 * 400 * 3])?;
//! assert_eq!(prepare.apply(photograph)?.dims(), [3, 224, 224]);
//! # Ok::<(), kiln_tensor::Error>(())
//! ```
//!
//! [`Resize`] and [`RandomResizedCrop`] need the feature `images`, as does [`Image::open`]; the others are in every build.
//!
//! A function from a sample to a `Result` is a transform as well; [`Lambda`] is torchvision's name for it.
//!
//! Random transforms draw new parameters for each sample. In a loader these depend only on its seed, the epoch and the
//! batch, so an epoch repeats bit for bit with any number of workers; elsewhere they follow
//! [`manual_seed`](kiln_tensor::manual_seed).

mod adjust;
mod color;
mod convert;
mod crop;
mod erase;
mod flip;
mod hsv;
mod image_ops;
mod interpolation;
mod on_batch;
mod pixel_ops;
mod planes;
#[cfg(feature = "images")]
mod random_resized_crop;
#[cfg(feature = "images")]
mod resize;
mod rotate;
mod rotation;

pub use color::{ColorJitter, Grayscale};
pub(crate) use convert::unit;
pub use convert::{Normalize, OneHot, ToImage, ToTensor};
pub use crop::{CenterCrop, Pad, RandomCrop};
pub use erase::{RandomErasing, erase};
pub use flip::{RandomHorizontalFlip, RandomVerticalFlip};
pub use image_ops::ImageOps;
pub use interpolation::Interpolation;
use kiln_derive::located;
use kiln_tensor::Result;
pub use on_batch::{BatchTransform, OnBatch};
#[cfg(feature = "images")]
pub use random_resized_crop::RandomResizedCrop;
#[cfg(feature = "images")]
pub use resize::Resize;
pub use rotate::RandomRotation;
pub use rotation::Rotation;

use crate::dataset::short_type_name;
pub use crate::image::{Image, ImageLimits};

/// A function of a sample, or of one part of it.
pub trait Transform<X>: Send + Sync {
    /// The type of the result.
    type Output;

    /// Applies the transform.
    ///
    /// # Errors
    /// If the transform cannot be applied to `x`.
    fn apply(&self, x: X) -> Result<Self::Output>;
}

impl<X, T, F> Transform<X> for F
where
    F: Fn(X) -> Result<T> + Send + Sync,
{
    type Output = T;
    fn apply(&self, x: X) -> Result<T> {
        self(x)
    }
}

/// Transforms applied one after another, up to twelve: `Compose((first, second, third))`. A tuple without `Compose` is
/// equivalent.
#[derive(Clone, Copy, Debug)]
pub struct Compose<T>(pub T);

impl<X, T: Transform<X>> Transform<X> for Compose<T> {
    type Output = T::Output;
    fn apply(&self, x: X) -> Result<T::Output> {
        self.0.apply(x)
    }
}

/// A function as a transform: torchvision's `Lambda`. A function is also a transform by itself.
///
/// ```
/// use kiln_data::{Dataset, DatasetExt, Samples, transforms::Lambda};
/// use kiln_tensor::{Device, Tensor};
///
/// let one_hot = Lambda::new(|y: i64| {
///     let out = Tensor::zeros(10, Device::Cpu)?;
///     out.scatter_(0, &Tensor::new([y], Device::Cpu)?, 1)?;
///     Ok(out)
/// });
/// let data = Samples(vec![("boot", 9i64)]).target_transform(one_hot);
/// assert_eq!(data.get(0)?.1.to_vec::<f32>()?, [0., 0., 0., 0., 0., 0., 0., 0., 0., 1.]);
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Lambda<F>(F);

#[located(site)]
impl<F> Lambda<F> {
    /// The transform that calls `f`.
    pub fn new<X, T>(f: F) -> Lambda<F>
    where
        F: Fn(X) -> Result<T> + Send + Sync,
    {
        Lambda(f)
    }
}

impl<X, T, F> Transform<X> for Lambda<F>
where
    F: Fn(X) -> Result<T> + Send + Sync,
{
    type Output = T;
    fn apply(&self, x: X) -> Result<T> {
        (self.0)(x)
    }
}

/// Applies a transform. Errors name it; in a sequence, the one that failed.
pub(crate) fn transformed<X, T: Transform<X>>(transform: &T, x: X) -> Result<T::Output> {
    transform.apply(x).map_err(|error| error.in_transform(short_type_name::<T>))
}

/// Each line adds one transform to those before it.
macro_rules! tuples {
    ($first:ident; $($more:ident)*) => { tuples!(@ $first; $first; ; $($more)*); };
    (@ $head:ident; $last:ident; $($done:ident < $before:ident)*; ) => { tuples!(# $head; $last; $($done < $before)*); };
    (@ $head:ident; $last:ident; $($done:ident < $before:ident)*; $next:ident $($more:ident)*) => {
        tuples!(# $head; $last; $($done < $before)*);
        tuples!(@ $head; $next; $($done < $before)* $next < $last; $($more)*);
    };
    (# $head:ident; $last:ident; $($done:ident < $before:ident)*) => {
        impl<X, $head: Transform<X>, $($done: Transform<$before::Output>,)*> Transform<X> for ($head, $($done,)*) {
            type Output = $last::Output;
            #[allow(non_snake_case)]
            fn apply(&self, x: X) -> Result<Self::Output> {
                let ($head, $($done,)*) = self;
                let x = transformed($head, x)?;
                $(let x = transformed($done, x)?;)*
                Ok(x)
            }
        }
    };
}
tuples!(A; B C D E F G H I J K L);
