//! Exports a network of each kind of operation that the ONNX exporter knows, with an input and the output that Kiln
//! computes for it: `cargo run -p kiln-io --example onnx_operations -- FOLDER`, then `scripts/check_onnx.py FOLDER/*.onnx`.

use std::path::{Path, PathBuf};

use kiln_io::onnx::{self, Options, Weights};
use kiln_models::{LeNet, Mlp, Vgg, VggDepth, VggOptions};
use kiln_nn::{
    AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, BatchNormOptions, Conv2d, Conv2dOptions,
    ConvTranspose2d, Flatten, GELU, GroupNorm, LayerNorm, Linear, MaxPool2d, Module, Padding, PaddingMode, Parameter,
    ReLU, Sigmoid, Softmax, StateDict, Tanh, seq,
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

fn write<M: Module>(folder: &Path, name: &str, model: &M, shape: &[usize], options: &Options) -> Result<()> {
    model.eval();
    let path = folder.join(format!("{name}.onnx"));
    onnx::export_with(&path, model, &Tensor::zeros(shape, Device::Cpu)?, options)?;
    let mut dims = shape.to_vec();
    dims[0] = 5;
    // Positive, so that roots and logarithms have values.
    let input = Tensor::rand(&dims[..], Device::Cpu)?.add(0.1)?;
    let output = no_grad(|| model.forward(&input)?.contiguous())?;
    let state = StateDict::from([("input".to_owned(), input), ("output".to_owned(), output)]);
    kiln_io::save(path.with_extension("expected.safetensors"), &state)
}

type Entry = (&'static str, fn(&Tensor, &Tensor) -> Result<Tensor>);

macro_rules! entries {
    ($($name:ident |$x:ident, $w:ident| $body:expr;)*) => {
        [$((stringify!($name), (|$x: &Tensor, $w: &Tensor| $body) as fn(&Tensor, &Tensor) -> Result<Tensor>)),*]
    };
}

/// On an input `[N, 3, 4]` with a weight `[3, 4]`.
fn operations() -> Vec<Entry> {
    let unary = entries! {
        neg |x, _w| x.neg(); abs |x, _w| x.sub(0.5)?.abs(); sign |x, _w| x.sub(0.5)?.sign(); square |x, _w| x.square();
        reciprocal |x, _w| x.reciprocal(); sqrt |x, _w| x.sqrt(); rsqrt |x, _w| x.rsqrt(); exp |x, _w| x.exp();
        log |x, _w| x.log(); sin |x, _w| x.sin(); cos |x, _w| x.cos(); tan |x, _w| x.tan();
        asin |x, _w| x.mul(0.5)?.asin(); acos |x, _w| x.mul(0.5)?.acos(); atan |x, _w| x.atan(); sinh |x, _w| x.sinh();
        cosh |x, _w| x.cosh(); tanh |x, _w| x.tanh(); sigmoid |x, _w| x.sigmoid(); relu |x, _w| x.sub(0.5)?.relu();
        gelu |x, _w| x.sub(0.5)?.gelu(); gelu_tanh |x, _w| x.sub(0.5)?.gelu_tanh(); silu |x, _w| x.silu();
        softplus |x, _w| x.softplus(); erf |x, _w| x.erf(); floor |x, _w| x.mul(3)?.floor();
        ceil |x, _w| x.mul(3)?.ceil(); round |x, _w| x.mul(3)?.round();
        leaky_relu |x, _w| x.sub(0.5)?.leaky_relu(0.2); elu |x, _w| x.sub(0.5)?.elu(1.5);
    };
    let others = entries! {
        add |x, w| x.add(w); rsub |x, _w| 1.5 - x; mul |x, w| x.mul(w); div |x, w| x.div(w);
        pow |x, w| x.pow(w); pow_number |x, _w| x.pow(3); maximum |x, w| x.maximum(w); minimum |x, _w| x.minimum(0.5);
        clamp |x, _w| x.clamp(0.3, 0.7); lerp |x, w| x.lerp(w, 0.25);
        softmax |x, _w| x.softmax(1); log_softmax |x, _w| x.log_softmax(-1);
        matmul |x, w| x.matmul(&w.t()?); matmul_vector |x, w| x.matmul(&w.select(0, 1)?);
        linear |x, w| x.linear(w, None); linear_relu |x, w| x.linear_relu(w, None);
        permute |x, _w| x.permute([0, 2, 1]); transpose |x, _w| x.transpose(0, 2); movedim |x, _w| x.movedim(0, 1);
        flatten |x, _w| x.flatten(1, -1); flatten_batch |x, _w| x.flatten(0, 1); unsqueeze |x, _w| x.unsqueeze(1);
        squeeze |x, _w| x.unsqueeze(1)?.squeeze(1); expand |x, _w| x.unsqueeze(1)?.expand([-1, 2, -1, -1]);
        narrow |x, _w| x.narrow(2, 1, 2); slice |x, _w| x.slice(2, 0, 4, 2); select |x, _w| x.select(1, -1);
        first |x, _w| x.slice(0, 1, i64::MAX, 1); cat |x, w| Tensor::cat(&[x, &x.mul(w)?], 1);
        chunk |x, _w| x.chunk(2, 2)?[0].mul(&x.chunk(2, 2)?[1]);
        sum |x, _w| x.sum(1); sum_all |x, _w| x.sum(()); sum_keepdim |x, _w| x.sum_keepdim([1, 2]);
        mean |x, _w| x.mean([0, 2]); mean_keepdim |x, _w| x.mean_keepdim(-1);
        standardised |x, _w| { let c = x.sub(&x.mean_keepdim(-1)?)?; c.div(&c.square()?.mean_keepdim(-1)?.add(1e-5)?.sqrt()?) };
        attention |x, w| {
            let q = x.matmul(&w.t()?)?;
            q.matmul(&q.transpose(1, 2)?)?.div(2.0)?.softmax(-1)?.matmul(x)
        };
        twice |x, _w| x.add(x);
        weight_alone |x, w| x.mul(0)?.add(&w.exp()?);
        doubles |x, _w| x.to_dtype(kiln_tensor::DType::F64)?.mul(0.1);
    };
    unary.into_iter().chain(others).collect()
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
        ("conv_sides", Box::new(Conv2d::with_options(4, 6, 3, options().padding(Padding::Sides([0, 1, 2, 3])))?)),
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
        ("max_pool", Box::new(MaxPool2d::new(2))),
        ("max_pool_ceil", Box::new(MaxPool2d::new(3).stride(2).padding(1).ceil_mode(true))),
        ("avg_pool", Box::new(AvgPool2d::new((3, 2)).stride(2).padding(1))),
        ("adaptive_avg_pool", Box::new(AdaptiveAvgPool2d::new((3, 2)))),
        ("adaptive_max_pool", Box::new(AdaptiveMaxPool2d::new(1))),
        ("batch_norm", Box::new(BatchNorm2d::new(4)?)),
        ("batch_norm_1d", Box::new(seq![Flatten::dims(2, -1), BatchNorm1d::new(4)?])),
        ("batch_norm_plain", Box::new(BatchNorm2d::with_options(4, BatchNormOptions::default().affine(false))?)),
        ("layer_norm", Box::new(LayerNorm::new(&[9, 8])?)),
        ("group_norm", Box::new(GroupNorm::new(2, 4)?)),
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
    for (name, function) in operations() {
        let weight = Parameter::new(Tensor::rand([3, 4], Device::Cpu)?.add(0.5)?)?;
        write(&folder, name, &Function { weight, function }, &[1, 3, 4], &options)?;
    }
    for (name, layer) in layers()? {
        warm_up(&layer, &[1, 4, 9, 8])?;
        write(&folder, name, &layer, &[1, 4, 9, 8], &options)?;
    }
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
    write(&folder, "stack", &stack, &[2, 3, 4], &options.clone().weights(Weights::Beside))
}
