//! A small GPT written with tensor operations: the mask and the positions are created in `forward`.

use kiln_nn::{Embedding, LayerNorm, Linear, Module};
use kiln_tensor::{DType, Device, Result, Tensor};

/// Number of tokens.
pub const VOCABULARY: usize = 20;
/// Length of a sequence.
pub const CONTEXT: usize = 6;
const WIDTH: usize = 16;
const HEADS: usize = 4;

/// Attention of each position to itself and those before it, then a layer for each position alone.
#[derive(Module)]
#[module(no_display)]
struct Block {
    norm1: LayerNorm,
    attention: Linear,
    projection: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new() -> Result<Block> {
        Ok(Block {
            norm1: LayerNorm::new(&[WIDTH])?,
            attention: Linear::new(WIDTH, 3 * WIDTH)?,
            projection: Linear::new(WIDTH, WIDTH)?,
            norm2: LayerNorm::new(&[WIDTH])?,
            up: Linear::new(WIDTH, 4 * WIDTH)?,
            down: Linear::new(4 * WIDTH, WIDTH)?,
        })
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, time, _) = x.dims3()?;
        let parts = self.attention.forward(&self.norm1.forward(x)?)?.split(WIDTH, 2)?;
        let heads = |t: &Tensor| t.reshape([batch, time, HEADS, WIDTH / HEADS])?.transpose(1, 2);
        let [q, k, v] = [heads(&parts[0])?, heads(&parts[1])?, heads(&parts[2])?];
        let scores = q.matmul(&k.transpose(2, 3)?)?.div(((WIDTH / HEADS) as f64).sqrt())?;
        let later = Tensor::ones([time, time], (DType::Bool, x.device()))?.triu(1)?;
        let weights = scores.masked_fill(&later, f64::NEG_INFINITY)?.softmax(-1)?;
        let mixed = weights.matmul(&v)?.transpose(1, 2)?.reshape([batch, time, WIDTH])?;
        let x = x.add(&self.projection.forward(&mixed)?)?;
        x.add(&self.down.forward(&self.up.forward(&self.norm2.forward(&x)?)?.gelu()?)?)
    }
}

/// Logits of the next token at each position of `[N, CONTEXT]` token numbers.
#[derive(Module)]
#[module(no_display)]
pub struct Gpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl Gpt {
    pub fn new() -> Result<Gpt> {
        Ok(Gpt {
            tokens: Embedding::new(VOCABULARY, WIDTH)?,
            positions: Embedding::new(CONTEXT, WIDTH)?,
            blocks: vec![Block::new()?, Block::new()?],
            norm: LayerNorm::new(&[WIDTH])?,
            head: Linear::new(WIDTH, VOCABULARY)?,
        })
    }
}

impl Module for Gpt {
    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let positions = Tensor::arange(0, tokens.dims()[1] as i64, Device::Cpu)?;
        let mut x = self.tokens.forward(tokens)?.add(&self.positions.forward(&positions)?)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.head.forward(&self.norm.forward(&x)?)
    }
}
