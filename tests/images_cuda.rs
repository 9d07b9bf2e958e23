//! Images on a GPU, or on the simulated one: batches are prepared as on the CPU, and a convolutional network learns
//! what it learns on the CPU.
//!
//! Without a device it passes, unless `KILN_REQUIRE_DEVICE` is set.

#[path = "support/account.rs"]
mod account;
mod support;

use std::{env, process};

use account::{caching, recorded};
use kiln::{
    CapturedStep,
    data::{
        DataLoader, Samples,
        transforms::{
            CenterCrop, Image, Normalize, OnBatch, Pad, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip, ToTensor,
            Transform,
        },
    },
    models::{ResNet, ResNetBlock, ResNetOptions, Vgg, VggOptions, vgg11_bn, vgg16},
    nn::{AdaptiveAvgPool2d, Conv2d, Conv2dOptions, CrossEntropyLoss, Flatten, Linear, MaxPool2d, ReLU, seq},
    optim::{Optimizer, SGD, SGDOptions},
    prelude::*,
};
use serde_json::Value;
use support::{
    TURN, device,
    rounding::{Errors, assert_trained_alike},
};

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

/// With a bias, half precision is rounded after it and not before it, too: 2049 is no `f16`, 2049 + 1 is one.
#[test]
fn transposed_convolutions_in_half_precision_round_once() -> kiln::Result<()> {
    let mut devices = vec![Device::Cpu];
    devices.extend(device());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for device in devices {
        for (dtype, large) in [(DType::F16, 2048.0), (DType::BF16, 256.0)] {
            for channels_last in [false, true] {
                let options = (dtype, device);
                let x = Tensor::full([2, 3, 2, 5], large, options)?;
                let x = if channels_last { x.channels_last()? } else { x };
                // Two channels give `large` and 0, the third 1 / large * large = 1.
                let weight = [1.0, 0.0, 1.0 / large].map(|value| Tensor::full([1, 4, 1, 1], value, options));
                let weight = Tensor::cat(&weight.into_iter().collect::<kiln::Result<Vec<_>>>()?, 0)?;
                let bias = Tensor::ones([4], options)?;
                let rule = kiln::Conv2d { stride: [2, 1], ..kiln::Conv2d::default() };
                let y = x.conv_transpose2d(&weight, Some(&bias), &rule, [0, 0])?;
                assert_eq!((y.dims(), y.dtype()), (&[2, 4, 3, 5][..], dtype));
                let rows = y.permute([2, 0, 1, 3])?.to_dtype(DType::F32)?.to_device(Device::Cpu)?;
                for (row, want) in [(0, large + 2.0), (1, 1.0), (2, large + 2.0)] {
                    let values = rows.select(0, row)?.contiguous()?.to_vec::<f32>()?;
                    assert!(
                        values.iter().all(|value| f64::from(*value) == want),
                        "{device} {dtype} row {row}: {values:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn batches_are_prepared_there_as_on_the_cpu() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
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

#[test]
fn pinned_batches_travel_while_the_device_computes() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let loader = |pinned: bool, device: Option<Device>| {
        // Large enough for copies to have a stream of their own.
        let pictures = pictures(22, 120, 160)?;
        let builder = DataLoader::builder(pictures).batch_size(4).shuffle(true).seed(5).num_workers(2).prefetch(2);
        match (pinned, device) {
            (true, _) => builder.pin_memory().build(),
            (false, Some(device)) => builder.device(device).build(),
            (false, None) => builder.build(),
        }
    };
    let (plain, pinned, moved) = (loader(false, None)?, loader(true, None)?, loader(false, Some(device))?);
    for _epoch in 0..2 {
        let mut sums = Vec::new();
        for ((want, pinned), moved) in plain.iter().zip(pinned.iter()).zip(moved.iter()) {
            let ((want, labels), (x, y), (moved, _)) = (want?, pinned?, moved?);
            assert!(x.is_pinned() && y.is_pinned() && !want.is_pinned());
            // The page-locked memory goes back, to be filled with a later batch, while its copy may still be under way.
            let (there, there_labels) = (x.to_device(device)?, y.to_device(device)?);
            drop((x, y));
            // Nothing is read before all batches have been sent.
            sums.push((there.copy()?, there_labels, moved.copy()?, want, labels));
        }
        assert_eq!(sums.len(), 6);
        for (there, there_labels, moved, want, labels) in sums {
            assert!(there.to_device(Device::Cpu)?.equal(&want)? && moved.to_device(Device::Cpu)?.equal(&want)?);
            assert!(there_labels.to_device(Device::Cpu)?.equal(&labels)?);
        }
    }
    Ok(())
}

/// A narrow network in training, with a batch of noise.
struct Training {
    model: Vgg,
    optimizer: SGD,
    x: Tensor,
    y: Tensor,
}

/// A factor for the numbers of channels, and the height and width of images.
#[derive(Clone, Copy)]
struct Size {
    width: f64,
    edge: usize,
}

impl Size {
    const SMALL: Size = Size { width: 1.0 / 16.0, edge: 32 };
    const FULL: Size = Size { width: 1.0, edge: 224 };
}

impl Training {
    fn new(make: Make, device: Device, channels_last: bool) -> kiln::Result<Training> {
        Training::of(make, device, DType::F32, channels_last, Size::SMALL)
    }

    fn of(make: Make, device: Device, dtype: DType, channels_last: bool, size: Size) -> kiln::Result<Training> {
        manual_seed(3);
        let options = VggOptions::default().num_classes(10).width(size.width).dropout(0.0);
        let model = make(options)?.to(device)?.to_dtype(dtype)?;
        let optimizer = SGD::new(model.named_parameters(), 0.01)?;
        let x = Tensor::randn([4, 3, size.edge, size.edge], Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
        let x = if channels_last { x.channels_last()? } else { x };
        Ok(Training { model, optimizer, x, y: Tensor::arange(0, 4, device)? })
    }

    fn forward(&self) -> kiln::Result<Tensor> {
        CrossEntropyLoss::new().forward(&self.model.forward(&self.x)?, &self.y)
    }

    fn losses(mut self, steps: usize, errors: &Errors) -> kiln::Result<Vec<f64>> {
        // The gradient of the first layer's filter sums over all pixels of the batch.
        let (mut losses, pixels) = (Vec::new(), self.x.numel() / 3);
        for _ in 0..steps {
            self.optimizer.zero_grad();
            losses.push(errors.during(&self.model.parameters(), &self.x, pixels, || {
                let loss = self.forward()?;
                loss.backward()?;
                Ok(loss.detach())
            })?);
            self.optimizer.step()?;
        }
        Tensor::stack(&losses, 0)?.to_dtype(DType::F64)?.to_vec()
    }
}

/// Asserts that losses in `f32` on devices are those of the CPU.
fn assert_learns_as_on_the_cpu(
    trainings: &[Vec<f64>],
    make: Make,
    channels_last: bool,
    size: Size,
) -> kiln::Result<()> {
    let losses: Vec<Vec<f32>> =
        trainings.iter().map(|losses| losses.iter().map(|&loss| loss as f32).collect()).collect();
    let losses: Vec<&[f32]> = losses.iter().map(Vec::as_slice).collect();
    assert_trained_alike(&losses, |errors| {
        Training::of(make, Device::Cpu, errors.computed(), channels_last, size)?.losses(losses[0].len(), errors)
    })
}

/// A network of given width.
type Make = fn(VggOptions) -> kiln::Result<Vgg>;

#[test]
fn vgg_learns_there_what_it_learns_on_the_cpu() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let makes: [(Make, bool, usize); 2] = [(vgg16, false, 4), (vgg11_bn, true, 4)];
    for (make, channels_last, steps) in makes {
        let got = Training::new(make, device, channels_last)?.losses(steps, &Errors::none())?;
        assert_learns_as_on_the_cpu(&[got], make, channels_last, Size::SMALL)?;
    }
    Ok(())
}

/// In both memory formats.
#[test]
#[ignore = "minutes without optimization, hours on the simulated device"]
fn vgg16_at_full_width_learns_there_what_it_learns_on_the_cpu() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let train = |channels_last| {
        let losses = Training::of(vgg16, device, DType::F32, channels_last, Size::FULL)?.losses(4, &Errors::none())?;
        println!("{device}, channels-last {channels_last}: {losses:?}");
        Ok::<_, kiln::Error>(losses)
    };
    assert_learns_as_on_the_cpu(&[train(false)?, train(true)?], vgg16, false, Size::FULL)
}

/// Layers of VGG16 that compute: 13 convolutions with their ReLUs, 5 poolings and the last one, 3 linear layers, the loss.
const LAYERS: u64 = 13 + 5 + 1 + 3 + 1;

#[test]
fn a_step_of_vgg16_after_warm_up_allocates_nothing_and_launches_little() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut training = Training::new(vgg16, device, false)?;
    let (mut held, mut accounts) = (0, Vec::new());
    for number in 0..3 {
        let (loss, forward) = last_of(1, || training.forward())?;
        training.optimizer.zero_grad();
        let ((), backward) = last_of(1, || loss.backward())?;
        let ((), step) = last_of(1, || training.optimizer.step())?;
        accounts = vec![("forward", 3 * LAYERS, forward), ("backward", 3 * LAYERS, backward), ("the step", 4, step)];
        device.synchronize()?;
        let stats = device.memory_stats()?;
        let settled = number < 2 || !caching() || stats.system_allocations == held;
        assert!(settled, "the allocator had everything: {stats:?}");
        held = stats.system_allocations;
    }
    for (name, most, account) in accounts {
        let Some(account) = account else { return Ok(()) };
        let count = |name: &str| account["counts"][name].as_u64().unwrap();
        let calls = count("launches") + count("library calls") + count("fills");
        println!("{name}: {calls} launches and library calls");
        assert!(calls <= most, "{name}: {calls} launches and library calls: {account:#}");
        assert!(!caching() || count("device allocations") == 0, "{name}: {account:#}");
        assert_eq!(count("pinned allocations"), 0, "{name}: {account:#}");
        assert_eq!(count("synchronizations"), 0, "{name}: {account:#}");
    }
    Ok(())
}

/// Two devices beside each other: what is trained on each, copies between them, and an operation on both.
fn uses_both(first: Device, second: Device) -> kiln::Result<()> {
    let train = |device| Training::new(vgg11_bn, device, false)?.losses(2, &Errors::none());
    assert_learns_as_on_the_cpu(&[train(first)?, train(second)?], vgg11_bn, false, Size::SMALL)?;
    let x = Tensor::randn([300, 200], Device::Cpu)?;
    let here = x.to_device(first)?;
    let there = here.mul(2.0)?.to_device(second)?;
    assert_eq!((here.device(), there.device()), (first, second));
    assert!(there.to_device(Device::Cpu)?.equal(&x.mul(2.0)?)? && there.to_device(first)?.equal(&here.mul(2.0)?)?);
    let error = here.add(&there).unwrap_err().to_string();
    assert!(error.contains("cuda:0") && error.contains("cuda:1"), "{error}");
    // Each has its own captured steps.
    let captured = |device| CapturedStep::new(device, |(): &mut (), x: &Tensor| x.mul(2.0)?.add(1.0));
    let mut steps = [captured(first), captured(second)];
    for value in 0..6u8 {
        for step in &mut steps {
            let y = step.run(&mut (), &Tensor::full([5], f64::from(value), Device::Cpu)?)?;
            assert_eq!(y.to_vec::<f32>()?, [2.0 * f32::from(value) + 1.0; 5]);
        }
    }
    assert_eq!(steps.map(|step| step.graphs()), [1, 1]);
    Ok(())
}

#[test]
fn two_devices_work_beside_each_other() -> kiln::Result<()> {
    let Some(first) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if env::var_os("KILN_SIM_DEVICES").is_some() {
        return uses_both(first, Device::cuda(1)?);
    }
    if let Ok(second) = Device::cuda(1) {
        return uses_both(first, second);
    }
    // The simulator has as many as are asked for, in a process of its own.
    let Some(runner) = env::var_os("KILN_SIM_RUNNER") else { return Ok(()) };
    let mut command = process::Command::new(runner);
    command.arg(env::current_exe().unwrap()).args(["--exact", "two_devices_work_beside_each_other", "--nocapture"]);
    let process::Output { status, stdout, stderr } = command.env("KILN_SIM_DEVICES", "2").output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success() && text.contains("1 passed"), "{text}");
    Ok(())
}

/// What a device did in the last of some runs, as the simulator counts it.
fn last_of<T>(runs: usize, mut run: impl FnMut() -> kiln::Result<T>) -> kiln::Result<(T, Option<Value>)> {
    for _ in 1..runs {
        run()?;
    }
    recorded(run)
}

/// The kernels that were launched.
fn kernels(account: &Value) -> Vec<&str> {
    account["operations"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

/// Each convolution is one call of the library, with its normalization, its residual and its ReLU.
#[test]
fn evaluation_launches_nothing_for_batch_norm() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let x = Tensor::randn([2, 3, 32, 32], Device::Cpu)?;
    let resnet = || {
        manual_seed(4);
        let model = ResNet::new(ResNetBlock::Basic, [1, 1, 1, 1], ResNetOptions::default().num_classes(10))?;
        // Statistics other than 0 and 1.
        no_grad(|| model.forward(&x))?;
        model.eval();
        Ok::<_, kiln::Error>(model)
    };
    let want = no_grad(|| resnet()?.forward(&x))?;
    for channels_last in [false, true] {
        let (model, x) = (resnet()?.to(device)?, x.to_device(device)?);
        let (model, x) = if channels_last { (model.channels_last()?, x.channels_last()?) } else { (model, x) };
        let (got, account) = last_of(3, || no_grad(|| model.forward(&x)))?;
        assert!(close(&got, &want, 1e-4 * want.abs()?.max(())?.item::<f32>()?)?, "{got} is not {want}");
        let Some(account) = account else { continue };
        // The stem, two of each block, three shortcuts, and the classifier.
        assert_eq!(account["counts"]["library calls"], 1 + 4 * 2 + 3 + 1, "{account:#}");
        let other =
            |name: &&str| ["norm", "bias", "relu", "binary", "copy", "cast"].iter().any(|part| name.contains(part));
        assert_eq!(kernels(&account).into_iter().find(other), None, "{account:#}");
    }
    Ok(())
}

/// Images and filters are in the order that the library takes, and so are all gradients and the optimizer's state.
#[test]
fn a_channels_last_step_copies_nothing() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for dtype in [DType::F32, DType::BF16] {
        manual_seed(9);
        let conv = |inputs, outputs, stride| {
            Conv2d::with_options(inputs, outputs, 3, Conv2dOptions::default().padding(1).stride(stride))
        };
        let model = seq![
            conv(3, 8, 1)?,
            ReLU::new(),
            MaxPool2d::new(2),
            conv(8, 16, 2)?,
            ReLU::new(),
            conv(16, 8, 1)?,
            AdaptiveAvgPool2d::new(1),
            Flatten::new(),
            Linear::new(8, 10)?,
        ];
        let model = model.to(device)?.to_dtype(dtype)?.channels_last()?;
        let mut optimizer = SGD::new(model.named_parameters(), SGDOptions::new(0.01).momentum(0.9))?;
        let x = Tensor::randn([4, 3, 16, 16], device)?.to_dtype(dtype)?.channels_last()?;
        let y = Tensor::arange(0, 4, device)?;
        let (_, account) = last_of(3, || {
            let loss = CrossEntropyLoss::new().forward(&model.forward(&x)?, &y)?;
            optimizer.zero_grad();
            loss.backward()?;
            optimizer.step()
        })?;
        let Some(account) = account else { continue };
        let copies = |name: &&str| name.starts_with("copy") || name.starts_with("cast");
        assert_eq!(kernels(&account).into_iter().find(copies), None, "{dtype}: {account:#}");
        assert_eq!(account["counts"]["copies"], 0, "{dtype}: {account:#}");
    }
    Ok(())
}

/// A loader's channels-last batch is moved as it lies in memory, both ways and by way of page-locked memory.
#[test]
fn channels_last_images_stay_in_that_order_on_the_way() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let plain = Tensor::rand([6, 3, 5, 4], Device::Cpu)?;
    let last = plain.channels_last()?;
    // Also a part of a batch, and an empty one.
    for (plain, last) in [(0, 6), (2, 3), (1, 0)].map(|(at, n)| (plain.narrow(0, at, n), last.narrow(0, at, n))) {
        let (plain, last) = (plain?, last?);
        let (direct, pinned) = (last.to_device(device)?, last.pin_memory()?);
        let moved = [direct.to_device(Device::Cpu)?, pinned.to_device(device)?, direct, pinned];
        for moved in moved {
            assert_eq!(moved.is_channels_last(), last.is_channels_last(), "on {}", moved.device());
            assert_eq!((moved.dims(), moved.to_vec::<f32>()?), (plain.dims(), plain.to_vec::<f32>()?));
        }
    }
    Ok(())
}
