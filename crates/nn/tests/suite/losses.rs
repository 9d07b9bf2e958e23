//! The loss modules against PyTorch: every case of the golden file that Kiln has the loss for.

use crate::common::{Golden, assert_close, number};
use kiln_nn::{
    BCELoss, BCEWithLogitsLoss, CTCLoss, CosineEmbeddingLoss, CrossEntropyLoss, GaussianNLLLoss, HingeEmbeddingLoss,
    HuberLoss, KLDivLoss, L1Loss, Linear, MSELoss, MarginRankingLoss, Module, MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss, MultiMarginLoss, NLLLoss, PoissonNLLLoss, SmoothL1Loss, SoftMarginLoss,
    TripletMarginLoss, functional,
};
use kiln_tensor::{
    DType, Device, ErrorKind, Reduction, Result, Tensor, autocast,
    autograd::{self, BackwardOptions},
};
use serde_json::Value;

fn reduction(args: &Value) -> Reduction {
    match args["reduction"].as_str() {
        Some("none") => Reduction::None,
        Some("sum") => Reduction::Sum,
        _ => Reduction::Mean,
    }
}

/// The loss of a case; `None` for losses that Kiln does not have.
fn loss(
    golden: &Golden,
    name: &str,
    op: &str,
    args: &Value,
    input: &Tensor,
    target: &Tensor,
) -> Result<Option<Tensor>> {
    let reduction = reduction(args);
    let tensor = |arg: &str| args[arg].as_str().map(|key| golden.get(name, key));
    let ignore_index = args["ignore_index"].as_i64().unwrap_or(-100);
    let result = match op {
        "mse_loss" => MSELoss::new().reduction(reduction).forward(input, target),
        "l1_loss" => L1Loss::new().reduction(reduction).forward(input, target),
        "nll_loss" => {
            let mut loss = NLLLoss::new().reduction(reduction).ignore_index(ignore_index);
            if let Some(weight) = tensor("weight") {
                loss = loss.weight(weight);
            }
            loss.forward(input, target)
        }
        "cross_entropy" => {
            let smoothing = number(args, "label_smoothing", 0.0);
            let mut loss =
                CrossEntropyLoss::new().reduction(reduction).ignore_index(ignore_index).label_smoothing(smoothing);
            if let Some(weight) = tensor("weight") {
                loss = loss.weight(weight);
            }
            loss.forward(input, target)
        }
        "binary_cross_entropy_with_logits" => {
            let mut loss = BCEWithLogitsLoss::new().reduction(reduction);
            if let Some(weight) = tensor("weight") {
                loss = loss.weight(weight);
            }
            if let Some(pos_weight) = tensor("pos_weight") {
                loss = loss.pos_weight(pos_weight);
            }
            loss.forward(input, target)
        }
        "smooth_l1_loss" => {
            SmoothL1Loss::new().reduction(reduction).beta(number(args, "beta", 1.0)).forward(input, target)
        }
        "huber_loss" => HuberLoss::new().reduction(reduction).delta(number(args, "delta", 1.0)).forward(input, target),
        "binary_cross_entropy" => {
            let mut loss = BCELoss::new().reduction(reduction);
            if let Some(weight) = tensor("weight") {
                loss = loss.weight(weight);
            }
            loss.forward(input, target)
        }
        "triplet_margin_loss" => TripletMarginLoss::new()
            .reduction(reduction)
            .margin(number(args, "margin", 1.0))
            .p(number(args, "p", 2.0))
            .swap(args["swap"] == true)
            .forward(input, target, &golden.get(name, "in2")),
        _ => return Ok(None),
    };
    result.map(Some)
}

#[test]
fn values_and_gradients_equal_pytorchs() {
    let golden = Golden::open("losses.safetensors");
    let mut count = 0;
    for case in &golden.cases {
        let (name, op) = (case["name"].as_str().unwrap(), case["op"].as_str().unwrap());
        let run = || -> Result<bool> {
            let leaf = |key: &str| {
                let tensor = golden.get(name, key);
                let wanted = golden.find(name, &key.replace("in", "grad")).is_some();
                tensor.requires_grad_(wanted)
            };
            let (input, target) = (leaf("in0")?, leaf("in1")?);
            // PyTorch broadcasts this target, with a warning; Kiln refuses.
            if name.contains("broadcast") {
                assert!(loss(&golden, name, op, &case["args"], &input, &target).is_err());
                return Ok(false);
            }
            let Some(out) = loss(&golden, name, op, &case["args"], &input, &target)? else { return Ok(false) };
            assert_close(&out, &golden.get(name, "out0"), name);
            if let Some(cotangent) = golden.find(name, "cotangent0") {
                out.backward_with(&cotangent, BackwardOptions::default())?;
                for (key, leaf) in [("grad0", &input), ("grad1", &target)] {
                    if let Some(want) = golden.find(name, key) {
                        assert_close(&leaf.grad().unwrap(), &want, &format!("{name}, {key}"));
                    }
                }
            }
            Ok(true)
        };
        count += usize::from(run().unwrap_or_else(|e| panic!("{name}: {e}")));
    }
    assert_eq!(count, 249 - 1);
}

#[test]
fn functions_are_the_modules_with_their_defaults() -> Result<()> {
    let x = Tensor::new(&[[0.5f32, -1.0], [2.0, 0.25]], Device::Cpu)?;
    let y = Tensor::new(&[[1.0f32, 0.0], [0.0, 1.0]], Device::Cpu)?;
    let classes = Tensor::new(&[1i64, 0], Device::Cpu)?;
    let signs = Tensor::new(&[1f32, -1.0], Device::Cpu)?;
    let steps = Tensor::linspace(-1.0, 1.0, 12, Device::Cpu)?.reshape([3, 2, 2])?.log_softmax(2)?;
    let labels = Tensor::new(&[[1i64], [1]], Device::Cpu)?;
    for (function, module) in [
        (functional::mse_loss(&x, &y)?, MSELoss::new().forward(&x, &y)?),
        (functional::l1_loss(&x, &y)?, L1Loss::new().forward(&x, &y)?),
        (functional::cross_entropy(&x, &classes)?, CrossEntropyLoss::new().forward(&x, &classes)?),
        (functional::nll_loss(&x, &classes)?, NLLLoss::new().forward(&x, &classes)?),
        (functional::binary_cross_entropy_with_logits(&x, &y)?, BCEWithLogitsLoss::new().forward(&x, &y)?),
        (functional::cosine_embedding_loss(&x, &y, &signs)?, CosineEmbeddingLoss::new().forward(&x, &y, &signs)?),
        (
            functional::margin_ranking_loss(&x, &y, &signs.unsqueeze(1)?)?,
            MarginRankingLoss::new().forward(&x, &y, &signs.unsqueeze(1)?)?,
        ),
        (functional::triplet_margin_loss(&x, &y, &x.neg()?)?, TripletMarginLoss::new().forward(&x, &y, &x.neg()?)?),
        (functional::gaussian_nll_loss(&x, &y, &x.exp()?)?, GaussianNLLLoss::new().forward(&x, &y, &x.exp()?)?),
        (
            functional::ctc_loss(&steps, &labels, &[3, 2], &[1, 1])?,
            CTCLoss::new().forward(&steps, &labels, &[3, 2], &[1, 1])?,
        ),
    ] {
        assert_eq!(function.item::<f32>()?, module.item::<f32>()?);
    }
    // CrossEntropyLoss is LogSoftmax and NLLLoss.
    let (a, b) = (functional::nll_loss(&x.log_softmax(1)?, &classes)?, functional::cross_entropy(&x, &classes)?);
    assert!((a.item::<f32>()? - b.item::<f32>()?).abs() < 1e-6);
    Ok(())
}

/// In half precision losses are near those in `f32`, also where probabilities are 0 and 1, and an empty batch sums to 0.
#[test]
fn half_precision_and_empty_batches() -> Result<()> {
    let x = Tensor::new(&[[0.0f32, 1.0, 0.25], [0.5, 1.0, 0.0]], Device::Cpu)?;
    let y = Tensor::new(&[[0.0f32, 1.0, 1.0], [0.0, 0.0, 1.0]], Device::Cpu)?;
    type Loss = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let losses: [(&str, Loss); 7] = [
        ("binary_cross_entropy", functional::binary_cross_entropy),
        ("smooth_l1_loss", functional::smooth_l1_loss),
        ("huber_loss", functional::huber_loss),
        ("kl_div", functional::kl_div),
        ("poisson_nll_loss", functional::poisson_nll_loss),
        ("soft_margin_loss", functional::soft_margin_loss),
        ("multilabel_soft_margin_loss", functional::multilabel_soft_margin_loss),
    ];
    for (name, loss) in losses {
        let want = loss(&x, &y)?.item::<f32>()?;
        for dtype in [DType::F16, DType::BF16] {
            let half = x.to_dtype(dtype)?.requires_grad_(true)?;
            let got = loss(&half, &y.to_dtype(dtype)?)?;
            assert_eq!(got.dtype(), dtype, "{name}");
            got.backward()?;
            assert!((got.item::<f32>()? - want).abs() <= 2e-2 * want.abs().max(1.0), "{name} in {dtype}");
            assert_eq!(half.grad().unwrap().dtype(), dtype, "{name}");
        }
        let none = Tensor::zeros([0, 3], Device::Cpu)?;
        assert!(loss(&none, &none)?.item::<f32>()?.is_nan(), "{name}: the mean of nothing");
    }
    let none = Tensor::zeros([0, 3], Device::Cpu)?;
    let sum = MultiMarginLoss::new().reduction(Reduction::Sum);
    assert_eq!(sum.forward(&none, &Tensor::zeros([0], (DType::I64, Device::Cpu))?)?.item::<f32>()?, 0.0);
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused() -> Result<()> {
    let x = Tensor::zeros([2, 3], Device::Cpu)?;
    let classes = |values: &[i64]| Tensor::new(values, Device::Cpu);
    assert!(CrossEntropyLoss::new().forward(&x, &classes(&[0, 3])?).is_err());
    assert!(CrossEntropyLoss::new().forward(&x, &classes(&[0])?).is_err());
    assert!(CrossEntropyLoss::new().label_smoothing(1.5).forward(&x, &classes(&[0, 1])?).is_err());
    assert!(CrossEntropyLoss::new().weight(Tensor::ones(2, Device::Cpu)?).forward(&x, &classes(&[0, 1])?).is_err());
    assert!(NLLLoss::new().forward(&x, &x).is_err());
    assert!(MSELoss::new().forward(&x, &Tensor::zeros([3], Device::Cpu)?).is_err());
    let row = Tensor::zeros([3], Device::Cpu)?;
    assert!(BCELoss::new().forward(&x, &row).is_err() && KLDivLoss::new().forward(&x, &row).is_err());
    assert!(SmoothL1Loss::new().beta(-1.0).forward(&x, &x).is_err());
    assert!(HuberLoss::new().delta(0.0).forward(&x, &x).is_err());
    let message = GaussianNLLLoss::new().forward(&x, &x, &x.sub(1.0)?).unwrap_err().to_string();
    assert!(message.contains("negative"), "{message}");
    assert!(GaussianNLLLoss::new().forward(&x, &x, &Tensor::ones([4], Device::Cpu)?).is_err());
    assert!(CosineEmbeddingLoss::new().forward(&x, &x, &row).is_err());
    assert!(MultiMarginLoss::new().p(3).forward(&x, &classes(&[0, 1])?).is_err());
    assert!(MultiMarginLoss::new().forward(&x, &classes(&[0, 3])?).is_err());
    assert!(MultiLabelMarginLoss::new().forward(&x, &Tensor::full([2, 3], 3i64, Device::Cpu)?).is_err());
    assert!(TripletMarginLoss::new().forward(&x, &row, &x).is_err());
    Ok(())
}

/// Losses that are composed of operations are whole under autocast: `f32`, whatever their parts are.
#[test]
fn under_autocast_losses_are_computed_in_f32() -> Result<()> {
    let low = |x: Tensor| x.to_dtype(DType::BF16);
    let (x, y) = (low(Tensor::rand([4, 3], Device::Cpu)?)?, low(Tensor::rand([4, 3], Device::Cpu)?)?);
    let (signs, classes) = (low(Tensor::ones([4], Device::Cpu)?)?, Tensor::zeros([4], (DType::I64, Device::Cpu))?);
    let losses = || -> Result<Vec<Tensor>> {
        Ok(vec![
            MSELoss::new().forward(&x, &y)?,
            SmoothL1Loss::new().forward(&x, &y)?,
            HuberLoss::new().forward(&x, &y)?,
            KLDivLoss::new().forward(&x, &y)?,
            PoissonNLLLoss::new().forward(&x, &y)?,
            SoftMarginLoss::new().forward(&x, &y)?,
            BCELoss::new().forward(&x, &y)?,
            BCEWithLogitsLoss::new().forward(&x, &y)?,
            HingeEmbeddingLoss::new().forward(&x, &y)?,
            GaussianNLLLoss::new().forward(&x, &y, &y.add(1.0)?)?,
            MarginRankingLoss::new().forward(&x, &y, &y)?,
            CosineEmbeddingLoss::new().forward(&x, &y, &signs)?,
            TripletMarginLoss::new().forward(&x, &y, &x.neg()?)?,
            MultiMarginLoss::new().forward(&x, &classes)?,
            MultiLabelSoftMarginLoss::new().forward(&x, &y)?,
            CrossEntropyLoss::new().forward(&x, &classes)?,
            NLLLoss::new().forward(&x, &classes)?,
        ])
    };
    let (inside, outside) = (autocast(DType::BF16, losses)?, losses()?);
    for (i, (inside, outside)) in inside.iter().zip(&outside).enumerate() {
        assert_eq!((inside.dtype(), outside.dtype()), (DType::F32, DType::BF16), "loss {i}");
        let (inside, outside) = (inside.item::<f64>()?, outside.item::<f64>()?);
        assert!((inside - outside).abs() < 0.02 * (1.0 + inside.abs()), "loss {i}: {inside}, {outside}");
    }
    Ok(())
}

/// Anomalies in layers and losses are named with the line of the program that called the layer.
#[test]
fn anomalies_inside_layers_have_the_programs_line() -> Result<()> {
    let layer = Linear::new(2, 2)?;
    let x = Tensor::full([1, 2], f32::NAN, Device::Cpu)?;
    let line = line!() + 1;
    let error = autograd::detect_anomaly(|| layer.forward(&x)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Anomaly { op, .. } if op == "linear"), "{error}");
    let location = error.location().unwrap();
    assert_eq!((location.file(), location.line()), (file!(), line));
    // Logarithms of 0 inside the loss are clamped.
    let x = Tensor::new(&[0f32, 1.0], Device::Cpu)?.requires_grad_(true)?;
    autograd::detect_anomaly(|| BCELoss::new().forward(&x, &x.detach())?.backward())
}
