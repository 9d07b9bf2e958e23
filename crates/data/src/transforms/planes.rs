//! The pixels of tensors, for changes that mix channels.

use kiln_tensor::{DType, Device, Error, Result, Tensor};

use super::color::sector_of;

/// The values of a tensor `[…, 1 or 3, height, width]` on the host, picture by picture and channel by channel.
pub(super) struct Planes {
    values: Vec<f32>,
    pub channels: usize,
    picture: usize,
    of: Tensor,
}

impl Planes {
    pub fn of(op: &'static str, x: &Tensor) -> Result<Planes> {
        let channels = match *x.dims() {
            [.., channels @ (1 | 3), _, _] => channels,
            _ => return Err(Error::shape(op, "pictures of 1 or 3 channels, […, channels, height, width]", x.shape())),
        };
        if !x.dtype().is_float() && x.dtype() != DType::U8 {
            return Err(Error::dtype(op, x.dtype(), "pixels are floats in [0, 1], or u8"));
        }
        let picture = x.dims().iter().rev().take(3).product();
        let of = x.detach();
        let values = of.to_dtype(DType::F32)?.to_vec::<f32>()?;
        Ok(Planes { values, channels, picture, of })
    }

    /// Whether values are whole numbers up to 255 instead of floats up to 1.
    pub fn whole(&self) -> bool {
        self.of.dtype() == DType::U8
    }

    fn bound(&self) -> f32 {
        if self.whole() { 255.0 } else { 1.0 }
    }

    pub fn pictures(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.picture.max(1))
    }

    /// Changes all values.
    pub fn each(&mut self, change: impl FnOnce(&mut [f32])) {
        change(&mut self.values);
        self.settle();
    }

    /// Changes picture by picture; the function is told whether values are whole numbers.
    pub fn each_picture(&mut self, change: impl Fn(&mut [f32], bool)) {
        let whole = self.whole();
        self.values.chunks_exact_mut(self.picture.max(1)).for_each(|picture| change(picture, whole));
        self.settle();
    }

    /// Into the range, and bytes without their fraction.
    fn settle(&mut self) {
        let (bound, whole) = (self.bound(), self.whole());
        for value in &mut self.values {
            *value = value.clamp(0.0, bound);
            if whole {
                *value = value.trunc();
            }
        }
    }

    /// Turns the colours of pictures of three channels by a share of the colour wheel.
    pub fn hue(&mut self, turn: f32) {
        let (bound, whole) = (self.bound(), self.whole());
        for picture in self.values.chunks_exact_mut(self.picture.max(1)) {
            let (r, rest) = picture.split_at_mut(self.picture / 3);
            let (g, b) = rest.split_at_mut(r.len());
            for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
                let [h, s, v] = hsv([*r / bound, *g / bound, *b / bound]);
                let turned = rgb([(h + turn).rem_euclid(1.0), s, v]);
                // Each byte gets an equal share of the range, as in torchvision.
                [*r, *g, *b] = turned.map(|v| if whole { (v * (256.0 - 1e-3)).trunc() } else { v });
            }
        }
    }

    /// The tensor, with the dtype and on the device of the one that it was made of.
    pub fn tensor(self) -> Result<Tensor> {
        let (dtype, device) = (self.of.dtype(), self.of.device());
        Tensor::from_vec(self.values, self.of.dims().to_vec(), Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }
}

fn hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return [0.0, 0.0, most];
    }
    let [rc, gc, bc] = [r, g, b].map(|v| (most - v) / range);
    let sixths = if r == most {
        bc - gc
    } else if g == most {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    [(sixths / 6.0 + 1.0) % 1.0, range / most, most]
}

fn rgb([h, s, v]: [f32; 3]) -> [f32; 3] {
    let sector = (h * 6.0).floor();
    let rest = h * 6.0 - sector;
    let [p, q, t] = [1.0 - s, 1.0 - s * rest, 1.0 - s * (1.0 - rest)].map(|x| (v * x).clamp(0.0, 1.0));
    sector_of(sector as u8, v, p, q, t)
}
