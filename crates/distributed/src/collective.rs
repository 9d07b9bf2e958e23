//! Collectives: their kinds, their tensors, their names in errors, and the checks of their arguments.

use std::fmt;

use kiln_tensor::{DType, Error, Result, Tensor};

/// How an all-reduce or a reduce-scatter combines the values of the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReduceOp {
    /// The sum.
    Sum,
    /// The sum divided by the number of ranks; floating-point tensors only.
    Mean,
    /// The minimum; NaN if any value is NaN.
    Min,
    /// The maximum; NaN if any value is NaN.
    Max,
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Mean => "mean",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
        })
    }
}

/// The kinds of collectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CollectiveKind {
    /// All ranks receive the values of rank `root`.
    Broadcast {
        /// The rank whose values are sent.
        root: usize,
    },
    /// All ranks receive the combination of the values of all ranks.
    AllReduce(ReduceOp),
    /// All ranks receive the values of all ranks, in rank order.
    AllGather,
    /// Rank `i` receives the combination of the `i`-th parts of all ranks.
    ReduceScatter(ReduceOp),
    /// No rank continues until all have arrived.
    Barrier,
}

impl fmt::Display for CollectiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CollectiveKind::Broadcast { root } => write!(f, "broadcast from rank {root}"),
            CollectiveKind::AllReduce(op) => write!(f, "all_reduce ({op})"),
            CollectiveKind::AllGather => f.write_str("all_gather"),
            CollectiveKind::ReduceScatter(op) => write!(f, "reduce_scatter ({op})"),
            CollectiveKind::Barrier => f.write_str("barrier"),
        }
    }
}

impl CollectiveKind {
    /// The name of the operation in errors about its arguments.
    pub(crate) fn op(self) -> &'static str {
        match self {
            CollectiveKind::Broadcast { .. } => "broadcast",
            CollectiveKind::AllReduce(_) => "all_reduce",
            CollectiveKind::AllGather => "all_gather",
            CollectiveKind::ReduceScatter(_) => "reduce_scatter",
            CollectiveKind::Barrier => "barrier",
        }
    }

    pub(crate) fn reduces_by(self) -> Option<ReduceOp> {
        match self {
            CollectiveKind::AllReduce(op) | CollectiveKind::ReduceScatter(op) => Some(op),
            _ => None,
        }
    }
}

/// A call of a collective. All ranks must make the same calls in the same order.
#[derive(Clone, Debug)]
pub struct Collective {
    /// The kind of collective.
    pub kind: CollectiveKind,
    /// The tensor to read, if it is not the one to write.
    pub input: Option<Tensor>,
    /// The tensor to write; a broadcast and an all-reduce also read it. `None` for a barrier.
    pub output: Option<Tensor>,
    pub(crate) name: Option<String>,
}

impl Collective {
    fn new(kind: CollectiveKind, input: Option<&Tensor>, output: Option<&Tensor>) -> Collective {
        Collective { kind, input: input.cloned(), output: output.cloned(), name: None }
    }

    /// Gives `tensor` the values that it has on rank `root`.
    #[must_use]
    pub fn broadcast(tensor: &Tensor, root: usize) -> Collective {
        Collective::new(CollectiveKind::Broadcast { root }, None, Some(tensor))
    }

    /// Replaces `tensor` by the combination of all ranks' values.
    #[must_use]
    pub fn all_reduce(tensor: &Tensor, op: ReduceOp) -> Collective {
        Collective::new(CollectiveKind::AllReduce(op), None, Some(tensor))
    }

    /// Fills `output` with the `input`s of all ranks; it must have as many elements as all of them.
    #[must_use]
    pub fn all_gather(output: &Tensor, input: &Tensor) -> Collective {
        Collective::new(CollectiveKind::AllGather, Some(input), Some(output))
    }

    /// Fills `output` with the combination of this rank's part of all ranks' `input`s.
    #[must_use]
    pub fn reduce_scatter(output: &Tensor, input: &Tensor, op: ReduceOp) -> Collective {
        Collective::new(CollectiveKind::ReduceScatter(op), Some(input), Some(output))
    }

    /// Waits for all ranks.
    #[must_use]
    pub fn barrier() -> Collective {
        Collective::new(CollectiveKind::Barrier, None, None)
    }

    /// Sets the name of the tensor in errors.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Collective {
        Collective { name: Some(name.into()), ..self }
    }

    /// The part of the call that must be equal on all ranks.
    pub(crate) fn signature(&self) -> String {
        let tensor = |tensor: &Tensor| format!("{}{}", tensor.dtype(), tensor.shape());
        let mut text = self.kind.to_string();
        for (word, tensor) in [(" of ", self.input.as_ref()), (" into ", self.output.as_ref())]
            .into_iter()
            .filter_map(|(word, t)| Some((word, tensor(t?))))
        {
            let word = if self.input.is_none() { " of " } else { word };
            text.push_str(word);
            text.push_str(&tensor);
        }
        text
    }

    /// Refuses calls that no group of this size can perform.
    pub(crate) fn check(&self, size: usize) -> Result<()> {
        let op = self.kind.op();
        if let CollectiveKind::Broadcast { root } = self.kind
            && root >= size
        {
            return Err(Error::argument(op, format!("there is no rank {root} in a group of {size}")));
        }
        if let (Some(by), Some(output)) = (self.kind.reduces_by(), &self.output) {
            check_reduction(op, by, output.dtype())?;
        }
        if let Some(output) = &self.output {
            let is_repeated = |(&extent, &stride): (&usize, &isize)| extent > 1 && stride == 0;
            if output.dims().iter().zip(output.strides()).any(is_repeated) {
                let expected = "a tensor whose elements do not overlap, not a broadcast view";
                return Err(Error::shape(op, expected, output.shape()));
            }
        }
        let (Some(input), Some(output)) = (&self.input, &self.output) else { return Ok(()) };
        if input.dtype() != output.dtype() {
            return Err(Error::dtypes(op, input.dtype(), output.dtype()));
        }
        if input.device() != output.device() {
            return Err(Error::devices(op, input.device(), output.device()));
        }
        let (small, large) = match self.kind {
            CollectiveKind::AllGather => (input, output),
            _ => (output, input),
        };
        if small.numel().checked_mul(size) != Some(large.numel()) {
            let expected = format!("one must have {size} times the elements of the other, one part per rank");
            return Err(Error::shapes(op, input.shape(), output.shape(), expected));
        }
        Ok(())
    }
}

fn check_reduction(op: &'static str, by: ReduceOp, dtype: DType) -> Result<()> {
    match by {
        _ if dtype == DType::Bool => Err(Error::dtype(op, dtype, "bools cannot be reduced; convert to integers")),
        ReduceOp::Mean if !dtype.is_float() => {
            Err(Error::dtype(op, dtype, "only floating-point tensors have a mean; use the sum"))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.signature())?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_tensor::Device;

    use super::*;

    #[test]
    fn calls_are_described_and_checked() -> Result<()> {
        let tensor = |shape: &[usize], dtype: DType| Tensor::zeros(shape, Device::Cpu)?.to_dtype(dtype);
        let (x, y) = (tensor(&[2, 3], DType::F32)?, tensor(&[4, 3], DType::F32)?);
        let call = Collective::all_reduce(&x, ReduceOp::Mean).named("bucket 0");
        assert_eq!(call.to_string(), "all_reduce (mean) of f32[2, 3] (bucket 0)");
        assert_eq!(Collective::all_gather(&y, &x).to_string(), "all_gather of f32[2, 3] into f32[4, 3]");
        assert_eq!(Collective::barrier().to_string(), "barrier");
        call.check(2)?;
        Collective::all_gather(&y, &x).check(2)?;
        Collective::reduce_scatter(&x, &y, ReduceOp::Max).check(2)?;
        let flags = tensor(&[2], DType::Bool)?;
        Collective::broadcast(&flags, 1).check(2)?;
        let wrong = [
            Collective::broadcast(&x, 2),
            Collective::all_gather(&x, &y),
            Collective::all_gather(&y, &x.to_dtype(DType::F64)?),
            Collective::reduce_scatter(&x, &tensor(&[4, 2], DType::F32)?, ReduceOp::Sum),
            Collective::all_reduce(&flags, ReduceOp::Sum),
            Collective::all_reduce(&tensor(&[2], DType::I64)?, ReduceOp::Mean),
            Collective::all_reduce(&tensor(&[1], DType::F32)?.expand([4])?, ReduceOp::Sum),
        ];
        for call in wrong {
            let error = call.check(2).unwrap_err().to_string();
            assert!(error.starts_with(call.kind.op()), "{error}");
        }
        Ok(())
    }
}
