//! `OnBatch`: transforms of whole batches on their device.

use kiln_tensor::{DType, Error, Result, Tensor};

use super::{
    Transform,
    convert::{Normalize, ToTensor},
    crop::{CenterCrop, Pad, RandomCrop},
    flip::{RandomHorizontalFlip, RandomVerticalFlip},
    image_ops::ImageOps,
    pixel_ops::padded_extent,
};
use crate::dataset::short_type_name;

/// A transform that can be applied to a batch `[n, channels, height, width]` with operations on its device.
pub trait BatchTransform: Send + Sync {
    /// The random parameters of one sample.
    type Plan;

    /// Draws the parameters of the next sample, of height and width `extent`, exactly as [`Transform::apply`] would,
    /// and updates `extent` to the size of the result.
    ///
    /// # Errors
    /// If the transform cannot be applied to such an image.
    fn plan(&self, extent: &mut (usize, usize)) -> Result<Self::Plan>;

    /// Transforms all samples, each with its parameters.
    ///
    /// # Errors
    /// Those of [`Transform::apply`].
    fn apply(&self, batch: Tensor, plans: Vec<Self::Plan>) -> Result<Tensor>;
}

/// Transforms of a batch `[n, channels, height, width]` on its device. The results are those of the same transforms
/// applied to each sample, including in a loader, where they draw the same random numbers. So the preparation of images
/// moves from the workers to the GPU, and bytes are uploaded instead of floats.
///
/// ```
/// use kiln_data::{DataLoader, Samples, transforms::{Image, Normalize, OnBatch, RandomCrop, RandomHorizontalFlip,
/// ToTensor, Transform}}; use kiln_tensor::Device;
///
/// let device = Device::cuda_if_available();
/// let images: Samples<(Image, i64)> =
///     (0..8u8).map(|i| Ok((Image::new(36, 36, 3, vec![i; 36 * 36 * 3])?, i.into()))).collect::<Result<_, kiln_tensor::Error>>()?;
/// let prepare =
///     OnBatch((RandomCrop::new(32, 32), RandomHorizontalFlip::default(), ToTensor, Normalize::new([0.5], [0.25])?));
/// let loader = DataLoader::builder(images)
///     .batch_size(4)
///     .device(device) // bytes
///     .map_batches(move |(x, y)| Ok((prepare.apply(x)?, y)))
///     .build()?;
/// for batch in &loader {
///     assert_eq!(batch?.0.dims(), [4, 3, 32, 32]);
/// }
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// [`RandomCrop`], [`CenterCrop`], [`Pad`], [`RandomHorizontalFlip`], [`RandomVerticalFlip`], [`ToTensor`] and
/// [`Normalize`] work on batches, and so do tuples of them.
#[derive(Clone, Copy, Debug)]
pub struct OnBatch<T>(pub T);

impl<T: BatchTransform> Transform<Tensor> for OnBatch<T> {
    type Output = Tensor;
    fn apply(&self, batch: Tensor) -> Result<Tensor> {
        let [n, _, height, width] = *batch.dims() else {
            return Err(Error::shape("OnBatch", "a batch, [n, channels, height, width]", batch.shape()));
        };
        let plans = (0..n).map(|_| self.0.plan(&mut (height, width))).collect::<Result<Vec<_>>>()?;
        self.0.apply(batch.detach(), plans)
    }
}

impl BatchTransform for RandomCrop {
    type Plan = (usize, usize);

    fn plan(&self, extent: &mut (usize, usize)) -> Result<(usize, usize)> {
        let offset = self.draw_offset(self.padded_extent(*extent)?)?;
        *extent = self.size();
        Ok(offset)
    }

    fn apply(&self, batch: Tensor, plans: Vec<(usize, usize)>) -> Result<Tensor> {
        let (batch, (rows, columns)) = (self.padded(batch)?, self.size());
        // First rows, and then columns as the rows of the transposed batch: two copies, whatever the number of samples.
        let transposed = select_rows(&batch, rows, plans.iter().map(|offset| offset.0))?.transpose(-1, -2)?;
        select_rows(&transposed, columns, plans.iter().map(|offset| offset.1))?.transpose(-1, -2)?.contiguous()
    }
}

/// `count` rows of each sample, starting at the sample's own first row.
fn select_rows(batch: &Tensor, count: usize, firsts: impl ExactSizeIterator<Item = usize>) -> Result<Tensor> {
    let (n, channels, height, width) = batch.dims4()?;
    let mut rows = Vec::with_capacity(n * channels * count);
    for (sample, first) in firsts.enumerate() {
        for channel in 0..channels {
            let start = ((sample * channels + channel) * height + first) as i64;
            rows.extend(start..start + count as i64);
        }
    }
    let rows = Tensor::from_vec(rows, n * channels * count, batch.device())?;
    batch.reshape([n * channels * height, width])?.index_select(0, &rows)?.reshape([n, channels, count, width])
}

macro_rules! flips {
    ($($name:ident $dim:literal)*) => {$(
        impl BatchTransform for $name {
            type Plan = bool;

            fn plan(&self, _: &mut (usize, usize)) -> Result<bool> {
                Ok(self.draw())
            }

            fn apply(&self, batch: Tensor, plans: Vec<bool>) -> Result<Tensor> {
                let flipped = Tensor::from_vec(plans, [batch.size(0)?, 1, 1, 1], batch.device())?;
                flipped.where_cond(&batch.flip($dim)?, &batch)
            }
        }
    )*};
}
flips!(RandomHorizontalFlip -1 RandomVerticalFlip -2);

/// Transforms without random parameters. After the name comes the extent of the result.
macro_rules! plain {
    ($($name:ident |$self:ident, $extent:ident| $after:expr, |$batch:ident| $apply:expr;)*) => {$(
        impl BatchTransform for $name {
            type Plan = ();

            fn plan(&$self, $extent: &mut (usize, usize)) -> Result<()> {
                *$extent = $after;
                Ok(())
            }

            fn apply(&$self, $batch: Tensor, _: Vec<()>) -> Result<Tensor> {
                $apply
            }
        }
    )*};
}
plain! {
    CenterCrop |self, extent| self.size(), |batch| Transform::apply(self, batch);
    Pad |self, extent| padded_extent(*extent, self.margin())?, |batch| batch.pad(self.margin(), self.filling());
    ToTensor |self, extent| *extent, |batch| match batch.dtype() {
        DType::U8 => batch.to_dtype(DType::F32)?.div(255.0),
        dtype => Err(Error::dtype("ToTensor", dtype, "a batch of bytes is expected")),
    };
    Normalize |self, extent| *extent, |batch| Transform::apply(self, batch);
}

macro_rules! tuple {
    ($($ty:ident $plans:ident)+) => {
        impl<$($ty: BatchTransform),+> BatchTransform for ($($ty,)+) {
            type Plan = ($($ty::Plan,)+);

            #[allow(non_snake_case)]
            fn plan(&self, extent: &mut (usize, usize)) -> Result<Self::Plan> {
                let ($($ty,)+) = self;
                Ok(($($ty.plan(extent).map_err(|error| error.in_transform(short_type_name::<$ty>))?,)+))
            }

            #[allow(non_snake_case)]
            fn apply(&self, batch: Tensor, plans: Vec<Self::Plan>) -> Result<Tensor> {
                let ($($ty,)+) = self;
                $(let mut $plans = Vec::with_capacity(plans.len());)+
                for plan in plans {
                    let ($($ty,)+) = plan;
                    $($plans.push($ty);)+
                }
                $(
                    let failed = |error: Error| error.in_transform(short_type_name::<$ty>);
                    let batch = $ty.apply(batch, $plans).map_err(failed)?;
                )+
                Ok(batch)
            }
        }
    };
}
tuple!(A a);
tuple!(A a B b);
tuple!(A a B b C c);
tuple!(A a B b C c D d);
tuple!(A a B b C c D d E e);
tuple!(A a B b C c D d E e F f);
