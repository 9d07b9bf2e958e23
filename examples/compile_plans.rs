//! Builds the execution plans of a model's convolutions ahead of time, for a GPU that need not be present: NVIDIA's
//! cuDNN plans for a device from its description. A machine with such a GPU, the same cuDNN and the same Kiln then
//! starts without calling its heuristics, and without a compiler.
//!
//! ```text
//! pip install nvidia-cudnn-cu13 nvidia-cublas nvidia-cuda-nvrtc
//! cargo run --release --features plans --example compile_plans -- vgg16 --device h100 --batch 256
//! ```
//!
//! The model itself determines the convolutions, by one training step, or one inference, with an image on the CPU. The
//! files are written where Kiln looks for them (`KILN_PLAN_CACHE`, or `kiln/plans` in the user's cache directory), or
//! to `--output`, and may be copied to another machine.

use std::{collections::BTreeSet, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use kiln::{
    Float32Precision,
    cuda::plans::{Conv2dCall, DEVICES, DescribedDevice, stub, with_conv2d_calls},
    models::{AlexNet, LeNet, MobileNetV2, MobileNetV2Options, ResNetOptions, VggOptions, resnet18, resnet50, vgg16},
    nn::{Module, functional},
    prelude::*,
    set_convolution_benchmark, set_float32_matmul_precision, use_deterministic_algorithms,
};

/// Builds the execution plans of a model's convolutions for GPUs that need not be present
#[derive(Parser)]
#[command(arg_required_else_help = true)]
struct Args {
    #[arg(required = true)]
    models: Vec<Model>,
    /// a100, rtx3090, rtx4090, h100, b200, rtx5090, or a file with cuDNN's JSON description of another
    #[arg(long, required = true, value_delimiter = ',')]
    device: Vec<String>,
    /// Images per batch
    #[arg(long, required = true, value_delimiter = ',')]
    batch: Vec<usize>,
    /// Dtype of the images and weights of convolutions
    #[arg(long, value_delimiter = ',', default_value = "f32")]
    dtype: Vec<Precision>,
    /// Memory layout: `nchw`, or `nhwc` for channels-last images
    #[arg(long, value_delimiter = ',', default_value = "nchw")]
    layout: Vec<MemoryFormat>,
    /// Height and width of the images; by default 32 for LeNet and 224 for the others
    #[arg(long)]
    image_size: Option<usize>,
    /// Only the plans that evaluation needs
    #[arg(long)]
    inference: bool,
    /// For programs that call `use_deterministic_algorithms`
    #[arg(long)]
    deterministic: bool,
    /// For programs that call `set_convolution_benchmark`; instead of the result of a search, it uses the heuristic's
    /// first choice
    #[arg(long)]
    benchmark: bool,
    /// The folder for the plans, instead of Kiln's
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Model {
    Alexnet,
    Lenet,
    #[value(name = "mobilenet_v2")]
    MobilenetV2,
    Resnet18,
    Resnet50,
    Vgg16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Precision {
    F32,
    /// `f32`; factors may be rounded to TensorFloat-32
    Tf32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MemoryFormat {
    Nchw,
    Nhwc,
}

impl Model {
    fn build(self) -> kiln::Result<Box<dyn Module>> {
        Ok(match self {
            Model::Alexnet => Box::new(AlexNet::new(1000, 0.5)?),
            Model::Lenet => Box::new(LeNet::new(10)?),
            Model::MobilenetV2 => Box::new(MobileNetV2::new(MobileNetV2Options::default())?),
            Model::Resnet18 => Box::new(resnet18(ResNetOptions::default())?),
            Model::Resnet50 => Box::new(resnet50(ResNetOptions::default())?),
            Model::Vgg16 => Box::new(vgg16(VggOptions::default())?),
        })
    }

    /// The convolutions of a step with one image, or with two if the images are so small that batch norm may see only
    /// one pixel.
    fn calls(self, layout: MemoryFormat, size: Option<usize>, inference: bool) -> kiln::Result<Vec<Conv2dCall>> {
        let (channels, size) = if self == Model::Lenet { (1, size.unwrap_or(32)) } else { (3, size.unwrap_or(224)) };
        let (model, batch) = (self.build()?, if size < 64 { 2 } else { 1 });
        let mut x = Tensor::rand([batch, channels, size, size], Device::Cpu)?;
        if layout == MemoryFormat::Nhwc {
            x = x.channels_last()?;
        }
        let (result, calls) = with_conv2d_calls(|| {
            if inference {
                model.eval();
                return no_grad(|| model.forward(&x)).map(drop);
            }
            model.train();
            let labels = Tensor::from_vec(vec![0i64; batch], batch, Device::Cpu)?;
            functional::cross_entropy(&model.forward(&x)?, &labels)?.backward()
        });
        result.map(|()| calls)
    }
}

fn description(device: &str) -> Result<String> {
    if let Some(known) = DEVICES.iter().find(|known| device == known.alias || device == known.key) {
        return Ok(known.json());
    }
    let known: Vec<&str> = DEVICES.iter().map(|known| known.alias).collect();
    let known = known.join(", ");
    fs::read_to_string(device).with_context(|| format!("{device} is neither one of {known} nor a file"))
}

fn run(args: &Args) -> Result<()> {
    if args.batch.contains(&0) {
        bail!("a batch must have at least one image");
    }
    let descriptions: Vec<String> = args.device.iter().map(|device| description(device)).collect::<Result<_>>()?;
    stub::load().map_err(|reason| anyhow!(reason))?;
    let devices: Vec<DescribedDevice> = descriptions
        .iter()
        .map(|json| DescribedDevice::new(json))
        .collect::<Result<_, _>>()
        .map_err(|reason| anyhow!(reason))?;
    use_deterministic_algorithms(args.deterministic);
    set_convolution_benchmark(args.benchmark);
    for (model, layout) in args.models.iter().flat_map(|model| args.layout.iter().map(move |layout| (model, layout))) {
        let calls = model.calls(*layout, args.image_size, args.inference)?;
        for precision in &args.dtype {
            let (dtype, tf32) = match precision {
                Precision::F32 => (DType::F32, Float32Precision::Highest),
                Precision::Tf32 => (DType::F32, Float32Precision::High),
                Precision::F16 => (DType::F16, Float32Precision::Highest),
                Precision::Bf16 => (DType::BF16, Float32Precision::Highest),
            };
            set_float32_matmul_precision(tf32);
            for (batch, (name, device)) in
                args.batch.iter().flat_map(|batch| args.device.iter().zip(&devices).map(move |of| (batch, of)))
            {
                let cache = device.cache(args.output.as_deref());
                let cache = cache.context("KILN_PLAN_CACHE turns plans off, and there is no --output")?;
                let (mut written, mut without) = (0, BTreeSet::new());
                for call in &calls {
                    let (count, reasons) = device.write_plans(&call.of_batch(*batch, dtype)?, &cache);
                    written += count;
                    without.extend(reasons);
                }
                if let Some(reason) = cache.given_up() {
                    bail!("plans cannot be written: {reason}");
                }
                println!(
                    "{model:?}, {batch} images, {precision:?}, {layout:?}, {name}: {} convolutions, {written} plans of cuDNN {} \
                     written to {}",
                    calls.len(),
                    device.version(),
                    cache.folder().display()
                );
                // Without a plan, Kiln computes the convolution in another way.
                without.iter().for_each(|reason| println!("    none: {reason}"));
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
