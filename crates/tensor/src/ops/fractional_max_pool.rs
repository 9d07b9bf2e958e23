//! Fractional max pooling: maxima of windows whose distances are drawn, so that extents shrink by any factor (Graham, 2014).

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::{check, images::with_indices};
use crate::{autograd::no_grad, tensor::Tensor};

/// The first elements of the windows along one dimension, `[N, C, windows]`, in the pseudo-random sequence of the paper:
/// `samples` `[N, C]` are the draws, and the last window ends with the plane.
fn starts(samples: &Tensor, extent: usize, window: usize, windows: usize) -> Result<Tensor> {
    let samples = samples.unsqueeze(2)?;
    let last = Tensor::full(samples.shape(), (extent - window) as i64, (DType::I64, samples.device()))?;
    if windows < 2 {
        return last.narrow(2, 0, windows);
    }
    let step = (extent - window) as f64 / (windows - 1) as f64;
    let at = |places: &Tensor| places.mul(step)?.to_dtype(DType::I64);
    let steps = Tensor::arange(0, windows as i64 - 1, samples.device())?.to_dtype(samples.dtype())?;
    let starts = at(&samples.add(&steps)?)?.sub(&at(&samples)?)?;
    Tensor::cat(&[&starts, &last], 2)
}

/// The positions in their planes of the elements of all windows, `[N, C, windows, elements]`.
fn positions<const N: usize>(x: &Tensor, samples: &Tensor, window: [usize; N], size: [usize; N]) -> Result<Tensor> {
    let (n, c, extents) = (x.dims()[0], x.dims()[1], &x.dims()[2..]);
    // `[N, C, windows…, elements…]`, with extents of 1 where a dimension is not reached yet.
    let mut ones = vec![1; 2 + 2 * N];
    (ones[0], ones[1]) = (n, c);
    let mut places = Tensor::zeros(&ones[..], (DType::I64, x.device()))?;
    for axis in 0..N {
        // PyTorch draws the width of images first, but the depth of volumes.
        let draw = if N == 2 { 1 - axis } else { axis };
        let starts = starts(&samples.select(2, draw as i64)?, extents[axis], window[axis], size[axis])?;
        let offsets = Tensor::arange(0, window[axis] as i64, x.device())?;
        let along = starts.unsqueeze(3)?.add(&offsets)?;
        let mut shape = ones.clone();
        (shape[2 + axis], shape[2 + N + axis]) = (size[axis], window[axis]);
        places = places.mul(extents[axis] as i64)?.add(&along.reshape(shape)?)?;
    }
    places.reshape([n, c, size.iter().product(), window.iter().product()])
}

/// The maxima of a batch `[N, C, …]` and their positions.
fn pooled<const N: usize>(
    op: &'static str,
    x: &Tensor,
    window: [usize; N],
    size: [usize; N],
    samples: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (n, c, extents) = (x.dims()[0], x.dims()[1], &x.dims()[2..]);
    for axis in 0..N {
        let fits = size[axis].checked_add(window[axis]).is_some_and(|sum| sum <= extents[axis] + 1);
        if window[axis] == 0 || size[axis] == 0 || !fits {
            let message = format!("{size:?} windows of {window:?}, each with an element of its own");
            return Err(Error::shape(op, message, x.shape()));
        }
    }
    let samples = match samples {
        Some(samples) => {
            if samples.rank() != 3 || samples.dims()[0] < n || samples.dims()[1..] != [c, N] {
                return Err(Error::shape(op, format!("random samples [{n}, {c}, {N}]"), samples.shape()));
            }
            check::floats(op, samples)?;
            check::same_device(op, x, &[samples])?;
            samples.narrow(0, 0, n)?
        }
        None => Tensor::rand([n, c, N], (DType::F32, x.device()))?,
    };
    let planes = x.reshape([n, c, extents.iter().product()])?;
    let chosen = no_grad(|| {
        let samples = if samples.dtype() == DType::F64 { samples } else { samples.to_dtype(DType::F32)? };
        let places = positions(x, &samples, window, size)?;
        let (windows, elements) = (places.dims()[2], places.dims()[3]);
        let values = planes.gather(2, &places.reshape([n, c, windows * elements])?)?;
        let largest = values.reshape([n, c, windows, elements])?.argmax(3)?;
        places.gather(3, &largest.unsqueeze(3)?)?.squeeze(3)
    })?;
    let shape = [vec![n, c], size.to_vec()].concat();
    Ok((planes.gather(2, &chosen)?.reshape(&shape[..])?, chosen.reshape(&shape[..])?))
}

macro_rules! fractional {
    ($($n:literal $images:literal $page:literal $name:ident $with_indices:ident;)*) => {
        #[located]
        impl Tensor {$(
            #[doc = concat!("The maxima of `size` overlapping windows of ", $images, ", whose distances are drawn for each plane")]
            #[doc = concat!("(Graham, 2014; <https://docs.pytorch.org/docs/stable/generated/torch.nn.", $page, ".html>).")]
            #[doc = concat!("`random_samples`, `[N, C, ", stringify!($n), "]` in `[0, 1)`, determine the windows; they are drawn if not given.")]
            ///
            /// # Errors
            /// If a plane is too small for windows that begin with different elements, the samples have another shape, or the
            /// tensor is not floating-point.
            pub fn $name(&self, window: [usize; $n], size: [usize; $n], random_samples: Option<&Tensor>) -> Result<Tensor> {
                Ok(self.$with_indices(window, size, random_samples).map_err(|error| error.of_op(stringify!($name)))?.0)
            }

            #[doc = concat!("[`", stringify!($name), "`](Tensor::", stringify!($name), "), and the position of each maximum in its plane (`i64`).")]
            ///
            /// # Errors
            #[doc = concat!("Those of [`", stringify!($name), "`](Tensor::", stringify!($name), ").")]
            pub fn $with_indices(
                &self,
                window: [usize; $n],
                size: [usize; $n],
                random_samples: Option<&Tensor>,
            ) -> Result<(Tensor, Tensor)> {
                const OP: &str = stringify!($with_indices);
                with_indices(OP, $n, self, |x| pooled(OP, x, window, size, random_samples))
            }
        )*}
    };
}
fractional! {
    2 "images `[N, C, H, W]` or `[C, H, W]`" "FractionalMaxPool2d" fractional_max_pool2d fractional_max_pool2d_with_indices;
    3 "volumes `[N, C, D, H, W]` or `[C, D, H, W]`" "FractionalMaxPool3d"
        fractional_max_pool3d fractional_max_pool3d_with_indices;
}
