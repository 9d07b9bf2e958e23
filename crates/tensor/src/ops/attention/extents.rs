//! The extents of attention, and the operands in the four dimensions in which it is computed.

use kiln_backend::{DType, Error, MAX_RANK, Result, Shape};
use smallvec::{SmallVec, smallvec};

use crate::{ops::check, tensor::Tensor};

/// The extents, with all leading dimensions merged into a batch and heads.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    /// The leading dimensions of the result.
    pub batch: SmallVec<[usize; MAX_RANK]>,
    pub samples: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub features: usize,
    pub values: usize,
}

impl Extents {
    /// With `groups`, keys and values have that number of heads instead of the queries'.
    pub fn new(op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor, groups: Option<usize>) -> Result<Extents> {
        for tensor in [q, k, v] {
            if tensor.rank() < 2 {
                return Err(Error::shape(op, "[…, L, E]", tensor.shape()));
            }
        }
        let last = |t: &Tensor| (t.dims()[t.rank() - 2], t.dims()[t.rank() - 1]);
        let ((queries, features), (keys, key_features), (rows, values)) = (last(q), last(k), last(v));
        if features != key_features {
            return Err(Error::shape(op, format!("keys of {features} features, as the queries have"), k.shape()));
        }
        if keys != rows {
            return Err(Error::shape(op, format!("{keys} values, one for each key"), v.shape()));
        }
        let leading = |t: &Tensor, heads: Option<usize>| {
            let mut dims: SmallVec<[usize; MAX_RANK]> = SmallVec::from_slice(&t.dims()[..t.rank() - 2]);
            if let (Some(heads), Some(last)) = (heads, dims.last_mut()) {
                *last = heads;
            }
            Shape::new(&dims)
        };
        let heads = groups.and(q.dims().iter().rev().nth(2).copied());
        let shape = Shape::broadcast(op, &leading(q, None)?, &leading(k, heads)?)?;
        let batch: SmallVec<[usize; MAX_RANK]> =
            SmallVec::from_slice(&Shape::broadcast(op, &shape, &leading(v, heads)?)?);
        let (heads, samples) = batch.split_last().map_or((1, 1), |(heads, rest)| (*heads, rest.iter().product()));
        Ok(Extents { batch, samples, heads, queries, keys, features, values })
    }

    /// An operand with this number of heads as `[samples, heads, rows, …]`; broadcast dimensions are views where possible.
    pub fn four(&self, t: &Tensor, heads: usize, rows: usize) -> Result<Tensor> {
        let last = t.dims()[t.rank() - 1];
        let mut dims = self.batch.clone();
        if let Some(dim) = dims.last_mut() {
            *dim = heads;
        }
        dims.extend([rows, last]);
        t.expand(&dims.iter().map(|&n| n as i64).collect::<SmallVec<[i64; MAX_RANK]>>()[..])?.reshape([
            self.samples,
            heads,
            rows,
            last,
        ])
    }

    /// The mask with four dimensions that broadcast to `[samples, heads, queries, keys]`. It is not expanded, so a mask
    /// over queries and keys alone stays small.
    pub fn mask(&self, op: &'static str, q: &Tensor, mask: &Tensor) -> Result<Tensor> {
        check::same_device(op, q, &[mask])?;
        if mask.dtype() != DType::Bool {
            check::same_kind(op, q, &[mask])?;
        }
        let mut whole = self.batch.clone();
        whole.extend([self.queries, self.keys]);
        let whole = Shape::new(&whole)?;
        if Shape::broadcast(op, &whole, mask.shape()).ok() != Some(whole) {
            return Err(Error::shape(op, format!("a mask that broadcasts to {whole}"), mask.shape()));
        }
        let mut dims: SmallVec<[usize; MAX_RANK]> = smallvec![1; whole.rank().max(4) - mask.rank()];
        dims.extend(mask.dims().iter().copied());
        let mask = mask.reshape(&dims[..])?;
        if dims.len() == 4 {
            return Ok(mask);
        }
        // Leading dimensions can only be merged if none of them is broadcast.
        let (rows, columns) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        let mut leading: SmallVec<[i64; MAX_RANK]> = self.batch.iter().map(|&n| n as i64).collect();
        leading.extend([rows as i64, columns as i64]);
        mask.expand(&leading[..])?.reshape([self.samples, self.heads, rows, columns])
    }
}
