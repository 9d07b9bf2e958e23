//! `matmul`: products of floats by cuBLASLt, of integers by a kernel of ours.

use kiln_backend::{
    DType, Error, Float32Precision, Layout, MatmulBackend, Result, View, ViewMut, float32_matmul_precision,
};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    gemm::{
        lt::{Addresses, Epilogue, Key},
        problem::{Batch, Batches, Extents, Product, Steps},
    },
    launch::Config,
    memory::Block,
    params::{self, Grid},
    view::Tensor,
};

/// Checks that the shapes are `[…, M, K]`, `[…, K, N]` and `[…, M, N]` with the same leading extents, and returns the
/// number of leading dimensions and the extents.
fn extents(op: &'static str, a: &Layout, b: &Layout, out: &Layout) -> Result<(usize, Extents)> {
    let Some(lead) = out.rank().checked_sub(2) else {
        return Err(Error::shape(op, "matrices", out.shape()));
    };
    let fits = a.rank() == out.rank()
        && b.rank() == out.rank()
        && a.dims()[..lead] == out.dims()[..lead]
        && b.dims()[..lead] == out.dims()[..lead]
        && a.dims()[lead + 1] == b.dims()[lead]
        && out.dims()[lead..] == [a.dims()[lead], b.dims()[lead + 1]];
    if !fits {
        return Err(Error::shapes(op, a.shape(), b.shape(), "they must be […, M, K] and […, K, N]"));
    }
    Ok((lead, Extents { m: a.dims()[lead], k: a.dims()[lead + 1], n: b.dims()[lead + 1] }))
}

/// The steps of the matrices of a layout.
pub(super) fn steps(layout: &Layout, lead: usize) -> Steps {
    [layout.strides()[lead], layout.strides()[lead + 1]]
}

/// Addresses of a product in the caller's terms; null where its epilogue has no use for one.
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

/// A dense tensor of the same shape in memory of its own.
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
    fn matmul(&self, a: View, b: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "matmul";
        let out = Tensor::write(device, OP, out)?;
        let read = |view| Tensor::read(device, OP, view)?.of(OP, out.dtype);
        let (a, b) = (read(a)?, read(b)?);
        let (lead, extents) = extents(OP, a.layout, b.layout, out.layout)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        if out.dtype.is_float() {
            device.products_of(lead, extents, [a, b, out])
        } else {
            device.integer_products(lead, extents, [a, b, out])
        }
    }
}

impl Device {
    fn integer_products(&self, lead: usize, Extents { m, n, k }: Extents, [a, b, out]: [Tensor; 3]) -> Result<()> {
        const TILE: usize = 16;
        let places = [a, b, out]
            .map(|tensor| params::Place { address: tensor.address, strides: &tensor.layout.strides()[..lead] });
        let of = |tensor: &Tensor| steps(tensor.layout, lead).map(|step| step as i64);
        let batch = Grid::<3>::new(&out.layout.dims()[..lead], places.map(Some));
        // The kernel loops over the rows and matrices that a grid cannot hold.
        const MAX_GRID_YZ: u64 = 65_535;
        let columns = n.div_ceil(TILE).min(i32::MAX as usize) as u32;
        let rows = params::limited_blocks(m.div_ceil(TILE) as u64, MAX_GRID_YZ);
        let grid = [columns, rows, params::limited_blocks(batch.numel, MAX_GRID_YZ)];
        let config = Config { grid, block: [TILE as u32, TILE as u32, 1] };
        let params =
            params::Matmul { batch, m: m as u64, n: n as u64, k: k as u64, a: of(&a), b: of(&b), out: of(&out) };
        launch!(self, MATMUL, "tiled", Tag::of(out.dtype), config, params, a.address, b.address, out.address)
    }

    /// Products of checked float tensors with a nonempty result.
    pub(super) fn products_of(&'static self, lead: usize, extents: Extents, [a, b, out]: [Tensor; 3]) -> Result<()> {
        if extents.k == 0 {
            return self.zero(out);
        }
        let (lead, extents, [sa, so]) = fold_rows(lead, extents, [a.layout, b.layout, out.layout]);
        // The dimensions that were folded into the rows do not change `b`.
        let sb = steps(b.layout, b.layout.rank() - 2);
        match Product::new(extents, sa, sb, so) {
            Ok(product) => {
                let batches = Batches::new(lead, [a.layout, b.layout, out.layout]);
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
                self.products_of(
                    to.layout.rank() - 2,
                    self::extents("matmul", a.layout, b.layout, to.layout)?.1,
                    [a, b, to],
                )?;
                if dense.is_some() { self.copy_tensor(to, out) } else { Ok(()) }
            }
        }
    }

    /// One call of the library, or `false` if it has nothing for the epilogue.
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
        let aside = |bytes| {
            let memory = self.scratch(bytes)?;
            Ok((memory.address(), memory))
        };
        // SAFETY: the operands were checked against their buffers and the product describes their strides; scratch
        // memory is handed out again only to work that is queued later.
        unsafe { self.products()?.run(self.stream, &key, addresses, aside) }
    }

    pub(super) fn zero(&self, out: Tensor) -> Result<()> {
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        let blocks = grid.blocks(out.dtype.size());
        launch!(self, FILL, "value", Tag::bits(out.dtype), blocks, grid, out.address, 0u64)
    }
}

/// A batch that shares `b` and continues the rows of `a` and `out` is one larger product. Returns what is left of the
/// leading dimensions, the extents, and the steps of `a` and `out`.
fn fold_rows(mut lead: usize, mut extents: Extents, [a, b, out]: [&Layout; 3]) -> (usize, Extents, [Steps; 2]) {
    let (mut sa, mut so) = (steps(a, lead), steps(out, lead));
    while let Some(last) = lead.checked_sub(1) {
        let (batch, step) = (out.dims()[last], |layout: &Layout| layout.strides()[last]);
        if batch != 1 {
            if step(b) != 0 {
                break;
            }
            if extents.m == 1 {
                (sa[0], so[0]) = (step(a), step(out));
            } else if step(a) != sa[0] * extents.m as isize || step(out) != so[0] * extents.m as isize {
                break;
            }
            extents.m *= batch;
        }
        lead = last;
    }
    (lead, extents, [sa, so])
}

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    fn layout(dims: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(dims).unwrap())
    }

    #[test]
    fn batches_that_share_a_matrix_are_one_product() {
        let (a, out) = (layout(&[5, 2, 3, 4]), layout(&[5, 2, 3, 6]));
        let shared = layout(&[1, 1, 4, 6]).expand("t", &Shape::new(&[5, 2, 4, 6]).unwrap()).unwrap();
        let (lead, three) = extents("t", &a, &shared, &out).unwrap();
        assert_eq!((lead, three), (2, Extents { m: 3, n: 6, k: 4 }));
        let folded = fold_rows(lead, three, [&a, &shared, &out]);
        assert_eq!(folded, (0, Extents { m: 30, n: 6, k: 4 }, [[4, 1], [6, 1]]));
        // A matrix for each of the five: their rows stay apart.
        let own = layout(&[5, 1, 4, 6]).expand("t", &Shape::new(&[5, 2, 4, 6]).unwrap()).unwrap();
        assert_eq!(fold_rows(lead, three, [&a, &own, &out]).0, 1);
        // Vectors in a batch become a matrix, whatever their distance.
        let vectors = Layout::strided(Shape::new(&[7, 1, 4]).unwrap(), &[100, 4, 1], 0).unwrap();
        let weights = layout(&[1, 4, 6]).expand("t", &Shape::new(&[7, 4, 6]).unwrap()).unwrap();
        let folded = fold_rows(1, Extents { m: 1, n: 6, k: 4 }, [&vectors, &weights, &layout(&[7, 1, 6])]);
        assert_eq!(folded, (0, Extents { m: 7, n: 6, k: 4 }, [[100, 1], [6, 1]]));
        assert!(extents("t", &layout(&[2, 3]), &layout(&[4, 2]), &layout(&[2, 2])).is_err());
    }
}
