//! Layers that change the size of signals, images and volumes by interpolation.

use kiln_derive::located;
use kiln_tensor::{Error, InterpolateMode, Result, Tensor};

use super::sizes::{PerDim, python_float};
use crate::{module::Module, saved_choice};

/// How [`Upsample`] computes elements, under PyTorch's names; each but the nearest ones and the average is for one number of
/// dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpsampleMode {
    /// The element at the place of an output, rounded down.
    #[default]
    Nearest,
    /// The element that contains the center of an output.
    NearestExact,
    /// A line between two elements, of signals.
    Linear,
    /// A line between two elements in each dimension, of images.
    Bilinear,
    /// A cubic curve through four elements in each dimension, of images.
    Bicubic,
    /// A line between two elements in each dimension, of volumes.
    Trilinear,
    /// The average of the elements that an output covers.
    Area,
}

saved_choice!(UpsampleMode {
    Nearest "nearest", NearestExact "nearest-exact", Linear "linear", Bilinear "bilinear", Bicubic "bicubic",
    Trilinear "trilinear", Area "area",
});

impl UpsampleMode {
    /// PyTorch's name, and the rank of the inputs if only one is possible.
    fn described(self) -> (&'static str, Option<usize>) {
        match self {
            UpsampleMode::Nearest => ("nearest", None),
            UpsampleMode::NearestExact => ("nearest-exact", None),
            UpsampleMode::Linear => ("linear", Some(3)),
            UpsampleMode::Bilinear => ("bilinear", Some(4)),
            UpsampleMode::Bicubic => ("bicubic", Some(4)),
            UpsampleMode::Trilinear => ("trilinear", Some(5)),
            UpsampleMode::Area => ("area", None),
        }
    }

    /// The operation's mode; `None` if `align_corners` is set and means nothing.
    fn interpolation(self, align_corners: Option<bool>) -> Option<InterpolateMode> {
        let plain = |mode| align_corners.is_none().then_some(mode);
        let align_corners = align_corners.unwrap_or(false);
        match self {
            UpsampleMode::Nearest => plain(InterpolateMode::Nearest),
            UpsampleMode::NearestExact => plain(InterpolateMode::NearestExact),
            UpsampleMode::Area => plain(InterpolateMode::Area),
            UpsampleMode::Bicubic => Some(InterpolateMode::Cubic { align_corners }),
            UpsampleMode::Linear | UpsampleMode::Bilinear | UpsampleMode::Trilinear => {
                Some(InterpolateMode::Linear { align_corners })
            }
        }
    }
}

/// Interpolates signals `[N, C, L]`, images `[N, C, H, W]` or volumes `[N, C, D, H, W]` to a size, or by factors
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Upsample.html>).
///
/// ```
/// use kiln_nn::{Module, Upsample, UpsampleMode};
/// # fn main() -> kiln_tensor::Result<()> {
/// let up = Upsample::scale_factor(2.0).mode(UpsampleMode::Bilinear).align_corners(true);
/// assert_eq!(up.to_string(), "Upsample(scale_factor=2.0, mode='bilinear')");
/// let images = kiln_tensor::Tensor::zeros([1, 3, 4, 6], kiln_tensor::Device::Cpu)?;
/// assert_eq!(up.forward(&images)?.dims(), [1, 3, 8, 12]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Upsample {
    #[module(skip, save)]
    target: Target,
    mode: UpsampleMode,
    align_corners: Option<bool>,
    recompute_scale_factor: bool,
}

/// A size, or factors.
type Target = (Option<PerDim<usize>>, Option<PerDim<f64>>);

#[located(site)]
impl Upsample {
    /// To this size: one extent for all dimensions after the channels, or one for each.
    #[must_use]
    pub fn size(size: impl Into<PerDim<usize>>) -> Upsample {
        Upsample::to((Some(size.into()), None))
    }

    /// By these factors: one for all dimensions after the channels, or one for each. Sizes are rounded down.
    #[must_use]
    pub fn scale_factor(scale_factor: impl Into<PerDim<f64>>) -> Upsample {
        Upsample::to((None, Some(scale_factor.into())))
    }

    fn to(target: Target) -> Upsample {
        Upsample { target, mode: UpsampleMode::default(), align_corners: None, recompute_scale_factor: false }
    }

    /// How elements are computed: [`UpsampleMode::Nearest`] by default.
    #[must_use]
    pub fn mode(self, mode: UpsampleMode) -> Upsample {
        Upsample { mode, ..self }
    }

    /// Whether the first and the last elements of input and output are at the same places, rather than their outer edges. Only
    /// for the linear modes and [`UpsampleMode::Bicubic`].
    #[must_use]
    pub fn align_corners(self, align_corners: bool) -> Upsample {
        Upsample { align_corners: Some(align_corners), ..self }
    }

    /// Whether the places of elements follow from the rounded size rather than from the factors. Only with factors.
    #[must_use]
    pub fn recompute_scale_factor(self, recompute_scale_factor: bool) -> Upsample {
        Upsample { recompute_scale_factor, ..self }
    }

    fn describe(&self) -> String {
        describe(&self.target, self.mode)
    }
}

fn describe((size, scale_factor): &Target, mode: UpsampleMode) -> String {
    let given = match (size, scale_factor) {
        (_, Some(factors)) => format!("scale_factor={}", factors.shown(|&factor| python_float(factor))),
        (Some(size), None) => format!("size={}", size.shown(usize::to_string)),
        (None, None) => "size=None".to_owned(),
    };
    format!("{given}, mode='{}'", mode.described().0)
}

#[located(module)]
impl Module for Upsample {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        const OP: &str = "Upsample";
        let (name, rank) = self.mode.described();
        if let Some(rank) = rank.filter(|&rank| rank != x.rank()) {
            return Err(Error::shape(OP, format!("an input of {rank} dimensions for the mode {name}"), x.shape()));
        }
        let Some(mode) = self.mode.interpolation(self.align_corners) else {
            let message = format!("align_corners is for linear, bilinear, bicubic and trilinear, not for {name}");
            return Err(Error::argument(OP, message));
        };
        match &self.target {
            (Some(_), None) if self.recompute_scale_factor => {
                Err(Error::argument(OP, "recompute_scale_factor means nothing with a size"))
            }
            (Some(size), None) => x.interpolate(size.values(), mode),
            (None, Some(factors)) if self.recompute_scale_factor => {
                let factors = factors.values();
                let spatial = x.dims().get(2..).unwrap_or_default();
                if factors.len() != 1 && factors.len() != spatial.len() {
                    return x.interpolate_by(factors, mode); // which says what is wrong
                }
                let factor = |dim: usize| factors[dim.min(factors.len() - 1)];
                let size = spatial.iter().enumerate().map(|(dim, &n)| (n as f64 * factor(dim)).floor() as usize);
                x.interpolate(&size.collect::<Vec<_>>(), mode)
            }
            (None, Some(factors)) => x.interpolate_by(factors.values(), mode),
            _ => Err(Error::argument(OP, "either a size or factors are needed")),
        }
    }
}

macro_rules! upsampling {
    ($($(#[$doc:meta])* $name:ident $mode:ident $interpolation:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            #[module(skip, save)]
            target: Target,
        }

        impl $name {
            /// To this size: one extent for height and width, or both.
            #[must_use]
            pub fn size(size: impl Into<PerDim<usize>>) -> $name {
                $name { target: (Some(size.into()), None) }
            }

            /// By these factors: one for height and width, or both. Sizes are rounded down.
            #[must_use]
            pub fn scale_factor(scale_factor: impl Into<PerDim<f64>>) -> $name {
                $name { target: (None, Some(scale_factor.into())) }
            }

            fn describe(&self) -> String {
                describe(&self.target, UpsampleMode::$mode)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                if x.rank() != 4 {
                    return Err(Error::shape(stringify!($name), "images [N, C, H, W]", x.shape()));
                }
                match &self.target {
                    (Some(size), None) => x.interpolate(size.values(), $interpolation),
                    (None, Some(factors)) => x.interpolate_by(factors.values(), $interpolation),
                    _ => Err(Error::argument(stringify!($name), "either a size or factors are needed")),
                }
            }
        }
    )*};
}
upsampling! {
    /// Repeats the nearest pixels of images `[N, C, H, W]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.UpsamplingNearest2d.html>).
    UpsamplingNearest2d Nearest InterpolateMode::Nearest;
    /// Interpolates images `[N, C, H, W]` linearly, with aligned corners
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.UpsamplingBilinear2d.html>).
    UpsamplingBilinear2d Bilinear InterpolateMode::Linear { align_corners: true };
}
