//! `RandomErasing` and `erase`: overwriting rectangles of an image.

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, Tensor};

use super::{Transform, image_ops::ImageOps};
use crate::{epoch::RandomStream, random};

const OP: &str = "RandomErasing";

/// Overwrites a rectangle of random area, aspect ratio and position in a tensor (Zhong et al., arXiv:1708.04896): torchvision's
/// `RandomErasing`. By default with probability 0.5, 2 to 33 % of the area, an aspect ratio of 0.3 to 3.3, and zeros.
#[derive(Clone, Debug)]
pub struct RandomErasing {
    p: f64,
    scale: (f64, f64),
    ratio: (f64, f64),
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    /// One value for all channels, or one for each.
    Fixed(Vec<f64>),
    /// Drawn from the standard normal distribution.
    Random,
}

#[located(site)]
impl RandomErasing {
    /// Erases with probability `p`.
    ///
    /// # Errors
    /// If `p` is not a probability.
    pub fn new(p: f64) -> Result<RandomErasing> {
        if (0.0..=1.0).contains(&p) {
            Ok(RandomErasing { p, ..RandomErasing::default() })
        } else {
            Err(Error::argument(OP, format!("{p} is not a probability")))
        }
    }

    /// The range of the rectangle's area, as a fraction of the image.
    ///
    /// # Errors
    /// Unless they are in order, between 0 and 1.
    pub fn scale(self, low: f64, high: f64) -> Result<RandomErasing> {
        if !(0.0 <= low && low <= high && high <= 1.0) {
            return Err(Error::argument(OP, format!("{low} to {high} is not a range of fractions")));
        }
        Ok(RandomErasing { scale: (low, high), ..self })
    }

    /// The range of the aspect ratio, height divided by width.
    ///
    /// # Errors
    /// Unless they are positive and in order.
    pub fn ratio(self, low: f64, high: f64) -> Result<RandomErasing> {
        Ok(RandomErasing { ratio: range(OP, "ratio", low, high)?, ..self })
    }

    /// The value to write: one for all channels, or one for each.
    ///
    /// # Errors
    /// If `value` is empty.
    pub fn value(self, value: impl Into<Vec<f64>>) -> Result<RandomErasing> {
        let value = value.into();
        if value.is_empty() {
            return Err(Error::argument(OP, "there is no value to write"));
        }
        Ok(RandomErasing { value: Value::Fixed(value), ..self })
    }

    /// Writes standard normal random numbers: torchvision's `value="random"`.
    #[must_use]
    pub fn random_value(self) -> RandomErasing {
        RandomErasing { value: Value::Random, ..self }
    }

    /// Draws the rectangle's top, left, height and width. `None` if ten attempts did not fit: the image stays
    /// unchanged.
    fn draw(&self, (height, width): (usize, usize), stream: &mut RandomStream) -> Option<[usize; 4]> {
        let area = height as f64 * width as f64;
        for _ in 0..10 {
            let part = area * stream.uniform_between(self.scale.0, self.scale.1);
            // Uniform in the logarithm, so that 1/3 is as likely as 3.
            let aspect = stream.uniform_between(self.ratio.0.ln(), self.ratio.1.ln()).exp();
            let rows = (part * aspect).sqrt().round_ties_even() as usize;
            let columns = (part / aspect).sqrt().round_ties_even() as usize;
            if rows < height && columns < width {
                return Some([stream.below(height - rows + 1), stream.below(width - columns + 1), rows, columns]);
            }
        }
        None
    }
}

impl Default for RandomErasing {
    fn default() -> RandomErasing {
        RandomErasing { p: 0.5, scale: (0.02, 0.33), ratio: (0.3, 3.3), value: Value::Fixed(vec![0.0]) }
    }
}

impl Transform<Tensor> for RandomErasing {
    type Output = Tensor;
    fn apply(&self, x: Tensor) -> Result<Tensor> {
        let (extent, mut stream) = (x.extent()?, random::stream());
        let channels = x.dims().iter().rev().nth(2).copied().unwrap_or(1);
        if let Value::Fixed(values) = &self.value
            && values.len() != 1
            && values.len() != channels
        {
            return Err(Error::argument(OP, format!("{} values for {channels} channels", values.len())));
        }
        if !stream.bernoulli(self.p) {
            return Ok(x);
        }
        let Some([top, left, rows, columns]) = self.draw(extent, &mut stream) else { return Ok(x) };
        let value = match &self.value {
            Value::Fixed(values) => Tensor::from_vec(values.clone(), [values.len(), 1, 1], Device::Cpu)?,
            Value::Random => {
                let values = (0..channels * rows * columns).map(|_| stream.normal()).collect();
                Tensor::from_vec(values, [channels, rows, columns], Device::Cpu)?
            }
        };
        let value = if x.rank() == 2 { value.select(0, 0)? } else { value };
        erase(&x, top, left, rows, columns, &value)
    }
}

/// A copy of `x`, `[…, height, width]`, in which `value` is broadcast to the `rows` × `columns` from (`top`, `left`).
///
/// # Errors
/// If the rectangle is not inside, or `value` does not broadcast to it.
#[located(site)]
pub fn erase(x: &Tensor, top: usize, left: usize, rows: usize, columns: usize, value: &Tensor) -> Result<Tensor> {
    let out = x.detach().copy()?;
    let hole = out.clone().crop(top, left, rows, columns)?;
    hole.copy_(&value.to_dtype(x.dtype())?.to_device(x.device())?)?;
    Ok(out)
}

/// A range of positive numbers.
pub(super) fn range(op: &'static str, what: &str, low: f64, high: f64) -> Result<(f64, f64)> {
    if 0.0 < low && low <= high && high.is_finite() {
        return Ok((low, high));
    }
    Err(Error::argument(op, format!("{low} to {high} is not a range of a {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;

    #[test]
    fn rectangles_are_inside_and_spread_as_asked() -> Result<()> {
        let erasing = RandomErasing::new(1.0)?.scale(0.1, 0.3)?.ratio(0.5, 2.0)?;
        let mut stream = Epoch::new(3, 0).stream(1 << 40);
        let mut area = 0.0;
        for _ in 0..2000 {
            let [top, left, rows, columns] = erasing.draw((300, 400), &mut stream).expect("it fits");
            assert!(top + rows <= 300 && left + columns <= 400);
            let (share, aspect) = ((rows * columns) as f64 / 120_000.0, rows as f64 / columns as f64);
            assert!((0.095..0.305).contains(&share) && (0.48..2.05).contains(&aspect), "{share} {aspect}");
            area += share / 2000.0;
        }
        assert!((0.19..0.21).contains(&area), "{area}");
        assert!(RandomErasing::default().scale(0.9, 1.0)?.ratio(9.0, 9.0)?.draw((30, 30), &mut stream).is_none());
        Ok(())
    }

    #[test]
    fn values() -> Result<()> {
        let x = Tensor::ones([3, 20, 30], Device::Cpu)?;
        let erased = RandomErasing::new(1.0)?.value([2.0, 3.0, 4.0])?.apply(x.clone())?;
        let counts: Vec<usize> = [2.0, 3.0, 4.0]
            .map(|value| erased.to_vec::<f32>().unwrap().iter().filter(|&&v| v == value).count())
            .to_vec();
        assert!(counts[0] > 0 && counts.iter().all(|&n| n == counts[0]), "{counts:?}");
        assert_eq!(x.to_vec::<f32>()?, vec![1.0; 1800], "the original stays");
        let noise = RandomErasing::new(1.0)?.random_value().apply(x.clone())?.to_vec::<f32>()?;
        let changed: Vec<f32> = noise.into_iter().filter(|&v| v != 1.0).collect();
        assert!(changed.len() > 30 && changed.iter().any(|&v| v < 0.0));
        assert!(RandomErasing::new(0.5)?.value([1.0, 2.0])?.apply(x.clone()).is_err());
        assert_eq!(RandomErasing::new(0.0)?.apply(x.clone())?.to_vec::<f32>()?, x.to_vec::<f32>()?);
        assert!(RandomErasing::new(1.0)?.apply(Tensor::ones([9, 9], Device::Cpu)?).is_ok());
        assert!(RandomErasing::new(1.5).is_err() && RandomErasing::default().scale(0.5, 1.5).is_err());
        assert!(erase(&x, 15, 0, 10, 1, &Tensor::ones(1, Device::Cpu)?).is_err());
        Ok(())
    }
}
