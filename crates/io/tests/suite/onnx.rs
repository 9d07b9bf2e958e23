//! Reads exported files back as Protobuf; `scripts/check_onnx.py` checks with ONNX Runtime that they compute the same.

use std::{fs, path::Path};

use kiln_io::onnx::{self, Options, Weights};
use kiln_models::Mlp;
use kiln_nn::{Dropout, Flatten, Linear, Module, ModuleTree, ReLU, Sequential, Softmax, seq};
use kiln_tensor::{ClassLoss, ClassLossInput, DType, Device, Reduction, Result, Tensor};
use tempfile::tempdir;

/// A module that computes what a function says.
#[derive(Module)]
#[module(no_display)]
struct Run {
    layer: Linear,
    #[module(skip)]
    function: fn(&Linear, &Tensor) -> Result<Tensor>,
}

impl Module for Run {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        (self.function)(&self.layer, x)
    }
}

fn sample() -> Tensor {
    Tensor::zeros([1, 4], Device::Cpu).unwrap()
}

fn try_export(path: &Path, function: fn(&Linear, &Tensor) -> Result<Tensor>, options: &Options) -> Result<()> {
    let model = Run { layer: Linear::new(4, 4)?, function };
    model.eval();
    onnx::export_with(path, &model, &sample(), options)
}

/// The fields of a message: number and contents, of those that have a length.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        match tag & 7 {
            0 => drop(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                out.push((tag >> 3, &bytes[..length]));
                bytes = &bytes[length..];
            }
            5 => bytes = &bytes[4..],
            other => panic!("wire type {other}"),
        }
    }
    out
}

fn field(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    fields(bytes).into_iter().filter(|(n, _)| *n == number).map(|(_, b)| b).collect()
}

fn text(bytes: &[u8], number: u64) -> String {
    field(bytes, number).first().map(|b| String::from_utf8(b.to_vec()).unwrap()).unwrap_or_default()
}

/// The operators and the names of the weights in a file.
fn contents(path: &Path) -> (Vec<String>, Vec<String>) {
    let file = fs::read(path).unwrap();
    let graph = field(&file, 7)[0];
    let operators = field(graph, 1).into_iter().map(|node| text(node, 4)).collect();
    let weights = field(graph, 5).into_iter().map(|tensor| text(tensor, 8)).collect();
    (operators, weights)
}

#[test]
fn an_mlp_is_products_and_relus_with_its_own_names() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("mlp.onnx");
    let model = Mlp::new(&[6, 5, 3])?;
    model.eval();
    onnx::export(&path, &model, &Tensor::zeros([1, 2, 3], Device::Cpu)?)?;
    let (operators, weights) = contents(&path);
    assert_eq!(operators, ["Reshape", "Gemm", "Relu", "Gemm"]);
    let names = ["shape", "0.weight", "0.bias", "2.weight", "2.bias"];
    assert!(weights.iter().zip(names).all(|(got, want)| got.ends_with(want)), "{weights:?}");
    let file = fs::read(&path).unwrap();
    let graph = field(&file, 7)[0];
    let input = field(graph, 11)[0];
    assert_eq!(text(input, 1), "input");
    assert!(input.windows(5).any(|w| w == b"batch") && field(graph, 12)[0].windows(5).any(|w| w == b"batch"));

    onnx::export_with(&path, &model, &Tensor::zeros([7, 6], Device::Cpu)?, &Options::new().dynamic_batch(false))?;
    assert_eq!(contents(&path).0, ["Gemm", "Relu", "Gemm"]);
    assert!(!fs::read(&path).unwrap().windows(5).any(|w| w == b"batch"));
    Ok(())
}

#[test]
fn large_weights_go_beside_the_file() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    let model = seq![Linear::new(64, 32)?, ReLU::new(), Linear::new(32, 2)?];
    model.eval();
    let sample = Tensor::zeros([1, 64], Device::Cpu)?;
    onnx::export_with(&path, &model, &sample, &Options::new().weights(Weights::Beside))?;
    let data = fs::read(folder.path().join("net.onnx.data")).unwrap();
    let weight: Vec<u8> =
        model.state_dict()["0.weight"].to_vec::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(data, weight, "the only tensor that is not small");
    assert!(fs::metadata(&path).unwrap().len() < 2000);
    Ok(())
}

#[test]
fn what_would_be_another_function_is_refused() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("never.onnx");
    let refused = |function: fn(&Linear, &Tensor) -> Result<Tensor>, want: &str| {
        let message = try_export(&path, function, &Options::new()).expect_err(want).to_string();
        assert!(message.contains(want), "{want}: {message}");
        assert!(!message.contains("Backward"), "in the user's words: {message}");
        assert!(!path.exists());
    };
    refused(|_, x| x.sort(1, false)?.0.searchsorted(x, false)?.to_dtype(DType::F32), "searchsorted: ONNX has no");
    refused(|_, x| x.add(&Tensor::rand(4, Device::Cpu)?), "rand: it draws random numbers");
    refused(|_, x| x.bernoulli(), "random numbers");
    refused(|_, x| x.dropout(0.5, true), "dropout: it draws random numbers");
    refused(|_, x| x.masked_select(&x.gt(0)?), "masked_select: it reads values");
    refused(|_, x| x.nonzero()?.to_dtype(DType::F32), "nonzero: it reads values");
    refused(|_, x| x.i(x.gt(0)?), "i: it reads values");
    refused(|_, x| Tensor::from_vec(x.to_vec::<f32>()?, x.shape(), Device::Cpu), "to_vec: it reads values");
    refused(
        |_, x| x.to_dtype(DType::I64)?.bitwise_and(3)?.to_dtype(DType::F32),
        "bitwise_and: bitwise operations on integers",
    );
    refused(|_, x| x.add(&Tensor::empty(4, Device::Cpu)?), "`empty`");
    refused(
        |_, x| {
            let rule = ClassLoss {
                input: ClassLossInput::Logits,
                reduction: Reduction::Mean,
                ignore_index: -100,
                label_smoothing: 0.1,
            };
            x.class_loss(&x.argmax(1)?, None, &rule)
        },
        "cross_entropy: `label_smoothing`",
    );
    refused(|_, x| Ok(x.reshape([-1, 1, 2, 2])?.adaptive_max_pool2d_with_indices([1, 3])?.1), "multiple of the output");
    refused(
        |_, x| {
            let y = x.zeros_like()?;
            y.add_(x)?;
            Ok(y)
        },
        "in place",
    );
    refused(
        |l, x| {
            let y = l.forward(x)?;
            y.add_(1)?;
            Ok(y)
        },
        "in place",
    );
    refused(
        |_, x| {
            x.add_(1)?;
            x.exp()
        },
        "in place",
    );
    let reads = |_: &Linear, x: &Tensor| if x.sum(())?.item::<f32>()? > 0.0 { x.exp() } else { x.sin() };
    refused(reads, "item: it reads values");
    // The line is the program's, not one of Kiln.
    let error = try_export(&path, reads, &Options::new()).unwrap_err();
    assert!(format!("{error:?}").contains("let reads = |_: &Linear"), "{error:?}");
    refused(|_, x| x.mul(x.dims()[0] as f64), "batch size");
    refused(|_, x| if x.dims()[0] > 2 { x.exp() } else { x.sin() }, "operations depend on the batch size");
    // With a fixed batch they are fine.
    let fixed = Options::new().dynamic_batch(false);
    try_export(&path, |_, x| x.mul(x.dims()[0] as f64), &fixed)?;
    // Several extents may depend on the batch size.
    try_export(&path, |_, x| x.matmul(&x.t()?)?.reshape([1, 1, x.dims()[0], x.dims()[0]]), &Options::new())?;

    let model = seq![Dropout::new(0.5)?, Linear::new(4, 2)?];
    assert!(onnx::export(&path, &model, &sample()).unwrap_err().to_string().contains("eval()"));
    model.eval();
    assert!(onnx::export(&path, &model, &Tensor::zeros([1, 5], Device::Cpu)?).is_err());
    let bad = Options::new().outputs(["input"]);
    assert!(onnx::export_with(&path, &model, &sample(), &bad).unwrap_err().to_string().contains("different names"));
    let bad = Options::new().outputs(["a", "b"]);
    assert!(onnx::export_with(&path, &model, &sample(), &bad).unwrap_err().to_string().contains("1 outputs"));
    let nowhere = folder.path().join("no/such/folder.onnx");
    assert!(onnx::export(&nowhere, &model, &sample()).unwrap_err().to_string().contains("folder.onnx"));
    Ok(())
}

#[test]
fn what_is_made_in_forward_is_part_of_the_graph() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("made.onnx");
    let exported = |function: fn(&Linear, &Tensor) -> Result<Tensor>| -> Result<Vec<String>> {
        try_export(&path, function, &Options::new())?;
        Ok(contents(&path).0)
    };
    // A mask of the future, as attention has it: its values are constants, the scores' shape stays open.
    let causal = |_: &Linear, x: &Tensor| {
        let scores = x.unsqueeze(1)?.mul(&x.unsqueeze(2)?)?;
        let later = Tensor::ones([4, 4], (DType::Bool, Device::Cpu))?.triu(1)?;
        scores.masked_fill(&later, f64::NEG_INFINITY)?.softmax(-1)
    };
    let operators = exported(causal)?;
    assert!(operators.iter().any(|op| op == "Trilu") && operators.iter().any(|op| op == "Where"), "{operators:?}");
    // As long as the batch: worked out from the input.
    let counted = |_: &Linear, x: &Tensor| {
        let batch = x.dims()[0];
        x.mul(&Tensor::arange(0, batch as i64, Device::Cpu)?.to_dtype(DType::F32)?.unsqueeze(1)?)
    };
    assert!(exported(counted)?.iter().any(|op| op == "Range"));
    assert!(exported(|_, x| Tensor::cat(&[x, &x.ones_like()?], 1))?.iter().any(|op| op == "Expand"));
    assert_eq!(exported(|_, x| x.detach().exp())?, ["Identity", "Exp"]);
    // Values that depend on the batch size in another way have no graph.
    let odd = |_: &Linear, x: &Tensor| x.add(&Tensor::new(&[x.dims()[0] as f32], Device::Cpu)?);
    let message = try_export(&path, odd, &Options::new()).unwrap_err().to_string();
    assert!(message.contains("dynamic_batch(false)"), "{message}");
    Ok(())
}

#[test]
fn nothing_is_done_to_an_input_that_is_the_output() -> Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("identity.onnx");
    let model = Sequential::new();
    model.eval();
    onnx::export(&path, &model, &sample())?;
    assert_eq!(contents(&path).0, ["Identity"]);
    let softmax = seq![Flatten::new(), Softmax::new(-1)];
    softmax.eval();
    onnx::export(&path, &softmax, &sample())?;
    assert_eq!(contents(&path).0, ["Softmax"]);
    Ok(())
}
