//! Indexing by tensors: `index_select`, `index_add`, `gather`, `scatter`.

use crate::{
    contract::{Arguments, Checked, has_dim, has_dtype, same_shape},
    dtype::DType,
    error::{Error, Result},
    layout::Layout,
    shape::MAX_RANK,
    view::{Operand, View, ViewMut},
};

/// What `scatter` does with the elements at the indexed positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterMode {
    /// Overwrites. With repeated indices the last one in row-major order wins.
    Set,
    /// Adds, in row-major order (so the result is deterministic).
    Add,
    /// Multiplies, in row-major order. As `Min` and `Max`, not in half precision, which the caller converts to `f32`, so that
    /// products are rounded once.
    Mul,
    /// Keeps the smaller element; NaN if either is.
    Min,
    /// Keeps the larger element; NaN if either is.
    Max,
}

impl ScatterMode {
    /// The name for errors: that of the tensor's method.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ScatterMode::Set => "scatter",
            ScatterMode::Add => "scatter_add",
            ScatterMode::Mul | ScatterMode::Min | ScatterMode::Max => "scatter_reduce",
        }
    }
}

/// Extent and stride of a dimension; for a scalar, those of a dimension of one element.
#[must_use]
pub fn index_axis(layout: &Layout, dim: usize) -> (usize, isize) {
    if layout.rank() == 0 { (1, 0) } else { (layout.dims()[dim], layout.strides()[dim]) }
}

/// The strides that broadcast an index vector to `x`'s rank: its own along `dim`, 0 in the other dimensions.
#[must_use]
pub fn index_vector_strides(dim: usize, index: &Layout) -> [isize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    strides[dim] = index_axis(index, 0).1;
    strides
}

/// Checks the shapes of `index_select` and `index_add`: slices `[…, index[i], …]` of `whole` along `dim` are slices
/// `[…, i, …]` of `slices`.
fn check_index_vector(op: &'static str, slices: &Layout, whole: &Layout, dim: usize, index: &Layout) -> Result<()> {
    has_dim(op, whole, dim)?;
    if index.rank() > 1 {
        return Err(Error::shape(op, "an index vector", index.shape()));
    }
    let fits = slices.rank() == whole.rank()
        && (0..whole.rank()).all(|d| slices.dims()[d] == if d == dim { index.numel() } else { whole.dims()[d] })
        && (whole.rank() > 0 || index.numel() == 1);
    if fits { Ok(()) } else { Err(Error::shapes(op, slices.shape(), whole.shape(), "all other extents must be equal")) }
}

/// Checks that an index of `gather` or `scatter` is no larger than the tensor in any dimension, except along `free`.
fn check_index(op: &'static str, index: &Layout, tensor: &Layout, free: Option<usize>) -> Result<()> {
    let fits = index.rank() == tensor.rank()
        && index.dims().iter().zip(tensor.dims()).enumerate().all(|(d, (i, n))| i <= n || Some(d) == free);
    if fits {
        return Ok(());
    }
    let rule = match free {
        Some(dim) => format!("the index must not be larger than the tensor in any dimension but {dim}"),
        None => "the index must not be larger than the tensor in any dimension".into(),
    };
    Err(Error::shapes(op, index.shape(), tensor.shape(), rule))
}

/// Checks `index_select` and `index_add`: the dtypes, and the shapes by [`check_index_vector`].
fn check_slices(op: &'static str, [slices, whole]: [View; 2], dim: usize, index: View) -> Result<()> {
    has_dtype(op, DType::I64, index.dtype())?;
    has_dtype(op, whole.dtype(), slices.dtype())?;
    check_index_vector(op, slices.layout, whole.layout, dim, index.layout)
}

/// Checks the index of `gather` or `scatter` against the tensor that it indexes.
fn check_elements(op: &'static str, tensor: View, dim: usize, index: View) -> Result<()> {
    has_dtype(op, DType::I64, index.dtype())?;
    has_dim(op, tensor.layout, dim)?;
    check_index(op, index.layout, tensor.layout, Some(dim))
}

/// Arguments of [`index_select`](IndexBackend::index_select).
#[derive(Debug)]
pub struct IndexSelectArgs<'a> {
    /// The tensor to select slices from.
    pub x: View<'a>,
    /// The dimension that is indexed.
    pub dim: usize,
    /// The indices of the slices, a vector or a scalar of `i64`.
    pub index: View<'a>,
    /// Receives the slices: the shape of `x`, with one per index along `dim`.
    pub out: ViewMut<'a>,
}

/// Arguments of [`index_add`](IndexBackend::index_add).
#[derive(Debug)]
pub struct IndexAddArgs<'a> {
    /// The slices to add: the shape of `out`, with one per index along `dim`.
    pub x: View<'a>,
    /// The dimension that is indexed.
    pub dim: usize,
    /// The indices that the slices are added at, a vector or a scalar of `i64`.
    pub index: View<'a>,
    /// The tensor that the slices are added to.
    pub out: ViewMut<'a>,
}

/// Arguments of [`gather`](IndexBackend::gather).
#[derive(Debug)]
pub struct GatherArgs<'a> {
    /// The tensor to take elements from.
    pub x: View<'a>,
    /// The dimension that is indexed.
    pub dim: usize,
    /// An index (`i64`) for each element of `out`; no larger than `x` in any dimension but `dim`.
    pub index: View<'a>,
    /// Receives the elements, in the shape of `index`.
    pub out: ViewMut<'a>,
}

/// Arguments of [`scatter`](IndexBackend::scatter).
#[derive(Debug)]
pub struct ScatterArgs<'a> {
    /// How elements are combined with those that are there.
    pub mode: ScatterMode,
    /// The elements to scatter; at least as large as `index` in every dimension.
    pub x: Operand<'a>,
    /// The dimension that is indexed.
    pub dim: usize,
    /// An index (`i64`) for each element; no larger than `out` in any dimension but `dim`.
    pub index: View<'a>,
    /// The tensor that is written or added to.
    pub out: ViewMut<'a>,
}

impl Arguments for IndexSelectArgs<'_> {
    fn check(&self) -> Result<()> {
        check_slices("index_select", [self.out.as_view(), self.x], self.dim, self.index)
    }
}

impl Arguments for IndexAddArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "index_add";
        is_addable(OP, self.out.dtype())?;
        check_slices(OP, [self.x, self.out.as_view()], self.dim, self.index)
    }
}

impl Arguments for GatherArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "gather";
        let GatherArgs { x, dim, index, out } = self;
        check_elements(OP, *x, *dim, *index)?;
        has_dtype(OP, x.dtype(), out.dtype())?;
        same_shape(OP, &[index.layout, out.layout])
    }
}

impl Arguments for ScatterArgs<'_> {
    fn check(&self) -> Result<()> {
        let ScatterArgs { mode, x, dim, index, out } = self;
        let op = mode.name();
        match mode {
            ScatterMode::Set => {}
            ScatterMode::Add => is_addable(op, out.dtype())?,
            ScatterMode::Mul | ScatterMode::Min | ScatterMode::Max => {
                if out.dtype() == DType::Bool || out.dtype().is_half() {
                    return Err(Error::dtype(op, out.dtype(), "it takes f32, f64 and integers"));
                }
            }
        }
        check_elements(op, out.as_view(), *dim, *index)?;
        let Operand::Tensor(x) = x else { return Ok(()) };
        has_dtype(op, out.dtype(), x.dtype())?;
        check_index(op, index.layout, x.layout, None)
    }
}

fn is_addable(op: &'static str, dtype: DType) -> Result<()> {
    if dtype == DType::Bool { Err(Error::dtype(op, dtype, "truth values cannot be added")) } else { Ok(()) }
}

/// Indexing by tensors. An index outside `0..size` is an error.
pub trait IndexBackend {
    /// `out[…, i, …] = x[…, index[i], …]`: whole slices along `dim`.
    fn index_select(&self, args: Checked<IndexSelectArgs>) -> Result<()>;
    /// `out[…, index[i], …] += x[…, i, …]`: the gradient of `index_select`.
    fn index_add(&self, args: Checked<IndexAddArgs>) -> Result<()>;
    /// `out[…, i, …] = x[…, index[…, i, …], …]`.
    fn gather(&self, args: Checked<GatherArgs>) -> Result<()>;
    /// `out[…, index[…, i, …], …] = x[…, i, …]` (or `+=` and so on, by the mode) over the shape of `index`.
    fn scatter(&self, args: Checked<ScatterArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn shapes_are_checked() {
        let (whole, slices, index) = (layout(&[5, 3]), layout(&[7, 3]), layout(&[7]));
        assert!(check_index_vector("t", &slices, &whole, 0, &index).is_ok());
        assert!(check_index_vector("t", &slices, &whole, 1, &index).is_err());
        assert!(check_index_vector("t", &slices, &whole, 2, &index).is_err());
        assert!(check_index_vector("t", &layout(&[]), &layout(&[]), 0, &layout(&[1])).is_ok());
        assert!(check_index_vector("t", &layout(&[]), &layout(&[]), 0, &layout(&[2])).is_err());
        assert!(check_index("t", &slices, &whole, Some(0)).is_ok() && check_index("t", &slices, &whole, None).is_err());
        assert_eq!(index_vector_strides(1, &index)[..3], [0, 1, 0]);
    }

    #[test]
    fn operands_are_checked() {
        let (float, long, mut to) = (Memory(DType::F32), Memory(DType::I64), Memory(DType::F32));
        let (x, taken, vector) = (layout(&[5, 3]), layout(&[7, 3]), layout(&[7]));
        let mut gather = |of_index: Memory, dim, index, out| {
            GatherArgs { x: float.view(&x), dim, index: of_index.view(index), out: to.view_mut(out) }.check().is_ok()
        };
        assert!(gather(long, 0, &taken, &taken) && !gather(long, 1, &taken, &taken) && !gather(long, 2, &x, &x));
        assert!(!gather(long, 0, &taken, &x) && !gather(float, 0, &taken, &taken));
        let scatter = |mode, dtype, dim, x, index, out| {
            let (memory, mut target) = (Memory(dtype), Memory(dtype));
            let x = Operand::Tensor(memory.view(x));
            ScatterArgs { mode, x, dim, index: long.view(index), out: target.view_mut(out) }.check().is_ok()
        };
        assert!(scatter(ScatterMode::Set, DType::Bool, 0, &taken, &taken, &x));
        assert!(!scatter(ScatterMode::Add, DType::Bool, 0, &taken, &taken, &x));
        for mode in [ScatterMode::Mul, ScatterMode::Min, ScatterMode::Max] {
            assert!(
                scatter(mode, DType::I64, 0, &taken, &taken, &x) && scatter(mode, DType::F32, 0, &taken, &taken, &x)
            );
            assert!(
                !scatter(mode, DType::BF16, 0, &taken, &taken, &x)
                    && !scatter(mode, DType::Bool, 0, &taken, &taken, &x)
            );
        }
        assert!(!scatter(ScatterMode::Set, DType::F32, 1, &taken, &taken, &x));
        assert!(!scatter(ScatterMode::Set, DType::F32, 0, &x, &taken, &x));
        let slices = |dtype, dim| {
            let (memory, mut target) = (Memory(dtype), Memory(dtype));
            let (index, x_view) = (long.view(&vector), memory.view(&x));
            let select = IndexSelectArgs { x: x_view, dim, index, out: target.view_mut(&taken) }.check().is_ok();
            let add = IndexAddArgs { x: memory.view(&taken), dim, index, out: target.view_mut(&x) }.check().is_ok();
            (select, add)
        };
        assert_eq!(slices(DType::F32, 0), (true, true));
        assert_eq!(slices(DType::F32, 1), (false, false));
        assert_eq!(slices(DType::Bool, 0), (true, false));
    }
}
