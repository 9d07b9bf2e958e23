//! `AdaptiveLogSoftmaxWithLoss`: a softmax over many classes, of which few are frequent.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor, TensorOptions};

use crate::{
    layers::{Linear, LinearOptions, Sequential},
    module::{Hooks, Module},
};

const OP: &str = "AdaptiveLogSoftmaxWithLoss";

/// Options of [`AdaptiveLogSoftmaxWithLoss`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct AdaptiveLogSoftmaxOptions {
    div_value: f64,
    head_bias: bool,
    tensor: TensorOptions,
}

impl Default for AdaptiveLogSoftmaxOptions {
    fn default() -> AdaptiveLogSoftmaxOptions {
        AdaptiveLogSoftmaxOptions { div_value: 4.0, head_bias: false, tensor: TensorOptions::new() }
    }
}

impl AdaptiveLogSoftmaxOptions {
    /// By how much narrower each cluster's projection is than that of the one before it: 4 by default.
    pub fn div_value(self, div_value: f64) -> AdaptiveLogSoftmaxOptions {
        AdaptiveLogSoftmaxOptions { div_value, ..self }
    }

    /// Whether the head adds a bias.
    pub fn head_bias(self, head_bias: bool) -> AdaptiveLogSoftmaxOptions {
        AdaptiveLogSoftmaxOptions { head_bias, ..self }
    }

    /// Sets the dtype and device.
    pub fn tensor(self, options: impl Into<TensorOptions>) -> AdaptiveLogSoftmaxOptions {
        AdaptiveLogSoftmaxOptions { tensor: options.into(), ..self }
    }
}

/// The log-probabilities of classes that are sorted by frequency, the most frequent first, in less time than a softmax over
/// all of them takes (Grave et al., 2017;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveLogSoftmaxWithLoss.html>).
///
/// The classes below the first cutoff are outputs of the head, beside one output for each cluster of the others. A cluster is
/// a projection to fewer features and a layer of its own, which is computed only for samples whose target is in it.
///
/// ```
/// use kiln_nn::AdaptiveLogSoftmaxWithLoss;
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let softmax = AdaptiveLogSoftmaxWithLoss::new(16, 1000, &[20, 200])?;
/// let (x, words) = (Tensor::randn([3, 16], Device::Cpu)?, Tensor::new(&[7i64, 150, 999], Device::Cpu)?);
/// let (log_probabilities, loss) = softmax.forward(&x, &words)?;
/// assert_eq!((log_probabilities.dims(), loss.rank()), (&[3][..], 0));
/// assert_eq!(softmax.log_prob(&x)?.dims(), [3, 1000]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save)]
pub struct AdaptiveLogSoftmaxWithLoss {
    /// From the features to the frequent classes and the clusters.
    pub head: Linear,
    /// For each cluster the projection, and the layer of its classes.
    pub tail: Vec<Sequential>,
    /// Where the clusters begin, and the number of classes.
    #[module(skip, save)]
    cutoffs: Vec<usize>,
    hooks: Hooks,
}

#[located(site)]
impl AdaptiveLogSoftmaxWithLoss {
    /// A layer in `f32` on the CPU, whose clusters begin at the classes `cutoffs`.
    ///
    /// # Errors
    /// If there is no cutoff, they do not increase from 1 to at most `n_classes - 1`, or memory runs out.
    pub fn new(in_features: usize, n_classes: usize, cutoffs: &[usize]) -> Result<AdaptiveLogSoftmaxWithLoss> {
        AdaptiveLogSoftmaxWithLoss::with_options(in_features, n_classes, cutoffs, AdaptiveLogSoftmaxOptions::default())
    }

    /// A layer with options.
    ///
    /// # Errors
    /// If there is no cutoff, they do not increase from 1 to at most `n_classes - 1`, `div_value` is not positive, the dtype is
    /// not floating-point, the device is not available, or memory runs out.
    pub fn with_options(
        in_features: usize,
        n_classes: usize,
        cutoffs: &[usize],
        options: AdaptiveLogSoftmaxOptions,
    ) -> Result<AdaptiveLogSoftmaxWithLoss> {
        let bounds: Vec<usize> = [0].iter().chain(cutoffs).copied().chain([n_classes]).collect();
        if cutoffs.is_empty() || bounds.windows(2).any(|pair| pair[0] >= pair[1]) {
            let why = format!("cutoffs {cutoffs:?} must increase from 1 to below the number of classes, {n_classes}");
            return Err(Error::argument(OP, why));
        }
        if options.div_value.is_nan() || options.div_value <= 0.0 {
            return Err(Error::argument(OP, format!("div_value is {} and must be positive", options.div_value)));
        }
        let linear = |from: usize, to: usize, bias: bool| {
            Linear::with_options(from, to, LinearOptions::default().bias(bias).tensor(options.tensor))
        };
        let head = linear(in_features, cutoffs[0] + cutoffs.len(), options.head_bias)?;
        let cutoffs = bounds[1..].to_vec();
        let (mut tail, mut features) = (Vec::new(), in_features as f64);
        for ends in cutoffs.windows(2) {
            features /= options.div_value;
            let hidden = features as usize;
            let projection = linear(in_features, hidden, false)?;
            tail.push(Sequential::new().add(projection).add(linear(hidden, ends[1] - ends[0], false)?));
        }
        Ok(AdaptiveLogSoftmaxWithLoss { head, tail, cutoffs, hooks: Hooks::default() })
    }

    /// The log-probability of each sample's target, `[N]`, and the mean of their negatives, for features `[N, in_features]`
    /// and classes `[N]` (integers); of a single sample without the `N`. It waits for the device once for each cluster, to
    /// find how many samples are in it.
    ///
    /// # Errors
    /// If shapes or devices do not fit, a target is out of range, or the targets are not integers.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<(Tensor, Tensor)> {
        self.hooks.run(self, input, |input| match (input.rank(), target.rank()) {
            (2, 1) if input.dims()[0] == target.dims()[0] => self.log_likelihood(input, target),
            (1, 0) => {
                let (output, loss) = self.log_likelihood(&input.unsqueeze(0)?, &target.unsqueeze(0)?)?;
                Ok((output.squeeze(0)?, loss))
            }
            _ => Err(Error::shapes(OP, input.shape(), target.shape(), "features [N, in_features] and classes [N]")),
        })
    }

    fn log_likelihood(&self, input: &Tensor, target: &Tensor) -> Result<(Tensor, Tensor)> {
        let head = self.head.forward(input)?.log_softmax(1)?;
        let mut output = Tensor::zeros(target.shape(), head.options())?;
        // The head's output for each sample: its class, or the cluster of it.
        let mut places = target.clone();
        let mut count = self.samples_of(target, 0, self.shortlist())?.numel();
        for (i, cluster) in self.tail.iter().enumerate() {
            let (low, high) = (self.cutoffs[i], self.cutoffs[i + 1]);
            let samples = self.samples_of(target, low, high)?;
            count += samples.numel();
            if samples.numel() == 0 {
                continue;
            }
            let within = target.index_select(0, &samples)?.sub(low as i64)?.unsqueeze(1)?;
            let of_classes = cluster.forward(&input.index_select(0, &samples)?)?.log_softmax(1)?;
            let found = of_classes.gather(1, &within)?.squeeze(1)?.to_dtype(output.dtype())?;
            output = output.index_copy(0, &samples, &found)?;
            places = places.index_fill(0, &samples, (self.shortlist() + i) as i64)?;
        }
        if count != target.numel() {
            let classes = self.cutoffs.last().copied().unwrap_or(0);
            let outside = target.lt(0)?.logical_or(&target.ge(classes as i64)?)?;
            let wrong = target.masked_select(&outside)?.to_dtype(kiln_tensor::DType::I64)?.to_vec::<i64>()?;
            return Err(Error::index(OP, wrong.first().copied().unwrap_or(-1), classes, "the classes"));
        }
        let output = output.add(&head.gather(1, &places.unsqueeze(1)?)?.squeeze(1)?)?;
        let loss = output.mean(())?.neg()?;
        Ok((output, loss))
    }

    /// How many classes the head has.
    fn shortlist(&self) -> usize {
        self.cutoffs.first().copied().unwrap_or(0)
    }

    /// The numbers of the samples whose class is among these.
    fn samples_of(&self, target: &Tensor, low: usize, high: usize) -> Result<Tensor> {
        target.ge(low as i64)?.logical_and(&target.lt(high as i64)?)?.nonzero()?.flatten_all()
    }

    /// The log-probabilities of all classes, `[N, n_classes]`, for features `[N, in_features]`.
    ///
    /// # Errors
    /// If the shape, dtype or device does not fit.
    pub fn log_prob(&self, input: &Tensor) -> Result<Tensor> {
        let head = self.head.forward(input)?.log_softmax(1)?;
        self.all_classes(input, &head)
    }

    fn all_classes(&self, input: &Tensor, head: &Tensor) -> Result<Tensor> {
        let mut parts = vec![head.narrow(1, 0, self.shortlist())?];
        for (i, cluster) in self.tail.iter().enumerate() {
            let of_cluster = head.narrow(1, self.shortlist() + i, 1)?;
            parts.push(cluster.forward(input)?.log_softmax(1)?.add(&of_cluster)?);
        }
        Tensor::cat(&parts.iter().collect::<Vec<_>>(), 1)
    }

    /// The most probable class of each sample, `[N]`, for features `[N, in_features]`. All classes are computed only for samples
    /// whose most probable output of the head is a cluster; to find these it waits for the device.
    ///
    /// # Errors
    /// If the shape, dtype or device does not fit.
    pub fn predict(&self, input: &Tensor) -> Result<Tensor> {
        let head = self.head.forward(input)?.log_softmax(1)?;
        let best = head.argmax(1)?;
        let unsure = best.ge(self.shortlist() as i64)?.nonzero()?.flatten_all()?;
        if unsure.numel() == 0 {
            return Ok(best);
        }
        let all = self.all_classes(&input.index_select(0, &unsure)?, &head.index_select(0, &unsure)?)?;
        best.index_copy(0, &unsure, &all.argmax(1)?)
    }
}
