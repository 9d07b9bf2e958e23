//! Two-dimensional max and average pooling, and their gradients.

use kiln_backend::{
    AvgPool2dArgs, AvgPool2dGradArgs, Checked, DType, Layout, MaxPool2dArgs, MaxPool2dGradArgs, Pool2d, Pool2dBackend,
    PoolDivisor, Result,
};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    params::{self, PackedMean, PackedPool, Pool, Status},
    view::{Access, Tensor},
};

/// Images (or their gradients) before and after pooling.
struct Images<'a> {
    before: Tensor<'a>,
    after: Tensor<'a>,
}

fn strides(layout: &Layout) -> [i64; 4] {
    std::array::from_fn(|dim| layout.strides().get(dim).map_or(0, |&stride| stride as i64))
}

fn packed<'a>(t: &Tensor<'a>) -> params::Images<'a> {
    params::Images { layout: t.layout, address: t.address, size: t.dtype.size() }
}

impl Pool {
    /// Sets the positions of maxima.
    fn positions(self, indices: &Tensor) -> Pool {
        let taps = if indices.dtype == DType::U8 { Pool::TAPS } else { 0 };
        Pool { indices: strides(indices.layout), flags: self.flags | taps, ..self }
    }
}

impl Images<'_> {
    fn dims(&self) -> [[usize; 4]; 2] {
        [self.before, self.after].map(|t| std::array::from_fn(|dim| t.layout.dims().get(dim).map_or(1, |&n| n)))
    }

    fn params(&self, pool: &Pool2d, backward: bool) -> Pool {
        let (input, output) = (strides(self.before.layout), strides(self.after.layout));
        let params = Pool::new(pool, self.dims(), backward, if backward { input } else { output });
        Pool { input, output, ..params }
    }

    /// Computes max pooling or (`backward`) its gradient in packs; `None` if that is not possible.
    fn max_packed(
        &self,
        device: &'static Device,
        pool: &Pool2d,
        indices: Option<Tensor>,
        backward: bool,
    ) -> Option<Result<()>> {
        if indices.is_some_and(|indices| indices.dtype != DType::U8) {
            return None;
        }
        let (before, after, taps) = (packed(&self.before), packed(&self.after), indices.as_ref().map(packed));
        let (op, params) = PackedPool::new(pool, before, after, taps, backward)?;
        if params.packs == 0 {
            return None;
        }
        let (tag, blocks) = (Tag::of(self.before.dtype), params::blocks(params.packs.into()));
        let (before, after, taps) = (before.address, after.address, taps.map_or(0, |taps| taps.address));
        let start = || {
            if backward {
                launch!(device, MAX_POOL_PACKED_GRAD, op, tag, blocks, params, after, taps, before)
            } else {
                launch!(device, MAX_POOL_PACKED, op, tag, blocks, params, before, after, taps)
            }
        };
        Some(start())
    }

    /// Whether the output is the mean of each plane.
    fn is_mean(&self, pool: &Pool2d, divisor: PoolDivisor) -> bool {
        let [[_, _, h, w], [_, _, out_h, out_w]] = self.dims();
        let whole = match *pool {
            Pool2d::Adaptive => true,
            Pool2d::Window { kernel, padding, .. } => kernel == [h, w] && padding == [0; 2],
        };
        whole && (out_h, out_w) == (1, 1) && h * w > 0 && !matches!(divisor, PoolDivisor::Fixed(_))
    }
}

impl Pool2dBackend for CudaBackend {
    fn max_pool2d(&self, args: Checked<MaxPool2dArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "max_pool2d" };
        let MaxPool2dArgs { pool, x, out, indices } = args.into_inner();
        let images = Images { before: access.read(x)?, after: access.write(out)? };
        let indices = access.write_if(indices)?;
        if let Some(done) = images.max_packed(device, &pool, indices, false) {
            return done;
        }
        let mut params = images.params(&pool, false);
        if params.numel == 0 {
            return Ok(());
        }
        if let Some(indices) = indices {
            params = params.positions(&indices);
        }
        let (tag, blocks) = (Tag::of(images.after.dtype), params::blocks(params.numel));
        let (x, out, to) = (images.before.address, images.after.address, indices.map_or(0, |indices| indices.address));
        launch!(device, MAX_POOL, "largest", tag, blocks, params, x, out, to)
    }

    fn max_pool2d_grad(&self, args: Checked<MaxPool2dGradArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "max_pool2d_grad" };
        let MaxPool2dGradArgs { pool, grad, indices, out } = args.into_inner();
        let images = Images { before: access.write(out)?, after: access.read(grad)? };
        let indices = access.read(indices)?;
        if let Some(done) = images.max_packed(device, &pool, Some(indices), true) {
            return done;
        }
        let params = images.params(&pool, true).positions(&indices);
        if params.numel == 0 {
            return Ok(());
        }
        let (tag, blocks) = (Tag::of(images.after.dtype), params::blocks(params.numel));
        let (grad, from, out) = (images.after.address, indices.address, images.before.address);
        let status = device.status(Status::INDEX, access.op);
        launch!(device, MAX_POOL_GRAD, "gather", tag, blocks, params, grad, from, out, status)
    }

    fn avg_pool2d(&self, args: Checked<AvgPool2dArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "avg_pool2d" };
        let AvgPool2dArgs { pool, divisor, x, out } = args.into_inner();
        let images = Images { before: access.read(x)?, after: access.write(out)? };
        let params = images.params(&pool, false).divided(divisor);
        if params.numel == 0 {
            return Ok(());
        }
        if images.is_mean(&pool, divisor) {
            // A reduction divides each plane among many threads: there may be fewer planes than the GPU has threads.
            return device.reduce_checked("mean", images.before, images.after, 0.0);
        }
        let (tag, blocks) = (Tag::of(images.after.dtype), params::blocks(params.numel));
        let (x, out) = (images.before.address, images.after.address);
        launch!(device, AVG_POOL, "mean", tag, blocks, params, x, out)
    }

    fn avg_pool2d_grad(&self, args: Checked<AvgPool2dGradArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "avg_pool2d_grad" };
        let AvgPool2dGradArgs { pool, divisor, grad, out } = args.into_inner();
        let images = Images { before: access.write(out)?, after: access.read(grad)? };
        let params = images.params(&pool, true).divided(divisor);
        if params.numel == 0 {
            return Ok(());
        }
        let tag = Tag::of(images.after.dtype);
        let (grad, out) = (images.after.address, images.before.address);
        let packed =
            images.is_mean(&pool, divisor).then(|| PackedMean::new(packed(&images.before), packed(&images.after)));
        if let Some((op, params)) = packed.flatten() {
            return launch!(device, MEAN_PACKED_GRAD, op, tag, params::blocks(params.packs.into()), params, grad, out);
        }
        let blocks = params::blocks(params.numel);
        launch!(device, AVG_POOL_GRAD, "gather", tag, blocks, params, grad, out)
    }
}
