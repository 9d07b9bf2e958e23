//! Confusion matrices; precision, recall and F1.

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, Tensor, no_grad};

use super::{Metric, check_targets, replace};

/// How numbers of classes become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// The mean over the classes, each with the same weight.
    Macro,
    /// Of all samples together: then precision, recall and F1 are the accuracy.
    Micro,
}

/// How often samples of each class were taken for each class. A class without samples (recall), or that was never predicted
/// (precision), counts 0, as in scikit-learn.
#[derive(Debug)]
pub struct ConfusionMatrix {
    classes: usize,
    /// `[classes, classes]`: rows are actual classes, columns are predicted ones.
    matrix: Tensor,
    samples: Tensor,
}

#[located(site)]
impl ConfusionMatrix {
    /// The matrix of no samples yet.
    ///
    /// # Errors
    /// If there are no classes, or the device is not available.
    pub fn new(classes: usize, device: impl Into<Device>) -> Result<ConfusionMatrix> {
        if classes == 0 {
            return Err(Error::argument("ConfusionMatrix", "there are no classes"));
        }
        let options = (DType::I64, device.into());
        Ok(ConfusionMatrix {
            classes,
            matrix: Tensor::zeros([classes, classes], options)?,
            samples: Tensor::zeros((), options)?,
        })
    }

    /// Adds a batch: predictions `[N]`, integers, or scores `[N, classes]`, of which the largest counts; and targets `[N]`.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit. Classes out of range are errors of [`compute`](ConfusionMatrix::compute),
    /// since finding them here would wait for the device.
    pub fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        const OP: &str = "ConfusionMatrix::update";
        let samples = match predictions.dims() {
            [n] if !predictions.dtype().is_float() => *n,
            [n, classes] if *classes == self.classes => *n,
            _ => {
                let expected = format!("scores [N, {}] or integers [N]", self.classes);
                return Err(Error::shape(OP, expected, predictions.shape()));
            }
        };
        check_targets(OP, targets, samples)?;
        if samples == 0 {
            return Ok(());
        }
        no_grad(|| {
            let predicted = match predictions.rank() {
                1 => predictions.to_dtype(DType::I64)?,
                _ => predictions.detach().argmax(1)?,
            };
            let numbers = Tensor::arange(0, self.classes, (DType::I64, predictions.device()))?;
            // Rows of zeros with a one; their product counts. A row of zeros is a class out of range.
            let ones = |classes: &Tensor| classes.unsqueeze(1)?.eq(&numbers)?.to_dtype(DType::F64);
            let targets = ones(&targets.to_dtype(DType::I64)?)?;
            let counts = targets.transpose(0, 1)?.matmul(&ones(&predicted)?)?;
            self.matrix = self.matrix.add(&counts.to_dtype(DType::I64)?)?;
            self.samples = self.samples.add(samples as i64)?;
            Ok(())
        })
    }

    /// The matrix, `[classes, classes]` of `i64`: rows are actual classes, columns are predicted ones. Waits for the device.
    ///
    /// # Errors
    /// If there was a class out of range.
    pub fn compute(&self) -> Result<Tensor> {
        let (counted, samples) = (self.matrix.sum(())?.item::<i64>()?, self.samples.item::<i64>()?);
        if counted != samples {
            let message = format!("{} of {samples} samples are of no class in 0..{}", samples - counted, self.classes);
            return Err(Error::argument("ConfusionMatrix", message));
        }
        self.matrix.copy()
    }

    /// Right predictions, samples and predictions of each class.
    fn counts(&self) -> Result<Vec<[f64; 3]>> {
        let values = self.compute()?.to_vec::<i64>()?;
        let n = self.classes;
        let sum = |numbers: &mut dyn Iterator<Item = i64>| numbers.sum::<i64>() as f64;
        Ok((0..n)
            .map(|i| {
                let row = sum(&mut values[i * n..(i + 1) * n].iter().copied());
                let column = sum(&mut (0..n).map(|j| values[j * n + i]));
                [values[i * n + i] as f64, row, column]
            })
            .collect())
    }

    fn per_class(&self, f: impl Fn(f64, f64, f64) -> f64) -> Result<Vec<f64>> {
        Ok(self.counts()?.into_iter().map(|[right, actual, predicted]| f(right, actual, predicted)).collect())
    }

    fn averaged(&self, average: Average, f: impl Fn(f64, f64, f64) -> f64) -> Result<f64> {
        Ok(match average {
            Average::Macro => self.per_class(f)?.iter().sum::<f64>() / self.classes as f64,
            Average::Micro => {
                let [right, actual, predicted] = self
                    .counts()?
                    .into_iter()
                    .fold([0.0; 3], |sum, class| [sum[0] + class[0], sum[1] + class[1], sum[2] + class[2]]);
                f(right, actual, predicted)
            }
        })
    }
}

/// A quotient; 0 of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

macro_rules! scores {
    ($($(#[$doc:meta])* $name:ident $per_class:ident |$right:ident, $actual:ident, $predicted:ident| $value:expr;)*) => {
        #[located(site)]
        impl ConfusionMatrix {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// Those of [`compute`](ConfusionMatrix::compute).
            pub fn $name(&self, average: Average) -> Result<f64> {
                self.averaged(average, |$right, $actual, $predicted| $value)
            }

            #[doc = concat!("[`", stringify!($name), "`](ConfusionMatrix::", stringify!($name), ") of each class.")]
            ///
            /// # Errors
            /// Those of [`compute`](ConfusionMatrix::compute).
            pub fn $per_class(&self) -> Result<Vec<f64>> {
                self.per_class(|$right, $actual, $predicted| $value)
            }
        )*}
    };
}
scores! {
    /// The share of right predictions among those of a class.
    precision precision_per_class |right, _actual, predicted| ratio(right, predicted);
    /// The share of right predictions among the samples of a class.
    recall recall_per_class |right, actual, _predicted| ratio(right, actual);
    /// The harmonic mean of precision and recall.
    f1 f1_per_class |right, actual, predicted| ratio(2.0 * right, actual + predicted);
}

impl Metric for ConfusionMatrix {
    fn sums(&self) -> Vec<Tensor> {
        vec![self.matrix.clone(), self.samples.clone()]
    }

    fn set_sums(&mut self, sums: Vec<Tensor>) -> Result<()> {
        replace("ConfusionMatrix", &mut [&mut self.matrix, &mut self.samples], sums)
    }
}
