//! The workloads in burn, with its backend `flex` or on CUDA; started by `compare.py`.

#[path = "../../../turns/mod.rs"]
mod turns;

use anyhow::anyhow;
use burn::{
    module::Module,
    nn::{
        BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
        loss::CrossEntropyLossConfig,
        pool::{MaxPool2d, MaxPool2dConfig},
    },
    optim::{GradientsParams, ModuleOptimizer, SgdConfig},
    tensor::{Device, Distribution, Int, Tensor, activation::relu},
};

/// Blocks of convolutions that end with a pooling, and linear layers.
#[derive(Module, Debug)]
struct Net {
    blocks: Vec<Vec<Conv2d>>,
    pool: MaxPool2d,
    head: Vec<Linear>,
    dropout: Dropout,
}

impl Net {
    /// `blocks`: output channels and number of convolutions of each.
    fn new(mut c: usize, blocks: &[(usize, usize)], kernel: usize, head: &[usize], drop: f64, device: &Device) -> Net {
        let edge = if kernel == 3 { 1 } else { 0 };
        let mut conv = |o| {
            let config = Conv2dConfig::new([c, o], [kernel; 2]);
            c = o;
            config.with_padding(PaddingConfig2d::Explicit(edge, edge, edge, edge)).init(device)
        };
        Net {
            blocks: blocks.iter().map(|&(o, layers)| (0..layers).map(|_| conv(o)).collect()).collect(),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            head: head.windows(2).map(|pair| LinearConfig::new(pair[0], pair[1]).init(device)).collect(),
            dropout: DropoutConfig::new(drop).init(),
        }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<2> {
        for block in &self.blocks {
            x = block.iter().fold(x, |x, conv| relu(conv.forward(x)));
            x = self.pool.forward(x);
        }
        let mut x = x.flatten(1, 3);
        for (i, linear) in self.head.iter().enumerate() {
            if i > 0 {
                x = self.dropout.forward(relu(x)); // nothing for a probability of 0, and in inference
            }
            x = linear.forward(x);
        }
        x
    }
}

/// A convolution without a bias, its edges padded so that a stride of 1 keeps the size, and batch normalization.
#[derive(Module, Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(c: usize, o: usize, kernel: usize, stride: usize, device: &Device) -> ConvNorm {
        let edge = kernel / 2;
        let config = Conv2dConfig::new([c, o], [kernel; 2]).with_stride([stride; 2]).with_bias(false);
        let config = config.with_padding(PaddingConfig2d::Explicit(edge, edge, edge, edge));
        ConvNorm { conv: config.init(device), norm: BatchNormConfig::new(o).init(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

/// The block of ResNet-18: two convolutions, and the input, perhaps by a convolution of its own.
#[derive(Module, Debug)]
struct Residual {
    first: ConvNorm,
    second: ConvNorm,
    shortcut: Option<ConvNorm>,
}

impl Residual {
    fn new(c: usize, o: usize, stride: usize, device: &Device) -> Residual {
        Residual {
            first: ConvNorm::new(c, o, 3, stride, device),
            second: ConvNorm::new(o, o, 3, 1, device),
            shortcut: (stride != 1 || c != o).then(|| ConvNorm::new(c, o, 1, stride, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.second.forward(relu(self.first.forward(x.clone())));
        let x = match &self.shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        relu(y + x)
    }
}

#[derive(Module, Debug)]
struct ResNet18 {
    stem: ConvNorm,
    pool: MaxPool2d,
    blocks: Vec<Residual>,
    head: Linear,
}

impl ResNet18 {
    fn new(device: &Device) -> ResNet18 {
        let stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)];
        let blocks = stages.iter().flat_map(|&(c, o, stride)| [(c, o, stride), (o, o, 1)]);
        let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
        ResNet18 {
            stem: ConvNorm::new(3, 64, 7, 2, device),
            pool: MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init(),
            blocks: blocks.map(|(c, o, stride)| Residual::new(c, o, stride, device)).collect(),
            head: LinearConfig::new(512, 1000).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.pool.forward(relu(self.stem.forward(x)));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        self.head.forward(x.mean_dim(3).mean_dim(2).flatten(1, 3))
    }
}

#[derive(Module, Debug)]
enum Network {
    Plain(Net),
    ResNet(ResNet18),
}

impl Network {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Network::Plain(net) => net.forward(x),
            Network::ResNet(net) => net.forward(x),
        }
    }
}

struct Step {
    /// `None` only while a step replaces it.
    net: Option<Network>,
    sgd: Option<ModuleOptimizer>,
    x: Tensor<4>,
    y: Tensor<1, Int>,
}

impl Step {
    fn new(name: &str, batch: usize, device: Device) -> anyhow::Result<Step> {
        let training = name.ends_with("train");
        let device = if training { device.autodiff() } else { device };
        let plain = |c, blocks: &[(usize, usize)], kernel, head: &[usize], drop| {
            Network::Plain(Net::new(c, blocks, kernel, head, drop, &device))
        };
        let (net, [c, h, w]) = match name.split('-').next() {
            Some("mlp") => (plain(1, &[], 0, &[784, 512, 512, 10], 0.0), [1, 28, 28]),
            Some("lenet") => (plain(1, &[(6, 1), (16, 1)], 5, &[400, 120, 84, 10], 0.0), [1, 32, 32]),
            Some("vgg16") => {
                let blocks = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)];
                (plain(3, &blocks, 3, &[25088, 4096, 4096, 1000], 0.5), [3, 224, 224])
            }
            Some("resnet18") => (Network::ResNet(ResNet18::new(&device)), [3, 224, 224]),
            _ => anyhow::bail!("there is no workload {name}"),
        };
        let x = Tensor::random([batch, c, h, w], Distribution::Uniform(0.0, 1.0), &device);
        let y = Tensor::random([batch], Distribution::Uniform(0.0, 10.0), &device);
        Ok(Step { net: Some(net), sgd: training.then(|| SgdConfig::new().init()), x, y })
    }
}

impl turns::Workload for Step {
    fn step(&mut self) -> anyhow::Result<()> {
        let net = self.net.take().ok_or_else(|| anyhow!("an earlier step failed"))?;
        let out = net.forward(self.x.clone());
        self.net = Some(match &mut self.sgd {
            Some(sgd) => {
                let loss = CrossEntropyLossConfig::new().init(&out.device()).forward(out, self.y.clone());
                let grads = GradientsParams::from_grads(loss.backward(), &net);
                sgd.step(1e-3, net, grads)
            }
            None => net,
        });
        Ok(())
    }

    fn wait(&self) -> anyhow::Result<()> {
        self.x.device().sync().map_err(|error| anyhow!("{error:?}"))
    }
}

/// The GPU, in programs that were built for it.
fn cuda() -> anyhow::Result<Device> {
    #[cfg(feature = "cuda")]
    return Ok(Device::cuda(0));
    #[cfg(not(feature = "cuda"))]
    anyhow::bail!("built without the feature `cuda`")
}

fn main() -> anyhow::Result<()> {
    let device = if std::env::args().nth(1).is_some_and(|device| device == "cuda") { cuda()? } else { Device::flex() };
    turns::serve(|name, batch| Step::new(name, batch, device.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resnet18_has_torchvisions_parameters_and_learns() {
        let device = Device::flex().autodiff();
        let mut net = ResNet18::new(&device);
        // burn counts the running means and variances of 4,800 channels as well.
        assert_eq!(net.num_params() - 2 * 4_800, 11_689_512);
        let x = Tensor::random([4, 3, 64, 64], Distribution::Uniform(0.0, 1.0), &device);
        let y = Tensor::<1, Int>::from_ints([1, 5, 0, 7], &device);
        let mut sgd = SgdConfig::new().init();
        let mut losses = Vec::new();
        for _ in 0..6 {
            let out = net.forward(x.clone());
            assert_eq!(out.dims(), [4, 1000]);
            let loss = CrossEntropyLossConfig::new().init(&device).forward(out, y.clone());
            losses.push(loss.clone().into_scalar::<f32>());
            let grads = GradientsParams::from_grads(loss.backward(), &net);
            net = sgd.step(0.05, net, grads);
        }
        assert!(losses[5] < 0.5 * losses[0], "{losses:?}");
    }
}
