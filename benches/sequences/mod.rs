//! The networks over sequences that `models.rs` measures; `peers/pytorch.py` has the same ones.

use kiln::{
    AttentionOptions,
    nn::{
        AttentionMasks, Embedding, LSTM, LayerNorm, Linear, Parameter, RNNOptions, TransformerActivation,
        TransformerEncoderLayer, TransformerOptions,
    },
    prelude::*,
};

/// Layers of an LSTM, and a linear layer that classifies by the last step's output.
#[derive(Module)]
pub struct LstmClassifier {
    lstm: LSTM,
    head: Linear,
}

impl LstmClassifier {
    pub fn new(width: usize, layers: usize, classes: usize) -> kiln::Result<LstmClassifier> {
        let lstm = LSTM::with_options(width, width, RNNOptions::default().num_layers(layers))?;
        Ok(LstmClassifier { lstm, head: Linear::new(width, classes)? })
    }
}

impl Module for LstmClassifier {
    /// Maps `[steps, N, width]` to `[N, classes]`.
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        self.head.forward(&self.lstm.forward(x)?.select(0, -1)?)
    }
}

pub struct GptSizes {
    pub symbols: usize,
    pub context: usize,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
}

/// A decoder-only transformer, as in `examples/gpt.rs`, without dropout.
#[derive(Module)]
pub struct Gpt {
    symbols: Embedding,
    positions: Embedding,
    blocks: Vec<TransformerEncoderLayer>,
    norm: LayerNorm,
    head: Linear,
}

impl Gpt {
    pub fn new(GptSizes { symbols, context, layers, heads, width }: GptSizes) -> kiln::Result<Gpt> {
        let options = TransformerOptions::default().dim_feedforward(4 * width).dropout(0.0).batch_first(true);
        let options = options.activation(TransformerActivation::GELU).norm_first(true);
        let block = |_| TransformerEncoderLayer::new(width, heads, options);
        Ok(Gpt {
            symbols: Embedding::new(symbols, width)?,
            positions: Embedding::new(context, width)?,
            blocks: (0..layers).map(block).collect::<kiln::Result<_>>()?,
            norm: LayerNorm::new(&[width])?,
            head: Linear::new(width, symbols)?,
        })
    }
}

impl Module for Gpt {
    /// Maps symbols `[N, L]` to the logits of the ones that follow, `[N * L, symbols]`.
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        let positions = Tensor::arange(0, x.size(1)?, (DType::I64, x.device()))?;
        let mut x = self.symbols.forward(x)?.add(&self.positions.forward(&positions)?)?;
        for block in &self.blocks {
            x = block.forward_masked(&x, AttentionMasks::none().is_causal(true))?;
        }
        self.head.forward(&self.norm.forward(&x)?)?.flatten(0, 1)
    }
}

/// Attention alone, of queries, keys and values `[N, heads, length, features]` that are learned.
#[derive(Module)]
pub struct Attention {
    query: Parameter,
    key: Parameter,
    value: Parameter,
}

impl Attention {
    pub fn new(dims: [usize; 4]) -> kiln::Result<Attention> {
        let drawn = || Parameter::new(Tensor::randn(dims, Device::Cpu)?);
        Ok(Attention { query: drawn()?, key: drawn()?, value: drawn()? })
    }
}

impl Module for Attention {
    /// Reads no input.
    fn forward(&self, _: &Tensor) -> kiln::Result<Tensor> {
        self.query.scaled_dot_product_attention(&self.key, &self.value, AttentionOptions::default())
    }
}
