//! Rows of the module tests: attention and transformers.

use kiln_nn::{
    AttentionMasks, MultiheadAttention, MultiheadAttentionOptions, Transformer, TransformerActivation,
    TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer, TransformerMasks,
    TransformerOptions,
};
use kiln_tensor::Tensor;
use serde_json::Value;

use crate::case::{Case, Miss, Row, Run, held};

fn activation(name: Option<&str>) -> TransformerActivation {
    if name == Some("gelu") { TransformerActivation::GELU } else { TransformerActivation::ReLU }
}

fn options(case: &Case<'_>) -> TransformerOptions {
    TransformerOptions::default()
        .dim_feedforward(case.size("dim_feedforward", 2048))
        .dropout(case.float("dropout", 0.1))
        .activation(activation(case.option("activation")))
        .layer_norm_eps(case.float("layer_norm_eps", 1e-5))
        .batch_first(case.flag("batch_first", false))
        .norm_first(case.flag("norm_first", false))
        .bias(case.flag("bias", true))
}

/// Two masks by the names that `forward` has for them.
struct Masks([Option<Tensor>; 2]);

impl Masks {
    fn of(case: &Case<'_>, attention: &str, key_padding: &str) -> Masks {
        Masks([attention, key_padding].map(|name| case.named_tensor(name)))
    }

    fn get(&self) -> AttentionMasks<'_> {
        AttentionMasks::none().attention(self.0[0].as_ref()).key_padding(self.0[1].as_ref())
    }
}

fn multihead_attention(case: &Case<'_>) -> Result<Run, Miss> {
    let mut options = MultiheadAttentionOptions::default()
        .dropout(case.float("dropout", 0.0))
        .bias(case.flag("bias", true))
        .add_bias_kv(case.flag("add_bias_kv", false))
        .add_zero_attn(case.flag("add_zero_attn", false))
        .batch_first(case.flag("batch_first", false));
    let embed_dim = case.size("embed_dim", 0);
    let (kdim, vdim) = (case.size("kdim", embed_dim), case.size("vdim", embed_dim));
    if (kdim, vdim) != (embed_dim, embed_dim) {
        options = options.kdim_vdim(kdim, vdim);
    }
    let layer = case.loaded(MultiheadAttention::with_options(embed_dim, case.size("num_heads", 0), options)?)?;
    let masks = Masks::of(case, "attn_mask", "key_padding_mask");
    let (out, weights) = layer.attend_with_weights(&case.x(0)?, &case.x(1)?, &case.x(2)?, masks.get(), true)?;
    // The way that holds no weights gives the same.
    let fused = layer.attend(&case.x(0)?, &case.x(1)?, &case.x(2)?, masks.get())?;
    if !fused.allclose_equal_nan(&out, 1e-4, 1e-5)? {
        return Err(Miss::Lacks("the same output without weights".to_owned()));
    }
    Ok(Run { model: Some(Box::new(layer)), outputs: vec![out, weights] })
}

fn encoder_layer(case: &Case<'_>) -> Result<Run, Miss> {
    let layer = TransformerEncoderLayer::new(case.size("d_model", 0), case.size("nhead", 0), options(case))?;
    let layer = case.loaded(layer)?;
    let masks = Masks::of(case, "src_mask", "src_key_padding_mask");
    let out = layer.forward_masked(&case.x(0)?, masks.get())?;
    Ok(Run { model: Some(Box::new(layer)), outputs: vec![out] })
}

/// What a stack of layers is made of: its width, heads, layers, whether a normalization ends it, and the layers' options.
fn stack(case: &Case<'_>, layer: &str) -> (usize, usize, usize, bool, TransformerOptions) {
    let layer = case.arg(layer).unwrap();
    let size = |name: &str| layer[name].as_u64().unwrap() as usize;
    let flag = |name: &str| layer[name].as_bool().unwrap();
    let options = TransformerOptions::default()
        .dim_feedforward(size("dim_feedforward"))
        .dropout(layer["dropout"].as_f64().unwrap())
        .activation(activation(layer["activation"].as_str()))
        .batch_first(flag("batch_first"))
        .norm_first(flag("norm_first"))
        .bias(flag("bias"));
    (size("d_model"), size("nhead"), case.size("num_layers", 0), case.arg("norm").is_some(), options)
}

fn encoder(case: &Case<'_>) -> Result<Run, Miss> {
    let (width, heads, layers, norm, options) = stack(case, "encoder_layer");
    let encoder = case.loaded(TransformerEncoder::new(width, heads, layers, norm, options)?)?;
    let masks = Masks::of(case, "mask", "src_key_padding_mask");
    let out = encoder.forward_masked(&case.x(0)?, masks.get())?;
    Ok(Run { model: Some(Box::new(encoder)), outputs: vec![out] })
}

fn decoder_layer(case: &Case<'_>) -> Result<Run, Miss> {
    let layer = TransformerDecoderLayer::new(case.size("d_model", 0), case.size("nhead", 0), options(case))?;
    let layer = case.loaded(layer)?;
    let tgt = Masks::of(case, "tgt_mask", "tgt_key_padding_mask");
    let memory = Masks::of(case, "memory_mask", "memory_key_padding_mask");
    let out = layer.forward_masked(&case.x(0)?, &case.x(1)?, tgt.get(), memory.get())?;
    held(layer, vec![out])
}

fn decoder(case: &Case<'_>) -> Result<Run, Miss> {
    let (width, heads, layers, norm, options) = stack(case, "decoder_layer");
    let decoder = case.loaded(TransformerDecoder::new(width, heads, layers, norm, options)?)?;
    let none = AttentionMasks::none();
    let out = decoder.forward_masked(&case.x(0)?, &case.x(1)?, none, none)?;
    held(decoder, vec![out])
}

fn transformer(case: &Case<'_>) -> Result<Run, Miss> {
    let layers = |name: &str| case.arg(name).map_or(6, |value: &Value| value.as_u64().unwrap() as usize);
    let (encoder, decoder) = (layers("num_encoder_layers"), layers("num_decoder_layers"));
    let model = Transformer::new(case.size("d_model", 512), case.size("nhead", 8), encoder, decoder, options(case))?;
    let model = case.loaded(model)?;
    let src = Masks::of(case, "src_mask", "src_key_padding_mask");
    let tgt = Masks::of(case, "tgt_mask", "tgt_key_padding_mask");
    let masks = TransformerMasks { src: src.get(), tgt: tgt.get(), memory: AttentionMasks::none() };
    let out = model.forward_masked(&case.x(0)?, &case.x(1)?, masks)?;
    held(model, vec![out])
}

pub const ROWS: &[Row] = &[
    Row { module: "MultiheadAttention", run: multihead_attention },
    Row { module: "Transformer", run: transformer },
    Row { module: "TransformerDecoder", run: decoder },
    Row { module: "TransformerDecoderLayer", run: decoder_layer },
    Row { module: "TransformerEncoder", run: encoder },
    Row { module: "TransformerEncoderLayer", run: encoder_layer },
];
