//! What only GPUs have: steps in which the host waits for nothing, averages beside the backward pass, captured steps, and
//! ranks as threads of one process.

use std::{sync::Arc, thread};

use kiln_backend::use_deterministic_algorithms;
use kiln_distributed::{
    DdpOptions, DistributedDataParallel, GroupOptions, ProcessGroup, ReduceOp, local_process_groups,
};
use kiln_models::{Vgg, VggDepth, VggOptions};
use kiln_nn::{
    Conv2d, Conv2dOptions, Flatten, Linear, MaxPool2d, Module, ModuleTree, ReLU, Sequential,
    functional::cross_entropy,
    optim::{Adam, Optimizer, SGD},
    seq,
};
use kiln_tensor::{CapturedStep, DType, Device, Result, Tensor, manual_seed};

use crate::{
    common::{self, assert_same_on_all_ranks, bits},
    launch,
};

#[test]
fn a_step_waits_for_nothing_on_the_host() {
    common::succeeds(2, "steps");
}

#[test]
fn collectives_are_part_of_captured_steps() {
    common::succeeds(2, "captured");
}

/// With the real launcher, whose own store listens at the port that it states.
#[test]
fn torchrun_starts_ranks_that_meet_without_mpi() {
    let Some(run) = launch::by_torchrun(2, "bit_equal") else { return };
    let ended = run.end();
    assert!(ended.success && ended.text.matches("PLAYED").count() == 2, "{}", ended.text);
}

#[test]
fn slurm_starts_ranks_that_meet_without_mpi() {
    let Some(run) = launch::by_slurm(2, "collectives") else { return };
    let ended = run.end();
    assert!(ended.success && ended.text.matches("PLAYED").count() == 2, "{}", ended.text);
}

#[test]
fn ranks_are_threads_of_one_process() {
    for ranks in [2, 4] {
        if !launch::has_devices(ranks) {
            return;
        }
        let output = launch::test("gpu::threads", "", &[("KILN_RANKS", &ranks.to_string())]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("PLAYED"), "{text}");
    }
}

/// VGG16 at a width at which the simulated device computes it in a moment, without its random zeros.
fn vgg16(device: Device) -> Result<Vgg> {
    let options = VggOptions::default().width(1.0 / 32.0).num_classes(10).dropout(0.0);
    Vgg::new(VggDepth::Vgg16, options)?.to(device)
}

/// A small network of convolutions.
fn network(device: Device) -> Result<Sequential> {
    let padded = Conv2dOptions::default().padding(1);
    let stack = seq![
        Conv2d::with_options(3, 8, 3, padded)?,
        ReLU::new(),
        MaxPool2d::new(2),
        Flatten::new(),
        Linear::new(8 * 16 * 16, 10)?
    ];
    stack.to(device)
}

fn batch(device: Device, rows: usize) -> Result<(Tensor, Tensor)> {
    Ok((Tensor::randn([rows, 3, 32, 32], device)?, Tensor::randint(0, 10, [rows], device)?))
}

/// What the simulated device counts between the driver's `cuProfilerStart` and `cuProfilerStop`.
fn profiler(name: &str) {
    // SAFETY: the driver is loaded already; both functions take nothing and return a status.
    unsafe {
        let driver = kiln_dylib::Library::new("libcuda.so.1").unwrap();
        let call = driver.get::<unsafe extern "C" fn() -> u32>(name.as_bytes()).unwrap();
        assert_eq!(call(), 0, "{name}");
    }
}

fn account() -> Option<String> {
    let reports = std::env::var_os("KILN_SIM_REPORT").map(std::path::PathBuf::from)?;
    let path = |number: u32| reports.join(format!("{}-{number}.json", std::process::id()));
    let last = (1..).take_while(|&number| path(number).exists()).last()?;
    Some(std::fs::read_to_string(path(last)).unwrap())
}

pub fn steps(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = group.device();
    manual_seed(1);
    let model = vgg16(device)?;
    let before = device.memory_stats()?.allocated;
    let ddp =
        DistributedDataParallel::with_options(&model, group, DdpOptions::default().bucket_bytes(1 << 10, 4 << 10))?;
    let mut optimizer = SGD::new(model.named_parameters(), 0.05)?;
    let (x, y) = batch(device, 2)?;
    let step = |optimizer: &mut SGD| {
        optimizer.zero_grad();
        cross_entropy(&model.forward(&x)?, &y)?.backward()?;
        let report = ddp.last_step();
        optimizer.step()?;
        Ok::<_, kiln_tensor::Error>(report)
    };
    for _ in 0..3 {
        step(&mut optimizer)?;
    }
    // Gradients are there once: parameters' views of the buckets, and no second copy.
    let parameters = model.parameters();
    let gradients: usize = parameters.iter().map(|parameter| parameter.numel() * 4).sum();
    let report = ddp.last_step();
    assert!(report.bytes < gradients + 64 * parameters.len(), "{report:?}");
    device.synchronize()?;
    let after = device.memory_stats()?.allocated;
    assert!(after - before < gradients * 3 / 2 + (128 << 10), "{before} {after} {gradients}");
    for parameter in &parameters {
        let others = parameters.iter().filter(|other| !other.is_same(parameter));
        let grad = parameter.grad().unwrap();
        let is_big = parameter.numel() * 4 > 4 << 10;
        assert!(is_big || others.filter_map(Tensor::grad).any(|other| other.shares_memory(&grad)));
    }
    // All buckets but the last are launched before the pass ends, and the host waits for nothing.
    if launch::is_simulated() {
        profiler("cuProfilerStart");
    }
    let report = step(&mut optimizer)?;
    if launch::is_simulated() {
        profiler("cuProfilerStop");
        let account = account().expect("the simulated device leaves an account");
        for nothing in ["\"synchronizations\": 0", "\"event waits\": 0", "\"bytes to host\": 0"] {
            assert!(account.contains(nothing), "{nothing}: {account}");
        }
        // What others wait for may have been executed meanwhile, too.
        let queued = account.split("\"executed\"").next().unwrap_or_default();
        assert_eq!(queued.matches("ncclAllReduce").count(), report.buckets, "{account}");
    }
    assert!(report.buckets > 3 && report.begun_early == report.buckets - 1, "{report:?}");
    for parameter in &parameters {
        assert_same_on_all_ranks(&parameter.detach(), group)?;
    }
    Ok(())
}

pub fn captured(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let device = group.device();
    // Convolutions may differ in the last bits from call to call otherwise.
    use_deterministic_algorithms(true);
    manual_seed(2);
    let models = [network(device)?, network(device)?];
    models[1].load_state_dict(&models[0].state_dict(), true)?;
    let options = DdpOptions::default().bucket_bytes(1 << 10, 4 << 10);
    let _averages = [&models[0], &models[1]].map(|model| DistributedDataParallel::with_options(model, group, options));
    let mut optimizers =
        [Adam::new(models[0].named_parameters(), 1e-2)?, Adam::new(models[1].named_parameters(), 1e-2)?];
    let step = |model: &Sequential, optimizer: &mut Adam, x: &Tensor, y: &Tensor| {
        let loss = cross_entropy(&model.forward(x)?, y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
        Ok::<_, kiln_tensor::Error>(loss.detach())
    };
    manual_seed(10 + group.rank() as u64);
    let [eager, graph] = &mut optimizers;
    let mut launched =
        CapturedStep::new(device, |optimizer: &mut Adam, (x, y): &(Tensor, Tensor)| step(&models[1], optimizer, x, y))
            .warm_up(2);
    for _ in 0..6 {
        let (x, y) = batch(device, 3)?;
        let a = step(&models[0], eager, &x, &y)?;
        let b = launched.run(graph, &(x, y))?;
        assert_eq!(bits(&a)?, bits(&b)?);
    }
    assert_eq!(launched.graphs(), 1);
    drop(launched);
    for (a, b) in models[0].parameters().iter().zip(models[1].parameters()) {
        assert_eq!(bits(&a.detach())?, bits(&b.detach())?);
        assert_same_on_all_ranks(&b.detach(), group)?;
    }
    Ok(())
}

/// Ranks as threads: started by a test, since they need a process with several devices.
#[test]
#[ignore = "started by another test"]
fn threads() {
    let size: usize = std::env::var("KILN_RANKS").unwrap().parse().unwrap();
    let devices: Vec<Device> = (0..size).map(Device::Cuda).collect();
    let groups = local_process_groups(&devices, GroupOptions::default()).unwrap();
    assert!(local_process_groups(&[devices[0], devices[0]], GroupOptions::default()).is_err());
    assert!(local_process_groups(&[Device::Cpu], GroupOptions::default()).is_err());
    let new = |&device: &Device| {
        manual_seed(5);
        seq![Linear::new(6, 8).unwrap(), ReLU::new(), Linear::new(8, 3).unwrap()].to(device).unwrap()
    };
    let models: Vec<Sequential> = devices.iter().map(new).collect();
    let x = Tensor::randn([size, 4, 6], Device::Cpu).unwrap();
    let work = |rank: usize, group: Arc<dyn ProcessGroup>| -> Result<()> {
        assert_eq!((group.rank(), group.size(), group.device()), (rank, size, devices[rank]));
        let ddp = DistributedDataParallel::new(&models[rank], &group)?;
        let mut optimizer = Adam::new(models[rank].named_parameters(), 1e-2)?;
        let x = x.select(0, rank as i64)?.to_device(devices[rank])?;
        let y = Tensor::zeros([4], (DType::I64, devices[rank]))?;
        for _ in 0..20 {
            optimizer.zero_grad();
            cross_entropy(&models[rank].forward(&x)?, &y)?.backward()?;
            optimizer.step()?;
        }
        for parameter in models[rank].parameters() {
            assert_same_on_all_ranks(&parameter.detach(), &group)?;
        }
        drop(ddp);
        let sum = Tensor::full([3], rank as f64 + 1.0, devices[rank])?;
        group.all_reduce(&sum, ReduceOp::Sum)?;
        assert_eq!(sum.to_vec::<f32>()?, [(size * (size + 1) / 2) as f32; 3]);
        Ok(())
    };
    thread::scope(|scope| {
        for (rank, group) in groups.into_iter().enumerate() {
            let work = &work;
            scope.spawn(move || work(rank, group).unwrap());
        }
    });
    println!("PLAYED");
}
