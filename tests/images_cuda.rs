//! Images on a GPU, or on the simulated one: batches are prepared there as on the CPU, and a convolutional network learns
//! there what it learns on the CPU.
//!
//! Without a device it passes, unless `KILN_REQUIRE_DEVICE` is set.
#![cfg(all(feature = "cuda", feature = "cpu"))]

use std::env;

use kiln::{
    data::{
        DataLoader, Samples,
        transforms::{
            CenterCrop, Image, Normalize, OnBatch, Pad, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip, ToTensor,
            Transform,
        },
    },
    models::{VggOptions, vgg11_bn},
    nn::CrossEntropyLoss,
    optim::{Optimizer, SGD},
    prelude::*,
};

fn device() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(env::var_os("KILN_REQUIRE_DEVICE").is_none(), "a device is required: {error}");
            None
        }
    }
}

/// Pictures of noise with their numbers as labels.
fn pictures(count: usize, height: usize, width: usize) -> kiln::Result<Samples<(Image, i64)>> {
    let picture = |number: usize| {
        let pixels = (0..height * width * 3).map(|i| (i * 31 + number * 97 + i / 7) as u8).collect();
        Ok((Image::new(height, width, 3, pixels)?, number as i64))
    };
    (0..count).map(picture).collect()
}

fn close(got: &Tensor, want: &Tensor, most: f32) -> kiln::Result<bool> {
    let apart = got.to_device(Device::Cpu)?.sub(want)?.abs()?.max(())?.item::<f32>()?;
    Ok(got.dims() == want.dims() && apart <= most)
}

#[test]
fn batches_are_prepared_there_as_on_the_cpu() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let normal = Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])?;
    macro_rules! check {
        ($change:expr) => {{
            let loader = |device: Device| {
                let change = OnBatch($change);
                DataLoader::builder(pictures(11, 20, 24)?)
                    .batch_size(4)
                    .shuffle(true)
                    .seed(8)
                    .num_workers(2)
                    .device(device)
                    .map_batches(move |(x, y): (Tensor, Tensor)| Ok((change.apply(x)?, y)))
                    .build()
            };
            let (here, there) = (loader(Device::Cpu)?, loader(device)?);
            let mut seen = 0;
            for (want, got) in here.iter().zip(there.iter()) {
                let ((want, labels), (got, got_labels)) = (want?, got?);
                assert_eq!(got.device(), device);
                assert!(close(&got, &want, 1e-6)?);
                assert!(got_labels.to_device(Device::Cpu)?.equal(&labels)?);
                seen += labels.numel();
            }
            assert_eq!(seen, 11);
        }};
    }
    check!((
        RandomCrop::new(16, 15),
        RandomHorizontalFlip::default(),
        RandomVerticalFlip::new(0.3)?,
        ToTensor,
        normal.clone()
    ));
    check!((
        RandomCrop::new(20, 24).padding(Pad::new([4, 3, 2, 1]).fill(77.0)),
        RandomHorizontalFlip::default(),
        ToTensor
    ));
    check!((CenterCrop::new(30, 8), Pad::new([1, 2, 3, 4]).fill(3.0), ToTensor, normal.clone()));
    Ok(())
}

/// The losses of the first steps of a narrow VGG11 with batch normalisation.
fn losses(device: Device, channels_last: bool, steps: usize) -> kiln::Result<Vec<f32>> {
    manual_seed(3);
    let options = VggOptions::default().num_classes(10).width(1.0 / 16.0).dropout(0.0);
    let model = vgg11_bn(options)?.to(device)?;
    let mut optimizer = SGD::new(model.named_parameters(), 0.01)?;
    let x = Tensor::randn([4, 3, 32, 32], Device::Cpu)?.to_device(device)?;
    let x = if channels_last { x.channels_last()? } else { x };
    let y = Tensor::arange(0, 4, device)?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        let loss = CrossEntropyLoss::new().forward(&model.forward(&x)?, &y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
        losses.push(loss.detach());
    }
    Tensor::stack(&losses, 0)?.to_vec()
}

#[test]
fn vgg_learns_there_what_it_learns_on_the_cpu() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for channels_last in [false, true] {
        let (got, want) = (losses(device, channels_last, 6)?, losses(Device::Cpu, channels_last, 6)?);
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() <= 1e-3 * want.abs().max(1.0), "step {step}: {got} there, {want} here");
        }
        assert!(want[5] < want[0], "it learns: {want:?}");
    }
    Ok(())
}
