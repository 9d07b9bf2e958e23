//! Regions of autocast: what they convert, what they keep, and how gradients come back.

mod copies;
mod gradients;
mod normalization;

use kiln_tensor::{
    Conv2d, DType, Device, ErrorKind, Result, Tensor, autocast, autocast_dtype, autocast_guard, autocast_off,
    autograd::trace_with_reads, is_autocast_enabled,
};

const LOW: [DType; 2] = [DType::BF16, DType::F16];

fn randn(shape: &[usize]) -> Tensor {
    Tensor::randn(shape, Device::Cpu).unwrap()
}

fn parameter(shape: &[usize]) -> Tensor {
    randn(shape).requires_grad_(true).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().to_vec().unwrap()
}

/// The values, of which NaN is one.
fn bits(x: &Tensor) -> Vec<u32> {
    values(x).into_iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

/// How often a call converts a dtype.
fn casts(f: impl FnOnce() -> Result<()>) -> usize {
    let ((), trace) = trace_with_reads(f).unwrap();
    trace.steps().iter().filter(|step| step.op == Some("cast")).count()
}

#[test]
fn operations_compute_as_their_operands_were_converted() -> Result<()> {
    for low in LOW {
        let (x, w, b) = (randn(&[5, 7]), randn(&[3, 7]), randn(&[3]));
        let to = |t: &Tensor| t.to_dtype(low);
        let explicit = to(&x)?.linear(&to(&w)?, Some(&to(&b)?))?;
        let y = autocast(low, || x.linear(&w, Some(&b)))?;
        assert_eq!((y.dtype(), values(&y)), (low, values(&explicit)));
        let (s, y) = autocast(low, || Ok((y.softmax(-1)?, y)))?;
        assert_eq!((s.dtype(), values(&s)), (DType::F32, values(&y.to_dtype(DType::F32)?.softmax(-1)?)));
        let sum = autocast(low, || y.add(&x.narrow(1, 0, 3)?))?;
        assert_eq!(sum.dtype(), DType::F32, "the widest");
    }
    Ok(())
}

#[test]
fn regions_nest_and_end_with_errors_and_panics() -> Result<()> {
    let x = randn(&[2, 2]);
    let product = || x.matmul(&x).map(|y| y.dtype());
    let dtypes = autocast(DType::BF16, || {
        let inner = autocast(DType::F16, product)?;
        let off = autocast_off(product)?;
        let again = autocast_off(|| autocast(DType::F16, product))?;
        Ok([product()?, inner, off, again, product()?])
    })?;
    assert_eq!(dtypes, [DType::BF16, DType::F16, DType::F32, DType::F16, DType::BF16]);
    assert!(autocast(DType::BF16, || x.matmul(&randn(&[3, 2]))).is_err());
    let panicked = std::panic::catch_unwind(|| autocast(DType::BF16, || -> Result<()> { panic!("inside") }));
    assert!(panicked.is_err() && !is_autocast_enabled());
    {
        let _guard = autocast_guard(DType::F16)?;
        assert_eq!((autocast_dtype(), product()?), (Some(DType::F16), DType::F16));
    }
    assert_eq!((autocast_dtype(), product()?), (None, DType::F32));
    Ok(())
}

#[test]
fn other_threads_are_not_in_the_region() -> Result<()> {
    let x = randn(&[2, 2]);
    let theirs = autocast(DType::BF16, || {
        let own = x.clone();
        let thread = std::thread::spawn(move || -> Result<_> {
            let outside = own.matmul(&own)?.dtype();
            let inside = autocast(DType::F16, || own.matmul(&own))?.dtype();
            Ok([outside, inside])
        });
        let theirs = thread.join().unwrap()?;
        assert_eq!(x.matmul(&x)?.dtype(), DType::BF16);
        Ok(theirs)
    })?;
    assert_eq!(theirs, [DType::F32, DType::F16]);
    Ok(())
}

#[test]
fn regions_of_other_dtypes_are_errors_at_the_users_line() {
    for dtype in [DType::F32, DType::F64, DType::I64, DType::Bool] {
        let error = autocast(dtype, || Ok(())).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DType { op: "autocast", .. }), "{error}");
        assert_eq!(error.location().unwrap().file(), file!());
        assert!(autocast_guard(dtype).is_err());
    }
}

#[test]
fn integers_truth_values_and_f64_are_not_converted() -> Result<()> {
    let (wide, counts) = (randn(&[3, 3]).to_dtype(DType::F64)?, Tensor::arange(0, 9, (DType::I64, Device::Cpu))?);
    autocast(DType::BF16, || {
        assert_eq!(wide.matmul(&wide)?.dtype(), DType::F64);
        assert_eq!(wide.softmax(0)?.dtype(), DType::F64);
        assert_eq!(counts.reshape([3, 3])?.matmul(&counts.reshape([3, 3])?)?.dtype(), DType::I64);
        assert_eq!(counts.sum(())?.dtype(), DType::I64);
        assert_eq!(counts.square()?.dtype(), DType::I64);
        assert_eq!(counts.gt(3)?.sum(())?.dtype(), DType::I64);
        let error = wide.matmul(&randn(&[3, 3])).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DTypeMismatch { .. }), "{error}");
        Ok(())
    })
}

#[test]
fn half_precision_of_either_kind_is_taken() -> Result<()> {
    let (bf16, f16) = (randn(&[2, 2]).to_dtype(DType::BF16)?, randn(&[2, 2]).to_dtype(DType::F16)?);
    autocast(DType::BF16, || {
        assert_eq!(bf16.matmul(&f16)?.dtype(), DType::BF16);
        assert_eq!(bf16.dot_of_rows(&f16)?, DType::F32);
        Ok(())
    })
}

trait DotOfRows {
    fn dot_of_rows(&self, other: &Tensor) -> Result<DType>;
}

impl DotOfRows for Tensor {
    fn dot_of_rows(&self, other: &Tensor) -> Result<DType> {
        Ok(self.select(0, 0)?.dot(&other.select(0, 0)?)?.dtype())
    }
}

#[test]
fn in_place_operations_keep_the_dtype() -> Result<()> {
    let (low, wide) = (randn(&[4]).to_dtype(DType::BF16)?, randn(&[4]));
    let (before, other) = (values(&low), values(&wide));
    autocast(DType::F16, || {
        low.add_(&wide)?;
        wide.mul_(&low)?;
        let sums = Tensor::zeros([2, 2], DType::BF16)?;
        sums.scatter_add_(0, &Tensor::zeros([2, 2], DType::I64)?, &Tensor::ones([2, 2], DType::BF16)?)?;
        assert_eq!((low.dtype(), wide.dtype(), sums.dtype()), (DType::BF16, DType::F32, DType::BF16));
        Ok(())
    })?;
    for i in 0..4 {
        assert!((values(&low)[i] - before[i] - other[i]).abs() < 0.05);
    }
    Ok(())
}

#[test]
fn empty_batches_and_strided_operands() -> Result<()> {
    let (w, kernel) = (parameter(&[3, 4]), parameter(&[2, 4, 3, 3]));
    autocast(DType::BF16, || {
        let empty = Tensor::zeros([0, 4], Device::Cpu)?.linear(&w, None)?;
        assert_eq!((empty.dims(), empty.dtype()), (&[0, 3][..], DType::BF16));
        let images = Tensor::zeros([0, 4, 5, 5], Device::Cpu)?.conv2d(&kernel, None, &Conv2d::default())?;
        assert_eq!((images.dims(), images.dtype()), (&[0, 2, 3, 3][..], DType::BF16));
        empty.sum(())?.add(&images.sum(())?)?.backward()
    })?;
    assert_eq!((w.grad().unwrap().dtype(), values(&w.grad().unwrap())), (DType::F32, vec![0.0; 12]));
    let x = randn(&[4, 6]).t()?.slice(0, 0, 6, 2)?;
    let y = autocast(DType::BF16, || x.linear(&w.detach(), None))?;
    assert_eq!(values(&y), values(&autocast(DType::BF16, || x.contiguous()?.linear(&w.detach(), None))?));
    Ok(())
}

#[test]
fn losses_read_scores_in_half_precision() -> Result<()> {
    use kiln_tensor::{ClassLoss, ClassLossInput, Reduction};
    let labels = Tensor::new([1i64, 0, 3, 70, -100], Device::Cpu)?;
    for (low, input) in [(DType::BF16, ClassLossInput::Logits), (DType::F16, ClassLossInput::LogProbs)] {
        for (reduction, label_smoothing) in [(Reduction::Mean, 0.0), (Reduction::Sum, 0.1), (Reduction::None, 0.0)] {
            let rule = ClassLoss { input, reduction, ignore_index: -100, label_smoothing };
            let scores = randn(&[5, 80]).to_dtype(low)?.requires_grad_(true)?;
            let loss = autocast(low, || scores.class_loss(&labels, None, &rule))?;
            let own = scores.detach().to_dtype(DType::F32)?.requires_grad_(true)?;
            let want = own.class_loss(&labels, None, &rule)?;
            assert_eq!((loss.dtype(), values(&loss)), (DType::F32, values(&want)), "{rule:?}");
            for loss in [&loss, &want] {
                loss.mul(3.0)?.sum(())?.backward()?;
            }
            let grad = scores.grad().unwrap();
            assert_eq!((grad.dtype(), values(&grad)), (low, values(&own.grad().unwrap().to_dtype(low)?)), "{rule:?}");
            // Weights and probabilities are converted along with the scores.
            let weight = Tensor::ones(80, Device::Cpu)?;
            assert_eq!(autocast(low, || scores.class_loss(&labels, Some(&weight), &rule))?.dtype(), DType::F32);
        }
    }
    Ok(())
}
