//! Exports a network of each operation that the ONNX exporter knows, with inputs of two batch sizes and the outputs that Kiln
//! computes for them: `cargo run -p kiln-io --example onnx_operations -- FOLDER`, then `scripts/check_onnx.py FOLDER/*.onnx`.

mod gpt;
mod operations;

use std::path::{Path, PathBuf};

use kiln_io::onnx::{self, Options, Weights};
use kiln_models::{
    AlexNet, EfficientNet, EfficientNetOptions, LeNet, Mlp, MobileNetV2, MobileNetV2Options, ResNet, ResNetBlock,
    ResNetOptions, Vgg, VggDepth, VggOptions, VisionTransformer, VisionTransformerOptions,
};
use kiln_nn::{
    AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, BatchNormOptions, Conv1d, Conv2d,
    Conv2dOptions, ConvTranspose2d, Flatten, GELU, GRU, GroupNorm, InstanceNorm1d, LSTM, LayerNorm, Linear, MaxPool2d,
    Module, ModuleTree, MultiheadAttention, MultiheadAttentionOptions, Padding, PaddingMode, Parameter, RMSNorm, RNN,
    RNNNonlinearity, RNNOptions, ReLU, Sigmoid, Softmax, StateDict, Tanh, TransformerEncoder, TransformerEncoderLayer,
    TransformerOptions, init, seq,
};
use kiln_tensor::{Device, Error, Result, Tensor, no_grad};

/// A function with a weight of the input's size.
#[derive(Module)]
#[module(no_display)]
struct Function {
    weight: Parameter,
    #[module(skip)]
    function: fn(&Tensor, &Tensor) -> Result<Tensor>,
}

impl Module for Function {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        (self.function)(x, &self.weight)
    }
}

/// Exports a model, and saves inputs of two batch sizes with their outputs.
fn write<M: Module>(folder: &Path, name: &str, model: &M, shape: &[usize], options: &Options) -> Result<()> {
    // Positive, so that roots and logarithms have values.
    write_with(folder, name, model, shape, options, |dims| Tensor::rand(dims, Device::Cpu)?.add(0.1))
}

fn write_with<M: Module>(
    folder: &Path,
    name: &str,
    model: &M,
    shape: &[usize],
    options: &Options,
    draw: impl Fn(&[usize]) -> Result<Tensor>,
) -> Result<()> {
    model.eval();
    let path = folder.join(format!("{name}.onnx"));
    let sample = draw(shape)?;
    onnx::export_with(&path, model, &sample, options)?;
    let mut state = StateDict::new();
    for (case, batch) in [5, 2].into_iter().enumerate() {
        let mut dims = shape.to_vec();
        dims[0] = batch;
        let input = draw(&dims)?;
        let output = no_grad(|| model.forward(&input)?.contiguous())?;
        state.insert(format!("{case}/input"), input);
        state.insert(format!("{case}/output"), output);
    }
    kiln_io::save(path.with_extension("expected.safetensors"), &state)
}

/// Layers on images `[N, 4, 9, 8]`.
fn layers() -> Result<Vec<(&'static str, Box<dyn Module>)>> {
    let options = Conv2dOptions::default;
    Ok(vec![
        ("conv", Box::new(Conv2d::new(4, 6, 3)?)),
        ("conv_relu", Box::new(seq![Conv2d::with_options(4, 6, 3, options().padding(1))?, ReLU::new()])),
        ("conv_strided", Box::new(Conv2d::with_options(4, 6, (3, 2), options().stride((2, 1)).padding((1, 0)))?)),
        ("conv_grouped", Box::new(Conv2d::with_options(4, 6, 3, options().groups(2).dilation(2).bias(false))?)),
        ("conv_same", Box::new(Conv2d::with_options(4, 6, 4, options().padding(Padding::Same))?)),
        ("conv_sides", Box::new(Conv2d::with_options(4, 6, 3, options().padding([0, 1, 2, 3]))?)),
        ("conv_reflect", {
            let options = options().padding(1).padding_mode(PaddingMode::Reflect);
            Box::new(Conv2d::with_options(4, 6, 3, options)?)
        }),
        ("conv_replicate", {
            let options = options().padding(2).padding_mode(PaddingMode::Replicate);
            Box::new(Conv2d::with_options(4, 6, 3, options)?)
        }),
        ("conv_transpose", {
            let options = options().stride(2).padding(1).output_padding(1).groups(2);
            Box::new(ConvTranspose2d::with_options(4, 6, 3, options)?)
        }),
        ("conv_circular", {
            let options = options().padding((1, 2)).padding_mode(PaddingMode::Circular);
            Box::new(Conv2d::with_options(4, 6, 3, options)?)
        }),
        ("max_pool", Box::new(MaxPool2d::new(2))),
        ("max_pool_ceil", Box::new(MaxPool2d::new(3).stride(2).padding(1).ceil_mode(true))),
        ("avg_pool", Box::new(AvgPool2d::new((3, 2)).stride(2).padding(1))),
        ("avg_pool_inside", Box::new(AvgPool2d::new(3).padding(1).count_include_pad(false))),
        ("avg_pool_divisor", Box::new(AvgPool2d::new((3, 2)).stride(2).padding(1).divisor_override(5)?)),
        ("avg_pool_divisor_ceil", Box::new(AvgPool2d::new(4).stride(3).ceil_mode(true).divisor_override(7)?)),
        ("adaptive_avg_pool_uneven", Box::new(AdaptiveAvgPool2d::new((4, 3)))),
        ("adaptive_max_pool_uneven", Box::new(AdaptiveMaxPool2d::new((4, 7)))),
        ("adaptive_avg_pool_larger", Box::new(AdaptiveAvgPool2d::new((11, 8)))),
        ("adaptive_avg_pool", Box::new(AdaptiveAvgPool2d::new((3, 2)))),
        ("adaptive_max_pool", Box::new(AdaptiveMaxPool2d::new(1))),
        ("batch_norm", Box::new(BatchNorm2d::new(4)?)),
        ("batch_norm_1d", Box::new(seq![Flatten::dims(2, -1), BatchNorm1d::new(4)?])),
        ("batch_norm_plain", Box::new(BatchNorm2d::with_options(4, BatchNormOptions::default().affine(false))?)),
        ("layer_norm", Box::new(LayerNorm::new(&[9, 8])?)),
        ("group_norm", Box::new(GroupNorm::new(2, 4)?)),
    ])
}

/// Layers on sequences `[N, 5, 8]`.
fn of_sequences() -> Result<Vec<(&'static str, Box<dyn Module>)>> {
    let recurrent = || RNNOptions::default().batch_first(true);
    let transformer = || TransformerOptions::default().batch_first(true).dim_feedforward(12);
    let attention = MultiheadAttentionOptions::default().batch_first(true);
    Ok(vec![
        ("lstm", Box::new(LSTM::with_options(8, 6, recurrent().num_layers(2).bidirectional(true))?)),
        ("lstm_projection", Box::new(LSTM::with_options(8, 6, recurrent().proj_size(3).bias(false))?)),
        ("gru", Box::new(GRU::with_options(8, 6, recurrent().bidirectional(true))?)),
        ("rnn", Box::new(RNN::with_options(8, 6, recurrent())?)),
        ("rnn_relu", Box::new(RNN::with_options(8, 6, recurrent().nonlinearity(RNNNonlinearity::ReLU))?)),
        ("multihead_attention", Box::new(MultiheadAttention::with_options(8, 2, attention)?)),
        ("transformer_encoder_layer", Box::new(TransformerEncoderLayer::new(8, 2, transformer().norm_first(true))?)),
        ("transformer_encoder", Box::new(TransformerEncoder::new(8, 4, 2, true, transformer())?)),
        ("rms_norm_layer", Box::new(RMSNorm::new(&[8])?)),
        ("conv1d_layer", Box::new(Conv1d::new(5, 4, 3)?)),
        ("batch_norm_of_sequences", Box::new(BatchNorm1d::new(5)?)),
        ("instance_norm_of_sequences", Box::new(InstanceNorm1d::new(5)?)),
    ])
}

/// A network by its name, and the shape of its images.
type Network = (&'static str, Box<dyn Module>, [usize; 4]);

/// Narrow networks of torchvision's architectures, with images that are large enough for them.
fn networks() -> Result<Vec<Network>> {
    let residual = ResNetOptions::default().num_classes(5);
    let mobile = MobileNetV2Options::default().num_classes(5).width_mult(0.2);
    let efficient = EfficientNetOptions::default().num_classes(5).width_mult(0.2).depth_mult(0.3);
    let vision = VisionTransformerOptions::default().image_size(32).patch_size(8).num_layers(2).num_heads(2);
    let vision = VisionTransformer::new(vision.hidden_dim(16).mlp_dim(24).num_classes(5))?;
    // Its head is zero at first, and so would be all logits.
    for parameter in vision.parameters() {
        if parameter.rank() == 2 && parameter.abs()?.max(())?.item::<f32>()? == 0.0 {
            init::normal_(&parameter, 0.0, 0.5)?;
        }
    }
    Ok(vec![
        ("resnet", Box::new(ResNet::new(ResNetBlock::Basic, [1; 4], residual)?), [1, 3, 64, 64]),
        (
            "resnext",
            Box::new(ResNet::new(ResNetBlock::Bottleneck, [1; 4], residual.groups(4).width_per_group(8))?),
            [1, 3, 64, 64],
        ),
        ("mobilenet_v2", Box::new(MobileNetV2::new(mobile)?), [1, 3, 64, 64]),
        ("efficientnet", Box::new(EfficientNet::new(efficient)?), [1, 3, 64, 64]),
        ("vit", Box::new(vision), [1, 3, 32, 32]),
        ("alexnet", Box::new(AlexNet::new(5, 0.5)?), [1, 3, 64, 64]),
    ])
}

/// Trains nothing, but moves running statistics away from 0 and 1.
fn warm_up(model: &dyn Module, shape: &[usize]) -> Result<()> {
    let mut dims = shape.to_vec();
    dims[0] = 4;
    model.train();
    no_grad(|| model.forward(&Tensor::rand(&dims[..], Device::Cpu)?.mul(3)?)).map(drop)
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or_else(|| Error::argument("onnx_operations", "name a folder"))?;
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    kiln_tensor::manual_seed(0);
    let options = Options::new();
    let mut failed: Vec<String> = Vec::new();
    for (name, function) in operations::operations() {
        let weight = Parameter::new(Tensor::rand([3, 4], Device::Cpu)?.add(0.5)?)?;
        let written = write(&folder, name, &Function { weight, function }, &[1, 3, 4], &options);
        failed.extend(written.err().map(|error| format!("{name}: {error}")));
    }
    for (name, layer) in layers()? {
        warm_up(&layer, &[1, 4, 9, 8])?;
        let written = write(&folder, name, &layer, &[1, 4, 9, 8], &options);
        failed.extend(written.err().map(|error| format!("{name}: {error}")));
    }
    for (name, layer) in of_sequences()? {
        warm_up(&layer, &[1, 5, 8])?;
        let written = write(&folder, name, &layer, &[1, 5, 8], &options);
        failed.extend(written.err().map(|error| format!("{name}: {error}")));
    }
    for (name, network, images) in networks()? {
        warm_up(&network, &images)?;
        let written = write(&folder, name, &network, &images, &options);
        failed.extend(written.err().map(|error| format!("{name}: {error}")));
    }
    let tokens = |dims: &[usize]| Tensor::randint(0, gpt::VOCABULARY as i64, dims, Device::Cpu);
    write_with(&folder, "gpt", &gpt::Gpt::new()?, &[1, gpt::CONTEXT], &options, tokens)?;
    write(&folder, "lenet", &LeNet::new(10)?, &[1, 1, 32, 32], &options)?;
    for (name, depth, batch_norm) in [("vgg16", VggDepth::Vgg16, false), ("vgg16_bn", VggDepth::Vgg16, true)] {
        let small = VggOptions::default().width(0.0625).num_classes(10).batch_norm(batch_norm);
        let model = Vgg::new(depth, small)?;
        warm_up(&model, &[1, 3, 64, 64])?;
        write(&folder, name, &model, &[1, 3, 224, 224], &options)?;
    }
    write(&folder, "mlp", &Mlp::new(&[784, 64, 10])?, &[1, 1, 28, 28], &options)?;
    let stack = seq![
        Flatten::new(),
        Linear::new(12, 40)?,
        GELU::new(),
        Linear::new(40, 30)?,
        Tanh::new(),
        Linear::new(30, 20)?,
        ReLU::new(),
        Linear::new(20, 5)?,
        Sigmoid::new(),
        Softmax::new(1),
    ];
    write(&folder, "stack", &stack, &[2, 3, 4], &options.clone().weights(Weights::Beside))?;
    if failed.is_empty() { Ok(()) } else { Err(Error::argument("onnx_operations", failed.join("\n"))) }
}
