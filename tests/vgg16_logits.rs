//! VGG16 of full size with weights that torchvision wrote. By hand, because the file has 550 MB:
//!
//! ```text
//! python3 tests/golden/make_vgg16_full.py /tmp/vgg16.safetensors
//! KILN_VGG16=/tmp/vgg16.safetensors cargo test --release --test vgg16_logits -- --ignored
//! ```

use kiln::{
    io,
    models::{VggOptions, vgg16},
    prelude::*,
};

#[test]
#[ignore = "needs a file that make_vgg16_full.py writes"]
fn logits_are_torchvisions() -> anyhow::Result<()> {
    let path = std::env::var("KILN_VGG16")?;
    let mut weights = io::load(path, Device::Cpu)?;
    let mut take = |name: &str| weights.shift_remove(name).ok_or_else(|| anyhow::anyhow!("no {name}"));
    let (x, want) = (take("check.input")?, take("check.logits")?);
    let model = vgg16(VggOptions::default())?;
    model.load_state_dict(&weights, true)?;
    model.eval();
    let _guard = no_grad_guard();
    for x in [x.clone(), x.channels_last()?] {
        let got = model.forward(&x)?;
        let largest = want.abs()?.max(())?.item::<f32>()?;
        let off = got.sub(&want)?.abs()?.max(())?.item::<f32>()? / largest;
        println!("off by {off:e} of the largest logit");
        assert!(off <= 1e-4, "off by {off:e}");
    }
    Ok(())
}
