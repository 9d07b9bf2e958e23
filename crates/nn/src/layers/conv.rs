//! Convolution layers: `Conv2d` and `ConvTranspose2d`.

use kiln_derive::located;
use kiln_tensor::{Conv2d as Rule, Error, PadMode, Result, Shape, Tensor, TensorOptions};
use serde_json::Value;

use super::{
    conv_norm::FoldCache,
    pair::{Pair, pair},
};
use crate::{
    init::{self, FanMode, Nonlinearity},
    module::Module,
    parameter::{Parameter, Training},
    saved::{Describing, Restoring, Saved, SavedName},
    saved_choice,
};

/// Padding around images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The same on opposite sides: rows, columns.
    Around(Pair),
    /// On each side: left, right, top, bottom.
    Sides([usize; 4]),
    /// As much as preserves the size, for strides of 1. An odd row or column is added at the end.
    Same,
}

/// Saved as `"same"`, a pair, or four sides.
impl Saved for Padding {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        match self {
            Padding::Around(pair) => pair.save(at),
            Padding::Sides(sides) => sides.save(at),
            Padding::Same => Ok("same".into()),
        }
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Padding> {
        match value {
            Value::String(same) if same == "same" => Ok(Padding::Same),
            Value::Array(sides) if sides.len() == 4 => <[usize; 4]>::restore(value, at).map(Padding::Sides),
            _ => Pair::restore(value, at).map(Padding::Around),
        }
    }
}

impl<T: Into<Pair>> From<T> for Padding {
    fn from(pair: T) -> Padding {
        Padding::Around(pair.into())
    }
}

impl From<[usize; 4]> for Padding {
    fn from(sides: [usize; 4]) -> Padding {
        Padding::Sides(sides)
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

/// Options of [`Conv2d`] and [`ConvTranspose2d`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Conv2dOptions {
    stride: Pair,
    padding: Padding,
    output_padding: Pair,
    dilation: Pair,
    groups: usize,
    bias: bool,
    padding_mode: PaddingMode,
    tensor: TensorOptions,
}

/// The part of the options that a layer keeps; dtype and device are those of its tensors.
impl Saved for Conv2dOptions {
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

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Conv2dOptions> {
        let mut fields = at.module(Self::TYPE, value)?;
        let options = Conv2dOptions {
            stride: fields.take("stride", at)?,
            padding: fields.take("padding", at)?,
            output_padding: fields.take("output_padding", at)?,
            dilation: fields.take("dilation", at)?,
            groups: fields.take("groups", at)?,
            padding_mode: fields.take("padding_mode", at)?,
            ..Conv2dOptions::default()
        };
        fields.finish(at)?;
        Ok(options)
    }
}

impl SavedName for Conv2dOptions {
    const TYPE: &'static str = "Conv2dOptions";
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Conv2dOptions {
            stride: Pair::Both(1),
            padding: Padding::Around(Pair::Both(0)),
            output_padding: Pair::Both(0),
            dilation: Pair::Both(1),
            groups: 1,
            bias: true,
            padding_mode: PaddingMode::Zeros,
            tensor: TensorOptions::new(),
        }
    }
}

impl Conv2dOptions {
    /// The stride.
    pub fn stride(self, stride: impl Into<Pair>) -> Self {
        Conv2dOptions { stride: stride.into(), ..self }
    }

    /// The padding around the images.
    pub fn padding(self, padding: impl Into<Padding>) -> Self {
        Conv2dOptions { padding: padding.into(), ..self }
    }

    /// Rows and columns to add to the result of a [`ConvTranspose2d`], at the bottom and the right; must be below the
    /// stride or the dilation.
    pub fn output_padding(self, output_padding: impl Into<Pair>) -> Self {
        Conv2dOptions { output_padding: output_padding.into(), ..self }
    }

    /// The distance between the kernel's taps.
    pub fn dilation(self, dilation: impl Into<Pair>) -> Self {
        Conv2dOptions { dilation: dilation.into(), ..self }
    }

    /// The number of groups that the channels are divided into, each convolved on its own.
    pub fn groups(self, groups: usize) -> Self {
        Conv2dOptions { groups, ..self }
    }

    /// Whether to add a bias.
    pub fn bias(self, bias: bool) -> Self {
        Conv2dOptions { bias, ..self }
    }

    /// The values of the padding.
    pub fn padding_mode(self, padding_mode: PaddingMode) -> Self {
        Conv2dOptions { padding_mode, ..self }
    }

    /// Sets the dtype and device.
    pub fn tensor(self, options: impl Into<TensorOptions>) -> Self {
        Conv2dOptions { tensor: options.into(), ..self }
    }

    /// The weight `[first, second / groups, kernel]` and the bias, initialized as in PyTorch.
    fn parameters(
        &self,
        layer: &'static str,
        [first, second]: [usize; 2],
        kernel: [usize; 2],
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
        let shape = Shape::new(&[first, second / groups, kernel[0], kernel[1]])?;
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
    fn describe(&self, channels: [usize; 2], kernel: [usize; 2], bias: bool) -> String {
        let [first, second] = channels;
        let mut text = format!("{first}, {second}, kernel_size={}, stride={}", pair(kernel), pair(self.stride.get()));
        let mut add = |name: &str, value: String| text += &format!(", {name}={value}");
        match self.padding {
            Padding::Same => add("padding", "same".into()),
            Padding::Sides(sides) => add("padding", format!("{sides:?}")),
            Padding::Around(padding) if padding.get() != [0; 2] => add("padding", pair(padding.get())),
            Padding::Around(_) => {}
        }
        if self.dilation.get() != [1; 2] {
            add("dilation", pair(self.dilation.get()));
        }
        if self.output_padding.get() != [0; 2] {
            add("output_padding", pair(self.output_padding.get()));
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

    fn rule(&self, padding: [usize; 2]) -> Rule {
        Rule { stride: self.stride.get(), padding, dilation: self.dilation.get(), groups: self.groups }
    }
}

/// Height and width of a weight's kernel.
fn kernel(weight: &Tensor) -> [usize; 2] {
    weight.dims4().map_or([0; 2], |(_, _, h, w)| [h, w])
}

/// A two-dimensional convolution: images `[N, in, H, W]` to `[N, out, H', W']`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html>).
///
/// `weight` is `[out, in / groups, kh, kw]` and `bias` `[out]`, both drawn uniformly from `±1/√(in / groups · kh ·
/// kw)`.
///
/// ```
/// use kiln_nn::{Conv2d, Conv2dOptions, Module};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let conv = Conv2d::with_options(3, 64, 3, Conv2dOptions::default().padding(1))?;
/// assert_eq!(conv.to_string(), "Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))");
/// assert_eq!(conv.forward(&Tensor::zeros([1, 3, 8, 8], Device::Cpu)?)?.dims(), [1, 64, 8, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct Conv2d {
    /// `[out, in / groups, kh, kw]`
    pub weight: Parameter,
    /// `[out]`
    pub bias: Option<Parameter>,
    #[module(skip, save)]
    options: Conv2dOptions,
    training: Training,
    /// Weight and bias with the normalization after it in them.
    #[module(skip)]
    pub(super) folded: FoldCache,
}

#[located(site)]
impl Conv2d {
    /// A layer with stride 1, no padding and a bias.
    ///
    /// # Errors
    /// If the kernel is empty, or memory runs out.
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: impl Into<Pair>) -> Result<Conv2d> {
        Conv2d::with_options(in_channels, out_channels, kernel_size, Conv2dOptions::default())
    }

    /// A layer with options.
    ///
    /// # Errors
    /// If the groups do not divide the channels, kernel, stride or dilation is 0, `Padding::Same` is combined with a
    /// stride, or an option is only for transposed convolutions.
    pub fn with_options(
        in_channels: usize,
        out_channels: usize,
        kernel_size: impl Into<Pair>,
        options: Conv2dOptions,
    ) -> Result<Conv2d> {
        const LAYER: &str = "Conv2d";
        if options.padding == Padding::Same && options.stride.get() != [1; 2] {
            return Err(Error::argument(LAYER, "padding that preserves the size needs a stride of 1"));
        }
        if options.output_padding.get() != [0; 2] {
            return Err(Error::argument(LAYER, "output padding is only for transposed convolutions"));
        }
        let kernel = kernel_size.into().get();
        let (weight, bias) = options.parameters(LAYER, [out_channels, in_channels], kernel, out_channels)?;
        Ok(Conv2d { weight, bias, options, training: Training::default(), folded: FoldCache::default() })
    }

    /// The number of input channels.
    #[must_use]
    pub fn in_channels(&self) -> usize {
        self.weight.dims().get(1).map_or(0, |c| c * self.options.groups)
    }

    /// The number of output channels.
    #[must_use]
    pub fn out_channels(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(0)
    }

    /// Height and width of the kernel.
    #[must_use]
    pub fn kernel_size(&self) -> [usize; 2] {
        kernel(&self.weight)
    }

    /// Stride, padding, dilation and groups; `None` unless the padding is zeros and the same on opposite sides.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        let [left, right, top, bottom] = self.sides();
        let plain = self.options.padding_mode == PaddingMode::Zeros && left == right && top == bottom;
        plain.then(|| self.options.rule([top, left]))
    }

    /// The padding: left, right, top, bottom.
    fn sides(&self) -> [usize; 4] {
        match self.options.padding {
            Padding::Sides(sides) => sides,
            Padding::Around(pair) => {
                let [h, w] = pair.get();
                [w, w, h, h]
            }
            Padding::Same => {
                let (k, d) = (self.kernel_size(), self.options.dilation.get());
                let total = |axis: usize| k[axis].saturating_sub(1).saturating_mul(d[axis]);
                let (h, w) = (total(0), total(1));
                [w / 2, w - w / 2, h / 2, h - h / 2]
            }
        }
    }

    fn describe(&self) -> String {
        let channels = [self.in_channels(), self.out_channels()];
        self.options.describe(channels, self.kernel_size(), self.bias.is_some())
    }

    /// The convolution by this weight and this bias, plus a tensor of the result's shape, and ReLU after it.
    pub(super) fn convolve(
        &self,
        x: &Tensor,
        (weight, bias): (&Tensor, Option<&Tensor>),
        residual: Option<&Tensor>,
        relu: bool,
    ) -> Result<Tensor> {
        let conv = |x: &Tensor, rule: &Rule| match (residual, relu) {
            (None, false) => x.conv2d(weight, bias, rule),
            (None, true) => x.conv2d_relu(weight, bias, rule),
            (Some(residual), true) => x.conv2d_add_relu(weight, bias, residual, rule),
            (Some(residual), false) => x.conv2d(weight, bias, rule)?.add(residual),
        };
        match self.rule() {
            Some(rule) => conv(x, &rule),
            None => {
                let sides = self.sides().map(|n| n as i64);
                conv(&x.pad(&sides, self.options.padding_mode.of_tensor())?, &self.options.rule([0; 2]))
            }
        }
        .map_err(|error| error.of_op("conv2d"))
    }
}

#[located(module)]
impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, (&self.weight, self.bias.as_deref()), None, false)
    }

    fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, (&self.weight, self.bias.as_deref()), None, true)
    }

    fn as_conv2d(&self) -> Option<&Conv2d> {
        Some(self)
    }
}

/// A two-dimensional transposed convolution, which makes images larger
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html>).
///
/// `weight` is `[in, out / groups, kh, kw]` and `bias` `[out]`, both drawn uniformly from `±1/√(out / groups · kh ·
/// kw)`.
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct ConvTranspose2d {
    /// `[in, out / groups, kh, kw]`
    pub weight: Parameter,
    /// `[out]`
    pub bias: Option<Parameter>,
    #[module(skip, save)]
    options: Conv2dOptions,
    padding: [usize; 2],
    training: Training,
}

#[located(site)]
impl ConvTranspose2d {
    /// A layer with stride 1, no padding and a bias.
    ///
    /// # Errors
    /// If the kernel is empty, or memory runs out.
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: impl Into<Pair>) -> Result<ConvTranspose2d> {
        ConvTranspose2d::with_options(in_channels, out_channels, kernel_size, Conv2dOptions::default())
    }

    /// A layer with options.
    ///
    /// # Errors
    /// If the groups do not divide the channels, kernel, stride or dilation is 0, or the padding is not zeros and the
    /// same on opposite sides.
    pub fn with_options(
        in_channels: usize,
        out_channels: usize,
        kernel_size: impl Into<Pair>,
        options: Conv2dOptions,
    ) -> Result<ConvTranspose2d> {
        const LAYER: &str = "ConvTranspose2d";
        let padding = match options.padding {
            Padding::Around(padding) if options.padding_mode == PaddingMode::Zeros => padding.get(),
            _ => return Err(Error::argument(LAYER, "its padding must be zeros and the same on opposite sides")),
        };
        let kernel = kernel_size.into().get();
        let (weight, bias) = options.parameters(LAYER, [in_channels, out_channels], kernel, out_channels)?;
        Ok(ConvTranspose2d { weight, bias, options, padding, training: Training::default() })
    }

    fn describe(&self) -> String {
        let (first, second) = self.weight.dims4().map_or((0, 0), |(c, o, _, _)| (c, o * self.options.groups));
        self.options.describe([first, second], kernel(&self.weight), self.bias.is_some())
    }
}

#[located(module)]
impl Module for ConvTranspose2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rule = self.options.rule(self.padding);
        x.conv_transpose2d(&self.weight, self.bias.as_deref(), &rule, self.options.output_padding.get())
    }
}
