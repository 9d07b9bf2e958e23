//! `matmul`: float products by cuBLASLt, integer products by a kernel of our own.

use kiln_backend::{
    Checked, DType, Float32Precision, Layout, MatmulArgs, MatmulBackend, MatmulPlan, Result, float32_matmul_precision,
};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    gemm::{
        epilogue::Epilogue,
        lt::{Addresses, Key},
        problem::{Batch, Batches, Extents, Product, Steps},
    },
    launch::Config,
    memory::Block,
    params::{self, Grid},
    view::{Access, Tensor},
};

/// The strides of a layout's matrices.
pub(super) fn steps(layout: &Layout, lead: usize) -> Steps {
    [layout.strides()[lead], layout.strides()[lead + 1]]
}

/// The addresses of a product's operands, in the caller's row-major terms; null for those that its epilogue does not
/// use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) out: u64,
    pub(super) bias: u64,
    pub(super) mask: u64,
}

impl Places {
    pub(super) fn new(a: u64, b: u64, out: u64) -> Places {
        Places { a, b, out, bias: 0, mask: 0 }
    }
}

/// A dense copy of a tensor.
struct Dense {
    layout: Layout,
    memory: Block,
}

impl Dense {
    fn new(device: &'static Device, like: &Tensor) -> Result<Dense> {
        let layout = Layout::contiguous(*like.layout.shape());
        let memory = device.scratch(layout.numel() * like.dtype.size())?;
        Ok(Dense { layout, memory })
    }

    fn tensor(&self, dtype: DType) -> Tensor<'_> {
        Tensor { dtype, layout: &self.layout, address: self.memory.address() }
    }
}

impl MatmulBackend for CudaBackend {
    fn matmul(&self, args: Checked<MatmulArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "matmul" };
        let MatmulArgs { a, b, out } = args.into_inner();
        let (a, b, out) = (access.read(a)?, access.read(b)?, access.write(out)?);
        let plan = MatmulPlan::new(a.layout, b.layout, out.layout);
        if out.layout.numel() == 0 {
            return Ok(());
        }
        if out.dtype.is_float() {
            device.products_of(plan, [a, b, out])
        } else {
            device.integer_products(&plan, [a, b, out])
        }
    }
}

impl Device {
    fn integer_products(&self, plan: &MatmulPlan, [a, b, out]: [Tensor; 3]) -> Result<()> {
        let MatmulPlan { batch_dims: lead, m, n, k, .. } = *plan;
        const TILE: usize = 16;
        let places = [a, b, out]
            .map(|tensor| params::Place { address: tensor.address, strides: &tensor.layout.strides()[..lead] });
        let of = |steps: Steps| steps.map(|step| step as i64);
        let batch = Grid::<3>::new(&out.layout.dims()[..lead], places.map(Some));
        // The kernel loops over the rows and matrices that a grid cannot hold.
        const MAX_GRID_YZ: u64 = 65_535;
        let columns = n.div_ceil(TILE).min(i32::MAX as usize) as u32;
        let rows = params::limited_blocks(m.div_ceil(TILE) as u64, MAX_GRID_YZ);
        let grid = [columns, rows, params::limited_blocks(batch.numel, MAX_GRID_YZ)];
        let config = Config { grid, block: [TILE as u32, TILE as u32, 1] };
        let params = params::Matmul {
            batch,
            m: m as u64,
            n: n as u64,
            k: k as u64,
            a: of(plan.a),
            b: of(plan.b),
            out: of(plan.out),
        };
        launch!(self, MATMUL, "tiled", Tag::of(out.dtype), config, params, a.address, b.address, out.address)
    }

    /// Products of checked float tensors with a nonempty result.
    pub(super) fn products_of(&'static self, plan: MatmulPlan, [a, b, out]: [Tensor; 3]) -> Result<()> {
        if plan.k == 0 {
            return self.zero(out);
        }
        let plan = plan.folded(a.layout, b.layout, out.layout);
        let extents = Extents { m: plan.m, n: plan.n, k: plan.k };
        match Product::new(extents, plan.a, plan.b, plan.out) {
            Ok(product) => {
                let batches = Batches::new(plan.batch_dims, [a.layout, b.layout, out.layout]);
                batches.for_each(|offsets, batch| {
                    let at = |tensor: &Tensor, offset: isize| {
                        tensor.address.wrapping_add_signed((offset * tensor.dtype.size() as isize) as i64)
                    };
                    let places = Places::new(at(&a, offsets[0]), at(&b, offsets[1]), at(&out, offsets[2]));
                    self.product(out.dtype, product, Epilogue::None, batch, places).map(drop)
                })
            }
            Err(unfit) => {
                let [da, db, dense] = [(unfit.a, a), (unfit.b, b), (unfit.out, out)]
                    .map(|(copied, tensor)| copied.then(|| Dense::new(self, &tensor)).transpose());
                let (da, db, dense) = (da?, db?, dense?);
                let source = |copy: &Option<Dense>, tensor: Tensor| -> Result<()> {
                    copy.as_ref().map_or(Ok(()), |copy| self.copy_tensor(tensor, copy.tensor(tensor.dtype)))
                };
                source(&da, a)?;
                source(&db, b)?;
                let pick = |copy: &Option<Dense>, tensor: Tensor| match copy {
                    Some(copy) => (copy.layout, copy.memory.address()),
                    None => (*tensor.layout, tensor.address),
                };
                let [pa, pb, po] = [pick(&da, a), pick(&db, b), pick(&dense, out)];
                let [a, b, to] =
                    [&pa, &pb, &po].map(|(layout, address)| Tensor { dtype: out.dtype, layout, address: *address });
                self.products_of(MatmulPlan::new(a.layout, b.layout, to.layout), [a, b, to])?;
                if dense.is_some() { self.copy_tensor(to, out) } else { Ok(()) }
            }
        }
    }

    /// Computes a product in one library call; returns `false` if the library has no algorithm for the epilogue.
    pub(super) fn product(
        &'static self,
        dtype: DType,
        product: Product,
        epilogue: Epilogue,
        batch: Batch,
        Places { a, b, out, bias, mask }: Places,
    ) -> Result<bool> {
        let [sa, sb, so] = batch.steps.map(|step| step as i64);
        let ((first, second), steps) = if product.swapped { ((b, a), [sb, sa, so]) } else { ((a, b), [sa, sb, so]) };
        let addresses = Addresses { first, second, out, bias, mask };
        let tf32 = dtype == DType::F32 && float32_matmul_precision() == Float32Precision::High;
        let alignment = addresses.alignment();
        let key = Key { dtype, tf32, product, epilogue, batch: batch.count, steps, alignment };
        // SAFETY: the operands were checked against their buffers and the product describes their strides.
        unsafe { self.products()?.run(self.stream, &key, addresses) }
    }

    pub(super) fn zero(&self, out: Tensor) -> Result<()> {
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        let blocks = grid.blocks(out.dtype.size());
        launch!(self, FILL, "value", Tag::bits(out.dtype), blocks, grid, out.address, 0u64)
    }
}
