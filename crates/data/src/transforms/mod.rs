//! Changes of samples: what `torchvision.transforms` does, with its names and numbers.
//!
//! A transform is a value. [`DatasetExt::transform`](crate::DatasetExt::transform) applies it when a sample is read, on
//! the loader's worker threads; [`Transform::apply`] applies it to one thing. Several in turn are a tuple:
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
//! A function from a sample to a `Result` is a transform, too (torchvision's `Lambda`).
//!
//! Random ones draw other numbers for each sample. In a loader these depend on its seed, the epoch and the batch alone,
//! so an epoch can be repeated bit for bit with any number of workers; elsewhere they follow
//! [`manual_seed`](kiln_tensor::manual_seed).

mod convert;
mod crop;
mod flip;
mod image;
mod picture;
mod random_resized_crop;
mod resize;

pub use convert::{Normalize, OneHot, ToImage, ToTensor};
pub use crop::{CenterCrop, Pad, RandomCrop};
pub use flip::{RandomHorizontalFlip, RandomVerticalFlip};
pub use image::Image;
use kiln_tensor::Result;
pub use picture::Picture;
pub use random_resized_crop::RandomResizedCrop;
pub use resize::{Interpolation, Resize};

/// A change of one sample, or of one part of it.
pub trait Transform<X>: Send + Sync {
    /// What it makes.
    type Output;

    /// Changes `x`.
    ///
    /// # Errors
    /// `x` is not what it can change.
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

/// Transforms one after the other: `Compose((first, second, third))`, up to twelve. (A tuple without `Compose` is one
/// as well.)
#[derive(Clone, Copy, Debug)]
pub struct Compose<T>(pub T);

impl<X, T: Transform<X>> Transform<X> for Compose<T> {
    type Output = T::Output;
    fn apply(&self, x: X) -> Result<T::Output> {
        self.0.apply(x)
    }
}

/// Each line adds one to the transforms before it.
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
                let x = $head.apply(x)?;
                $(let x = $done.apply(x)?;)*
                Ok(x)
            }
        }
    };
}
tuples!(A; B C D E F G H I J K L);
