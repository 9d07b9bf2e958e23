//! Creates or loads a network, exports it to ONNX, and writes inputs and the outputs that Kiln computes for them, which
//! `scripts/check_onnx.py` compares with ONNX Runtime's.
//!
//! ```sh
//! cargo run --release --features onnx,pth --example export_onnx -- --network vgg16 --weights vgg16-397923af.pth --output vgg16.onnx
//! cargo run --release --features onnx --example export_onnx -- --model saved.kiln --shape 1,3,224,224 --output net.onnx
//! cargo run --features onnx --example export_onnx -- --all target/onnx       # every network of Kiln, VGG narrow
//! pip install onnx onnxruntime safetensors numpy && python3 scripts/check_onnx.py target/onnx/*.onnx
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use kiln::{
    io::{
        self,
        onnx::{self, Options, Weights},
    },
    models::{LeNet, Mlp, VggOptions, vgg16, vgg16_bn},
    nn::StateDict,
    prelude::*,
};

#[derive(Clone, Copy, ValueEnum)]
enum Network {
    /// The network of the quickstart tutorial
    Mlp,
    Lenet,
    Vgg16,
    Vgg16Bn,
}

/// Exports a network to ONNX.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, default_value_t = Network::Mlp)]
    network: Network,
    /// A whole model written by `io::save_model`, instead of a network of Kiln
    #[arg(long, requires = "shape")]
    model: Option<PathBuf>,
    /// Weights to load into it: safetensors or .pth
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The shape of an input; its first extent is the batch size, which stays open
    #[arg(long, value_delimiter = ',')]
    shape: Option<Vec<usize>>,
    /// The file to write
    #[arg(long, default_value = "model.onnx")]
    output: PathBuf,
    /// Writes all networks of Kiln to this folder instead, VGG16 with an eighth of its channels
    #[arg(long, conflicts_with_all = ["model", "weights", "shape", "network", "output"])]
    all: Option<PathBuf>,
    /// Stores the weights in a separate file
    #[arg(long)]
    beside: bool,
    /// Seed of the weights and the inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Network {
    fn make(self, width: f64) -> kiln::Result<Box<dyn Module>> {
        let options = VggOptions::default().width(width);
        Ok(match self {
            Network::Mlp => Box::new(Mlp::new(&[28 * 28, 512, 512, 10])?),
            Network::Lenet => Box::new(LeNet::new(10)?),
            Network::Vgg16 => Box::new(vgg16(options)?),
            Network::Vgg16Bn => Box::new(vgg16_bn(options)?),
        })
    }

    fn shape(self) -> Vec<usize> {
        match self {
            Network::Mlp => vec![1, 1, 28, 28],
            Network::Lenet => vec![1, 1, 32, 32],
            Network::Vgg16 | Network::Vgg16Bn => vec![1, 3, 224, 224],
        }
    }
}

/// Exports the network, and writes inputs and its outputs: keys like `3/input`, for the batch sizes of the shape and
/// two more.
fn export(model: &dyn Module, shape: &[usize], output: &Path, weights: Weights) -> Result<()> {
    ensure!(!shape.is_empty(), "the shape has no batch dimension");
    model.eval();
    let sample = Tensor::zeros(shape, Device::Cpu)?;
    onnx::export_with(output, model, &sample, &Options::new().weights(weights)).context("the export")?;
    let mut cases = StateDict::new();
    for batch in [shape[0], shape[0] + 2] {
        let input = Tensor::randn([&[batch], &shape[1..]].concat(), Device::Cpu)?;
        let output = no_grad(|| model.forward(&input))?;
        cases.extend([(format!("{batch}/input"), input), (format!("{batch}/output"), output)]);
    }
    let expected = output.with_extension("expected.safetensors");
    io::save(&expected, &cases)?;
    println!("{} and {}", output.display(), expected.display());
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    manual_seed(args.seed);
    let weights = if args.beside { Weights::Beside } else { Weights::Auto };
    if let Some(folder) = &args.all {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for (name, network) in ["mlp", "lenet", "vgg16", "vgg16_bn"].into_iter().zip(Network::value_variants()) {
            let (model, shape) = (network.make(0.125)?, network.shape());
            // Running statistics that differ from 0 and 1.
            no_grad(|| model.forward(&Tensor::randn([&[2], &shape[1..]].concat(), Device::Cpu)?))?;
            export(&*model, &shape, &folder.join(name).with_extension("onnx"), weights)?;
        }
        return Ok(());
    }
    let model = match &args.model {
        Some(path) => io::load_model(path, Device::Cpu)?,
        None => args.network.make(1.0)?,
    };
    if let Some(weights) = &args.weights {
        model.load_state_dict(&io::load(weights, Device::Cpu)?, true)?;
    }
    println!("{model}");
    export(&*model, &args.shape.unwrap_or_else(|| args.network.shape()), &args.output, weights)
}
