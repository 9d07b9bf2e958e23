//! `ToTensor`, `ToImage`, `Normalize` and `OneHot`.

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, Tensor, calc};

use super::{Image, Transform};

/// `byte / 255`, correctly rounded, without a division: 1/255 is a sum of two floats, and the product of the first with
/// a byte is exact. This lets the loop over an image vectorize.
pub(crate) fn unit(byte: u8) -> f32 {
    const HIGH: f32 = f32::from_bits((1.0f32 / 255.0).to_bits() & !0xff);
    const LOW: f32 = (1.0 / 255.0 - HIGH as f64) as f32;
    let byte = f32::from(byte);
    byte * HIGH + byte * LOW
}

/// Converts an image to an `f32` tensor of shape `[channels, height, width]` with values in `[0, 1]`: torchvision's
/// `ToTensor`.
#[derive(Clone, Copy, Debug)]
pub struct ToTensor;

impl Transform<Image> for ToTensor {
    type Output = Tensor;
    fn apply(&self, image: Image) -> Result<Tensor> {
        let (height, width, channels) = (image.height(), image.width(), image.channels());
        let mut values = vec![0f32; image.pixels().len()];
        if channels == 1 {
            values.iter_mut().zip(image.pixels()).for_each(|(value, &byte)| *value = unit(byte));
        } else {
            let (red, rest) = values.split_at_mut(height * width);
            let (green, blue) = rest.split_at_mut(height * width);
            for (((pixel, red), green), blue) in image.pixels().chunks_exact(3).zip(red).zip(green).zip(blue) {
                *red = unit(pixel[0]);
                *green = unit(pixel[1]);
                *blue = unit(pixel[2]);
            }
        }
        Tensor::from_vec(values, [channels, height, width], Device::Cpu)
    }
}

/// Converts a tensor to an image: torchvision's `ToPILImage`. Floats in `[0, 1]` are multiplied by 255 and truncated;
/// `u8` is unchanged. The shape is `[channels, height, width]` (1 or 3 channels) or `[height, width]`.
#[derive(Clone, Copy, Debug)]
pub struct ToImage;

impl Transform<Tensor> for ToImage {
    type Output = Image;
    fn apply(&self, x: Tensor) -> Result<Image> {
        let x = x.detach();
        let x = match x.rank() {
            2 => x.unsqueeze(0)?,
            3 => x,
            _ => return Err(Error::shape("ToImage", "[channels, height, width] or [height, width]", x.shape())),
        };
        let (channels, height, width) = x.dims3()?;
        let x = x.permute([1, 2, 0])?;
        let bytes = match x.dtype() {
            DType::U8 => x.to_vec::<u8>()?,
            dtype if dtype.is_float() => {
                x.to_dtype(DType::F32)?.to_vec::<f32>()?.iter().map(|v| (v * 255.0) as u8).collect()
            }
            dtype => return Err(Error::dtype("ToImage", dtype, "pixels are u8, or floats in [0, 1]")),
        };
        Image::new(height, width, channels, bytes)
    }
}

/// `(x - mean) / std` for each channel of a float tensor `[…, channels, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    mean: Vec<f64>,
    std: Vec<f64>,
}

#[located(site)]
impl Normalize {
    /// One mean and one standard deviation for each channel.
    ///
    /// # Errors
    /// If the numbers of means and of deviations differ or are 0, or a deviation is 0.
    pub fn new(mean: impl Into<Vec<f64>>, std: impl Into<Vec<f64>>) -> Result<Normalize> {
        let (mean, std) = (mean.into(), std.into());
        if mean.is_empty() || mean.len() != std.len() || std.contains(&0.0) {
            let message =
                format!("means {mean:?} and standard deviations {std:?} must be equally many, and no deviation 0");
            return Err(Error::argument("Normalize", message));
        }
        Ok(Normalize { mean, std })
    }
}

impl Normalize {
    /// The fast path for `f32` on the CPU: one pass over the values on this thread. Tensor operations would compete for
    /// the thread pool with the other workers.
    fn normalize_f32(&self, x: &Tensor) -> Result<Tensor> {
        let mut values = x.to_vec::<f32>()?;
        let plane = x.dims().iter().rev().take(2).product::<usize>().max(1);
        let channels = self.mean.iter().zip(&self.std).map(|(&mean, &std)| (mean as f32, std as f32)).cycle();
        for (plane, (mean, std)) in values.chunks_exact_mut(plane).zip(channels) {
            plane.iter_mut().for_each(|value| *value = (*value - mean) / std);
        }
        Tensor::from_vec(values, x.dims().to_vec(), Device::Cpu)
    }
}

impl Transform<Tensor> for Normalize {
    type Output = Tensor;
    fn apply(&self, x: Tensor) -> Result<Tensor> {
        if !x.dtype().is_float() {
            return Err(Error::dtype(
                "Normalize",
                x.dtype(),
                "it takes floating-point tensors; convert bytes with `ToTensor` first",
            ));
        }
        let channels = self.mean.len();
        if x.rank() < 3 || (channels != 1 && x.dims()[x.rank() - 3] != channels) {
            return Err(Error::shape("Normalize", format!("[…, {channels}, height, width]"), x.shape()));
        }
        if x.dtype() == DType::F32 && x.device() == Device::Cpu && !x.requires_grad() {
            return self.normalize_f32(&x);
        }
        let column = |values: &[f64]| {
            Tensor::from_vec(values.to_vec(), [values.len(), 1, 1], Device::Cpu)?
                .to_dtype(x.dtype())?
                .to_device(x.device())
        };
        calc!((x - column(&self.mean)) / column(&self.std))
    }
}

/// Converts a class index to a one-hot vector: `zeros(10).scatter_(0, y, 1)` in PyTorch's tutorial.
#[derive(Clone, Copy, Debug)]
pub struct OneHot {
    /// Number of classes.
    pub classes: usize,
}

impl Transform<i64> for OneHot {
    type Output = Tensor;
    fn apply(&self, class: i64) -> Result<Tensor> {
        let place = usize::try_from(class).ok().filter(|&place| place < self.classes);
        let place = place.ok_or_else(|| Error::index("OneHot", class, self.classes, "the classes"))?;
        let mut values = vec![0f32; self.classes];
        values[place] = 1.0;
        Tensor::from_vec(values, self.classes, Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn bytes_are_divided_exactly() {
        for byte in 0..=255 {
            assert_eq!(unit(byte), f32::from(byte) / 255.0);
        }
    }
}
