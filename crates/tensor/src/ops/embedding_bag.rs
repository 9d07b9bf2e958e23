//! `embedding_bag`: sums, means or maxima of the rows of a table for bags of row numbers. The rows are read in blocks, so that there
//! never is a tensor of all of them.

use kiln_backend::{DType, Error, Result, ScatterMode};
use kiln_derive::located;
use smallvec::smallvec;

use super::{check, embedding::shares};
use crate::{
    autograd::{no_grad, one, record, untraced},
    tensor::Tensor,
};

/// How [`Tensor::embedding_bag`] combines the rows of a bag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BagMode {
    /// Their sum.
    Sum,
    /// Their mean.
    #[default]
    Mean,
    /// The largest element of each column; its gradient goes to the first of several.
    Max,
}

/// The arguments of [`Tensor::embedding_bag`] that have defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct BagOptions<'a> {
    /// How rows are combined: by default their mean.
    pub mode: BagMode,
    /// A row that does not count, and gets no gradient.
    pub padding_idx: Option<usize>,
    /// A factor for each row number, in the table's dtype; only with [`BagMode::Sum`].
    pub per_sample_weights: Option<&'a Tensor>,
    /// Whether the last of the offsets is the end of the last bag, rather than the beginning of another.
    pub include_last_offset: bool,
    /// Whether the gradient of a row is divided by the number of times that it is listed; not for [`BagMode::Max`].
    pub scale_grad_by_freq: bool,
}

const OP: &str = "embedding_bag";
/// How many elements of the table are copied at a time.
const BLOCK: usize = 1 << 20;

#[located]
impl Tensor {
    /// For each bag of row numbers the sum, the mean or the maximum of these rows of the table `[rows, width]`: `[bags, width]`; 0
    /// for an empty bag. `indices` (integers) are bags of equal size `[bags, size]`, or one after the other in a vector; then
    /// `offsets` (integers), which begin with 0, say where each begins
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.embedding_bag.html>).
    ///
    /// # Errors
    /// If this is not a floating-point matrix, a number or an offset is out of range, the first offset is not 0, indices or
    /// offsets are not integers or have other dimensions, there are weights that are not of the shape of the indices or not for a
    /// sum, gradients of maxima are to be scaled by frequency, or devices or dtypes differ.
    pub fn embedding_bag(
        &self,
        indices: &Tensor,
        offsets: Option<&Tensor>,
        options: &BagOptions<'_>,
    ) -> Result<Tensor> {
        check::floats(OP, self)?;
        let [rows, width] = *self.dims() else {
            return Err(Error::shapes(OP, self.shape(), indices.shape(), "a table [rows, width] and row numbers"));
        };
        if let Some(row) = options.padding_idx.filter(|&row| row >= rows) {
            return Err(Error::index(OP, row as i64, rows, "the rows"));
        }
        if let Some(weights) = options.per_sample_weights {
            check::same_kind(OP, self, &[weights])?;
            if weights.shape() != indices.shape() {
                return Err(Error::shapes(OP, indices.shape(), weights.shape(), "a weight for each row number"));
            }
            if options.mode != BagMode::Sum {
                return Err(Error::argument(OP, format!("weights are for a sum, not for {:?}", options.mode)));
            }
        }
        if options.scale_grad_by_freq && options.mode == BagMode::Max {
            return Err(Error::argument(OP, "gradients of maxima are not scaled by frequency"));
        }
        let bags = inside(|| Bags::new(self, indices, offsets, options)).map_err(|error| error.of_op(OP))?;
        let out = match options.mode {
            BagMode::Max => maxima(self, &bags, width),
            _ => sums(self, &bags, width, options),
        }
        .map_err(|error| error.of_op(OP))?;
        Ok(out.described(OP, || []))
    }
}

/// Runs parts of the operation, which are neither recorded nor traced.
fn inside<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    untraced(|| no_grad(f))
}

/// Which bag each row number belongs to.
#[derive(Clone)]
struct Bags {
    /// The row numbers, and the bag of each: `count` for those of none.
    indices: Tensor,
    bag: Tensor,
    count: usize,
    /// Whether there may be numbers of no bag.
    some_of_none: bool,
}

impl Bags {
    fn new(table: &Tensor, indices: &Tensor, offsets: Option<&Tensor>, options: &BagOptions<'_>) -> Result<Bags> {
        let indices = check::indices(OP, indices)?;
        check::same_device(OP, table, &[&indices])?;
        let whole = (DType::I64, table.device());
        let (bag, count) = match (indices.dims(), offsets) {
            (&[count, size], None) => {
                let each = Tensor::arange(0, count as i64, whole)?.unsqueeze(1)?;
                (each.expand([count, size])?.flatten_all()?, count)
            }
            (&[numbers], Some(offsets)) => {
                let offsets = check::indices(OP, offsets)?;
                check::same_device(OP, table, &[&offsets])?;
                let &[begins] = offsets.dims() else {
                    return Err(Error::shape(OP, "a vector of offsets", offsets.shape()));
                };
                let Some(count) = begins.checked_sub(usize::from(options.include_last_offset)) else {
                    return Err(Error::shape(OP, "an offset for the end of the last bag", offsets.shape()));
                };
                // A look-up that only fails for an offset out of range, on the device.
                let offsets = Tensor::arange(0, numbers as i64 + 1, whole)?.index_select(0, &offsets)?;
                // Numbers before the first offset are of bag -1, which is out of range.
                let places = Tensor::arange(0, numbers as i64, whole)?;
                (offsets.searchsorted(&places, true)?.sub(1)?, count)
            }
            (_, Some(offsets)) => {
                return Err(Error::shapes(
                    OP,
                    indices.shape(),
                    offsets.shape(),
                    "row numbers in a vector, for offsets",
                ));
            }
            (_, None) => {
                let expected = "row numbers [bags, size], or a vector of them and offsets";
                return Err(Error::shape(OP, expected, indices.shape()));
            }
        };
        let indices = indices.flatten_all()?;
        let bag = match options.padding_idx {
            Some(row) => indices.eq(row as i64)?.where_cond(count as i64, &bag)?,
            None => bag,
        };
        let some_of_none = options.padding_idx.is_some() || options.include_last_offset;
        Ok(Bags { indices, bag, count, some_of_none })
    }

    /// The bags, and one for the numbers of none if there may be any.
    fn slots(&self) -> usize {
        self.count + usize::from(self.some_of_none)
    }

    /// Calls `f` for blocks of the numbers: with the first one's place, and the numbers and bags of the block.
    fn blocks(&self, width: usize, mut f: impl FnMut(usize, &Tensor, &Tensor) -> Result<()>) -> Result<()> {
        let (all, step) = (self.indices.numel(), (BLOCK / width.max(1)).max(1));
        for start in (0..all).step_by(step) {
            let part = |list: &Tensor| list.narrow(0, start, step.min(all - start));
            f(start, &part(&self.indices)?, &part(&self.bag)?)?;
        }
        Ok(())
    }

    /// The results of bags, without that for the numbers of none.
    fn results(&self, slots: &Tensor) -> Result<Tensor> {
        if self.some_of_none { slots.narrow(0, 0, self.count)?.copy() } else { Ok(slots.clone()) }
    }

    /// The gradients of bags, and of that for the numbers of none.
    fn grads(&self, grad: Tensor) -> Result<Tensor> {
        if !self.some_of_none {
            return Ok(grad);
        }
        let none = Tensor::zeros([1, grad.dims()[1]], grad.options())?;
        Tensor::cat(&[&grad, &none], 0)
    }

    /// How many numbers each bag has, at least 1: `[count, 1]`.
    fn sizes(&self, like: &Tensor) -> Result<Tensor> {
        let sizes = Tensor::zeros([self.slots()], like.options())?;
        sizes.index_add_(0, &self.bag, &Tensor::ones([self.bag.numel()], like.options())?)?;
        self.results(&sizes)?.clamp_min(1.0)?.unsqueeze(1)
    }
}

/// Rows times their weights, if there are any.
fn weighted(rows: Tensor, weights: Option<&Tensor>, start: usize) -> Result<Tensor> {
    let Some(weights) = weights else { return Ok(rows) };
    let part = weights.flatten_all()?.narrow(0, start, rows.dims()[0])?;
    rows.mul(&part.to_dtype(rows.dtype())?.unsqueeze(1)?)
}

/// Sums or means. Half precision is rounded once.
fn sums(table: &Tensor, bags: &Bags, width: usize, options: &BagOptions<'_>) -> Result<Tensor> {
    let weights = options.per_sample_weights;
    let (out, sizes) = inside(|| {
        let sum = Tensor::zeros([bags.slots(), width], table.options().dtype(table.dtype().accumulator()))?;
        bags.blocks(width, |start, indices, bag| {
            sum.index_add_(0, bag, &weighted(table.index_select(0, indices)?.widened()?, weights, start)?)
        })?;
        let sum = bags.results(&sum)?;
        let sizes = if options.mode == BagMode::Mean { Some(bags.sizes(&sum)?) } else { None };
        let out = sizes.as_ref().map_or(Ok(sum.clone()), |sizes| sum.div(sizes))?;
        Ok((out.to_dtype(table.dtype())?, sizes))
    })?;
    let inputs: Vec<&Tensor> = [table].into_iter().chain(weights).collect();
    // The table is read again only for the gradients of weights.
    let reads_table = weights.is_some_and(Tensor::requires_grad);
    let saved: Vec<&Tensor> = weights.into_iter().chain(reads_table.then_some(table)).collect();
    let (bags, has_weights) = (bags.clone(), weights.is_some());
    let (rows, dtype, scales) = (table.dims()[0], table.dtype(), options.scale_grad_by_freq);
    record(out, "EmbeddingBagBackward0", &inputs, &saved, move |ctx| {
        let weights = if has_weights { Some(ctx.saved(0)?) } else { None };
        let mut grad = ctx.grad()?.widened()?;
        if let Some(sizes) = &sizes {
            grad = grad.div(sizes)?;
        }
        let grad = bags.grads(grad)?;
        let of_table = ctx.when(0, || {
            let sum = Tensor::zeros([rows, width], grad.options())?;
            let shares = if scales { Some(shares(&bags.indices, rows, grad.dtype())?) } else { None };
            bags.blocks(width, |start, indices, bag| {
                let each = weighted(grad.index_select(0, bag)?, weights.as_ref(), start)?;
                let each = match &shares {
                    Some(shares) => each.mul(&shares.narrow(0, start, indices.numel())?)?,
                    None => each,
                };
                sum.index_add_(0, indices, &each)
            })?;
            sum.to_dtype(dtype)
        })?;
        if !has_weights {
            return Ok(smallvec![of_table]);
        }
        let of_weights = ctx.when(1, || {
            let (table, mut parts) = (ctx.saved(1)?, Vec::new());
            bags.blocks(width, |_, indices, bag| {
                let products = grad.index_select(0, bag)?.mul(&table.index_select(0, indices)?.widened()?)?;
                parts.push(products.sum(1)?);
                Ok(())
            })?;
            match &weights {
                Some(weights) if parts.is_empty() => weights.zeros_like(),
                Some(weights) => Tensor::cat(&parts, 0)?.reshape(weights.dims())?.to_dtype(dtype),
                None => grad.sum(()),
            }
        })?;
        Ok(smallvec![of_table, of_weights])
    })
}

/// Maxima.
fn maxima(table: &Tensor, bags: &Bags, width: usize) -> Result<Tensor> {
    let (all, dims) = (bags.indices.numel(), [bags.slots(), width]);
    let (out, winners, empty) = inside(|| {
        let wide = table.dtype().accumulator();
        let largest = Tensor::full(dims, f64::NEG_INFINITY, table.options().dtype(wide))?;
        let each = |bag: &Tensor| bag.unsqueeze(1)?.expand([bag.numel(), width])?.contiguous();
        bags.blocks(width, |_, indices, bag| {
            let rows = table.index_select(0, indices)?.widened()?;
            largest.write_scatter(OP, ScatterMode::Max, 0, &each(bag)?, &(&rows).into())
        })?;
        // The place of the first of the largest among all numbers.
        let first = Tensor::full(dims, all as i64, (DType::I64, table.device()))?;
        bags.blocks(width, |start, indices, bag| {
            let rows = table.index_select(0, indices)?.widened()?;
            let is_largest = rows.eq(&largest.index_select(0, bag)?)?.logical_or(&rows.isnan()?)?;
            let places = Tensor::arange(start as i64, (start + bag.numel()) as i64, (DType::I64, table.device()))?;
            let places = is_largest.where_cond(&places.unsqueeze(1)?, all as i64)?;
            first.write_scatter(OP, ScatterMode::Min, 0, &each(bag)?, &(&places).into())
        })?;
        let first = bags.results(&first)?;
        let empty = first.eq(all as i64)?;
        // An empty bag has no winner; its gradient, which is 0, goes to row 0.
        let numbers = Tensor::cat(&[&bags.indices, &Tensor::zeros([1], bags.indices.options())?], 0)?;
        let winners = numbers.index_select(0, &first.flatten_all()?)?.reshape(first.dims())?;
        let out = empty.where_cond(0.0, &bags.results(&largest)?)?.to_dtype(table.dtype())?;
        Ok((out, winners, empty))
    })?;
    let shape = *table.shape();
    record(out, "EmbeddingBagBackward0", &[table], &[&winners, &empty], move |ctx| {
        let (grad, winners, empty) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
        if shape.numel() == 0 {
            return Ok(one(Tensor::zeros(shape, grad.options())?));
        }
        let grad = empty.where_cond(0.0, &grad)?;
        Ok(one(Tensor::zeros(shape, grad.options())?.scatter_add(0, &winners, &grad)?))
    })
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::device::Device;

    /// Rows so long that a block has two of them.
    #[test]
    fn bags_across_blocks_are_those_of_single_rows() -> Result<()> {
        let width = BLOCK / 2;
        let indices = Tensor::new(&[2i64, 0, 2, 1, 2], Device::Cpu)?;
        let offsets = Tensor::new(&[0i64, 3], Device::Cpu)?;
        let weights = Tensor::new(&[1f32, 2., 3., -4., 5.], Device::Cpu)?;
        let column = Tensor::new(&[[1f32], [7.], [-2.]], Device::Cpu)?;
        for mode in [BagMode::Sum, BagMode::Mean, BagMode::Max] {
            let run = |width: usize| -> Result<_> {
                let table = column.expand([3, width])?.copy()?.requires_grad_(true)?;
                let weights = weights.copy()?.requires_grad_(true)?;
                let per_sample_weights = Some(&weights).filter(|_| mode == BagMode::Sum);
                let options = BagOptions { mode, per_sample_weights, ..BagOptions::default() };
                let out = table.embedding_bag(&indices, Some(&offsets), &options)?;
                out.mul(&Tensor::new(&[[1f32], [3.]], Device::Cpu)?)?.sum(())?.backward()?;
                let grad = table.grad().ok_or_else(|| Error::argument(OP, "no gradient"))?;
                let ends = |x: &Tensor| -> Result<Vec<f32>> {
                    [x.select(1, 0)?, x.select(1, -1)?]
                        .iter()
                        .map(|end| end.to_vec())
                        .collect::<Result<Vec<_>>>()
                        .map(|v| v.concat())
                };
                let of_weights = weights.grad().map(|grad| grad.div(width as f64)?.to_vec::<f32>()).transpose()?;
                Ok((ends(&out)?, ends(&grad)?, of_weights))
            };
            assert_eq!(run(width)?, run(1)?, "{mode:?}");
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_an_error() -> Result<()> {
        let table = Tensor::ones([3, 2], Device::Cpu)?;
        let list = |values: &[i64]| Tensor::from_slice(values, [values.len()], Device::Cpu);
        let (indices, weights) = (list(&[0, 2, 1])?, Tensor::ones([3], Device::Cpu)?);
        let plain = BagOptions::default();
        for offsets in [&[1, 2][..], &[0, 4], &[0, -1]] {
            let result = table.embedding_bag(&indices, Some(&list(offsets)?), &plain);
            assert!(result.is_err(), "offsets {offsets:?}");
        }
        assert!(table.embedding_bag(&list(&[0, 3])?, Some(&list(&[0])?), &plain).is_err(), "a row out of range");
        assert!(table.embedding_bag(&indices, None, &plain).is_err(), "a vector without offsets");
        assert!(
            table.embedding_bag(&indices.unsqueeze(0)?, Some(&list(&[0])?), &plain).is_err(),
            "a matrix with offsets"
        );
        let weighted = BagOptions { per_sample_weights: Some(&weights), ..plain };
        let error = table.embedding_bag(&indices, Some(&list(&[0])?), &weighted).err().map(|e| e.to_string());
        assert!(error.is_some_and(|error| error.contains("Mean")), "weights for a mean");
        let ends = BagOptions { include_last_offset: true, ..plain };
        assert!(table.embedding_bag(&indices, Some(&list(&[])?), &ends).is_err(), "no offset at all");
        Ok(())
    }
}
