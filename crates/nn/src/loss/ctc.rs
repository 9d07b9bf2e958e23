//! `CTCLoss`: connectionist temporal classification, by the forward recursion in tensor operations.

use kiln_derive::located;
use kiln_tensor::{DType, Error, Reduction, Result, Tensor, autocast::cast_operands, no_grad};

use super::composed::composed;
use crate::module::Module;

composed! {
    /// The negative log-likelihood of label sequences over all their alignments with a sequence of predictions (Graves
    /// et al., 2006; <https://docs.pytorch.org/docs/stable/generated/torch.nn.CTCLoss.html>). The mean is over samples,
    /// each divided by its number of labels.
    ///
    /// As in PyTorch, the gradient is for log-probabilities that `log_softmax` has computed: it contains the share that the
    /// gradient of `log_softmax` adds otherwise.
    CTCLoss {
        blank: usize = 0, "The class of the blank, which stands for no label: 0 by default.";
        zero_infinity: bool = false, "Whether the loss and gradient of a sample without any alignment are 0 instead of infinite.";
    }
}

const OP: &str = "CTCLoss";

/// The logarithm of an impossible alignment: finite, so that no gradient is NaN, and below what any possible one reaches.
const IMPOSSIBLE: f64 = -1e30;

#[located(site)]
impl CTCLoss {
    /// The loss for log-probabilities `[T, N, C]` and labels `[N, S]`, of which each sample has as many steps and labels as
    /// the lengths say; or for labels in one vector, those of a sample after those of the one before. A single sequence may
    /// be `[T, C]` with labels `[S]`.
    ///
    /// # Errors
    /// If the shapes do not fit together, lengths are not one per sample or exceed the sequences, labels are not
    /// integers or no classes, the log-probabilities are not floats, or devices differ.
    pub fn forward(
        &self,
        log_probs: &Tensor,
        targets: &Tensor,
        input_lengths: &[usize],
        target_lengths: &[usize],
    ) -> Result<Tensor> {
        cast_operands("ctc_loss", [log_probs], [], |[log_probs], []| {
            self.computed(log_probs, targets, input_lengths, target_lengths)
        })
    }

    fn computed(
        &self,
        log_probs: &Tensor,
        targets: &Tensor,
        input_lengths: &[usize],
        target_lengths: &[usize],
    ) -> Result<Tensor> {
        if !log_probs.dtype().is_float() || targets.dtype().is_float() || targets.dtype() == DType::Bool {
            let message =
                format!("it takes floats and integer labels, not {} and {}", log_probs.dtype(), targets.dtype());
            return Err(Error::argument(OP, message));
        }
        let single = log_probs.rank() == 2;
        if !single && log_probs.rank() != 3 {
            return Err(Error::shape(OP, "log-probabilities [T, N, C] or [T, C]", log_probs.shape()));
        }
        let log_probs = if log_probs.dtype().is_half() { log_probs.to_dtype(DType::F32)? } else { log_probs.clone() };
        let log_probs = if single { log_probs.unsqueeze(1)? } else { log_probs };
        let (steps, samples, classes) = log_probs.dims3()?;
        self.check(&log_probs, input_lengths, target_lengths)?;
        let labels = padded(targets, samples, target_lengths)?;
        let longest = labels.dims()[1];

        // Labels with blanks around each: `[N, 2 S + 1]`.
        let options = labels.options();
        let blanks = Tensor::full([samples, longest, 1], self.blank as i64, options)?;
        let path = Tensor::cat(&[&blanks, &labels.unsqueeze(2)?], 2)?.reshape([samples, 2 * longest])?;
        let path = Tensor::cat(&[path, Tensor::full([samples, 1], self.blank as i64, options)?], 1)?;
        let places = 2 * longest + 1;
        if steps == 0 || samples == 0 {
            return Err(Error::shape(
                OP,
                format!("at least one step and sample of {classes} classes"),
                log_probs.shape(),
            ));
        }
        let scores = log_probs.gather(2, &path.expand([steps, samples, places])?)?.clamp_min(IMPOSSIBLE)?;
        // A label may follow the one before without a blank between if they differ.
        let before = |x: &Tensor, by: usize| -> Result<Tensor> {
            let gap = Tensor::full([samples, by.min(places)], IMPOSSIBLE, scores.options())?;
            Tensor::cat(&[gap, x.narrow(1, 0, places.saturating_sub(by))?], 1)
        };
        let skips = {
            let no_label = Tensor::full([samples, 2.min(places)], self.blank as i64, options)?;
            let earlier = Tensor::cat(&[&no_label, &path.narrow(1, 0, places.saturating_sub(2))?], 1)?;
            path.ne(self.blank as i64)?.logical_and(&path.ne(&earlier)?)?
        };
        let counts = |values: &[usize]| {
            let values: Vec<i64> = values.iter().map(|&n| n as i64).collect();
            Tensor::from_vec(values, [samples, 1], log_probs.device())
        };
        let (durations, counts) = (counts(input_lengths)?, counts(target_lengths)?);
        let place = Tensor::arange(0, places as i64, (DType::I64, log_probs.device()))?;

        // `alphas[n, s]` is the log-probability of all alignments so far that end at place `s`.
        let mut alphas = place.le(1)?.expand([samples, places])?.where_cond(&scores.select(0, 0)?, IMPOSSIBLE)?;
        for step in 1..steps {
            let skipped = skips.where_cond(&before(&alphas, 2)?, IMPOSSIBLE)?;
            let from = Tensor::stack(&[&alphas, &before(&alphas, 1)?, &skipped], 0)?;
            let next = from.logsumexp(0)?.add(&scores.select(0, step as i64)?)?;
            alphas = durations.gt(step as i64)?.where_cond(&next, &alphas)?;
        }
        // Alignments end at the last label or at the blank after it. Without labels there is only the blank.
        let last = counts.mul(2)?;
        let ends = place.le(&last)?.logical_and(&place.ge(&last.sub(1)?)?)?;
        let likelihoods = ends.where_cond(&alphas, IMPOSSIBLE)?.logsumexp(1)?;
        let (losses, impossible) = (likelihoods.neg()?, likelihoods.le(IMPOSSIBLE / 2.0)?);
        // An empty sequence has the empty labels as its only alignment.
        let empty = durations.squeeze(1)?.eq(0)?;
        let losses = empty.logical_and(&counts.squeeze(1)?.eq(0)?)?.where_cond(0.0, &losses)?;
        let impossible = impossible.logical_or(&empty.logical_and(&counts.squeeze(1)?.gt(0)?)?)?;

        // The share of `log_softmax` in the gradient, whose own value is 0.
        let used = Tensor::arange(0, steps as i64, (DType::I64, log_probs.device()))?.unsqueeze(1)?;
        let used = used.lt(&durations.squeeze(1)?)?.unsqueeze(2)?;
        let probabilities = used.where_cond(&log_probs.exp()?, 0.0)?.sum([0, 2])?;
        let losses = losses.add(&probabilities.sub(&no_grad(|| probabilities.copy())?)?)?;
        let losses = impossible.where_cond(if self.zero_infinity { 0.0 } else { f64::INFINITY }, &losses)?;
        match self.reduction {
            Reduction::None if single => losses.squeeze(0),
            Reduction::None => Ok(losses),
            Reduction::Sum => losses.sum(()),
            Reduction::Mean => {
                let labels = counts.squeeze(1)?.clamp_min(1)?.to_dtype(losses.dtype())?;
                losses.div(&labels)?.mean(())
            }
        }
    }

    fn check(&self, log_probs: &Tensor, input_lengths: &[usize], target_lengths: &[usize]) -> Result<()> {
        let (steps, samples, classes) = log_probs.dims3()?;
        if self.blank >= classes {
            return Err(Error::argument(OP, format!("the blank {} is none of the {classes} classes", self.blank)));
        }
        for (what, lengths) in [("input", input_lengths), ("target", target_lengths)] {
            if lengths.len() != samples {
                let message = format!("{} {what} lengths for {samples} samples", lengths.len());
                return Err(Error::argument(OP, message));
            }
        }
        match input_lengths.iter().find(|&&length| length > steps) {
            Some(length) => Err(Error::argument(OP, format!("an input length of {length} exceeds the {steps} steps"))),
            None => Ok(()),
        }
    }
}

/// The labels as `[N, S]` of `i64`.
fn padded(targets: &Tensor, samples: usize, lengths: &[usize]) -> Result<Tensor> {
    let targets = targets.to_dtype(DType::I64)?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    match *targets.dims() {
        [n, s] if n == samples && longest <= s => Ok(targets),
        [s] if samples == 1 && longest <= s => targets.unsqueeze(0),
        [sum] if lengths.iter().sum::<usize>() == sum => {
            let mut rows = Vec::with_capacity(samples);
            let mut start = 0;
            for &length in lengths {
                let row = targets.narrow(0, start, length)?;
                let rest = Tensor::zeros(longest - length, targets.options())?;
                rows.push(Tensor::cat(&[row, rest], 0)?);
                start += length;
            }
            Tensor::stack(&rows, 0)
        }
        _ => {
            let expected = format!("labels [N, S] or one vector of them, for {samples} samples of lengths {lengths:?}");
            Err(Error::shape(OP, expected, targets.shape()))
        }
    }
}
