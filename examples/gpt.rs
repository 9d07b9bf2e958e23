//! A small GPT that learns to write a text character by character: decoder blocks with causal attention, trained on
//! sonnets of Shakespeare that come with Kiln, or on a file of one's own.
//!
//! ```text
//! cargo run --release --example gpt                                   # trains in a few minutes, and writes a poem
//! cargo run --release --example gpt -- --text book.txt --steps 3000 --save gpt.safetensors
//! cargo run --release --example gpt -- --load gpt.safetensors --steps 0 --prompt "Shall I" --length 400
//! cargo run --release --example gpt -- --help
//! ```

#[path = "support/autocast.rs"]
mod autocast;
#[path = "support/device.rs"]
mod device;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use autocast::{Low, ScaledOptimizer, in_region};
use clap::Parser;
use device::DeviceName;
use kiln::{
    io::{self, Metadata, TensorFile},
    nn::{
        AttentionMasks, CrossEntropyLoss, Dropout, Embedding, LayerNorm, Linear, TransformerActivation,
        TransformerEncoderLayer, TransformerOptions, init,
    },
    optim::{
        AdamW, AdamWOptions, clip_grad_norm_,
        lr_scheduler::{CosineAnnealingLR, LrScheduler, SequentialLR},
    },
    prelude::*,
};

/// Sonnets 1 to 30 of William Shakespeare (1609), in modern spelling.
const SONNETS: &str = include_str!("assets/sonnets.txt");

/// Trains a model of a text, character by character, and writes with it.
#[derive(Parser)]
struct Args {
    /// A text file to learn from, instead of Shakespeare's sonnets
    #[arg(long)]
    text: Option<PathBuf>,
    #[arg(long, default_value_t = 600)]
    steps: u64,
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// The number of characters that the model looks back
    #[arg(long, default_value_t = 64)]
    context: usize,
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Heads of each attention layer
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Features of each character
    #[arg(long, default_value_t = 128)]
    width: usize,
    #[arg(long, default_value_t = 0.2)]
    dropout: f64,
    /// Learning rate of AdamW after its warm-up
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// Steps between two tests
    #[arg(long, default_value_t = 100)]
    test_every: u64,
    /// Device; auto is a GPU if there is one
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceName,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Compute products and attention in half precision, with parameters, sums and losses in `f32`
    #[arg(long, value_enum)]
    autocast: Option<Low>,
    /// Write the trained model to this file
    #[arg(long)]
    save: Option<PathBuf>,
    /// Start with a model that `--save` wrote; its sizes and its characters are in the file
    #[arg(long)]
    load: Option<PathBuf>,
    /// The beginning of what the model writes in the end
    #[arg(long, default_value = "\n")]
    prompt: String,
    /// How many characters it writes
    #[arg(long, default_value_t = 600)]
    length: usize,
    /// Below 1 it prefers likely characters, above 1 it dares more
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// It writes only characters that are among so many likeliest ones
    #[arg(long)]
    top_k: Option<usize>,
}

/// The sizes of a model.
#[derive(Clone, Copy)]
struct Config {
    characters: usize,
    context: usize,
    layers: usize,
    heads: usize,
    width: usize,
    dropout: f64,
}

/// A decoder-only transformer, as GPT-2 (Radford et al., 2019).
#[derive(Module)]
struct Gpt {
    characters: Embedding,
    positions: Embedding,
    dropout: Dropout,
    blocks: Vec<TransformerEncoderLayer>,
    norm: LayerNorm,
    head: Linear,
    context: usize,
}

impl Gpt {
    fn new(config: Config) -> kiln::Result<Gpt> {
        let Config { characters, context, layers, heads, width, dropout } = config;
        let options = TransformerOptions::default().dim_feedforward(4 * width).dropout(dropout).batch_first(true);
        let options = options.activation(TransformerActivation::GELU).norm_first(true);
        let model = Gpt {
            characters: Embedding::new(characters, width)?,
            positions: Embedding::new(context, width)?,
            dropout: Dropout::new(dropout)?,
            blocks: (0..layers)
                .map(|_| TransformerEncoderLayer::new(width, heads, options))
                .collect::<kiln::Result<_>>()?,
            norm: LayerNorm::new(&[width])?,
            head: Linear::new(width, characters)?,
            context,
        };
        // As GPT-2: what is added to the residual stream is the smaller the more layers add to it.
        for (name, parameter) in model.named_parameters() {
            let ends_block = name.ends_with("out_proj.weight") || name.ends_with("linear2.weight");
            match parameter.rank() {
                2 if ends_block => init::normal_(&parameter, 0.0, 0.02 / (2.0 * layers as f64).sqrt())?,
                2 => init::normal_(&parameter, 0.0, 0.02)?,
                _ if name.ends_with("bias") => init::zeros_(&parameter)?,
                _ => {}
            }
        }
        Ok(model)
    }
}

impl Module for Gpt {
    /// Maps characters `[N, L]` to the logits of the ones that follow, `[N, L, characters]`.
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        let positions = Tensor::arange(0, x.size(1)?, (DType::I64, x.device()))?;
        let x = self.characters.forward(x)?.add(&self.positions.forward(&positions)?)?;
        let mut x = self.dropout.forward(&x)?;
        for block in &self.blocks {
            x = block.forward_masked(&x, AttentionMasks::none().is_causal(true))?;
        }
        self.head.forward(&self.norm.forward(&x)?)
    }
}

/// The characters of a text, in order; a character's number is its place among them.
struct Vocabulary(Vec<char>);

impl Vocabulary {
    fn of(text: &str) -> Vocabulary {
        let mut characters: Vec<char> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        Vocabulary(characters)
    }

    fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let number = |c| self.0.binary_search(&c).ok().with_context(|| format!("the model knows no character {c:?}"));
        text.chars().map(|c| Ok(number(c)? as i64)).collect()
    }
}

/// What a file of `--save` says about its model besides the parameters.
fn metadata(config: Config, vocabulary: &Vocabulary) -> Metadata {
    let numbers =
        [("context", config.context), ("layers", config.layers), ("heads", config.heads), ("width", config.width)];
    let numbers = numbers.map(|(name, number)| (name.to_owned(), number.to_string()));
    numbers.into_iter().chain([("characters".to_owned(), vocabulary.0.iter().collect())]).collect()
}

fn saved(path: &Path, dropout: f64) -> Result<(Config, Vocabulary)> {
    let file = TensorFile::open(path)?;
    let text = |key: &str| {
        file.metadata().get(key).with_context(|| format!("{} was not written by `gpt --save`", path.display()))
    };
    let number = |key: &str| -> Result<usize> { text(key)?.parse().with_context(|| format!("its {key}")) };
    let vocabulary = Vocabulary::of(text("characters")?);
    let config = Config {
        characters: vocabulary.0.len(),
        context: number("context")?,
        layers: number("layers")?,
        heads: number("heads")?,
        width: number("width")?,
        dropout,
    };
    Ok((config, vocabulary))
}

/// Windows of a text, and the same shifted by one character: inputs and targets, `[N, context]`.
fn windows(text: &Tensor, starts: &Tensor, context: usize) -> kiln::Result<(Tensor, Tensor)> {
    let offsets = Tensor::arange(0, context + 1, (DType::I64, text.device()))?;
    let indices = starts.unsqueeze(1)?.add(&offsets)?;
    let windows = text.index_select(0, &indices.flatten_all()?)?.reshape(indices.dims())?;
    Ok((windows.narrow(1, 0, context)?, windows.narrow(1, 1, context)?))
}

fn loss(model: &Gpt, (x, y): &(Tensor, Tensor)) -> kiln::Result<Tensor> {
    CrossEntropyLoss::new().forward(&model.forward(x)?.flatten(0, 1)?, &y.flatten_all()?)
}

/// The mean loss per character of a text that was not trained on, over windows that follow each other.
fn test(model: &Gpt, text: &Tensor, args: &Args, low: Option<Low>) -> Result<f32> {
    model.eval();
    let _guard = no_grad_guard();
    let count = (text.numel() - 1) / model.context;
    let starts = Tensor::arange(0, count, (DType::I64, text.device()))?.mul(model.context as i64)?;
    let mut losses = Vec::new();
    for first in (0..count).step_by(args.batch_size) {
        let size = args.batch_size.min(count - first);
        let batch = windows(text, &starts.narrow(0, first, size)?, model.context)?;
        losses.push(in_region(low, || loss(model, &batch))?.mul(size as f64)?);
    }
    Ok(Tensor::stack(&losses, 0)?.sum(())?.item::<f32>()? / count as f32)
}

fn train(model: &Gpt, text: &str, vocabulary: &Vocabulary, args: &Args, device: Device) -> Result<()> {
    let numbers = vocabulary.encode(text).context("a loaded model learns from texts of its own characters")?;
    // The last tenth is for tests.
    let (training, testing) = numbers.split_at(numbers.len() - numbers.len() / 10);
    let least = model.context + 1;
    ensure!(
        testing.len() >= least,
        "a text of {} characters is too short for a context of {}",
        numbers.len(),
        model.context
    );
    let (training, testing) = (Tensor::new(training, device)?, Tensor::new(testing, device)?);

    // Weight decay for matrices, not for biases and normalizations.
    let (matrices, vectors): (Vec<_>, Vec<_>) =
        model.named_parameters().into_iter().partition(|(_, parameter)| parameter.rank() > 1);
    let options = AdamWOptions::new(args.lr).betas((0.9, 0.99));
    let optimizer = AdamW::with_groups([(matrices, options.weight_decay(0.1)), (vectors, options.weight_decay(0.0))])?;
    let mut optimizer = ScaledOptimizer::new(Box::new(optimizer), args.autocast);
    let warmup = (args.steps / 10).max(1);
    let cosine = CosineAnnealingLR::new((args.steps - warmup).max(1)).eta_min(args.lr / 10.0);
    let mut scheduler = LrScheduler::new(optimizer.optimizer.as_mut(), SequentialLR::warmup(warmup, 0.1, cosine))?;

    let start = Instant::now();
    let mut losses = Vec::new();
    for step in 1..=args.steps {
        model.train();
        let last = (training.numel() - model.context) as i64;
        let starts = Tensor::randint(0, last, args.batch_size, (DType::I64, device))?;
        let batch = windows(&training, &starts, model.context)?;
        let loss = in_region(args.autocast, || loss(model, &batch))?;
        optimizer.optimizer.zero_grad();
        optimizer.scaler.scale(&loss)?.backward()?;
        optimizer.scaler.unscale_(optimizer.optimizer.as_mut())?;
        clip_grad_norm_(optimizer.optimizer.parameters(), 1.0, 2.0)?;
        optimizer.scaler.step(optimizer.optimizer.as_mut())?;
        optimizer.scaler.update()?;
        scheduler.step(optimizer.optimizer.as_mut())?;
        losses.push(loss.detach());
        if step % args.test_every == 0 || step == args.steps {
            let mean = Tensor::stack(&losses, 0)?.mean(())?.item::<f32>()?;
            let test = test(model, &testing, args, args.autocast)?;
            let rate = (step as usize * args.batch_size * model.context) as f64 / start.elapsed().as_secs_f64();
            println!("step {step}: loss {mean:.4}, test loss {test:.4}, {rate:.0} characters/s");
            losses.clear();
        }
    }
    Ok(())
}

/// Writes `length` characters after the prompt, each drawn by the model's probabilities.
fn write(model: &Gpt, vocabulary: &Vocabulary, args: &Args, device: Device) -> Result<()> {
    model.eval();
    let _guard = no_grad_guard();
    let mut numbers = vocabulary.encode(&args.prompt)?;
    ensure!(!numbers.is_empty(), "--prompt needs at least one character");
    print!("{}", args.prompt);
    for _ in 0..args.length {
        let seen = &numbers[numbers.len().saturating_sub(model.context)..];
        let x = Tensor::new(seen, device)?.unsqueeze(0)?;
        let mut logits = model.forward(&x)?.select(1, -1)?.div(args.temperature)?;
        if let Some(k) = args.top_k {
            let (values, _) = logits.topk(k.clamp(1, vocabulary.0.len()), 1, true)?;
            logits = logits.masked_fill(&logits.lt(&values.narrow(1, values.size(1)? - 1, 1)?)?, f64::NEG_INFINITY)?;
        }
        let next = logits.softmax(1)?.multinomial(1, true)?.item::<i64>()?;
        numbers.push(next);
        print!("{}", vocabulary.0[next as usize]);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.temperature > 0.0, "--temperature must be positive");
    ensure!(args.test_every > 0 && args.batch_size > 0, "--test-every and --batch-size must be at least 1");
    manual_seed(args.seed);
    let device = args.device.open(Device::cuda_if_available)?;
    println!("Using {device} device");
    let text = match &args.text {
        Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => SONNETS.to_owned(),
    };
    let (config, vocabulary) = match &args.load {
        Some(path) => saved(path, args.dropout)?,
        None => {
            let vocabulary = Vocabulary::of(&text);
            let Args { context, layers, heads, width, dropout, .. } = args;
            (Config { characters: vocabulary.0.len(), context, layers, heads, width, dropout }, vocabulary)
        }
    };
    ensure!(config.context > 0, "--context must be at least 1");
    let model = Gpt::new(config)?.to(device)?;
    println!("{} parameters, {} different characters", model.num_parameters(), config.characters);
    if let Some(path) = &args.load {
        model.load_state_dict(&io::load(path, device)?, true).with_context(|| path.display().to_string())?;
    }
    if args.steps > 0 {
        train(&model, &text, &vocabulary, &args, device)?;
    }
    if let Some(path) = &args.save {
        io::save_with_metadata(path, &model.state_dict(), &metadata(config, &vocabulary))?;
        println!("Saved the model to {}", path.display());
    }
    write(&model, &vocabulary, &args, device)
}
