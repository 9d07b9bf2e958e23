//! The CPU backend of Kiln: every primitive of `Backend` in native Rust, parallel with rayon, vectorised
//! for the CPU that it runs on.
//!
//! An operation is a module of its name. What they share: `buffer` and `pool` own memory, `view` turns
//! the contract's untyped views into checked typed pointers, `dispatch` goes from a dtype to a Rust type
//! (`stored`), `iter` walks strided layouts, `tile` is the element-wise engine on top of it, `par` splits
//! work over threads and `simd` compiles loops for several instruction sets.

mod arg_reduce;
mod binary;
mod binary_kernels;
mod buffer;
mod class_loss;
mod conv;
mod convert;
mod copy;
mod dispatch;
mod dropout;
mod fill;
mod fold;
mod gemm;
mod index;
mod int;
mod iter;
mod lines;
mod math;
mod matmul;
mod norm;
mod normal;
mod optim;
mod par;
mod philox;
mod pointwise_loss;
mod pool;
mod pool2d;
mod random;
mod real;
mod reduce;
mod scan;
mod select;
mod simd;
mod softmax;
mod sort;
mod stored;
#[cfg(test)]
mod testing;
mod tile;
mod triangle;
mod unary;
mod view;

use kiln_backend::{
    Affine, ArgReduceOp, Backend, BinaryOp, Buffer, ClassLoss, Conv2d, DType, Distribution, Error, HostMemory, HostVec,
    MemoryStats, NormGrads, Operand, OptimRule, OptimSlot, PointwiseLoss, Pool2d, PoolDivisor, Ramp, RandomState,
    ReduceOp, Result, RunningStats, Scalar, ScatterMode, SideOf, UnaryOp, View, ViewMut,
};

use crate::buffer::CpuBuffer;

/// The CPU as a device. It has no state: memory and threads belong to the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend;

/// The one CPU.
#[must_use]
pub fn backend() -> &'static CpuBackend {
    &CpuBackend
}

impl Backend for CpuBackend {
    fn alloc(&self, dtype: DType, len: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CpuBuffer::new(dtype, len)?))
    }

    fn adopt(&self, data: HostVec) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CpuBuffer::adopt(data)))
    }

    fn wrap(&self, dtype: DType, len: usize, memory: Box<dyn HostMemory>) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CpuBuffer::wrap(dtype, len, memory)?))
    }

    fn download(&self, src: &dyn Buffer, start: usize, dst: &mut [u8]) -> Result<()> {
        let bytes = src.host_bytes().ok_or_else(|| Error::devices("download", "cpu", "another device"))?;
        let source = start.checked_mul(src.dtype().size()).and_then(|at| bytes.get(at..)?.get(..dst.len()));
        let Some(source) = source else {
            let message = format!("{} bytes from element {start} on are asked of {src:?}", dst.len());
            return Err(Error::argument("download", message));
        };
        dst.copy_from_slice(source);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory_stats(&self) -> MemoryStats {
        pool::stats()
    }

    fn reset_peak_memory(&self) {
        pool::reset_peak();
    }

    fn empty_cache(&self) {
        pool::empty_cache();
    }

    fn fill(&self, value: Scalar, out: ViewMut) -> Result<()> {
        fill::fill(value, out)
    }

    fn ramp(&self, ramp: Ramp, out: ViewMut) -> Result<()> {
        fill::ramp(ramp, out)
    }

    fn random(&self, distribution: Distribution, state: RandomState, out: ViewMut) -> Result<()> {
        random::random(distribution, state, out)
    }

    fn copy(&self, x: View, out: ViewMut) -> Result<()> {
        copy::copy(x, out)
    }

    fn unary(&self, op: UnaryOp, x: View, out: ViewMut) -> Result<()> {
        unary::unary(op, x, out)
    }

    fn unary_grad(&self, op: UnaryOp, grad: View, saved: Option<View>, out: ViewMut) -> Result<()> {
        unary::unary_grad(op, grad, saved, out)
    }

    fn binary(&self, op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        binary::binary(op, a, b, out)
    }

    fn binary_grad(&self, op: BinaryOp, side: SideOf, grad: View, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        binary::binary_grad(op, side, grad, a, b, out)
    }

    fn binary_assign(&self, op: BinaryOp, b: Operand, out: ViewMut) -> Result<()> {
        binary::binary_assign(op, b, out)
    }

    fn select(&self, condition: View, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        select::select(condition, a, b, out)
    }

    fn dropout(&self, p: f64, state: RandomState, x: View, out: ViewMut) -> Result<()> {
        dropout::dropout(p, state, x, out)
    }

    fn triangle(&self, upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()> {
        triangle::triangle(upper, diagonal, x, out)
    }

    fn reduce(&self, op: ReduceOp, x: View, out: ViewMut) -> Result<()> {
        reduce::reduce(op, x, out)
    }

    fn arg_reduce(
        &self,
        op: ArgReduceOp,
        x: View,
        dim: usize,
        values: Option<ViewMut>,
        indices: ViewMut,
    ) -> Result<()> {
        arg_reduce::arg_reduce(op, x, dim, values, indices)
    }

    fn cumsum(&self, x: View, dim: usize, out: ViewMut) -> Result<()> {
        scan::cumsum(x, dim, out)
    }

    fn sort(&self, x: View, dim: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
        sort::sort(x, dim, descending, values, indices)
    }

    fn search_sorted(&self, sorted: View, values: View, right: bool, out: ViewMut) -> Result<()> {
        sort::search_sorted(sorted, values, right, out)
    }

    fn softmax(&self, x: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        softmax::softmax(x, dim, log, out)
    }

    fn softmax_grad(&self, grad: View, y: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        softmax::softmax_grad(grad, y, dim, log, out)
    }

    fn index_select(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()> {
        index::index_select(x, dim, index, out)
    }

    fn index_add(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()> {
        index::index_add(x, dim, index, out)
    }

    fn gather(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()> {
        index::gather(x, dim, index, out)
    }

    fn scatter(&self, mode: ScatterMode, x: Operand, dim: usize, index: View, out: ViewMut) -> Result<()> {
        index::scatter(mode, x, dim, index, out)
    }

    fn matmul(&self, a: View, b: View, out: ViewMut) -> Result<()> {
        matmul::matmul(a, b, out)
    }

    fn linear(&self, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()> {
        matmul::linear(x, w, bias, relu, out)
    }

    fn conv2d(&self, rule: &Conv2d, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()> {
        conv::conv2d(rule, x, w, bias, relu, out)
    }

    fn conv2d_grad_input(&self, rule: &Conv2d, grad: View, w: View, out: ViewMut) -> Result<()> {
        conv::conv2d_grad_input(rule, grad, w, out)
    }

    fn conv2d_grad_weight(&self, rule: &Conv2d, grad: View, x: View, out: ViewMut) -> Result<()> {
        conv::conv2d_grad_weight(rule, grad, x, out)
    }

    fn max_pool2d(&self, pool: &Pool2d, x: View, out: ViewMut, indices: Option<ViewMut>) -> Result<()> {
        pool2d::max_pool2d(pool, x, out, indices)
    }

    fn max_pool2d_grad(&self, pool: &Pool2d, grad: View, indices: View, out: ViewMut) -> Result<()> {
        pool2d::max_pool2d_grad(pool, grad, indices, out)
    }

    fn avg_pool2d(&self, pool: &Pool2d, divisor: PoolDivisor, x: View, out: ViewMut) -> Result<()> {
        pool2d::avg_pool2d(pool, divisor, x, out)
    }

    fn avg_pool2d_grad(&self, pool: &Pool2d, divisor: PoolDivisor, grad: View, out: ViewMut) -> Result<()> {
        pool2d::avg_pool2d_grad(pool, divisor, grad, out)
    }

    fn batch_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        running: Option<RunningStats>,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()> {
        norm::batch_norm(eps, x, affine, running, out, mean, inv_std)
    }

    fn batch_norm_eval(&self, eps: f64, x: View, affine: Affine, mean: View, var: View, out: ViewMut) -> Result<()> {
        norm::batch_norm_eval(eps, x, affine, mean, var, out)
    }

    fn batch_norm_grad(
        &self,
        training: bool,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()> {
        norm::batch_norm_grad(training, grad, x, weight, mean, inv_std, grads)
    }

    fn layer_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()> {
        norm::layer_norm(eps, x, affine, out, mean, inv_std)
    }

    fn layer_norm_grad(
        &self,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()> {
        norm::layer_norm_grad(grad, x, weight, mean, inv_std, grads)
    }

    fn class_loss(
        &self,
        rule: &ClassLoss,
        x: View,
        target: View,
        weight: Option<View>,
        loss: ViewMut,
        lse: ViewMut,
        total: ViewMut,
    ) -> Result<()> {
        class_loss::class_loss(rule, x, target, weight, loss, lse, total)
    }

    fn class_loss_grad(
        &self,
        rule: &ClassLoss,
        grad: View,
        x: View,
        target: View,
        weight: Option<View>,
        lse: View,
        total: View,
        out: ViewMut,
    ) -> Result<()> {
        class_loss::class_loss_grad(rule, grad, x, target, weight, lse, total, out)
    }

    fn pointwise_loss(&self, loss: &PointwiseLoss, out: ViewMut) -> Result<()> {
        pointwise_loss::pointwise_loss(loss, out)
    }

    fn pointwise_loss_grad(&self, loss: &PointwiseLoss, grad: View, out: ViewMut) -> Result<()> {
        pointwise_loss::pointwise_loss_grad(loss, grad, out)
    }

    fn optimizer_step(&self, rule: &OptimRule, lr: View, slots: &mut [OptimSlot]) -> Result<()> {
        optim::optimizer_step(rule, lr, slots)
    }
}
