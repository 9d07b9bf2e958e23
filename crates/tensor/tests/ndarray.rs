//! Arrays of the `ndarray` crate and tensors share memory, as the PyTorch tutorial shows for NumPy.

use kiln_tensor::{DType, Device, Result, Tensor, no_grad};
use ndarray::{Array2, Array3, ArrayD, Axis, IxDyn, ShapeBuilder, array, s};

#[test]
fn an_owned_array_is_taken_over_without_a_copy() -> Result<()> {
    let array = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let address = array.as_ptr();
    let x = Tensor::from_ndarray(array, Device::Cpu)?;
    assert_eq!((x.dims(), x.dtype()), (&[2, 3][..], DType::F32));
    assert_eq!(x.as_ndarray::<f32>()?.view().as_ptr(), address);
    Ok(())
}

#[test]
fn a_change_of_one_shows_in_the_other() -> Result<()> {
    let x = Tensor::from_ndarray(array![[1.0f64, 2.0], [3.0, 4.0]], Device::Cpu)?;
    x.as_ndarray_mut::<f64>()?.view_mut()[[1, 0]] = 30.0;
    assert_eq!(x.to_vec::<f64>()?, [1.0, 2.0, 30.0, 4.0]);
    x.mul_(2)?;
    assert_eq!(x.as_ndarray::<f64>()?.view(), array![[2.0, 4.0], [60.0, 8.0]].into_dyn());
    // A view of the tensor, from its own offset on.
    let row = x.narrow(0, 1, 1)?;
    row.as_ndarray_mut::<f64>()?.view_mut().fill(7.0);
    assert_eq!(x.to_vec::<f64>()?, [2.0, 4.0, 7.0, 7.0]);
    assert_eq!(row.as_ndarray::<f64>()?.view().shape(), [1, 2]);
    Ok(())
}

#[test]
fn arrays_in_any_order_keep_their_elements() -> Result<()> {
    let plain = Array3::from_shape_fn((2, 3, 4), |(i, j, k)| (100 * i + 10 * j + k) as i64);
    let column_major = Array2::from_shape_vec((2, 3).f(), vec![1i64, 4, 2, 5, 3, 6]).unwrap();
    let sliced = plain.clone().slice_move(s![.., 1.., ..;2]);
    let mut reversed = plain.clone();
    reversed.invert_axis(Axis(2));
    let permuted = plain.clone().permuted_axes([2, 0, 1]);
    let arrays: [ArrayD<i64>; 6] = [
        column_major.into_dyn(),
        sliced.into_dyn(),
        reversed.into_dyn(),
        permuted.into_dyn(),
        ArrayD::zeros(IxDyn(&[2, 0, 3])),
        ArrayD::from_elem(IxDyn(&[]), 5),
    ];
    for array in arrays {
        let x = Tensor::from_ndarray(array.clone(), Device::Cpu)?;
        assert_eq!(x.dims(), array.shape());
        assert_eq!(x.to_vec::<i64>()?, array.iter().copied().collect::<Vec<_>>());
        assert_eq!(x.to_ndarray::<i64>()?, array);
    }
    // Another order of the dimensions is no reason to copy.
    let array = plain.permuted_axes([2, 0, 1]);
    let address = array.as_ptr();
    let x = Tensor::from_ndarray(array, Device::Cpu)?;
    assert!(!x.is_contiguous());
    assert_eq!(x.permute([1, 2, 0])?.as_ndarray::<i64>()?.view().as_ptr(), address);
    Ok(())
}

#[test]
fn every_dtype() -> Result<()> {
    let flags = Tensor::from_ndarray(array![true, false], Device::Cpu)?;
    flags.as_ndarray_mut::<bool>()?.view_mut()[1] = true;
    assert_eq!(flags.to_vec::<bool>()?, [true, true]);
    let bytes = Tensor::from_ndarray(array![1u8, 255], Device::Cpu)?;
    assert_eq!(bytes.as_ndarray::<u8>()?.view(), array![1u8, 255].into_dyn());
    let half = Tensor::ones(3, DType::F16)?;
    assert_eq!(half.as_ndarray::<half::f16>()?.view()[2], half::f16::ONE);
    Ok(())
}

#[test]
fn what_cannot_be_shared_is_an_error() -> Result<()> {
    let x = Tensor::zeros([2, 3], Device::Cpu)?;
    let message = x.as_ndarray::<f64>().unwrap_err().to_string();
    assert!(message.contains("f32") && message.contains("f64"), "{message}");
    let message = x.t()?.as_ndarray::<f32>().unwrap_err().to_string();
    assert!(message.contains("contiguous"), "{message}");
    assert!(x.t()?.as_ndarray_mut::<f32>().is_err());
    let deep = ArrayD::<f32>::zeros(IxDyn(&[1; 9]));
    assert!(Tensor::from_ndarray(deep, Device::Cpu).is_err());
    Ok(())
}

#[test]
fn a_change_through_an_array_follows_the_rules_of_autograd() -> Result<()> {
    let leaf = Tensor::ones(2, Device::Cpu)?.requires_grad_(true)?;
    let message = leaf.as_ndarray_mut::<f32>().unwrap_err().to_string();
    assert!(message.contains("leaf"), "{message}");
    let made = leaf.mul(2)?;
    let message = made.as_ndarray_mut::<f32>().unwrap_err().to_string();
    assert!(message.contains("recorded"), "{message}");
    assert_eq!(leaf.as_ndarray::<f32>()?.view()[0], 1.0, "looking is allowed");

    let y = leaf.sin()?;
    let version = leaf.version();
    no_grad(|| leaf.as_ndarray_mut::<f32>().map(|mut guard| guard.view_mut().fill(3.0)))?;
    assert_eq!(leaf.version(), version + 1);
    let message = y.sum(())?.backward().unwrap_err().to_string();
    assert!(message.contains("in-place"), "{message}");
    Ok(())
}
