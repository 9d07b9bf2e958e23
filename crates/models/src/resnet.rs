//! Residual networks: ResNet, ResNeXt and Wide ResNet.

use kiln_derive::located;
use kiln_nn::{
    AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Conv2dOptions, Linear, MaxPool2d, Module, ReLU, Sequential, init,
};
use kiln_tensor::{Error, Result, Tensor};

use crate::conv_norm_activation::convolution;

/// The residual blocks that a [`ResNet`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResNetBlock {
    /// Two 3×3 convolutions: [`BasicBlock`].
    Basic,
    /// A 1×1, a 3×3 and a 1×1 convolution: [`Bottleneck`].
    Bottleneck,
}

impl ResNetBlock {
    /// Output channels of a block per channel of its first convolution at nominal width.
    fn expansion(self) -> usize {
        match self {
            ResNetBlock::Basic => 1,
            ResNetBlock::Bottleneck => 4,
        }
    }
}

/// Options of [`ResNet`], besides its blocks.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ResNetOptions {
    num_classes: usize,
    in_channels: usize,
    zero_init_residual: bool,
    groups: usize,
    width_per_group: usize,
    replace_stride_with_dilation: [bool; 3],
    width: f64,
}

impl Default for ResNetOptions {
    fn default() -> Self {
        ResNetOptions {
            num_classes: 1000,
            in_channels: 3,
            zero_init_residual: false,
            groups: 1,
            width_per_group: 64,
            replace_stride_with_dilation: [false; 3],
            width: 1.0,
        }
    }
}

impl ResNetOptions {
    /// Sets the number of classes; by default ImageNet's 1000.
    pub fn num_classes(self, num_classes: usize) -> Self {
        ResNetOptions { num_classes, ..self }
    }

    /// Sets the number of channels of the images; by default 3.
    pub fn in_channels(self, in_channels: usize) -> Self {
        ResNetOptions { in_channels, ..self }
    }

    /// Sets whether the last normalization of each block is initialized with a scale of 0, so that the block starts as
    /// the identity (Goyal et al., 2017); by default not.
    pub fn zero_init_residual(self, zero_init_residual: bool) -> Self {
        ResNetOptions { zero_init_residual, ..self }
    }

    /// Sets the number of groups of the 3×3 convolutions; by default 1. For bottlenecks only.
    pub fn groups(self, groups: usize) -> Self {
        ResNetOptions { groups, ..self }
    }

    /// Sets the number of channels per group in blocks of nominal width 64; by default 64. For bottlenecks only.
    pub fn width_per_group(self, width_per_group: usize) -> Self {
        ResNetOptions { width_per_group, ..self }
    }

    /// Sets for each of the last three stages whether its convolutions are dilated instead of strided, so that the
    /// stage keeps the resolution (for segmentation); by default not. For bottlenecks only.
    pub fn replace_stride_with_dilation(self, stages: [bool; 3]) -> Self {
        ResNetOptions { replace_stride_with_dilation: stages, ..self }
    }

    /// Sets a factor for the numbers of channels of all layers; by default 1.
    pub fn width(self, width: f64) -> Self {
        ResNetOptions { width, ..self }
    }

    /// A number of channels times that factor.
    fn scaled(self, channels: usize) -> usize {
        ((channels as f64 * self.width).round() as usize).max(1)
    }
}

/// The shape of one block.
#[derive(Clone, Copy)]
struct Geometry {
    /// Channels of its input.
    inputs: usize,
    /// Channels of its 3×3 convolution.
    width: usize,
    /// Channels of its output.
    outputs: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
}

fn conv3x3(inputs: usize, outputs: usize, g: Geometry, stride: usize) -> Result<Conv2d> {
    let options = Conv2dOptions::default().stride(stride).padding(g.dilation).dilation(g.dilation);
    convolution(inputs, outputs, 3, options.groups(g.groups))
}

fn conv1x1(inputs: usize, outputs: usize, stride: usize) -> Result<Conv2d> {
    convolution(inputs, outputs, 1, Conv2dOptions::default().stride(stride))
}

/// The shortcut: a 1×1 convolution with a normalization if the shape changes, else `None`.
fn downsample(g: Geometry) -> Result<Option<Sequential>> {
    if g.stride == 1 && g.inputs == g.outputs {
        return Ok(None);
    }
    let conv = conv1x1(g.inputs, g.outputs, g.stride)?;
    Ok(Some(Sequential::new().add(conv).add(BatchNorm2d::new(g.outputs)?)))
}

fn last_norm(channels: usize, zero_init: bool) -> Result<BatchNorm2d> {
    let norm = BatchNorm2d::new(channels)?;
    if let Some(weight) = norm.weight.as_ref().filter(|_| zero_init) {
        init::zeros_(weight)?;
    }
    Ok(norm)
}

/// The input, or the result of the shortcut.
fn shortcut(downsample: Option<&Sequential>, x: &Tensor) -> Result<Tensor> {
    downsample.map_or_else(|| Ok(x.clone()), |downsample| downsample.forward(x))
}

/// A residual block of two 3×3 convolutions: `relu(x + bn2(conv2(relu(bn1(conv1(x))))))`.
#[derive(Debug, Module)]
#[module(save)]
pub struct BasicBlock {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    relu: ReLU,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    downsample: Option<Sequential>,
}

impl BasicBlock {
    fn new(g: Geometry, zero_init_residual: bool) -> Result<BasicBlock> {
        Ok(BasicBlock {
            conv1: conv3x3(g.inputs, g.outputs, g, g.stride)?,
            bn1: BatchNorm2d::new(g.outputs)?,
            relu: ReLU::inplace(),
            conv2: conv3x3(g.outputs, g.outputs, g, 1)?,
            bn2: last_norm(g.outputs, zero_init_residual)?,
            downsample: downsample(g)?,
        })
    }
}

#[located(site)]
impl Module for BasicBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv1.forward_norm(x, &self.bn1, None, Some(&self.relu))?;
        let residual = shortcut(self.downsample.as_ref(), x)?;
        self.conv2.forward_norm(&y, &self.bn2, Some(&residual), Some(&self.relu))
    }
}

/// A residual block: a 1×1 convolution to fewer channels, a 3×3 one, and a 1×1 one to more channels. The 3×3
/// convolution has the stride, as in torchvision (in the paper the first one has it).
#[derive(Debug, Module)]
#[module(save)]
pub struct Bottleneck {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Conv2d,
    bn3: BatchNorm2d,
    relu: ReLU,
    downsample: Option<Sequential>,
}

impl Bottleneck {
    fn new(g: Geometry, zero_init_residual: bool) -> Result<Bottleneck> {
        Ok(Bottleneck {
            conv1: conv1x1(g.inputs, g.width, 1)?,
            bn1: BatchNorm2d::new(g.width)?,
            conv2: conv3x3(g.width, g.width, g, g.stride)?,
            bn2: BatchNorm2d::new(g.width)?,
            conv3: conv1x1(g.width, g.outputs, 1)?,
            bn3: last_norm(g.outputs, zero_init_residual)?,
            relu: ReLU::inplace(),
            downsample: downsample(g)?,
        })
    }
}

#[located(site)]
impl Module for Bottleneck {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv1.forward_norm(x, &self.bn1, None, Some(&self.relu))?;
        let y = self.conv2.forward_norm(&y, &self.bn2, None, Some(&self.relu))?;
        let residual = shortcut(self.downsample.as_ref(), x)?;
        self.conv3.forward_norm(&y, &self.bn3, Some(&residual), Some(&self.relu))
    }
}

/// The deep residual networks of He, Zhang, Ren & Sun (2015), with ResNeXt (Xie et al., 2016) and Wide ResNet (Zagoruyko &
/// Komodakis, 2016) by [`ResNetOptions::groups`] and [`ResNetOptions::width_per_group`]. Structure and parameter names are
/// torchvision's (<https://docs.pytorch.org/vision/stable/models/resnet.html>), so that its checkpoints load. Images are
/// `[N, 3, H, W]`, of at least 32×32 pixels; ImageNet's are 224×224.
///
/// Parameters are initialized as in torchvision: convolutions by [`init::kaiming_normal_`] with the fan-out,
/// normalizations as the identity.
///
/// ```
/// use kiln_models::{ResNetOptions, resnet18};
/// use kiln_nn::{Linear, Module, ModuleTree};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// // Transfer learning: freeze all, put a new head in place.
/// let mut model = resnet18(ResNetOptions::default())?;
/// model.requires_grad_(false)?;
/// model.fc = Linear::new(512, 2)?;
/// model.eval();
/// assert_eq!(model.forward(&Tensor::zeros([1, 3, 64, 64], Device::Cpu)?)?.dims(), [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
#[module(save)]
pub struct ResNet {
    /// A 7×7 convolution with stride 2.
    pub conv1: Conv2d,
    /// Its normalization.
    pub bn1: BatchNorm2d,
    /// Its activation.
    pub relu: ReLU,
    /// 3×3 max-pooling with stride 2.
    pub maxpool: MaxPool2d,
    /// Blocks at a quarter of the resolution.
    pub layer1: Sequential,
    /// At an eighth.
    pub layer2: Sequential,
    /// At a sixteenth.
    pub layer3: Sequential,
    /// At a thirty-second.
    pub layer4: Sequential,
    /// The mean of all pixels.
    pub avgpool: AdaptiveAvgPool2d,
    /// The classifier.
    pub fc: Linear,
}

#[located(site)]
impl ResNet {
    /// A network with this number of blocks in each of its four stages.
    ///
    /// # Errors
    /// If a stage has no blocks, a number of channels is 0, the factor for the channels is not in (0, 64], memory runs out, or
    /// the options set groups, their width or dilation for basic blocks.
    pub fn new(block: ResNetBlock, layers: [usize; 4], options: ResNetOptions) -> Result<ResNet> {
        let plain = (options.groups, options.width_per_group) == (1, 64);
        if block == ResNetBlock::Basic && !(plain && options.replace_stride_with_dilation == [false; 3]) {
            let message = "groups, width and dilation can be set for bottlenecks only, not for basic blocks";
            return Err(Error::argument("ResNet", message.to_owned()));
        }
        if layers.contains(&0) || options.groups == 0 || options.width_per_group == 0 {
            let (groups, width) = (options.groups, options.width_per_group);
            let message = format!("{layers:?} blocks, {groups} groups of width {width}: none of these may be 0");
            return Err(Error::argument("ResNet", message));
        }
        if !(options.width > 0.0 && options.width <= 64.0) {
            return Err(Error::argument("ResNet", format!("the width {} is not in (0, 64]", options.width)));
        }
        let first = options.scaled(64);
        let options_of_conv1 = Conv2dOptions::default().stride(2).padding(3);
        let conv1 = convolution(options.in_channels, first, 7, options_of_conv1)?;
        let mut stages = Stages { block, options, channels: first, dilation: 1 };
        let [dilate2, dilate3, dilate4] = options.replace_stride_with_dilation;
        Ok(ResNet {
            conv1,
            bn1: BatchNorm2d::new(first)?,
            relu: ReLU::inplace(),
            maxpool: MaxPool2d::new(3).stride(2).padding(1),
            layer1: stages.next(64, layers[0], 1, false)?,
            layer2: stages.next(128, layers[1], 2, dilate2)?,
            layer3: stages.next(256, layers[2], 2, dilate3)?,
            layer4: stages.next(512, layers[3], 2, dilate4)?,
            avgpool: AdaptiveAvgPool2d::new((1, 1)),
            fc: Linear::new(options.scaled(512) * block.expansion(), options.num_classes)?,
        })
    }
}

/// Builds the stages in order.
struct Stages {
    block: ResNetBlock,
    options: ResNetOptions,
    /// Output channels of the last stage built.
    channels: usize,
    /// Dilation of the last stage built.
    dilation: usize,
}

impl Stages {
    fn next(&mut self, planes: usize, blocks: usize, stride: usize, dilate: bool) -> Result<Sequential> {
        let (stride, first_dilation) = (if dilate { 1 } else { stride }, self.dilation);
        if dilate {
            self.dilation *= 2;
        }
        let (groups, planes) = (self.options.groups, self.options.scaled(planes));
        let mut stage = Sequential::new();
        for i in 0..blocks {
            let geometry = Geometry {
                inputs: self.channels,
                width: planes * self.options.width_per_group / 64 * groups,
                outputs: planes * self.block.expansion(),
                stride: if i == 0 { stride } else { 1 },
                dilation: if i == 0 { first_dilation } else { self.dilation },
                groups,
            };
            let zero_init = self.options.zero_init_residual;
            match self.block {
                ResNetBlock::Basic => stage.push(BasicBlock::new(geometry, zero_init)?),
                ResNetBlock::Bottleneck => stage.push(Bottleneck::new(geometry, zero_init)?),
            }
            self.channels = geometry.outputs;
        }
        Ok(stage)
    }
}

#[located(site)]
impl Module for ResNet {
    /// Maps `[N, 3, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.conv1.forward_norm(x, &self.bn1, None, Some(&self.relu))?;
        let mut x = self.maxpool.forward(&x)?;
        for layer in [&self.layer1, &self.layer2, &self.layer3, &self.layer4] {
            x = layer.forward(&x)?;
        }
        self.fc.forward(&self.avgpool.forward(&x)?.flatten(1, -1)?)
    }
}

macro_rules! published {
    ($($name:ident $title:literal $block:ident $layers:expr, $groups:literal $width:literal;)*) => {$(
        #[doc = concat!($title, ", torchvision's `", stringify!($name), "`.")]
        ///
        /// # Errors
        /// Those of [`ResNet::new`].
        pub fn $name(options: ResNetOptions) -> Result<ResNet> {
            let options = match ($groups, $width) {
                (1, 64) => options,
                (groups, width) => options.groups(groups).width_per_group(width),
            };
            ResNet::new(ResNetBlock::$block, $layers, options)
        }
    )*};
}
published! {
    resnet18 "ResNet-18" Basic [2, 2, 2, 2], 1 64;
    resnet34 "ResNet-34" Basic [3, 4, 6, 3], 1 64;
    resnet50 "ResNet-50" Bottleneck [3, 4, 6, 3], 1 64;
    resnet101 "ResNet-101" Bottleneck [3, 4, 23, 3], 1 64;
    resnet152 "ResNet-152" Bottleneck [3, 8, 36, 3], 1 64;
    resnext50_32x4d "ResNeXt-50 with 32 groups of 4 channels" Bottleneck [3, 4, 6, 3], 32 4;
    resnext101_32x8d "ResNeXt-101 with 32 groups of 8 channels" Bottleneck [3, 4, 23, 3], 32 8;
    resnext101_64x4d "ResNeXt-101 with 64 groups of 4 channels" Bottleneck [3, 4, 23, 3], 64 4;
    wide_resnet50_2 "Wide ResNet-50, twice as wide" Bottleneck [3, 4, 6, 3], 1 128;
    wide_resnet101_2 "Wide ResNet-101, twice as wide" Bottleneck [3, 4, 23, 3], 1 128;
}
