//! The workloads in candle; started by `compare.py`.

#[path = "../../../turns/mod.rs"]
mod turns;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{
    Conv2d, Conv2dConfig, Linear, Module, Optimizer, SGD, VarBuilder, VarMap, conv2d, linear, loss, ops::dropout,
};

enum Layer {
    Conv(Conv2d),
    Linear(Linear),
    ReLU,
    MaxPool,
    Flatten,
    Dropout,
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

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, layer| match layer {
            Layer::Conv(conv) => conv.forward(&x),
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
