//! The weight and bias of a convolution with the batch normalization after it folded into them, kept until one of the tensors
//! that they are computed from changes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_tensor::{
    DType, MemorySnapshot, Result, Tensor,
    captured::{is_capturing, valid_while},
    no_grad,
};

/// What a folding is computed from: weight and bias of the convolution, then of the normalization, then its running mean
/// and variance.
pub(super) type Sources<'a> = [Option<&'a Tensor>; 6];

/// A folded weight and bias, with what they were computed from.
#[derive(Clone, Debug)]
struct Folding {
    sources: [Option<MemorySnapshot>; 6],
    eps: f64,
    /// `None` if not all values are finite.
    by: Option<(Tensor, Tensor)>,
}

impl Folding {
    fn is_of(&self, sources: Sources<'_>, eps: f64) -> bool {
        let same = |(snapshot, tensor): (&Option<MemorySnapshot>, Option<&Tensor>)| match (snapshot, tensor) {
            (None, None) => true,
            (Some(snapshot), Some(tensor)) => snapshot.is_of(tensor),
            _ => false,
        };
        self.eps == eps && self.sources.iter().zip(sources).all(same)
    }

    /// Computes in `f64` and rounds once, to the dtype of the convolution.
    fn new(sources: Sources<'_>, eps: f64) -> Result<Folding> {
        // Before values are read: whoever changes them meanwhile makes the folding stale.
        let snapshots = sources.map(|source| source.map(Tensor::memory_snapshot));
        let wide = |source: Option<&Tensor>| source.map(|tensor| tensor.to_dtype(DType::F64)).transpose();
        let [weight, bias, gamma, beta, mean, var] = sources;
        let (Some(weight), Some(mean), Some(var)) = (weight, wide(mean)?, wide(var)?) else {
            return Ok(Folding { sources: snapshots, eps, by: None });
        };
        let mut scale = var.add(eps)?.sqrt()?.reciprocal()?;
        if let Some(gamma) = wide(gamma)? {
            scale = scale.mul(&gamma)?;
        }
        let mut shift = mean.neg()?;
        if let Some(bias) = wide(bias)? {
            shift = shift.add(&bias)?;
        }
        shift = shift.mul(&scale)?;
        if let Some(beta) = wide(beta)? {
            shift = shift.add(&beta)?;
        }
        let scales = scale.reshape([scale.numel(), 1, 1, 1])?;
        let mut folded = weight.to_dtype(DType::F64)?.mul(&scales)?.to_dtype(weight.dtype())?;
        if weight.is_channels_last() {
            folded = folded.channels_last()?;
        }
        let shift = shift.to_dtype(weight.dtype())?;
        let is_finite = |t: &Tensor| t.isfinite()?.all(())?.item::<bool>();
        let by = if is_finite(&folded)? && is_finite(&shift)? { Some((folded, shift)) } else { None };
        Ok(Folding { sources: snapshots, eps, by })
    }
}

/// The last folding of a convolution. It is dropped when training goes on.
#[derive(Debug, Default)]
pub(crate) struct FoldCache(Mutex<Option<Folding>>);

impl FoldCache {
    fn lock(&self) -> MutexGuard<'_, Option<Folding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what is kept.
    pub(super) fn clear(&self) {
        self.lock().take();
    }

    /// The folded weight and bias of these sources.
    pub(super) fn get(&self, sources: Sources<'_>, eps: f64) -> Result<Option<(Tensor, Tensor)>> {
        let mut kept = self.lock();
        let current = kept.take().filter(|folding| folding.is_of(sources, eps));
        if is_capturing() {
            // A launch reads the tensors of the capture, which the condition keeps, as long as they are what they would be.
            if let Some(folding) = current.clone() {
                valid_while(move || {
                    folding.by.is_some() && folding.sources.iter().flatten().all(MemorySnapshot::is_current)
                });
            }
        }
        let folding = match current {
            Some(folding) => folding,
            // It would be folded anew in each launch, into memory that is the graph's.
            None if is_capturing() => return Ok(None),
            None => no_grad(|| Folding::new(sources, eps))?,
        };
        Ok(kept.insert(folding).by.clone())
    }
}
