//! VGG16 with parameters from files that PyTorch and Python's safetensors wrote: its logits are torchvision's.
//!
//! The files of a narrow one are in the repository. Those at full size, with torchvision's own random weights, are 1.7
//! GB:
//!
//! ```text
//! python3 tests/golden/make_vgg16_full.py /tmp/vgg16
//! KILN_VGG16=/tmp/vgg16 cargo test --release -p kiln-tests --test suite vgg16_logits -- --ignored --nocapture
//! ```
//!
//! `crates/models/tests/suite/vgg.rs` tests in every run that the full size computes what PyTorch computes.

use std::path::PathBuf;

use crate::{checkout, fractions};
use anyhow::Context;
use kiln::{
    io,
    models::{VggOptions, vgg16},
    nn::StateDict,
    prelude::*,
};

/// The largest difference of logits, as a share of the largest logit, in either memory format.
fn difference(options: VggOptions, weights: &StateDict, x: &Tensor, want: &Tensor) -> anyhow::Result<f32> {
    let model = vgg16(options)?;
    model.load_state_dict(weights, true)?;
    model.eval();
    let _guard = no_grad_guard();
    let mut worst = 0f32;
    for x in [x.clone(), x.channels_last()?] {
        let got = model.forward(&x)?;
        assert_eq!(got.dims(), want.dims());
        let apart = got.sub(want)?.abs()?.max(())?.div(&want.abs()?.max(())?)?.item::<f32>()?;
        // NaN stays.
        worst = if apart <= worst { worst } else { apart };
    }
    Ok(worst)
}

fn take(weights: &mut StateDict, name: &str) -> anyhow::Result<Tensor> {
    weights.shift_remove(name).with_context(|| format!("no {name}"))
}

#[test]
fn narrow_from_both_formats() -> anyhow::Result<()> {
    let file = |name: &str| checkout::path("tests/golden/pth").join(name);
    let mut safetensors = io::load(file("vgg16_narrow.safetensors"), Device::Cpu)?;
    let want = take(&mut safetensors, "check.logits")?;
    let x = Tensor::from_vec(fractions::fractions(3 * 224 * 224, 1000), [1, 3, 224, 224], Device::Cpu)?.mul(2.0)?;
    let options = VggOptions::default().width(1.0 / 64.0).num_classes(10);
    for weights in [safetensors, io::load(file("vgg16_narrow.pth"), Device::Cpu)?] {
        assert_eq!(weights.len(), 32);
        let off = difference(options, &weights, &x, &want)?;
        assert!(off <= 1e-4, "off by {off:e} of the largest logit");
    }
    Ok(())
}

#[test]
#[ignore = "needs files that make_vgg16_full.py writes"]
fn full_size_from_both_formats() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::var("KILN_VGG16").context("KILN_VGG16 names the folder")?);
    let mut check = io::load(folder.join("check.safetensors"), Device::Cpu)?;
    let (x, want) = (take(&mut check, "input")?, take(&mut check, "logits")?);
    for name in ["vgg16.pth", "vgg16_legacy.pth", "vgg16.safetensors"] {
        let weights = io::load(folder.join(name), Device::Cpu)?;
        let off = difference(VggOptions::default(), &weights, &x, &want)?;
        println!("{name}: off by {off:e} of the largest logit");
        assert!(off <= 1e-4, "{name}: off by {off:e} of the largest logit");
    }
    Ok(())
}
