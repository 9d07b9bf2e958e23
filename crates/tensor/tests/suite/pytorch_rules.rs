//! PyTorch's rules in edge cases: dtypes of indices, empty lists of dimensions, promotion, shapes that broadcast both
//! ways, counts in half precision; and errors, which name the method that was called and the shape given.

use half::f16;
use kiln_tensor::{DType, Device, Error, PadMode, Result, Running, Tensor};

fn floats(values: &[f32]) -> Result<Tensor> {
    Tensor::new(values, Device::Cpu)
}

fn integers(values: &[i64]) -> Result<Tensor> {
    Tensor::new(values, Device::Cpu)
}

/// The matrix `[[0, 1, 2], [3, 4, 5]]`.
fn matrix() -> Result<Tensor> {
    Tensor::arange(0., 6., Device::Cpu)?.reshape([2, 3])
}

fn text<T>(result: Result<T>) -> String {
    result.err().map(|error: Error| error.to_string()).unwrap_or_default()
}

#[test]
fn an_empty_list_of_dims_names_none_but_in_reductions() -> Result<()> {
    let (none, x) = (&[] as &[i64], matrix()?.reshape([2, 1, 3])?);
    assert!(x.flip(none)?.equal(&x)? && !x.flip(())?.equal(&x)?);
    assert_eq!((x.squeeze(none)?.dims(), x.squeeze(())?.dims()), (&[2, 1, 3][..], &[2, 3][..]));
    assert_eq!((x.any(none)?.dims(), x.all(none)?.dims()), (&[2, 1, 3][..], &[2, 1, 3][..]));
    assert_eq!((x.any(())?.rank(), x.all(())?.rank()), (0, 0));
    for reduced in [x.sum(none)?, x.mean(none)?, x.amax(none)?, x.var(none, ())?, x.norm(2, none)?, x.prod(none)?] {
        assert_eq!(reduced.rank(), 0);
    }
    Ok(())
}

#[test]
fn indices_are_of_any_integer_dtype() -> Result<()> {
    let x = matrix()?;
    for dtype in [DType::I64, DType::I32, DType::U8] {
        let list = integers(&[2, 0])?.to_dtype(dtype)?;
        let each = list.reshape([1, 2])?;
        assert_eq!(x.index_select(1, &list)?.to_vec::<f32>()?, [2., 0., 5., 3.]);
        assert_eq!(x.gather(1, &each)?.to_vec::<f32>()?, [2., 0.]);
        assert_eq!(x.take_along_dim(&each, 1)?.to_vec::<f32>()?, [2., 0., 5., 3.]);
        assert_eq!(x.scatter(1, &each, 9)?.to_vec::<f32>()?, [9., 1., 9., 3., 4., 5.]);
        assert_eq!(x.scatter_add(1, &each, &x)?.to_vec::<f32>()?, [1., 1., 2., 3., 4., 5.]);
        assert_eq!(x.index_add(1, &list, &x.narrow(1, 0, 2)?)?.to_vec::<f32>()?, [1., 1., 2., 7., 4., 8.]);
        assert_eq!(x.t()?.embedding(&list, None, false)?.to_vec::<f32>()?, [2., 5., 0., 3.]);
        if dtype != DType::U8 {
            assert_eq!(x.i((.., &list))?.to_vec::<f32>()?, [2., 0., 5., 3.]);
        }
    }
    assert!(x.gather(1, &x).is_err() && x.i((.., &integers(&[1])?.to_dtype(DType::U8)?)).is_err());
    Ok(())
}

#[test]
fn shapes_that_pytorch_takes() -> Result<()> {
    let x = matrix()?.requires_grad_(true)?;
    // The mask broadcasts the tensor, whose gradient is summed.
    let mask = Tensor::new(&[true, false, false, true], Device::Cpu)?.reshape([2, 2, 1])?;
    let filled = x.masked_fill(&mask, 9.)?;
    assert_eq!(filled.dims(), [2, 2, 3]);
    filled.sum(())?.backward()?;
    assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1.; 6]);
    assert_eq!(x.masked_select(&mask)?.dims(), [6]);
    assert!(x.detach().masked_fill_(&mask, 9.).is_err());
    // One output feature, without a dimension of its own.
    let (w, b) = (floats(&[1., 2., 3.])?, Tensor::new(10f32, Device::Cpu)?);
    assert_eq!(x.linear(&w, None)?.to_vec::<f32>()?, [8., 26.]);
    assert_eq!(x.linear(&w, Some(&b))?.to_vec::<f32>()?, [18., 36.]);
    assert_eq!(floats(&[1., 1., 1.])?.linear(&w, Some(&b))?.item::<f32>()?, 16.);
    assert!(x.linear(&w, Some(&floats(&[1.])?)).is_err());
    let s = Tensor::new(3f32, Device::Cpu)?;
    assert_eq!(s.index_select(0, &integers(&[0])?)?.item::<f32>()?, 3.);
    assert!(s.index_select(0, &integers(&[1])?).is_err() && s.index_select(1, &integers(&[0])?).is_err());
    // Counted from the end.
    let last = integers(&[-1, -3])?.reshape([1, 2])?;
    assert_eq!(x.take_along_dim(&last, 1)?.to_vec::<f32>()?, [2., 0., 5., 3.]);
    assert_eq!(x.take_along_dim(&integers(&[-1])?, ())?.to_vec::<f32>()?, [5.]);
    assert!(x.take_along_dim(&integers(&[-4])?.reshape([1, 1])?, 1).is_err());
    Ok(())
}

#[test]
fn joined_dtypes_become_the_one_that_holds_them() -> Result<()> {
    use DType::*;
    for (a, b, joined) in [
        (I64, F16, F16),
        (F32, F64, F64),
        (F16, BF16, F32),
        (U8, I32, I32),
        (Bool, U8, U8),
        (I32, I64, I64),
        (Bool, BF16, BF16),
        (F64, I64, F64),
    ] {
        let parts = [Tensor::ones([2], a)?, Tensor::zeros([2], b)?];
        assert_eq!((Tensor::cat(&parts, 0)?.dtype(), Tensor::stack(&parts, 0)?.dtype()), (joined, joined), "{a} {b}");
    }
    let x = floats(&[1., 2.])?.requires_grad_(true)?;
    let y = Tensor::cat(&[&x, &Tensor::ones([1], F64)?], 0)?;
    y.sum(())?.backward()?;
    assert_eq!((x.grad().unwrap().dtype(), y.to_vec::<f64>()?), (F32, vec![1., 2., 1.]));
    Ok(())
}

#[test]
fn ramps_of_integers() -> Result<()> {
    let ramp = |x: Tensor| x.to_dtype(DType::I64)?.to_vec::<i64>();
    assert_eq!(ramp(Tensor::arange_step(0.5, 5.7, 1.6, DType::I64)?)?, [0, 1, 2, 3]);
    assert_eq!(ramp(Tensor::arange_step(5.5, -3, -1.5, DType::I64)?)?, [5, 4, 3, 2, 1, 0]);
    assert_eq!(ramp(Tensor::arange_step(0.5, 5.7, 0.6, DType::I32)?)?, [0; 9]);
    assert_eq!(ramp(Tensor::linspace(0, 10, 4, DType::I64)?)?, [0, 3, 6, 10]);
    assert_eq!(ramp(Tensor::linspace(0.7, 9.9, 4, DType::I64)?)?, [0, 3, 6, 9]);
    assert_eq!(ramp(Tensor::linspace(-0.7, -9.9, 4, DType::I32)?)?, [0, -3, -6, -9]);
    let (start, end) = (Tensor::new(1i64, Device::Cpu)?, Tensor::new(2f32, Device::Cpu)?);
    assert_eq!(Tensor::linspace(&start, &end, 3, Device::Cpu)?.to_vec::<f32>()?, [1., 1.5, 2.]);
    assert!(Tensor::linspace(&floats(&[1., 2.])?, 1., 3, Device::Cpu).is_err());
    assert!(Tensor::arange(0, 3, DType::Bool).is_err());
    Ok(())
}

#[test]
fn arguments_by_their_defaults_and_without() -> Result<()> {
    let x = floats(&[1., 2., 4.])?;
    assert!((x.var((), ())?.item::<f64>()? - 7. / 3.).abs() < 1e-6);
    assert!(x.var((), true)?.equal(&x.var((), 1)?)? && x.std((), false)?.equal(&x.std((), 0.0)?)?);
    let y = floats(&[3., 1., 1., 2.])?.requires_grad_(true)?;
    let median = y.median_all()?;
    median.backward()?;
    assert_eq!((median.item::<f32>()?, y.grad().unwrap().to_vec::<f32>()?), (1., vec![0., 0.5, 0.5, 0.]));
    assert!(Tensor::zeros([0], Device::Cpu)?.median_all()?.item::<f32>()?.is_nan());
    let m = matrix()?;
    assert_eq!(m.median_keepdim(1)?.0.dims(), [2, 1]);
    assert_eq!(m.kthvalue_keepdim(3, -1)?.1.to_vec::<i64>()?, [2, 2]);
    assert_eq!(Tensor::zeros([0, 3], Device::Cpu)?.median(1)?.0.dims(), [0]);
    assert_eq!(m.repeat_interleave(&integers(&[1, 2])?, 0)?.dims(), [3, 3]);
    assert_eq!(m.repeat_interleave(&integers(&[0])?, 1)?.dims(), [2, 0]);
    assert_eq!(m.repeat_interleave(2, ())?.dims(), [12]);
    assert!(m.repeat_interleave(&integers(&[1, -1])?, 0).is_err() && m.repeat_interleave(-1, 0).is_err());
    let cube = m.reshape([2, 3, 1])?;
    assert_eq!(cube.movedim([0, -1], [2, 0])?.dims(), [1, 3, 2]);
    assert!(cube.movedim([0, 0], [1, 2]).is_err() && cube.movedim([0, 1], 0).is_err());
    let sum = Tensor::zeros([3], Device::Cpu)?.index_put(integers(&[0, 2, 0])?, &x, true)?;
    assert_eq!(sum.to_vec::<f32>()?, [5., 0., 2.]);
    assert_eq!(sum.index_put(1..2, 7, false)?.to_vec::<f32>()?, [5., 7., 2.]);
    let unsorted = floats(&[5., 1., 3.])?;
    let places = unsorted.searchsorted_with(&unsorted.argsort(0, false)?, &floats(&[3., 4.])?, true)?;
    assert_eq!(places.to_vec::<i64>()?, [2, 2]);
    let grids = Tensor::meshgrid_xy(&[&integers(&[1, 2])?, &integers(&[3, 4, 5])?])?;
    assert_eq!(grids[0].to_vec::<i64>()?, [1, 2, 1, 2, 1, 2]);
    let added = x.index_add_alpha(0, &integers(&[2, 2])?, &floats(&[1., 2.])?, -2)?;
    assert_eq!(added.to_vec::<f32>()?, [1., 2., -2.]);
    assert!(integers(&[1])?.index_add_alpha(0, &integers(&[0])?, &integers(&[1])?, 0.5).is_err());
    let images = Tensor::ones([1, 1, 4, 6], Device::Cpu)?;
    assert_eq!(images.adaptive_avg_pool2d([None, Some(3)])?.dims(), [1, 1, 4, 3]);
    assert_eq!(images.adaptive_max_pool2d(2)?.dims(), [1, 1, 2, 2]);
    Ok(())
}

#[test]
fn what_is_close() -> Result<()> {
    let x = floats(&[1., f32::NAN])?;
    assert_eq!(x.isclose(&x, 0., 0.)?.to_vec::<bool>()?, [true, false]);
    assert!(x.allclose_equal_nan(&x, 0., 0.)? && !x.allclose(&x, 0., 0.)?);
    assert_eq!(text(x.isclose(&x, -1., 0.)), "isclose: tolerances must be at least 0, got rtol -1 and atol 0");
    assert!(x.allclose(&x, 0., f64::NAN).is_err());
    Ok(())
}

#[test]
fn normalization_of_nothing() -> Result<()> {
    let (mean, var) = (Tensor::zeros([2], Device::Cpu)?, Tensor::ones([2], Device::Cpu)?);
    let running = Running { mean: &mean, var: &var };
    for dims in [&[0usize, 2][..], &[0, 2, 3], &[0, 2, 3, 4]] {
        let x = Tensor::zeros(dims, Device::Cpu)?;
        assert_eq!(x.batch_norm(None, None, Some(running), false, 0.1, 1e-5)?.dims(), dims);
    }
    assert!(Tensor::zeros([1, 0, 2], Device::Cpu)?.group_norm(1, None, None, 1e-5).is_err());
    assert!(Tensor::zeros([1, 2], Device::Cpu)?.group_norm(2, None, None, 1e-5).is_err());
    assert_eq!(Tensor::zeros([0, 2, 2], Device::Cpu)?.group_norm(2, None, None, 1e-5)?.dims(), [0, 2, 2]);
    Ok(())
}

/// In f16 the count of these elements is infinite.
#[test]
fn gradients_over_more_elements_than_half_precision_counts() -> Result<()> {
    const N: usize = 70_000;
    let x = Tensor::ones([N], DType::F16)?.requires_grad_(true)?;
    let share = f16::from_f64(1.0 / N as f64);
    for y in [x.mean(())?, x.max(())?, x.amin(())?, x.norm(f64::INFINITY, ())?] {
        x.zero_grad();
        y.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f16>()?, vec![share; N]);
    }
    let z = Tensor::arange(0, N as i64, DType::F32)?.remainder(2)?.to_dtype(DType::F16)?.requires_grad_(true)?;
    z.std((), ())?.backward()?;
    let slope = z.grad().unwrap().abs()?.amin(())?.item::<f64>()?;
    assert!((slope * N as f64 - 1.0).abs() < 0.05, "{slope}");
    Ok(())
}

#[test]
fn circular_padding_goes_on_with_what_is_left() -> Result<()> {
    let x = floats(&[1., 2., 3., 4.])?;
    assert_eq!(x.pad(&[-1, 1], PadMode::Circular)?.to_vec::<f32>()?, [2., 3., 4., 2.]);
    assert_eq!(x.pad(&[1, -1], PadMode::Circular)?.to_vec::<f32>()?, [3., 1., 2., 3.]);
    assert_eq!(x.pad(&[-2, 1], PadMode::Circular)?.to_vec::<f32>()?, [3., 4., 3.]);
    assert!(x.pad(&[-4, 1], PadMode::Circular).is_err());
    Ok(())
}

#[test]
fn errors_name_the_method_and_the_shape_given() -> Result<()> {
    let x = matrix()?;
    let far = integers(&[7])?.reshape([1, 1])?;
    assert!(
        text(x.take_along_dim(&far, 1)).starts_with("take_along_dim: index 7"),
        "{}",
        text(x.take_along_dim(&far, 1))
    );
    assert!(text(x.embedding(&far, None, false)).starts_with("embedding: index 7"));
    assert!(text(x.detach().scatter_(1, &far, 1)).starts_with("scatter_: index 7"));
    assert!(text(x.t()?.view_as(&floats(&[0.; 6])?)).starts_with("view_as: "));
    assert!(text(x.sum_keepdim(5)).starts_with("sum_keepdim: "));
    assert!(text(x.index_put((0, 9), 1, false)).starts_with("index_put: index 9"));
    let row = Tensor::zeros([1, 4], Device::Cpu)?;
    let refused = text(row.batch_norm(None, None, None, true, 0.1, 1e-5));
    assert!(refused.starts_with("batch_norm: ") && refused.ends_with("got a tensor of shape [1, 4]"), "{refused}");
    Ok(())
}
