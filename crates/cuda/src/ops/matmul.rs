//! `matmul` and `linear`: products of floats by cuBLASLt, of integers by a kernel of ours.

use kiln_backend::{DType, Error, Float32Precision, Layout, Result, View, ViewMut, float32_matmul_precision};

use super::launch::{Tag, launch};
use crate::{
    device::Device,
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
fn steps(layout: &Layout, lead: usize) -> Steps {
    [layout.strides()[lead], layout.strides()[lead + 1]]
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

impl Device {
    pub(super) fn matmul_impl(&'static self, a: View, b: View, out: ViewMut) -> Result<()> {
        const OP: &str = "matmul";
        let out = Tensor::write(self, OP, out)?;
        let read = |view| Tensor::read(self, OP, view)?.of(OP, out.dtype);
        let (a, b) = (read(a)?, read(b)?);
        let (lead, extents) = extents(OP, a.layout, b.layout, out.layout)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        if out.dtype.is_float() {
            self.products_of(lead, extents, [a, b, out])
        } else {
            self.integer_products(lead, extents, [a, b, out])
        }
    }

    fn integer_products(&self, lead: usize, Extents { m, n, k }: Extents, [a, b, out]: [Tensor; 3]) -> Result<()> {
        const TILE: usize = 16;
        let places = [a, b, out]
            .map(|tensor| params::Place { address: tensor.address, strides: &tensor.layout.strides()[..lead] });
        let of = |tensor: &Tensor| steps(tensor.layout, lead).map(|step| step as i64);
        let batch = Grid::<3>::new(&out.layout.dims()[..lead], places.map(Some));
        // Kernels loop over what a grid cannot hold.
        let blocks = |extent: usize, most: usize| extent.div_ceil(TILE).min(most) as u32;
        let grid = [blocks(n, i32::MAX as usize), blocks(m, 65_535), batch.numel.min(65_535) as u32];
        let config = Config { grid, block: [TILE as u32, TILE as u32, 1] };
        let params =
            params::Matmul { batch, m: m as u64, n: n as u64, k: k as u64, a: of(&a), b: of(&b), out: of(&out) };
        launch!(self, MATMUL, "tiled", Tag::of(out.dtype), config, params, a.address, b.address, out.address)
    }

    /// Products of checked float tensors with a nonempty result.
    fn products_of(&'static self, lead: usize, extents: Extents, [a, b, out]: [Tensor; 3]) -> Result<()> {
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
                    let [a, b, to] = [at(&a, offsets[0]), at(&b, offsets[1]), at(&out, offsets[2])];
                    self.product(out.dtype, product, Epilogue::None, batch, [a, b, to, 0]).map(drop)
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

    /// One call of the library, or `false` if it has nothing for the epilogue. The addresses are those of `a`, `b`, the
    /// output and the bias.
    fn product(
        &'static self,
        dtype: DType,
        product: Product,
        epilogue: Epilogue,
        batch: Batch,
        [a, b, out, bias]: [u64; 4],
    ) -> Result<bool> {
        let [sa, sb, so] = batch.steps.map(|step| step as i64);
        let ((first, second), steps) = if product.swapped { ((b, a), [sb, sa, so]) } else { ((a, b), [sa, sb, so]) };
        let addresses = Addresses { first, second, out, bias };
        let tf32 = dtype == DType::F32 && float32_matmul_precision() == Float32Precision::High;
        let alignment = addresses.alignment();
        let key = Key { dtype, tf32, product, epilogue, batch: batch.count, steps, alignment };
        let aside = |bytes| {
            let memory = self.scratch(bytes)?;
            Ok((memory.address(), memory))
        };
        // SAFETY: the operands were checked against their buffers and the product describes their strides; scratch
        // memory is handed out again only to work that is queued later.
        unsafe { self.products()?.run(&self.stream, &key, addresses, aside) }
    }

    pub(super) fn zero(&self, out: Tensor) -> Result<()> {
        let grid = Grid::<1>::new(out.layout.dims(), [Some(out.place())]);
        let blocks = grid.blocks(out.dtype.size());
        launch!(self, FILL, "value", Tag::bits(out.dtype), blocks, grid, out.address, 0u64)
    }

    pub(super) fn linear_impl(
        &'static self,
        x: View,
        w: View,
        bias: Option<View>,
        relu: bool,
        out: ViewMut,
    ) -> Result<()> {
        const OP: &str = "linear";
        let out = Tensor::write(self, OP, out)?;
        let read = |view| Tensor::read(self, OP, view)?.of(OP, out.dtype);
        let (x, w, bias) = (read(x)?, read(w)?, bias.map(read).transpose()?);
        if !out.dtype.is_float() {
            return Err(Error::dtype(OP, out.dtype, "it takes floats"));
        }
        let (&[m, k], &[n, _]) = (x.layout.dims(), w.layout.dims()) else {
            return Err(Error::shapes(OP, x.layout.shape(), w.layout.shape(), "they must be [M, K] and [N, K]"));
        };
        if w.layout.dims()[1] != k || out.layout.dims() != [m, n] {
            return Err(Error::shapes(OP, x.layout.shape(), w.layout.shape(), "they must be [M, K] and [N, K]"));
        }
        let spread = match &bias {
            Some(bias) if bias.layout.dims() != [n] => {
                return Err(Error::shape(OP, format!("a bias of shape [{n}]"), bias.layout.shape()));
            }
            Some(bias) => Some(bias.layout.expand(OP, out.layout.shape())?),
            None => None,
        };
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let turned = w.layout.transpose(0, 1);
        let b = Tensor { layout: &turned, ..w };
        let product = Product::new(Extents { m, n, k }, steps(x.layout, 0), steps(&turned, 0), steps(out.layout, 0));
        // The library adds a dense bias along the rows of what it computes, which are the columns of `out`.
        let dense = bias.is_none_or(|bias| n == 1 || bias.layout.strides()[0] == 1);
        let epilogue = match (bias.is_some(), relu) {
            (false, false) => Epilogue::None,
            (false, true) => Epilogue::Relu,
            (true, false) => Epilogue::Bias,
            (true, true) => Epilogue::BiasRelu,
        };
        if let Ok(product) = product
            && k > 0
            && dense
            && product.swapped
        {
            let bias = bias.map_or(0, |bias| bias.address);
            let one = Batch { count: 1, steps: [0; 3] };
            if self.product(out.dtype, product, epilogue, one, [x.address, b.address, out.address, bias])? {
                return Ok(());
            }
        }
        self.products_of(0, Extents { m, n, k }, [x, b, out])?;
        let bias = match (&bias, &spread) {
            (Some(bias), Some(spread)) => Some(Tensor { layout: spread, ..*bias }),
            _ => None,
        };
        self.add_bias(bias, relu, out)
    }

    pub(super) fn linear_grad_impl(&'static self, grad: View, x: View, out: ViewMut, bias: ViewMut) -> Result<()> {
        const OP: &str = "linear_grad";
        let out = Tensor::write(self, OP, out)?;
        let bias = Tensor::write(self, OP, bias)?.of(OP, out.dtype)?;
        let read = |view| Tensor::read(self, OP, view)?.of(OP, out.dtype);
        let (grad, x) = (read(grad)?, read(x)?);
        let (&[m, n], &[rows, k]) = (grad.layout.dims(), x.layout.dims()) else {
            return Err(Error::shapes(OP, grad.layout.shape(), x.layout.shape(), "they must be [M, N] and [M, K]"));
        };
        if rows != m || out.layout.dims() != [n, k] || bias.layout.dims() != [n] {
            return Err(Error::shapes(OP, grad.layout.shape(), x.layout.shape(), "they must be [M, N] and [M, K]"));
        }
        let turned = grad.layout.transpose(0, 1);
        let a = Tensor { layout: &turned, ..grad };
        let product =
            Product::new(Extents { m: n, n: k, k: m }, steps(&turned, 0), steps(x.layout, 0), steps(out.layout, 0));
        if out.dtype.is_float()
            && let Ok(product) = product
            && product.swapped
            && m * n * k > 0
            && (n == 1 || bias.layout.strides()[0] == 1)
        {
            let (one, at) = (Batch { count: 1, steps: [0; 3] }, [a.address, x.address, out.address, bias.address]);
            if self.product(out.dtype, product, Epilogue::BiasGrad, one, at)? {
                return Ok(());
            }
        }
        if out.layout.numel() > 0 {
            self.products_of(0, Extents { m: n, n: k, k: m }, [a, x, out])?;
        }
        self.sum_rows(grad, bias)
    }

    /// What the epilogue of the library would have done.
    pub(super) fn add_bias(&self, bias: Option<Tensor>, relu: bool, out: Tensor) -> Result<()> {
        if bias.is_none() && !relu {
            return Ok(());
        }
        let places = [bias.as_ref().map(Tensor::place), Some(out.place())];
        let grid = Grid::<2>::new(out.layout.dims(), places);
        let (op, blocks) = (if relu { "relu" } else { "add" }, params::blocks(grid.numel));
        let bias = bias.map_or(0, |bias| bias.address);
        launch!(self, BIAS, op, Tag::of(out.dtype), blocks, grid, bias, out.address)
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
