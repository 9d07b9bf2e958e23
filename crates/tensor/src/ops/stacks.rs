//! Joining and splitting by rules for each rank: `hstack`, `tensor_split`, `tile`, `block_diag`, `cartesian_prod`, ….

use std::borrow::Borrow;

use kiln_backend::{DType, Dim, Error, Result};
use kiln_derive::located;

use super::pad::PadMode;
use crate::{creation::Extents, tensor::Tensor};

/// Where [`Tensor::tensor_split`] splits: into a number of parts, or at indices, which count from the end if negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Splits {
    /// Parts, of which the first ones are one longer if they cannot be equal.
    Sections(usize),
    /// A part before each index, and the rest.
    At(Vec<i64>),
}

impl From<usize> for Splits {
    fn from(sections: usize) -> Splits {
        Splits::Sections(sections)
    }
}

impl From<&[i64]> for Splits {
    fn from(indices: &[i64]) -> Splits {
        Splits::At(indices.to_vec())
    }
}

impl<const N: usize> From<[i64; N]> for Splits {
    fn from(indices: [i64; N]) -> Splits {
        Splits::At(indices.to_vec())
    }
}

/// If there are more parts than elements, the others are empty; this is how many may be.
const MAX_EMPTY_PARTS: usize = 65_536;

fn each(tensors: &[impl Borrow<Tensor>], f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    tensors.iter().map(|t| f(t.borrow())).collect()
}

#[located]
impl Tensor {
    /// The tensor itself, or a scalar as a vector `[1]`.
    ///
    /// # Errors
    /// None.
    pub fn atleast_1d(&self) -> Result<Tensor> {
        if self.rank() == 0 { self.reshape([1]) } else { Ok(self.clone()) }
    }

    /// The tensor itself, or a scalar or vector as a matrix with one row.
    ///
    /// # Errors
    /// None.
    pub fn atleast_2d(&self) -> Result<Tensor> {
        match self.rank() {
            0 => self.reshape([1, 1]),
            1 => self.unsqueeze(0),
            _ => Ok(self.clone()),
        }
    }

    /// The tensor itself, or a scalar, vector `[n]` or matrix `[m, n]` as `[1, 1, 1]`, `[1, n, 1]` or `[m, n, 1]`.
    ///
    /// # Errors
    /// None.
    pub fn atleast_3d(&self) -> Result<Tensor> {
        match self.rank() {
            0 => self.reshape([1, 1, 1]),
            1 => self.unsqueeze(0)?.unsqueeze(2),
            2 => self.unsqueeze(2),
            _ => Ok(self.clone()),
        }
    }

    /// Joins tensors side by side: along dimension 1, or 0 for vectors and scalars
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.hstack.html>).
    ///
    /// # Errors
    /// Those of [`cat`](Tensor::cat).
    pub fn hstack(tensors: &[impl Borrow<Tensor>]) -> Result<Tensor> {
        let parts = each(tensors, Tensor::atleast_1d)?;
        let dim = usize::from(parts.first().is_some_and(|first| first.rank() > 1));
        Tensor::cat(&parts, dim)
    }

    /// Joins tensors below each other: along dimension 0, vectors as rows
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.vstack.html>).
    ///
    /// # Errors
    /// Those of [`cat`](Tensor::cat).
    pub fn vstack(tensors: &[impl Borrow<Tensor>]) -> Result<Tensor> {
        Tensor::cat(&each(tensors, Tensor::atleast_2d)?, 0)
    }

    /// Joins tensors along dimension 2, as [`atleast_3d`](Tensor::atleast_3d)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.dstack.html>).
    ///
    /// # Errors
    /// Those of [`cat`](Tensor::cat).
    pub fn dstack(tensors: &[impl Borrow<Tensor>]) -> Result<Tensor> {
        Tensor::cat(&each(tensors, Tensor::atleast_3d)?, 2)
    }

    /// Joins tensors along dimension 1, vectors and scalars as columns
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.column_stack.html>).
    ///
    /// # Errors
    /// Those of [`cat`](Tensor::cat).
    pub fn column_stack(tensors: &[impl Borrow<Tensor>]) -> Result<Tensor> {
        let column = |t: &Tensor| if t.rank() < 2 { t.reshape([t.numel(), 1]) } else { Ok(t.clone()) };
        Tensor::cat(&each(tensors, column)?, 1)
    }

    /// All elements as a vector; a view if they lie in order.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn ravel(&self) -> Result<Tensor> {
        self.flatten_all()
    }

    /// Repeats the tensor: `dims[i]` times along dimension `i`, counted from the last
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.tile.html>).
    ///
    /// # Errors
    /// If a number is negative, or the result is too large or has more than 8 dimensions.
    pub fn tile(&self, dims: impl Extents) -> Result<Tensor> {
        let (repeats, count) = dims.extents("tile")?;
        let mut all = vec![1; self.rank().saturating_sub(count)];
        all.extend_from_slice(&repeats[..count]);
        self.repeat(all)
    }

    /// The tensors, expanded to the shape that they all broadcast to.
    ///
    /// # Errors
    /// If they do not broadcast.
    pub fn broadcast_tensors(tensors: &[impl Borrow<Tensor>]) -> Result<Vec<Tensor>> {
        let mut shape = kiln_backend::Shape::SCALAR;
        for tensor in tensors {
            shape = kiln_backend::Shape::broadcast("broadcast_tensors", &shape, tensor.borrow().shape())?;
        }
        each(tensors, |t| t.expand(shape.dims()))
    }

    /// The matrix with these matrices along its diagonal and zeros elsewhere. Vectors are rows
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.block_diag.html>).
    ///
    /// # Errors
    /// If there are no tensors, one has more than 2 dimensions, or devices differ.
    pub fn block_diag(tensors: &[impl Borrow<Tensor>]) -> Result<Tensor> {
        const OP: &str = "block_diag";
        let blocks = each(tensors, Tensor::atleast_2d)?;
        if let Some(block) = blocks.iter().find(|block| block.rank() > 2) {
            return Err(Error::shape(OP, "at most 2 dimensions", block.shape()));
        }
        let width: usize = blocks.iter().map(|block| block.dims()[1]).sum();
        let mut before = 0;
        let mut rows = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let after = width - before - block.dims()[1];
            rows.push(block.pad(&[before as i64, after as i64], PadMode::Constant(0.0))?);
            before += block.dims()[1];
        }
        Tensor::cat(&rows, 0)
    }

    /// All combinations of an element of each vector, as rows; the vector itself if there is only one
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.cartesian_prod.html>).
    ///
    /// # Errors
    /// If there are no tensors, one is not a vector, or dtypes or devices differ.
    pub fn cartesian_prod(vectors: &[impl Borrow<Tensor>]) -> Result<Tensor> {
        const OP: &str = "cartesian_prod";
        if let Some(other) = vectors.iter().map(Borrow::borrow).find(|t: &&Tensor| t.rank() != 1) {
            return Err(Error::shape(OP, "vectors", other.shape()));
        }
        if let [only] = vectors {
            return Ok(only.borrow().clone());
        }
        let grids = Tensor::meshgrid(vectors)?;
        Tensor::stack(&each(&grids, Tensor::flatten_all)?, 1)
    }

    /// All choices of `r` elements of a vector, as rows: without repetition in the order of the vector, or with
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.combinations.html>).
    ///
    /// # Errors
    /// If the tensor is not a vector.
    pub fn combinations(&self, r: usize, with_replacement: bool) -> Result<Tensor> {
        const OP: &str = "combinations";
        if self.rank() != 1 {
            return Err(Error::shape(OP, "a vector", self.shape()));
        }
        if r == 0 {
            return Tensor::empty([0], self.options());
        }
        // Keeps the rows whose places increase from column to column.
        let (device, n) = (self.device(), self.numel());
        let places = Tensor::arange(0, n as i64, (DType::I64, device))?;
        let grids: Vec<Tensor> = Tensor::meshgrid(&vec![places; r])?;
        let mut chosen = Tensor::full(grids[0].dims(), true, (DType::Bool, device))?;
        for pair in grids.windows(2) {
            let rising = if with_replacement { pair[0].le(&pair[1])? } else { pair[0].lt(&pair[1])? };
            chosen = chosen.logical_and(&rising)?;
        }
        let columns = grids.iter().map(|grid| self.index_select(0, &grid.masked_select(&chosen)?));
        Tensor::stack(&columns.collect::<Result<Vec<_>>>()?, 1)
    }

    /// Parts along a dimension, as views: so many, or those between indices
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.tensor_split.html>).
    ///
    /// # Errors
    /// If the tensor is a scalar, the dimension is out of range, or there are no parts.
    pub fn tensor_split(&self, splits: impl Into<Splits>, dim: impl Dim) -> Result<Vec<Tensor>> {
        const OP: &str = "tensor_split";
        let dim = self.real_dim(OP, dim.resolve(OP, self.rank())?)?;
        let extent = self.dims()[dim];
        let ends: Vec<usize> = match splits.into() {
            Splits::Sections(0) => return Err(Error::argument(OP, "the number of parts is 0")),
            Splits::Sections(count) if count > extent.max(MAX_EMPTY_PARTS) => {
                return Err(Error::argument(OP, format!("{count} parts of {extent} elements, most of them empty")));
            }
            Splits::Sections(count) => {
                let (least, longer) = (extent / count, extent % count);
                (1..=count).map(|i| i * least + i.min(longer)).collect()
            }
            Splits::At(indices) => {
                let from_start = |&index: &i64| {
                    let index = if index < 0 { index.saturating_add(extent as i64) } else { index };
                    index.clamp(0, extent as i64) as usize
                };
                indices.iter().map(from_start).chain([extent]).collect()
            }
        };
        let mut start = 0;
        let part = |end: usize| {
            let part = self.narrow(dim, start.min(end), end.saturating_sub(start));
            start = end;
            part
        };
        ends.into_iter().map(part).collect()
    }

    /// [`tensor_split`](Tensor::tensor_split) along dimension 1, or 0 for vectors; parts must be equal.
    ///
    /// # Errors
    /// Those of `tensor_split`; or if the parts cannot be equal.
    pub fn hsplit(&self, splits: impl Into<Splits>) -> Result<Vec<Tensor>> {
        self.split_equally("hsplit", usize::from(self.rank() > 1), 1, splits.into())
    }

    /// [`tensor_split`](Tensor::tensor_split) along dimension 0 of matrices; parts must be equal.
    ///
    /// # Errors
    /// Those of `tensor_split`; or if the tensor is a vector, or the parts cannot be equal.
    pub fn vsplit(&self, splits: impl Into<Splits>) -> Result<Vec<Tensor>> {
        self.split_equally("vsplit", 0, 2, splits.into())
    }

    /// [`tensor_split`](Tensor::tensor_split) along dimension 2; parts must be equal.
    ///
    /// # Errors
    /// Those of `tensor_split`; or if there are fewer than 3 dimensions, or the parts cannot be equal.
    pub fn dsplit(&self, splits: impl Into<Splits>) -> Result<Vec<Tensor>> {
        self.split_equally("dsplit", 2, 3, splits.into())
    }

    fn split_equally(&self, op: &'static str, dim: usize, rank: usize, splits: Splits) -> Result<Vec<Tensor>> {
        if self.rank() < rank {
            return Err(Error::shape(op, format!("at least {rank} dimensions"), self.shape()));
        }
        match splits {
            Splits::Sections(count) if count == 0 || !self.dims()[dim].is_multiple_of(count) => {
                return Err(Error::shape(op, format!("dimension {dim} in {count} equal parts"), self.shape()));
            }
            _ => {}
        }
        self.tensor_split(splits, dim)
    }

    /// The tensor turned by `k` quarter turns in the plane of two dimensions, from the first to the second
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.rot90.html>).
    ///
    /// # Errors
    /// If a dimension is out of range, or both are the same.
    pub fn rot90(&self, k: i64, dims: [i64; 2]) -> Result<Tensor> {
        const OP: &str = "rot90";
        let [first, second] = [dims[0].resolve(OP, self.rank())?, dims[1].resolve(OP, self.rank())?];
        if first == second || self.rank() < 2 {
            return Err(Error::argument(OP, format!("{dims:?} are not two dimensions of shape {}", self.shape())));
        }
        match k.rem_euclid(4) {
            0 => self.copy(),
            1 => self.flip(second)?.transpose(first, second),
            2 => self.flip([first, second]),
            _ => self.flip(first)?.transpose(first, second),
        }
    }

    /// The columns of `[M, N, …]` in reverse order.
    ///
    /// # Errors
    /// If there are fewer than 2 dimensions.
    pub fn fliplr(&self) -> Result<Tensor> {
        if self.rank() < 2 {
            return Err(Error::shape("fliplr", "at least 2 dimensions", self.shape()));
        }
        self.flip(1)
    }

    /// The rows of `[M, …]` in reverse order.
    ///
    /// # Errors
    /// If the tensor is a scalar.
    pub fn flipud(&self) -> Result<Tensor> {
        if self.rank() == 0 {
            return Err(Error::shape("flipud", "at least 1 dimension", self.shape()));
        }
        self.flip(0)
    }

    /// All windows of `size` elements along `dim`, each `step` after the one before, as a copy with a new last dimension
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.unfold.html>, which is a view).
    ///
    /// # Errors
    /// If the dimension is out of range, its extent is below `size`, or `step` is 0.
    pub fn unfold(&self, dim: impl Dim, size: usize, step: usize) -> Result<Tensor> {
        const OP: &str = "unfold";
        if self.rank() == 0 {
            if size > 1 || step == 0 {
                return Err(Error::shape(OP, format!("windows of {size} elements"), self.shape()));
            }
            return self.reshape([1])?.narrow(0, 0, size)?.copy();
        }
        let dim = dim.resolve(OP, self.rank())?;
        let extent = self.dims()[dim];
        if step == 0 || size > extent {
            let expected = format!("windows of {size} elements, each {step} on, in dimension {dim}");
            return Err(Error::shape(OP, expected, self.shape()));
        }
        let count = (extent - size) / step + 1;
        let along = |n: usize| Tensor::arange(0, n as i64, (DType::I64, self.device()));
        let places = along(count)?.mul(step as i64)?.unsqueeze(1)?.add(&along(size)?)?.flatten_all()?;
        self.index_select(dim, &places)?.unflatten(dim, [count, size])?.movedim(dim + 1, -1)
    }

    /// Channels as pixels: `[…, C r², H, W]` to `[…, C, H r, W r]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.pixel_shuffle.html>).
    ///
    /// # Errors
    /// If there are fewer than 3 dimensions, or the channels are no multiple of `r²`.
    pub fn pixel_shuffle(&self, r: usize) -> Result<Tensor> {
        let fits = |c: usize, _: usize, _: usize| r > 0 && c.is_multiple_of(r * r);
        let (n, [c, h, w]) = self.planes("pixel_shuffle", "[..., C * r * r, H, W]", fits)?;
        let channels = c / (r * r);
        let shape = [&self.dims()[..self.rank() - 3], &[channels, h * r, w * r]].concat();
        self.reshape([n, channels, r, r, h, w])?.permute([0, 1, 4, 2, 5, 3])?.reshape(shape)
    }

    /// Pixels as channels: `[…, C, H r, W r]` to `[…, C r², H, W]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.pixel_unshuffle.html>).
    ///
    /// # Errors
    /// If there are fewer than 3 dimensions, or height or width is no multiple of `r`.
    pub fn pixel_unshuffle(&self, r: usize) -> Result<Tensor> {
        let fits = |_: usize, h: usize, w: usize| r > 0 && h.is_multiple_of(r) && w.is_multiple_of(r);
        let (n, [c, h, w]) = self.planes("pixel_unshuffle", "[..., C, H * r, W * r]", fits)?;
        let shape = [&self.dims()[..self.rank() - 3], &[c * r * r, h / r, w / r]].concat();
        self.reshape([n, c, h / r, r, w / r, r])?.permute([0, 1, 3, 5, 2, 4])?.reshape(shape)
    }

    /// The batch and the last 3 extents.
    fn planes(
        &self,
        op: &'static str,
        expected: &str,
        fits: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<(usize, [usize; 3])> {
        match *self.dims() {
            [ref before @ .., c, h, w] if fits(c, h, w) => Ok((before.iter().product(), [c, h, w])),
            _ => Err(Error::shape(op, expected, self.shape())),
        }
    }

    /// Interleaves groups of the channels of `[N, C, …]`: channel `i` of every group comes before channel `i + 1` of any
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.ChannelShuffle.html>).
    ///
    /// # Errors
    /// If there are fewer than 3 dimensions, or the groups do not divide the channels.
    pub fn channel_shuffle(&self, groups: usize) -> Result<Tensor> {
        if self.rank() < 3 || groups == 0 || !self.dims()[1].is_multiple_of(groups) {
            return Err(Error::shape(
                "channel_shuffle",
                format!("[N, C, ...] with C in {groups} groups"),
                self.shape(),
            ));
        }
        let (n, c) = (self.dims()[0], self.dims()[1]);
        let rest: usize = self.dims()[2..].iter().product();
        self.reshape([n, groups, c / groups, rest])?.transpose(1, 2)?.reshape(self.dims())
    }
}
