//! Host copies of image tensors, for color adjustments, which mix channels.

use kiln_tensor::{DType, Device, Error, Result, Tensor};

use super::hsv::{hsv_of_rgb, rgb_of_hsv};

/// The values of a tensor `[…, 1 or 3, height, width]` on the host, image by image and channel by channel.
pub(super) struct Planes {
    values: Vec<f32>,
    pub channels: usize,
    image: usize,
    of: Tensor,
}

impl Planes {
    pub fn of(op: &'static str, x: &Tensor) -> Result<Planes> {
        let channels = match *x.dims() {
            [.., channels @ (1 | 3), _, _] => channels,
            _ => return Err(Error::shape(op, "images of 1 or 3 channels, […, channels, height, width]", x.shape())),
        };
        if !x.dtype().is_float() && x.dtype() != DType::U8 {
            return Err(Error::dtype(op, x.dtype(), "pixels are floats in [0, 1], or u8"));
        }
        let image = x.dims().iter().rev().take(3).product();
        let of = x.detach();
        let values = of.to_dtype(DType::F32)?.to_vec::<f32>()?;
        Ok(Planes { values, channels, image, of })
    }

    /// Whether values are integers up to 255 rather than floats up to 1.
    pub fn are_bytes(&self) -> bool {
        self.of.dtype() == DType::U8
    }

    fn bound(&self) -> f32 {
        if self.are_bytes() { 255.0 } else { 1.0 }
    }

    pub fn images(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.image.max(1))
    }

    /// Applies a function to all values.
    pub fn change_all(&mut self, change: impl FnOnce(&mut [f32])) {
        change(&mut self.values);
        self.clamp();
    }

    /// Applies a function to each image; its second argument tells whether values are integers.
    pub fn change_images(&mut self, change: impl Fn(&mut [f32], bool)) {
        let bytes = self.are_bytes();
        self.values.chunks_exact_mut(self.image.max(1)).for_each(|image| change(image, bytes));
        self.clamp();
    }

    /// Clamps values to their range, and truncates those of bytes.
    fn clamp(&mut self) {
        let (bound, bytes) = (self.bound(), self.are_bytes());
        for value in &mut self.values {
            *value = value.clamp(0.0, bound);
            if bytes {
                *value = value.trunc();
            }
        }
    }

    /// Shifts the hue of images of three channels by a fraction of the color wheel.
    pub fn shift_hue(&mut self, turn: f32) {
        let (bound, bytes) = (self.bound(), self.are_bytes());
        for image in self.values.chunks_exact_mut(self.image.max(1)) {
            let (r, rest) = image.split_at_mut(self.image / 3);
            let (g, b) = rest.split_at_mut(r.len());
            for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
                let [h, s, v] = hsv_of_rgb([*r / bound, *g / bound, *b / bound]);
                let turned = rgb_of_hsv([(h + turn).rem_euclid(1.0), s, v]);
                // Each byte gets an equal share of the range, as in torchvision.
                [*r, *g, *b] = turned.map(|v| if bytes { (v * (256.0 - 1e-3)).trunc() } else { v });
            }
        }
    }

    /// The tensor, with the dtype and the device of the original.
    pub fn tensor(self) -> Result<Tensor> {
        let (dtype, device) = (self.of.dtype(), self.of.device());
        Tensor::from_vec(self.values, self.of.dims().to_vec(), Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }
}
