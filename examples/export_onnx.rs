//! Trains nothing: makes a network, exports it to ONNX, and writes an input and the output that Kiln computes for it, for
//! `scripts/check_onnx.py` to compare with ONNX Runtime's.
//!
//! ```sh
//! cargo run --release --example export_onnx -- --output mlp.onnx
//! cargo run --release --example export_onnx -- --model saved.kiln --shape 1,3,224,224 --output net.onnx
//! pip install onnx onnxruntime safetensors numpy && python3 scripts/check_onnx.py mlp.onnx
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kiln::{
    io::{
        self,
        onnx::{self, Options, Weights},
    },
    models::Mlp,
    nn::StateDict,
    prelude::*,
};

/// Exports a network to ONNX.
#[derive(Parser)]
struct Args {
    /// A whole model that `io::save_model` wrote; without it, the network of the quickstart tutorial.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Weights to load into it: safetensors or .pth.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The shape of an input; its first extent is the batch, which stays open.
    #[arg(long, value_delimiter = ',', default_value = "1,1,28,28")]
    shape: Vec<usize>,
    /// The file to write.
    #[arg(long, default_value = "model.onnx")]
    output: PathBuf,
    /// Puts the weights into a file of their own.
    #[arg(long)]
    beside: bool,
    /// Of the weights and the input.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(!args.shape.is_empty(), "--shape has no batch");
    manual_seed(args.seed);
    let model: Box<dyn Module> = match &args.model {
        Some(path) => io::load_model(path, Device::Cpu)?,
        None => Box::new(Mlp::new(&[28 * 28, 512, 512, 10])?),
    };
    if let Some(weights) = &args.weights {
        model.load_state_dict(&io::load(weights, Device::Cpu)?, true)?;
    }
    model.eval();
    println!("{model}");

    let sample = Tensor::zeros(&args.shape[..], Device::Cpu)?;
    let weights = if args.beside { Weights::Beside } else { Weights::Auto };
    onnx::export_with(&args.output, &model, &sample, &Options::new().weights(weights)).context("the export")?;

    // A batch of another size than the sample's.
    let mut dims = args.shape.clone();
    dims[0] += 2;
    let input = Tensor::randn(&dims[..], Device::Cpu)?;
    let output = no_grad(|| model.forward(&input))?;
    let expected = args.output.with_extension("expected.safetensors");
    io::save(&expected, &StateDict::from([("input".to_owned(), input), ("output".to_owned(), output)]))?;
    println!("{} and {}", args.output.display(), expected.display());
    Ok(())
}
