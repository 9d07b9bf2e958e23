//! Collectives, compared with the result that one process computes from the values of all ranks.

use std::sync::Arc;

use kiln_distributed::{Collective, ProcessGroup, ReduceOp, all_gather_auroc, all_reduce_metric};
use kiln_nn::metrics::{AUROC, Accuracy, Mean};
use kiln_tensor::{DType, Device, Error, Result, Tensor, no_grad};

use crate::common::{bits, device_of};

/// The values of one rank, which all ranks can compute.
fn of_rank(rank: usize, shape: &[usize], dtype: DType, device: Device) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let number = |i: usize| ((i * 7 + rank * 5) % 23) as f64 / if dtype.is_float() { 8.0 } else { 1.0 };
    let values: Vec<f64> = (0..count).map(|i| if dtype.is_float() { number(i) - 1.0 } else { number(i) }).collect();
    Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
}

fn combined(parts: &[Tensor], op: ReduceOp, dtype: DType) -> Result<Tensor> {
    // These sums are exact in every dtype.
    let all = Tensor::stack(parts, 0)?.to_dtype(if dtype.is_float() { DType::F64 } else { DType::I64 })?;
    match op {
        ReduceOp::Sum => all.sum(0),
        ReduceOp::Mean => all.sum(0)?.div(parts.len() as f64),
        ReduceOp::Min => all.amin(0),
        _ => all.amax(0),
    }?
    .to_dtype(dtype)
}

const DTYPES: [DType; 7] = [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::U8];

pub fn all_of_them(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let device = device_of(group);
    assert_eq!(group.local_rank(), rank);
    let engine = std::env::var("KILN_EXPECTED_ENGINE");
    assert_eq!(group.engine(), engine.as_deref().unwrap_or(if device.is_cuda() { "NCCL" } else { "MPI" }));
    for dtype in DTYPES {
        for shape in [&[][..], &[5], &[3, 0], &[4, 3, 2], &[300, 30]] {
            let parts = (0..size).map(|rank| of_rank(rank, shape, dtype, device)).collect::<Result<Vec<_>>>()?;
            for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Min, ReduceOp::Max] {
                let x = parts[rank].copy()?;
                if op == ReduceOp::Mean && !dtype.is_float() {
                    assert!(group.all_reduce(&x, op).is_err());
                    continue;
                }
                let version = x.version();
                group.all_reduce(&x, op)?;
                assert_eq!(bits(&x)?, bits(&combined(&parts, op, dtype)?)?, "{op} of {dtype} {shape:?}");
                assert!(x.version() > version || x.numel() == 0);
                // Through a view with gaps, in another order of memory.
                if shape.len() == 3 {
                    let base = Tensor::zeros([2, 6, 4], (dtype, device))?;
                    let view = base.transpose(0, 2)?.narrow(1, 1, 3)?;
                    view.copy_(&parts[rank])?;
                    group.all_reduce(&view, op)?;
                    assert_eq!(bits(&view.contiguous()?)?, bits(&combined(&parts, op, dtype)?)?);
                    assert_eq!(base.narrow(1, 4, 2)?.to_dtype(DType::F64)?.abs()?.sum(())?.item::<f64>()?, 0.0);
                }
                // A rank's part of the combination.
                let whole = Tensor::cat(&vec![x.unsqueeze(0)?; size], 0)?;
                let rows = (0..size).map(|i| of_rank(rank + i, shape, dtype, device)).collect::<Result<Vec<_>>>()?;
                whole.copy_(&Tensor::stack(&rows, 0)?)?;
                let mine = Tensor::zeros(shape, (dtype, device))?;
                group.reduce_scatter(&mine, &whole, op)?;
                let theirs =
                    (0..size).map(|other| of_rank(other + rank, shape, dtype, device)).collect::<Result<Vec<_>>>()?;
                assert_eq!(bits(&mine)?, bits(&combined(&theirs, op, dtype)?)?, "{op} of {dtype} {shape:?}");
            }
            for root in 0..size {
                let x = parts[rank].copy()?;
                group.broadcast(&x, root)?;
                assert_eq!(bits(&x)?, bits(&parts[root])?);
            }
            let all = Tensor::stack(&parts, 0)?.zeros_like()?;
            group.all_gather(&all, &parts[rank])?;
            assert_eq!(bits(&all)?, bits(&Tensor::stack(&parts, 0)?)?);
            // Out of a part of the output itself.
            if !shape.contains(&0) {
                all.fill_(9)?;
                all.select(0, rank as i64)?.copy_(&parts[rank])?;
                group.all_gather(&all, &all.select(0, rank as i64)?)?;
                assert_eq!(bits(&all)?, bits(&Tensor::stack(&parts, 0)?)?);
            }
        }
    }
    let flags = Tensor::new([rank == 1, true, false], device)?;
    group.broadcast(&flags, 1)?;
    assert_eq!(flags.to_vec::<bool>()?, [true, true, false]);
    assert!(group.all_reduce(&flags, ReduceOp::Sum).is_err() && group.broadcast(&flags, size).is_err());
    // NaN goes to all, wherever it is.
    for op in [ReduceOp::Sum, ReduceOp::Min, ReduceOp::Max] {
        let x = Tensor::new([1.0f32, if rank == size - 1 { f32::NAN } else { 0.0 }], device)?;
        group.all_reduce(&x, op)?;
        assert!(x.to_vec::<f32>()?[1].is_nan(), "{op}");
    }
    // Half precision is added up in `f32`: 2048 + 1 + 1 … is not 2048.
    let x = Tensor::new(if rank == 0 { 2048.0 } else { 2.0f32 }, device)?.to_dtype(DType::F16)?;
    group.all_reduce(&x, ReduceOp::Sum)?;
    assert_eq!(x.to_dtype(DType::F32)?.item::<f32>()?, 2048.0 + 2.0 * (size - 1) as f32);
    // Many at once, waited for in another order.
    let tensors = (0..20).map(|i| Tensor::full([i * 1000 + 1], 1.0, device)).collect::<Result<Vec<_>>>()?;
    let begun = tensors.iter().map(|t| group.all_reduce_async(t, ReduceOp::Sum)).collect::<Result<Vec<_>>>()?;
    begun.into_iter().rev().try_for_each(|work| work.wait())?;
    assert!(tensors.iter().all(|t| t.amin(()).and_then(|x| x.item::<f32>()).is_ok_and(|x| x == size as f32)));
    let parameter = Tensor::full([3], rank as f64, device)?.requires_grad_(true)?;
    no_grad(|| group.broadcast(&parameter, size - 1))?;
    assert_eq!(parameter.to_vec::<f32>()?, vec![(size - 1) as f32; 3]);
    let mut work = group.start(Collective::barrier())?;
    while !work.is_completed() {
        std::thread::yield_now();
    }
    work.wait()?;
    metrics_of_all(group, device)?;
    group.barrier()
}

/// Rank `i` sees `i` batches of two samples, of which one is classified correctly; rank 0 sees none.
fn metrics_of_all(group: &Arc<dyn ProcessGroup>, device: Device) -> Result<()> {
    let (mut accuracy, mut mean) = (Accuracy::new(device)?, Mean::new(device)?);
    let scores = Tensor::new([[0.0f32, 1.0], [0.0, 1.0]], device)?;
    for batch in 0..group.rank() {
        accuracy.update(&scores, &Tensor::new([0i64, 1], device)?)?;
        mean.update(&Tensor::full([3], batch as f64, device)?)?;
    }
    all_reduce_metric(&**group, &mut accuracy)?;
    all_reduce_metric(&**group, &mut mean)?;
    let numbers: Vec<f64> = (0..group.size()).flat_map(|rank| (0..rank).map(|batch| batch as f64)).collect();
    assert_eq!(accuracy.compute()?, 0.5);
    areas_of_all(group, device)?;
    assert!((mean.compute()? - numbers.iter().sum::<f64>() / numbers.len() as f64).abs() < 1e-12);
    Ok(())
}

/// Rank `i` sees `2 i` batches of different sizes, dtypes and devices; rank 0 sees none. Once with two scores per sample, once
/// with one.
fn areas_of_all(group: &Arc<dyn ProcessGroup>, device: Device) -> Result<()> {
    for classes in [2, 1] {
        let batch = |rank: usize, number: usize| -> Result<(Tensor, Tensor)> {
            let count = 3 + 2 * number;
            let score = |i: usize| ((i * 7 + rank * 5 + number * 3) % 11) as f32 / 11.0;
            let scores =
                Tensor::from_vec((0..count * classes).map(score).collect::<Vec<_>>(), [count, classes], device)?;
            let targets = Tensor::from_vec((0..count).map(|i| (i % 2) as i64).collect::<Vec<_>>(), count, device)?;
            let scores = if classes == 1 { scores.squeeze(1)? } else { scores };
            Ok(match number % 3 {
                0 => (scores, targets.to_dtype(DType::Bool)?),
                1 => (scores.to_dtype(DType::F64)?.to_device(Device::Cpu)?, targets.to_device(Device::Cpu)?),
                _ => (scores.to_dtype(DType::F16)?, targets.to_dtype(DType::U8)?),
            })
        };
        let (mut own, mut whole, mut none) = (AUROC::new(), AUROC::new(), AUROC::new());
        for rank in 0..group.size() {
            for number in 0..2 * rank {
                let (scores, targets) = batch(rank, number)?;
                whole.update(&scores, &targets)?;
                if rank == group.rank() {
                    own.update(&scores, &targets)?;
                }
            }
        }
        all_gather_auroc(&**group, &mut own)?;
        assert_eq!(own.compute_per_class()?, whole.compute_per_class()?);
        all_gather_auroc(&**group, &mut none)?;
        assert!(none.samples()?.is_none());
        // The last rank has scores of another form: an error of all ranks, after which the group goes on.
        let is_last = group.rank() + 1 == group.size();
        let mut mixed = AUROC::new();
        let scores = if is_last { Tensor::zeros([2, 3], device)? } else { Tensor::zeros(2, device)? };
        mixed.update(&scores, &Tensor::new([0i64, 1], device)?)?;
        if group.size() > 1 {
            let error = all_gather_auroc(&**group, &mut mixed).unwrap_err().to_string();
            assert!(error.contains("all_gather_auroc: the scores of the ranks have"), "{error}");
        }
    }
    Ok(())
}

pub fn helpers(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let rank = group.rank();
    assert_eq!(group.sums(&[rank as f64 + 1.0, 0.5])?, [3.0, 1.0]);
    assert_eq!(group.on_main(|| Ok(rank))?, (rank == 0).then_some(0));
    let error = group.on_main(|| Err::<(), _>(Error::argument("save", "no space ä"))).unwrap_err().to_string();
    let expected = if rank == 0 { "save: no space ä" } else { "on_main: rank 0 failed: save: no space ä" };
    assert_eq!(error, expected);
    // The group goes on: no rank has missed anything.
    let second = kiln_distributed::init_process_group()?;
    assert!(Arc::ptr_eq(&second, group));
    second.barrier()
}
