//! The workloads in candle; started by `compare.py`.

#[path = "../../../turns/mod.rs"]
mod turns;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{
    BatchNorm, Conv2d, Conv2dConfig, Linear, Module, ModuleT, Optimizer, SGD, VarBuilder, VarMap, batch_norm, conv2d,
    conv2d_no_bias, linear, loss, ops::dropout,
};

enum Layer {
    Conv(Conv2d),
    ConvNorm(ConvNorm),
    Residual(Residual),
    Linear(Linear),
    ReLU,
    MaxPool,
    OverlappingMaxPool,
    GlobalAverage,
    Flatten,
    Dropout,
}

/// A convolution without a bias, and a batch normalization.
struct ConvNorm(Conv2d, BatchNorm);

impl ConvNorm {
    fn new(c: usize, o: usize, kernel: usize, stride: usize, vb: &VarBuilder<'_>) -> Result<ConvNorm> {
        let config = Conv2dConfig { padding: kernel / 2, stride, ..Default::default() };
        Ok(ConvNorm(conv2d_no_bias(c, o, kernel, config, vb.pp("conv"))?, batch_norm(o, 1e-5, vb.pp("bn"))?))
    }

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        self.1.forward_t(&self.0.forward(x)?, training)
    }
}

/// The block of ResNet-18: two convolutions, and the input, perhaps by a convolution of its own.
struct Residual {
    convs: [ConvNorm; 2],
    shortcut: Option<ConvNorm>,
}

impl Residual {
    fn new(c: usize, o: usize, stride: usize, vb: &VarBuilder<'_>) -> Result<Residual> {
        let (first, second) = (vb.pp("1"), vb.pp("2"));
        let convs = [ConvNorm::new(c, o, 3, stride, &first)?, ConvNorm::new(o, o, 3, 1, &second)?];
        let differs = stride != 1 || c != o;
        let shortcut = differs.then(|| ConvNorm::new(c, o, 1, stride, &vb.pp("downsample"))).transpose()?;
        Ok(Residual { convs, shortcut })
    }

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        let [first, second] = &self.convs;
        let y = second.forward(&first.forward(x, training)?.relu()?, training)?;
        let x = self.shortcut.as_ref().map_or_else(|| Ok(x.clone()), |conv| conv.forward(x, training))?;
        (y + x)?.relu()
    }
}

/// Max pooling of 3×3 windows with a stride of 2 and a padding of 1, of even images without negative values.
fn overlapping_max_pool(x: &Tensor, training: bool) -> Result<Tensor> {
    let x = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    if !training {
        return x.max_pool2d_with_stride(3, 2);
    }
    // candle has no gradient of windows that overlap. So rows and columns are taken apart: the even ones, and the odd ones.
    (2..4).try_fold(x, |x, dim| {
        let mut dims = x.dims().to_vec();
        dims[dim] /= 2;
        let windows = dims[dim] - 1;
        dims.insert(dim + 1, 2);
        let parts = x.reshape(dims)?;
        let [even, odd] = [0, 1].map(|i| parts.narrow(dim + 1, i, 1).and_then(|part| part.squeeze(dim + 1)));
        let (even, odd) = (even?, odd?);
        let first = even.narrow(dim, 0, windows)?.maximum(&odd.narrow(dim, 0, windows)?)?;
        first.maximum(&even.narrow(dim, 1, windows)?)
    })
}

#[derive(Default)]
struct Net(Vec<Layer>);

impl Net {
    fn conv(&mut self, c: usize, o: usize, kernel: usize, padding: usize, vb: &VarBuilder<'_>) -> Result<()> {
        let config = Conv2dConfig { padding, ..Default::default() };
        self.0.push(Layer::Conv(conv2d(c, o, kernel, config, vb.pp(self.0.len()))?));
        self.0.push(Layer::ReLU);
        Ok(())
    }

    /// Linear layers of these widths, with ReLU and perhaps dropout between them.
    fn head(&mut self, widths: &[usize], drop: bool, vb: &VarBuilder<'_>) -> Result<()> {
        self.0.push(Layer::Flatten);
        for (i, pair) in widths.windows(2).enumerate() {
            if i > 0 {
                self.0.push(Layer::ReLU);
                self.0.extend(drop.then_some(Layer::Dropout));
            }
            self.0.push(Layer::Linear(linear(pair[0], pair[1], vb.pp(self.0.len()))?));
        }
        Ok(())
    }

    fn mlp(vb: &VarBuilder<'_>) -> Result<Net> {
        let mut net = Net::default();
        net.head(&[784, 512, 512, 10], false, vb)?;
        Ok(net)
    }

    fn lenet(vb: &VarBuilder<'_>) -> Result<Net> {
        let mut net = Net::default();
        for (c, o) in [(1, 6), (6, 16)] {
            net.conv(c, o, 5, 0, vb)?;
            net.0.push(Layer::MaxPool);
        }
        net.head(&[400, 120, 84, 10], false, vb)?;
        Ok(net)
    }

    fn vgg16(vb: &VarBuilder<'_>) -> Result<Net> {
        let (mut net, mut c) = (Net::default(), 3);
        for (o, layers) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
            for _ in 0..layers {
                net.conv(c, o, 3, 1, vb)?;
                c = o;
            }
            net.0.push(Layer::MaxPool);
        }
        net.head(&[25088, 4096, 4096, 1000], true, vb)?;
        Ok(net)
    }

    fn resnet18(vb: &VarBuilder<'_>) -> Result<Net> {
        let mut net = Net(vec![
            Layer::ConvNorm(ConvNorm::new(3, 64, 7, 2, &vb.pp("stem"))?),
            Layer::ReLU,
            Layer::OverlappingMaxPool,
        ]);
        for (c, o, stride) in [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)] {
            for (c, stride) in [(c, stride), (o, 1)] {
                net.0.push(Layer::Residual(Residual::new(c, o, stride, &vb.pp(net.0.len()))?));
            }
        }
        net.0.push(Layer::GlobalAverage);
        net.head(&[512, 1000], false, vb)?;
        Ok(net)
    }

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, layer| match layer {
            Layer::Conv(conv) => conv.forward(&x),
            Layer::ConvNorm(conv) => conv.forward(&x, training),
            Layer::Residual(block) => block.forward(&x, training),
            Layer::OverlappingMaxPool => overlapping_max_pool(&x, training),
            Layer::GlobalAverage => x.mean((2, 3)),
            Layer::Linear(linear) => linear.forward(&x),
            Layer::ReLU => x.relu(),
            Layer::MaxPool => x.max_pool2d(2),
            Layer::Flatten => x.flatten_from(1),
            Layer::Dropout if training => dropout(&x, 0.5),
            Layer::Dropout => Ok(x),
        })
    }
}

struct Step {
    net: Net,
    sgd: Option<SGD>,
    x: Tensor,
    y: Tensor,
}

impl Step {
    fn new(name: &str, batch: usize, device: &Device) -> Result<Step> {
        let (make, image): (fn(&VarBuilder<'_>) -> Result<Net>, _) = match name.split('-').next() {
            Some("mlp") => (Net::mlp, (1, 28, 28)),
            Some("lenet") => (Net::lenet, (1, 32, 32)),
            Some("vgg16") => (Net::vgg16, (3, 224, 224)),
            Some("resnet18") => (Net::resnet18, (3, 224, 224)),
            _ => return Err(candle_core::Error::msg(format!("there is no workload {name}"))),
        };
        let variables = VarMap::new();
        let mut net = make(&VarBuilder::from_varmap(&variables, DType::F32, device))?;
        let mut sgd = None;
        if name.ends_with("train") {
            sgd = Some(SGD::new(variables.all_vars(), 1e-3)?);
        } else {
            // Weights that are no variables: no graph is kept for them.
            let weights = variables.data().lock().map_err(|error| candle_core::Error::msg(error.to_string()))?.clone();
            let weights = weights.into_iter().map(|(name, weight)| (name, weight.as_detached_tensor())).collect();
            net = make(&VarBuilder::from_tensors(weights, DType::F32, device))?;
        }
        let x = Tensor::rand(0f32, 1f32, (batch, image.0, image.1, image.2), device)?;
        let y = Tensor::rand(0f32, 10f32, batch, device)?.to_dtype(DType::U32)?;
        Ok(Step { net, sgd, x, y })
    }
}

impl turns::Workload for Step {
    fn step(&mut self) -> anyhow::Result<()> {
        let out = self.net.forward(&self.x, self.sgd.is_some())?;
        if let Some(sgd) = &mut self.sgd {
            sgd.backward_step(&loss::cross_entropy(&out, &self.y)?)?;
        }
        Ok(())
    }

    fn wait(&self) -> anyhow::Result<()> {
        Ok(self.x.device().synchronize()?)
    }
}

fn main() -> anyhow::Result<()> {
    let cuda = std::env::args().nth(1).is_some_and(|device| device == "cuda");
    let device = if cuda { Device::new_cuda(0)? } else { Device::Cpu };
    turns::serve(|name, batch| Ok(Step::new(name, batch, &device)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also that overlapping pooling is the same with and without a gradient.
    #[test]
    fn resnet18_is_torchvisions() -> Result<()> {
        let variables = VarMap::new();
        let net = Net::resnet18(&VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
        let data = variables.data().lock().unwrap();
        let count: usize =
            data.iter().filter(|(name, _)| !name.contains("running")).map(|(_, weight)| weight.elem_count()).sum();
        assert_eq!(count, 11_689_512);
        let mut sgd = SGD::new(data.values().cloned().collect(), 0.05)?;
        let x = Tensor::rand(0f32, 1f32, (4, 3, 64, 64), &Device::Cpu)?;
        let pooled = [false, true].map(|training| overlapping_max_pool(&x, training)?.flatten_all()?.to_vec1::<f32>());
        let [plain, apart] = pooled;
        assert_eq!(plain?, apart?);
        let y = Tensor::new(&[1u32, 5, 0, 7], &Device::Cpu)?;
        let mut losses = Vec::new();
        for _ in 0..6 {
            let out = net.forward(&x, true)?;
            assert_eq!(out.dims(), [4, 1000]);
            let loss = loss::cross_entropy(&out, &y)?;
            losses.push(loss.to_scalar::<f32>()?);
            sgd.backward_step(&loss)?;
        }
        assert!(losses[5] < 0.5 * losses[0], "{losses:?}");
        Ok(())
    }
}
