//! `WeightedRandomSampler`: samples drawn with given probabilities.

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::Sampler;
use crate::epoch::Epoch;

/// The purpose of the random streams of weighted draws.
const PURPOSE: u64 = 1;
const OP: &str = "WeightedRandomSampler";

/// Draws sample `i` with a probability proportional to `weights[i]`: PyTorch's `WeightedRandomSampler`. With weights of
/// 1 / (size of the sample's class), every class is drawn equally often.
#[derive(Clone, Debug)]
pub struct WeightedRandomSampler {
    weights: Vec<f64>,
    draws: usize,
    replacement: bool,
}

#[located(site)]
impl WeightedRandomSampler {
    /// `num_samples` draws per pass, with replacement.
    ///
    /// # Errors
    /// If a weight is negative or not finite, or none is positive though samples are to be drawn.
    pub fn new(weights: impl Into<Vec<f64>>, num_samples: usize) -> Result<WeightedRandomSampler> {
        let weights = weights.into();
        if let Some((index, weight)) = weights.iter().enumerate().find(|(_, w)| !w.is_finite() || **w < 0.0) {
            return Err(Error::argument(
                OP,
                format!("weight {index} is {weight}; weights must be finite and not negative"),
            ));
        }
        let sum: f64 = weights.iter().sum();
        if !sum.is_finite() || (sum <= 0.0 && num_samples > 0) {
            return Err(Error::argument(OP, format!("the {} weights sum to {sum}", weights.len())));
        }
        Ok(WeightedRandomSampler { weights, draws: num_samples, replacement: true })
    }

    /// The same draws without replacement: no sample is drawn twice in a pass.
    ///
    /// # Errors
    /// If there are fewer samples of positive weight than draws.
    pub fn without_replacement(self) -> Result<WeightedRandomSampler> {
        let candidates = self.weights.iter().filter(|w| **w > 0.0).count();
        if candidates < self.draws {
            let message = format!("cannot draw {} of {candidates} samples without replacement", self.draws);
            return Err(Error::argument(OP, message));
        }
        Ok(WeightedRandomSampler { replacement: false, ..self })
    }

    fn draw_with_replacement(&self, epoch: Epoch) -> Vec<usize> {
        let mut stream = epoch.stream(PURPOSE);
        let mut sum = 0.0;
        let ends: Vec<f64> = self
            .weights
            .iter()
            .map(|w| {
                sum += w;
                sum
            })
            .collect();
        // Rounding may push a draw to the sum itself; then it is the last sample with a positive weight.
        let last = self.weights.iter().rposition(|w| *w > 0.0).unwrap_or(0);
        let mut draw = || {
            let at = stream.uniform() * sum;
            ends.partition_point(|&end| end <= at).min(last)
        };
        (0..self.draws).map(|_| draw()).collect()
    }

    /// Samples with the smallest of independent exponential variables whose rates are the weights (Efraimidis and Spirakis,
    /// 2006), which is equivalent to drawing one after the other.
    fn draw_without_replacement(&self, epoch: Epoch) -> Vec<usize> {
        let mut stream = epoch.stream(PURPOSE);
        let mut times: Vec<(f64, usize)> = Vec::with_capacity(self.weights.len());
        for (index, &weight) in self.weights.iter().enumerate() {
            let time = -(1.0 - stream.uniform()).ln() / weight;
            if weight > 0.0 {
                times.push((time, index));
            }
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        times.into_iter().take(self.draws).map(|(_, index)| index).collect()
    }
}

impl Sampler for WeightedRandomSampler {
    fn len(&self) -> usize {
        self.draws
    }

    fn indices(&self, epoch: Epoch) -> Result<Vec<usize>> {
        Ok(if self.replacement { self.draw_with_replacement(epoch) } else { self.draw_without_replacement(epoch) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportional() -> Result<()> {
        let sampler = WeightedRandomSampler::new([1.0, 0.0, 3.0, 0.0], 40_000)?;
        let mut counts = [0usize; 4];
        sampler.indices(Epoch::new(5, 0))?.into_iter().for_each(|i| counts[i] += 1);
        assert_eq!((counts[1], counts[3]), (0, 0));
        // Standard deviation 87.
        assert!(counts[0].abs_diff(10_000) < 440, "{counts:?}");
        assert_ne!(sampler.indices(Epoch::new(5, 1))?, sampler.indices(Epoch::new(5, 0))?);
        Ok(())
    }

    #[test]
    fn without_replacement() -> Result<()> {
        let sampler = WeightedRandomSampler::new([1.0, 0.0, 3.0, 2.0], 3)?.without_replacement()?;
        let mut firsts = [0usize; 4];
        for number in 0..6000 {
            let mut order = sampler.indices(Epoch::new(9, number))?;
            firsts[order[0]] += 1;
            order.sort_unstable();
            assert_eq!(order, [0, 2, 3]);
        }
        // One in six, standard deviation 29; one in two, 39.
        assert!(firsts[0].abs_diff(1000) < 150 && firsts[2].abs_diff(3000) < 200, "{firsts:?}");
        assert!(WeightedRandomSampler::new([1.0, 0.0], 2)?.without_replacement().is_err());
        Ok(())
    }

    #[test]
    fn bad_weights() {
        for weights in [vec![], vec![0.0], vec![-1.0, 2.0], vec![f64::NAN], vec![f64::INFINITY], vec![f64::MAX; 2]] {
            assert!(WeightedRandomSampler::new(weights, 1).is_err());
        }
        assert!(WeightedRandomSampler::new([], 0).is_ok());
    }
}
