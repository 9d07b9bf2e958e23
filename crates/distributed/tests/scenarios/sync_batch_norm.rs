//! `SyncBatchNorm` on two ranks is batch normalization of both batches together.

use std::sync::Arc;

use kiln_distributed::{DistributedDataParallel, ProcessGroup, convert_sync_batchnorm};
use kiln_nn::{BatchNorm1d, BatchNorm2d, BatchNormOptions, Conv2d, Module, ModuleTree, ReLU, seq};
use kiln_tensor::{DType, Result, Tensor, manual_seed};

use crate::common::device_of;

/// The largest difference.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    a.sub(b)?.abs()?.amax(())?.to_dtype(DType::F64)?.item::<f64>()
}

pub fn as_one_batch(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let (rank, size, device) = (group.rank(), group.size(), device_of(group));
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        for momentum in [Some(0.1), None] {
            manual_seed(5);
            let options = BatchNormOptions::default().momentum(momentum).tensor((dtype, device));
            let new = || {
                manual_seed(7);
                let convolution = Conv2d::new(2, 3, 3)?.to_dtype(dtype)?.to(device)?;
                Ok::<_, kiln_tensor::Error>(seq![convolution, BatchNorm2d::with_options(3, options)?, ReLU::new()])
            };
            let (one, shared) = (new()?, new()?);
            convert_sync_batchnorm(&shared, group);
            let ddp = DistributedDataParallel::new(&shared, group)?;
            for _ in 0..3 {
                let x = Tensor::randn([2 * size, 2, 6, 5], (dtype, device))?.mul(3)?.add(100)?;
                let goal = Tensor::randn([2 * size, 3, 4, 3], (dtype, device))?;
                let mine = x.narrow(0, 2 * rank, 2)?.copy()?.requires_grad_(true)?;
                let all = x.copy()?.requires_grad_(true)?;
                let loss =
                    |model: &dyn Module, x: &Tensor, goal: &Tensor| model.forward(x)?.sub(goal)?.square()?.mean(());
                loss(&one, &all, &goal)?.backward()?;
                loss(&shared, &mine, &goal.narrow(0, 2 * rank, 2)?)?.backward()?;
                for ((name, a), (_, b)) in one.named_parameters().iter().zip(&shared.named_parameters()) {
                    let difference = distance(&a.grad().unwrap(), &b.grad().unwrap())?;
                    assert!(difference < tolerance * 100.0, "{name}: {difference}");
                }
                // The input's gradient is of this rank's loss, of which the whole one is the mean.
                let theirs = all.grad().unwrap().narrow(0, 2 * rank, 2)?.mul(size as f64)?;
                let difference = distance(&theirs, &mine.grad().unwrap())?;
                assert!(difference < tolerance * 100.0, "input: {difference}");
                for ((name, a), (_, b)) in one.named_buffers().iter().zip(&shared.named_buffers()) {
                    assert!(distance(a, b)? < tolerance * 1e3, "{name} {dtype} {momentum:?}: {a} and {b}");
                }
                one.zero_grad();
                shared.zero_grad();
            }
            drop(ddp);
            // Evaluation asks nobody: one rank alone may do it.
            shared.eval();
            if rank == 0 {
                shared.forward(&Tensor::zeros([1, 2, 6, 5], (dtype, device))?)?;
            }
        }
    }
    uneven(group)
}

/// Batches of different sizes, one of them empty; and one value on all ranks together.
fn uneven(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let (rank, size, device) = (group.rank(), group.size(), device_of(group));
    let layer = BatchNorm1d::with_options(3, BatchNormOptions::default().tensor((DType::F64, device)))?;
    let shared = BatchNorm1d::with_options(3, BatchNormOptions::default().tensor((DType::F64, device)))?;
    convert_sync_batchnorm(&shared, group);
    manual_seed(3);
    // Rank 0 has 3 rows, the last none, others 1.
    let rows: Vec<usize> = (0..size).map(|rank| [3, 1, 0][if rank == size - 1 { 2 } else { rank.min(1) }]).collect();
    let x = Tensor::randn([rows.iter().sum(), 3], (DType::F64, device))?;
    let start: usize = rows[..rank].iter().sum();
    let out = shared.forward(&x.narrow(0, start, rows[rank])?)?;
    let expected = layer.forward(&x)?.narrow(0, start, rows[rank])?;
    assert_eq!(out.dims(), expected.dims());
    if rows[rank] > 0 {
        assert!(distance(&out, &expected)? < 1e-12);
    }
    assert!(distance(shared.running_var.as_ref().unwrap(), layer.running_var.as_ref().unwrap())? < 1e-12);
    let single = shared.forward(&Tensor::zeros([usize::from(rank == 0), 3], (DType::F64, device))?);
    assert!(single.unwrap_err().to_string().contains("more than one value per channel"));
    Ok(())
}
