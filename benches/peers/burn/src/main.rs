//! The workloads in burn, with its backend `flex` or on CUDA; started by `compare.py`.

#[path = "../../../turns/mod.rs"]
mod turns;

use anyhow::anyhow;
use burn::{
    module::Module,
    nn::{
        Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d,
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

struct Step {
    /// `None` only while a step replaces it.
    net: Option<Net>,
    sgd: Option<ModuleOptimizer>,
    x: Tensor<4>,
    y: Tensor<1, Int>,
}

impl Step {
    fn new(name: &str, batch: usize, device: Device) -> anyhow::Result<Step> {
        let training = name.ends_with("train");
        let device = if training { device.autodiff() } else { device };
        let (net, [c, h, w]) = match name.split('-').next() {
            Some("mlp") => (Net::new(1, &[], 0, &[784, 512, 512, 10], 0.0, &device), [1, 28, 28]),
            Some("lenet") => (Net::new(1, &[(6, 1), (16, 1)], 5, &[400, 120, 84, 10], 0.0, &device), [1, 32, 32]),
            Some("vgg16") => {
                let blocks = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)];
                (Net::new(3, &blocks, 3, &[25088, 4096, 4096, 1000], 0.5, &device), [3, 224, 224])
            }
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
