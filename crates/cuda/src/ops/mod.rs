//! The primitives, a file a family. Each checks its operands, makes the parameters of its kernels, and queues them.

mod conv;
mod elementwise;
mod fill;
mod index;
pub(crate) mod launch;
mod linear;
mod loss;
mod matmul;
mod norm;
mod optim;
mod pool;
mod reduce;
mod sort;
mod values;

use kiln_backend::{
    Affine, ArgReduceOp, Backend, BinaryOp, Buffer, ClassLoss, Conv2d, DType, Distribution, Error, HostMemory, HostVec,
    MemoryStats, NormGrads, Operand, OptimRule, OptimSlot, PointwiseLoss, Pool2d, PoolDivisor, Ramp, RandomState,
    ReduceOp, Result, RunningStats, Scalar, ScatterMode, SideOf, UnaryOp, View, ViewMut, linear_relu_grad_in_parts,
};

use crate::{device::CudaBackend, gemm::lt::mask_len, memory::CudaBuffer};

impl Backend for CudaBackend {
    fn alloc(&self, dtype: DType, len: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CudaBuffer::new(self.0.memory, dtype, len)?))
    }

    fn adopt(&self, data: HostVec) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(self.0.upload(data.dtype(), data.bytes())?))
    }

    fn pinned(&self, bytes: usize) -> Result<Box<dyn HostMemory>> {
        Ok(Box::new(self.0.pages.pin(bytes)?))
    }

    fn import(&self, dtype: DType, bytes: &[u8]) -> Result<Box<dyn Buffer>> {
        if dtype == DType::Bool {
            // Kernels rely on 0 and 1.
            return self.adopt(HostVec::Bool(bytes.iter().map(|&byte| byte != 0).collect()));
        }
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(Error::argument("import", format!("{} bytes are no whole number of {dtype}", bytes.len())));
        }
        Ok(Box::new(self.0.upload(dtype, bytes)?))
    }

    fn download(&self, src: &dyn Buffer, start: usize, dst: &mut [u8]) -> Result<()> {
        const OP: &str = "download";
        let here = || format!("cuda:{}", self.0.index());
        let buffer = src.as_any().downcast_ref::<CudaBuffer>();
        let buffer = buffer.filter(|buffer| buffer.device_index() == self.0.index());
        let buffer = buffer.ok_or_else(|| Error::devices(OP, here(), "another device"))?;
        let (size, len) = (src.dtype().size(), src.len());
        let end = start.checked_mul(size).and_then(|at| at.checked_add(dst.len()));
        if end.is_none_or(|end| end > len * size) {
            let message = format!("{} bytes from element {start} on are asked of {src:?}", dst.len());
            return Err(Error::argument(OP, message));
        }
        // SAFETY: the range was checked to lie in the buffer.
        unsafe { self.0.receive(buffer.address() + (start * size) as u64, dst) }
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: nothing is read.
        unsafe { self.0.receive(0, &mut []) }
    }

    fn memory_stats(&self) -> MemoryStats {
        self.0.memory.stats()
    }

    fn reset_peak_memory(&self) {
        self.0.memory.reset_peak();
    }

    fn empty_cache(&self) {
        self.0.memory.empty_cache();
    }

    fn fill(&self, value: Scalar, out: ViewMut) -> Result<()> {
        self.0.fill_impl(value, out)
    }

    fn ramp(&self, ramp: Ramp, out: ViewMut) -> Result<()> {
        self.0.ramp_impl(ramp, out)
    }

    fn random(&self, distribution: Distribution, state: RandomState, out: ViewMut) -> Result<()> {
        self.0.random_impl(distribution, state, out)
    }

    fn copy(&self, x: View, out: ViewMut) -> Result<()> {
        self.0.copy_impl(x, out)
    }

    fn unary(&self, op: UnaryOp, x: View, out: ViewMut) -> Result<()> {
        self.0.unary_impl(op, x, out)
    }

    fn unary_grad(&self, op: UnaryOp, grad: View, saved: Option<View>, out: ViewMut) -> Result<()> {
        self.0.unary_grad_impl(op, grad, saved, out)
    }

    fn binary(&self, op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        self.0.binary_impl(op, a, b, out)
    }

    fn binary_grad(&self, op: BinaryOp, side: SideOf, grad: View, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        self.0.binary_grad_impl(op, side, grad, a, b, out)
    }

    fn binary_assign(&self, op: BinaryOp, b: Operand, out: ViewMut) -> Result<()> {
        self.0.binary_assign_impl(op, b, out)
    }

    fn select(&self, condition: View, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        self.0.select_impl(condition, a, b, out)
    }

    fn dropout(&self, p: f64, state: RandomState, x: View, out: ViewMut) -> Result<()> {
        self.0.dropout_impl(p, state, x, out)
    }

    fn triangle(&self, upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()> {
        self.0.triangle_impl(upper, diagonal, x, out)
    }

    fn reduce(&self, op: ReduceOp, x: View, out: ViewMut) -> Result<()> {
        self.0.reduce_impl(op, x, out)
    }

    fn arg_reduce(
        &self,
        op: ArgReduceOp,
        x: View,
        dim: usize,
        values: Option<ViewMut>,
        indices: ViewMut,
    ) -> Result<()> {
        self.0.arg_reduce_impl(op, x, dim, values, indices)
    }

    fn cumsum(&self, x: View, dim: usize, out: ViewMut) -> Result<()> {
        self.0.cumsum_impl(x, dim, out)
    }

    fn sort(&self, x: View, dim: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
        self.0.sort_impl(x, dim, descending, values, indices)
    }

    fn search_sorted(&self, sorted: View, values: View, right: bool, out: ViewMut) -> Result<()> {
        self.0.search_sorted_impl(sorted, values, right, out)
    }

    fn softmax(&self, x: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        self.0.softmax_impl(x, dim, log, out)
    }

    fn softmax_grad(&self, grad: View, y: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        self.0.softmax_grad_impl(grad, y, dim, log, out)
    }

    fn index_select(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()> {
        self.0.index_select_impl(x, dim, index, out)
    }

    fn index_add(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()> {
        self.0.index_add_impl(x, dim, index, out)
    }

    fn gather(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()> {
        self.0.gather_impl(x, dim, index, out)
    }

    fn scatter(&self, mode: ScatterMode, x: Operand, dim: usize, index: View, out: ViewMut) -> Result<()> {
        self.0.scatter_impl(mode, x, dim, index, out)
    }

    fn matmul(&self, a: View, b: View, out: ViewMut) -> Result<()> {
        self.0.matmul_impl(a, b, out)
    }

    fn linear(&self, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()> {
        self.0.linear_impl(x, w, bias, relu, out)
    }

    fn relu_mask_len(&self, rows: usize, columns: usize) -> usize {
        // A row of ours is a column of the library's.
        mask_len(columns, rows)
    }

    fn linear_relu_masked(&self, x: View, w: View, bias: Option<View>, out: ViewMut, mask: ViewMut) -> Result<bool> {
        self.0.linear_relu_masked_impl(x, w, bias, out, mask)
    }

    fn linear_grad(&self, grad: View, x: View, weight: ViewMut, bias: ViewMut) -> Result<()> {
        self.0.linear_grad_impl(grad, x, weight, bias)
    }

    fn linear_relu_grad(
        &self,
        grad: View,
        w: View,
        y: View,
        mask: Option<View>,
        out: ViewMut,
        mut bias: Option<ViewMut>,
    ) -> Result<()> {
        if let Some(mask) = mask {
            let to = ViewMut { buffer: &mut *out.buffer, layout: out.layout };
            let sums = bias.as_mut().map(|bias| ViewMut { buffer: &mut *bias.buffer, layout: bias.layout });
            if self.0.linear_relu_grad_impl(grad, w, mask, to, sums)? {
                return Ok(());
            }
        }
        linear_relu_grad_in_parts(self, grad, w, y, out, bias)
    }

    fn conv2d(&self, rule: &Conv2d, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()> {
        self.0.conv2d_impl(rule, x, w, bias, relu, out)
    }

    fn conv2d_grad_input(&self, rule: &Conv2d, grad: View, w: View, out: ViewMut) -> Result<()> {
        self.0.conv2d_grad_input_impl(rule, grad, w, out)
    }

    fn conv2d_grad_weight(&self, rule: &Conv2d, grad: View, x: View, out: ViewMut) -> Result<()> {
        self.0.conv2d_grad_weight_impl(rule, grad, x, out)
    }

    fn max_pool2d(&self, pool: &Pool2d, x: View, out: ViewMut, indices: Option<ViewMut>) -> Result<()> {
        self.0.max_pool2d_impl(pool, x, out, indices)
    }

    fn max_pool2d_grad(&self, pool: &Pool2d, grad: View, indices: View, out: ViewMut) -> Result<()> {
        self.0.max_pool2d_grad_impl(pool, grad, indices, out)
    }

    fn avg_pool2d(&self, pool: &Pool2d, divisor: PoolDivisor, x: View, out: ViewMut) -> Result<()> {
        self.0.avg_pool2d_impl(pool, divisor, x, out)
    }

    fn avg_pool2d_grad(&self, pool: &Pool2d, divisor: PoolDivisor, grad: View, out: ViewMut) -> Result<()> {
        self.0.avg_pool2d_grad_impl(pool, divisor, grad, out)
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
        self.0.batch_norm_impl(eps, x, affine, running, out, mean, inv_std)
    }

    fn batch_norm_eval(&self, eps: f64, x: View, affine: Affine, mean: View, var: View, out: ViewMut) -> Result<()> {
        self.0.batch_norm_eval_impl(eps, x, affine, mean, var, out)
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
        self.0.batch_norm_grad_impl(training, grad, x, weight, mean, inv_std, grads)
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
        self.0.layer_norm_impl(eps, x, affine, out, mean, inv_std)
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
        self.0.layer_norm_grad_impl(grad, x, weight, mean, inv_std, grads)
    }

    fn relu_bias_grad(&self, grad: View, y: View, dim: usize, out: ViewMut, bias: ViewMut) -> Result<()> {
        self.0.relu_bias_grad_impl(grad, y, dim, out, bias)
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
        self.0.class_loss_impl(rule, x, target, weight, loss, lse, total)
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
        self.0.class_loss_grad_impl(rule, grad, x, target, weight, lse, total, out)
    }

    fn pointwise_loss(&self, loss: &PointwiseLoss, out: ViewMut) -> Result<()> {
        self.0.pointwise_loss_impl(loss, out)
    }

    fn pointwise_loss_grad(&self, loss: &PointwiseLoss, grad: View, out: ViewMut) -> Result<()> {
        self.0.pointwise_loss_grad_impl(loss, grad, out)
    }

    fn optimizer_step(&self, rule: &OptimRule, lr: View, slots: &mut [OptimSlot]) -> Result<()> {
        self.0.optimizer_step_impl(rule, lr, slots)
    }
}
