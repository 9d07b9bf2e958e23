//! Options of the convolution layers, also the transposed ones, and what they say about weights and padding.

use kiln_tensor::{Convolution, Error, PadMode, Result, Shape, Tensor, TensorOptions};
use serde_json::Value;

use super::sizes::{Sizes, tuple};

use crate::{
    init::{self, FanMode, Nonlinearity},
    parameter::Parameter,
    saved::{Describing, Restoring, Saved, SavedName},
    saved_choice,
};

/// Padding around signals, images or volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding<const N: usize = 2> {
    /// The same on opposite sides of each dimension.
    Around(Sizes<N>),
    /// On each side: before and after each dimension, in the order depth, height, width. An array as [`Tensor::pad`] takes it
    /// (left, right, top, bottom) converts to it.
    Sides([[usize; 2]; N]),
    /// As much as preserves the size, for strides of 1. An odd row or column is added at the end.
    Same,
    /// None, by PyTorch's name for it.
    Valid,
}

impl<const N: usize> Padding<N> {
    /// The amounts in the order of [`Tensor::pad`], from the last dimension to the first.
    fn amounts(sides: [[usize; 2]; N]) -> Vec<usize> {
        sides.iter().rev().flatten().copied().collect()
    }

    fn of_amounts(amounts: &[usize]) -> [[usize; 2]; N] {
        std::array::from_fn(|axis| [0, 1].map(|side| amounts.get(2 * (N - 1 - axis) + side).copied().unwrap_or(0)))
    }
}

/// Saved as `"same"`, `"valid"`, a number or a list for all dimensions, or the amounts on all sides.
impl<const N: usize> Saved for Padding<N> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        match self {
            Padding::Around(sizes) => sizes.save(at),
            Padding::Sides(sides) => Self::amounts(*sides).save(at),
            Padding::Same => Ok("same".into()),
            Padding::Valid => Ok("valid".into()),
        }
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Padding<N>> {
        match value {
            Value::String(name) if name == "same" => Ok(Padding::Same),
            Value::String(name) if name == "valid" => Ok(Padding::Valid),
            Value::Array(sides) if sides.len() == 2 * N => {
                Vec::restore(value, at).map(|amounts: Vec<usize>| Padding::Sides(Self::of_amounts(&amounts)))
            }
            _ => Sizes::restore(value, at).map(Padding::Around),
        }
    }
}

impl<const N: usize, T: Into<Sizes<N>>> From<T> for Padding<N> {
    fn from(sizes: T) -> Padding<N> {
        Padding::Around(sizes.into())
    }
}

impl From<[usize; 4]> for Padding<2> {
    fn from(amounts: [usize; 4]) -> Padding<2> {
        Padding::Sides(Padding::<2>::of_amounts(&amounts))
    }
}

impl From<[usize; 2]> for Padding<1> {
    fn from(amounts: [usize; 2]) -> Padding<1> {
        Padding::Sides([amounts])
    }
}

impl From<[usize; 6]> for Padding<3> {
    fn from(amounts: [usize; 6]) -> Padding<3> {
        Padding::Sides(Padding::<3>::of_amounts(&amounts))
    }
}

/// The values of the padding around images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingMode {
    /// Zeros.
    #[default]
    Zeros,
    /// The image, mirrored at its edge.
    Reflect,
    /// The edge, repeated.
    Replicate,
    /// The opposite side of the image.
    Circular,
}

saved_choice!(PaddingMode { Zeros "zeros", Reflect "reflect", Replicate "replicate", Circular "circular" });

impl PaddingMode {
    fn name(self) -> &'static str {
        match self {
            PaddingMode::Zeros => "zeros",
            PaddingMode::Reflect => "reflect",
            PaddingMode::Replicate => "replicate",
            PaddingMode::Circular => "circular",
        }
    }

    fn of_tensor(self) -> PadMode {
        match self {
            PaddingMode::Zeros => PadMode::Constant(0.0),
            PaddingMode::Reflect => PadMode::Reflect,
            PaddingMode::Replicate => PadMode::Replicate,
            PaddingMode::Circular => PadMode::Circular,
        }
    }
}

/// Options of the convolutions in `N` dimensions, also the transposed ones.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ConvOptions<const N: usize> {
    stride: Sizes<N>,
    padding: Padding<N>,
    pub(super) output_padding: Sizes<N>,
    dilation: Sizes<N>,
    pub(super) groups: usize,
    bias: bool,
    padding_mode: PaddingMode,
    tensor: TensorOptions,
}

/// Options of [`Conv1d`](crate::Conv1d) and [`ConvTranspose1d`](crate::ConvTranspose1d).
pub type Conv1dOptions = ConvOptions<1>;
/// Options of [`Conv2d`](crate::Conv2d) and [`ConvTranspose2d`](crate::ConvTranspose2d).
pub type Conv2dOptions = ConvOptions<2>;
/// Options of [`Conv3d`](crate::Conv3d) and [`ConvTranspose3d`](crate::ConvTranspose3d).
pub type Conv3dOptions = ConvOptions<3>;

/// The part of the options that a layer keeps; dtype and device are those of its tensors.
impl<const N: usize> Saved for ConvOptions<N> {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        let fields = [
            ("stride", self.stride.save(at)?),
            ("padding", self.padding.save(at)?),
            ("output_padding", self.output_padding.save(at)?),
            ("dilation", self.dilation.save(at)?),
            ("groups", self.groups.save(at)?),
            ("padding_mode", self.padding_mode.save(at)?),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(at.module(Self::TYPE, fields))
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<ConvOptions<N>> {
        let mut fields = at.module(Self::TYPE, value)?;
        let options = ConvOptions {
            stride: fields.take("stride", at)?,
            padding: fields.take("padding", at)?,
            output_padding: fields.take("output_padding", at)?,
            dilation: fields.take("dilation", at)?,
            groups: fields.take("groups", at)?,
            padding_mode: fields.take("padding_mode", at)?,
            ..ConvOptions::default()
        };
        fields.finish(at)?;
        Ok(options)
    }
}

impl<const N: usize> SavedName for ConvOptions<N> {
    const TYPE: &'static str = match N {
        1 => "Conv1dOptions",
        2 => "Conv2dOptions",
        _ => "Conv3dOptions",
    };
}

impl<const N: usize> Default for ConvOptions<N> {
    fn default() -> Self {
        ConvOptions {
            stride: Sizes::All(1),
            padding: Padding::Around(Sizes::All(0)),
            output_padding: Sizes::All(0),
            dilation: Sizes::All(1),
            groups: 1,
            bias: true,
            padding_mode: PaddingMode::Zeros,
            tensor: TensorOptions::new(),
        }
    }
}

impl<const N: usize> ConvOptions<N> {
    /// The stride.
    pub fn stride(self, stride: impl Into<Sizes<N>>) -> Self {
        ConvOptions { stride: stride.into(), ..self }
    }

    /// The padding around the input.
    pub fn padding(self, padding: impl Into<Padding<N>>) -> Self {
        ConvOptions { padding: padding.into(), ..self }
    }

    /// Rows and columns to add to the result of a transposed convolution, at the end of each dimension; must be below the
    /// stride or the dilation.
    pub fn output_padding(self, output_padding: impl Into<Sizes<N>>) -> Self {
        ConvOptions { output_padding: output_padding.into(), ..self }
    }

    /// The distance between the kernel's taps.
    pub fn dilation(self, dilation: impl Into<Sizes<N>>) -> Self {
        ConvOptions { dilation: dilation.into(), ..self }
    }

    /// The number of groups that the channels are divided into, each convolved on its own.
    pub fn groups(self, groups: usize) -> Self {
        ConvOptions { groups, ..self }
    }

    /// Whether to add a bias.
    pub fn bias(self, bias: bool) -> Self {
        ConvOptions { bias, ..self }
    }

    /// The values of the padding.
    pub fn padding_mode(self, padding_mode: PaddingMode) -> Self {
        ConvOptions { padding_mode, ..self }
    }

    /// Sets the dtype and device.
    pub fn tensor(self, options: impl Into<TensorOptions>) -> Self {
        ConvOptions { tensor: options.into(), ..self }
    }

    /// The weight `[first, second / groups, kernel]` and the bias, initialized as in PyTorch.
    pub(super) fn parameters(
        &self,
        layer: &'static str,
        [first, second]: [usize; 2],
        kernel: [usize; N],
        outputs: usize,
    ) -> Result<(Parameter, Option<Parameter>)> {
        let groups = self.groups;
        if groups == 0 || first % groups != 0 || second % groups != 0 {
            let message = format!("{groups} groups do not divide the channels, {first} and {second}");
            return Err(Error::argument(layer, message));
        }
        let zero = [kernel, self.stride.get(), self.dilation.get()].concat().contains(&0);
        if zero {
            return Err(Error::argument(layer, format!("kernel {kernel:?}, stride and dilation are at least 1")));
        }
        let shape = Shape::new(&[&[first, second / groups], &kernel[..]].concat())?;
        let weight = Tensor::empty(shape.dims(), self.tensor)?;
        // As in PyTorch: `a = √5` makes the bound 1/√fan_in.
        init::kaiming_uniform_(&weight, FanMode::FanIn, Nonlinearity::LeakyReLU(5f64.sqrt()))?;
        let fan_in = shape.dims()[1..].iter().product::<usize>();
        let bias = if self.bias {
            let bound = if fan_in > 0 { 1.0 / (fan_in as f64).sqrt() } else { 0.0 };
            let bias = Tensor::empty(outputs, self.tensor)?;
            init::uniform_(&bias, -bound, bound)?;
            Some(Parameter::new(bias)?)
        } else {
            None
        };
        Ok((Parameter::new(weight)?, bias))
    }

    /// The text that PyTorch prints.
    pub(super) fn describe(&self, channels: [usize; 2], kernel: [usize; N], bias: bool) -> String {
        let [first, second] = channels;
        let mut text =
            format!("{first}, {second}, kernel_size={}, stride={}", tuple(&kernel), tuple(&self.stride.get()));
        let mut add = |name: &str, value: String| text += &format!(", {name}={value}");
        match self.padding {
            Padding::Same => add("padding", "same".into()),
            Padding::Valid => add("padding", "valid".into()),
            Padding::Sides(sides) => add("padding", format!("{:?}", Padding::amounts(sides))),
            Padding::Around(padding) if padding.get() != [0; N] => add("padding", tuple(&padding.get())),
            Padding::Around(_) => {}
        }
        if self.dilation.get() != [1; N] {
            add("dilation", tuple(&self.dilation.get()));
        }
        if self.output_padding.get() != [0; N] {
            add("output_padding", tuple(&self.output_padding.get()));
        }
        if self.groups != 1 {
            add("groups", self.groups.to_string());
        }
        if !bias {
            add("bias", "False".into());
        }
        if self.padding_mode != PaddingMode::Zeros {
            add("padding_mode", self.padding_mode.name().into());
        }
        text
    }

    pub(super) fn rule(&self, padding: [usize; N]) -> Convolution<N> {
        Convolution { stride: self.stride.get(), padding, dilation: self.dilation.get(), groups: self.groups }
    }

    /// The padding before and after each dimension.
    fn sides(&self, kernel: [usize; N]) -> [[usize; 2]; N] {
        match self.padding {
            Padding::Sides(sides) => sides,
            Padding::Around(sizes) => sizes.get().map(|n| [n; 2]),
            Padding::Valid => [[0; 2]; N],
            Padding::Same => {
                let dilation = self.dilation.get();
                std::array::from_fn(|axis| {
                    let total = kernel[axis].saturating_sub(1).saturating_mul(dilation[axis]);
                    [total / 2, total - total / 2]
                })
            }
        }
    }

    /// The convolution if its padding is zeros and the same on opposite sides.
    pub(super) fn plain_rule(&self, kernel: [usize; N]) -> Option<Convolution<N>> {
        let sides = self.sides(kernel);
        let plain = self.padding_mode == PaddingMode::Zeros && sides.iter().all(|[before, after]| before == after);
        plain.then(|| self.rule(sides.map(|[before, _]| before)))
    }

    /// Checks what only transposed convolutions take, and strides.
    pub(super) fn check(&self, layer: &'static str) -> Result<()> {
        if self.padding == Padding::Same && self.stride.get() != [1; N] {
            return Err(Error::argument(layer, "padding that preserves the size needs a stride of 1"));
        }
        if self.output_padding.get() != [0; N] {
            return Err(Error::argument(layer, "output padding is only for transposed convolutions"));
        }
        Ok(())
    }

    /// The padding of a transposed convolution.
    pub(super) fn transposed_padding(&self, layer: &'static str) -> Result<[usize; N]> {
        match self.padding {
            Padding::Around(padding) if self.padding_mode == PaddingMode::Zeros => Ok(padding.get()),
            _ => Err(Error::argument(layer, "its padding must be zeros and the same on opposite sides")),
        }
    }

    /// Calls `convolve` with the input and the convolution, after padding that it does not do itself.
    pub(super) fn padded(
        &self,
        x: &Tensor,
        kernel: [usize; N],
        convolve: impl FnOnce(&Tensor, &Convolution<N>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self.plain_rule(kernel) {
            Some(rule) => convolve(x, &rule),
            None => {
                let amounts: Vec<i64> = Padding::amounts(self.sides(kernel)).iter().map(|&n| n as i64).collect();
                convolve(&x.pad(&amounts, self.padding_mode.of_tensor())?, &self.rule([0; N]))
            }
        }
    }
}

/// The extents of a weight's kernel.
pub(super) fn kernel<const N: usize>(weight: &Tensor) -> [usize; N] {
    std::array::from_fn(|axis| weight.dims().get(axis + 2).copied().unwrap_or(0))
}
