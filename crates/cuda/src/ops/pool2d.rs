//! Pooling of images: the largest element or the average of windows, and their gradients.

use kiln_backend::{DType, Error, Layout, Pool2d, Pool2dBackend, PoolDivisor, Result, View, ViewMut};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::{self, Pool, Status},
    view::Tensor,
};

/// An image before pooling, or its gradient, and one after it.
struct Images<'a> {
    op: &'static str,
    before: Tensor<'a>,
    after: Tensor<'a>,
    /// Extents of both.
    dims: [[usize; 4]; 2],
}

fn strides(layout: &Layout) -> [i64; 4] {
    std::array::from_fn(|dim| layout.strides().get(dim).map_or(0, |&stride| stride as i64))
}

impl<'a> Images<'a> {
    /// Checks that they have one dtype, and the same images and channels.
    fn new(op: &'static str, before: Tensor<'a>, after: Tensor<'a>) -> Result<Images<'a>> {
        let misfit = || {
            let expected = "images [N, C, H, W] before and after pooling";
            Error::shapes(op, before.layout.shape(), after.layout.shape(), expected)
        };
        if !before.dtype.is_float() {
            return Err(Error::dtype(op, before.dtype, "it takes floats"));
        }
        after.of(op, before.dtype)?;
        let dims = |layout: &Layout| <[usize; 4]>::try_from(layout.dims()).map_err(|_| misfit());
        let dims = [dims(before.layout)?, dims(after.layout)?];
        if dims[0][..2] != dims[1][..2] {
            return Err(misfit());
        }
        Ok(Images { op, before, after, dims })
    }

    fn params(&self, pool: &Pool2d, backward: bool) -> Result<Pool> {
        // Every adaptive window has an element, so the input must have one.
        if *pool == Pool2d::Adaptive && self.before.layout.numel() == 0 && self.after.layout.numel() > 0 {
            return Err(Error::shape(self.op, "an input with pixels", self.before.layout.shape()));
        }
        let (input, output) = (strides(self.before.layout), strides(self.after.layout));
        let params = Pool::new(self.op, pool, self.dims, backward, if backward { input } else { output })?;
        Ok(Pool { input, output, ..params })
    }

    fn averages(&self, pool: &Pool2d, divisor: PoolDivisor, backward: bool) -> Result<Pool> {
        if let Pool2d::Window { dilation, .. } = pool
            && *dilation != [1; 2]
        {
            return Err(Error::argument(self.op, format!("averages are of neighbors, but {pool:?}")));
        }
        Ok(self.params(pool, backward)?.divided(divisor))
    }

    /// Whether the output is the mean of each plane.
    fn is_mean(&self, pool: &Pool2d, divisor: PoolDivisor) -> bool {
        let [[_, _, h, w], [_, _, out_h, out_w]] = self.dims;
        let whole = match *pool {
            Pool2d::Adaptive => true,
            Pool2d::Window { kernel, padding, .. } => kernel == [h, w] && padding == [0; 2],
        };
        whole && (out_h, out_w) == (1, 1) && h * w > 0 && !matches!(divisor, PoolDivisor::Fixed(_))
    }
}

/// The positions of maxima, in the shape of the output.
fn positions(op: &'static str, indices: Tensor, after: Tensor) -> Result<(u64, [i64; 4])> {
    let indices = indices.of(op, DType::I64)?.shaped(op, after.layout)?;
    Ok((indices.address, strides(indices.layout)))
}

impl Pool2dBackend for CudaBackend {
    fn max_pool2d(&self, pool: &Pool2d, x: View, out: ViewMut, indices: Option<ViewMut>) -> Result<()> {
        let device = self.0;
        const OP: &str = "max_pool2d";
        let images = Images::new(OP, Tensor::read(device, OP, x)?, Tensor::write(device, OP, out)?)?;
        let mut params = images.params(pool, false)?;
        let mut to = 0;
        if let Some(view) = indices {
            (to, params.indices) = positions(OP, Tensor::write(device, OP, view)?, images.after)?;
        }
        if params.numel == 0 {
            return Ok(());
        }
        let (tag, blocks) = (Tag::of(images.after.dtype), params::blocks(params.numel));
        let (x, out) = (images.before.address, images.after.address);
        launch!(device, MAX_POOL, "largest", tag, blocks, params, x, out, to)
    }

    fn max_pool2d_grad(&self, pool: &Pool2d, grad: View, indices: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "max_pool2d_grad";
        let images = Images::new(OP, Tensor::write(device, OP, out)?, Tensor::read(device, OP, grad)?)?;
        let mut params = images.params(pool, true)?;
        let from;
        (from, params.indices) = positions(OP, Tensor::read(device, OP, indices)?, images.after)?;
        if params.numel == 0 {
            return Ok(());
        }
        let (tag, blocks) = (Tag::of(images.after.dtype), params::blocks(params.numel));
        let (grad, out) = (images.after.address, images.before.address);
        let status = device.status(Status::INDEX, OP);
        launch!(device, MAX_POOL_GRAD, "gather", tag, blocks, params, grad, from, out, status)
    }

    fn avg_pool2d(&self, pool: &Pool2d, divisor: PoolDivisor, x: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "avg_pool2d";
        let images = Images::new(OP, Tensor::read(device, OP, x)?, Tensor::write(device, OP, out)?)?;
        let params = images.averages(pool, divisor, false)?;
        if params.numel == 0 {
            return Ok(());
        }
        if images.is_mean(pool, divisor) {
            // Shared by many threads: there may be fewer planes than a GPU has.
            return device.reduce_checked("mean", images.before, images.after, 0.0);
        }
        let (tag, blocks) = (Tag::of(images.after.dtype), params::blocks(params.numel));
        let (x, out) = (images.before.address, images.after.address);
        launch!(device, AVG_POOL, "mean", tag, blocks, params, x, out)
    }

    fn avg_pool2d_grad(&self, pool: &Pool2d, divisor: PoolDivisor, grad: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "avg_pool2d_grad";
        let images = Images::new(OP, Tensor::write(device, OP, out)?, Tensor::read(device, OP, grad)?)?;
        let params = images.averages(pool, divisor, true)?;
        if params.numel == 0 {
            return Ok(());
        }
        let (tag, blocks) = (Tag::of(images.after.dtype), params::blocks(params.numel));
        let (grad, out) = (images.after.address, images.before.address);
        launch!(device, AVG_POOL_GRAD, "gather", tag, blocks, params, grad, out)
    }
}
