//! Type promotion: the common dtype of operands of several dtypes, PyTorch's `result_type`
//! (<https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc>).

use kiln_backend::{DType, Error, Result, Scalar};

use super::rhs::Rhs;
use crate::tensor::Tensor;

/// The dtype of a result of these operands. Tensors with dimensions decide; tensors without dimensions, and then
/// numbers, count only if they are of a higher kind: integers over `bool`, floats over integers.
pub(crate) fn result_type(operands: &[&Rhs]) -> DType {
    let (mut dimensional, mut scalar, mut number) = (None, None, None);
    for operand in operands {
        let (slot, dtype) = match operand {
            Rhs::Tensor(tensor) if tensor.rank() > 0 => (&mut dimensional, tensor.dtype()),
            Rhs::Tensor(tensor) => (&mut scalar, tensor.dtype()),
            Rhs::Scalar(Scalar::Float(_)) => (&mut number, DType::F32),
            Rhs::Scalar(Scalar::Int(_)) => (&mut number, DType::I64),
            Rhs::Scalar(Scalar::Bool(_)) => (&mut number, DType::Bool),
        };
        *slot = Some(slot.map_or(dtype, |known: DType| known.promote(dtype)));
    }
    combined(dimensional, combined(scalar, number)).unwrap_or(DType::F32)
}

/// The dtype with priority, unless the other one is of a higher kind.
fn combined(higher: Option<DType>, lower: Option<DType>) -> Option<DType> {
    let (Some(high), Some(low)) = (higher, lower) else { return higher.or(lower) };
    let is_higher_kind = low.is_float() && !high.is_float() || high == DType::Bool;
    Some(if is_higher_kind { high.promote(low) } else { high })
}

/// For half precision that meets a tensor of another dtype without dimensions: the dtype of the result. It is computed
/// in `f32`, as with a number, so that the scalar is not rounded first.
pub(super) fn narrowed(a: &Rhs, b: &Rhs) -> Option<DType> {
    let (Rhs::Tensor(x), Rhs::Tensor(y)) = (a, b) else { return None };
    if x.dtype() == y.dtype() || x.rank().min(y.rank()) > 0 {
        return None;
    }
    let dtype = result_type(&[a, b]);
    (dtype.size() == 2).then_some(dtype)
}

impl Rhs {
    /// Converts a tensor to this dtype; numbers stay as they are.
    pub(super) fn to_dtype(&self, dtype: DType) -> Result<Rhs> {
        match self {
            Rhs::Tensor(tensor) if tensor.dtype() != dtype => tensor.to_dtype(dtype).map(Rhs::Tensor),
            other => Ok(other.clone()),
        }
    }
}

impl Tensor {
    /// Converts the result of an in-place operation to this tensor's dtype: floats are not cast to integers, nor floats
    /// or integers to truth values (PyTorch's `can_cast`).
    pub(super) fn cast_in_place(&self, op: &'static str, result: &Tensor) -> Result<Tensor> {
        let (from, to) = (result.dtype(), self.dtype());
        if from.is_float() && !to.is_float() || from != DType::Bool && to == DType::Bool {
            let expected = format!("the result is {from}, which does not go into it");
            return Err(Error::dtype(op, to, expected));
        }
        result.to_dtype(to)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::device::Device;

    const OPERANDS: [&str; 3] = ["float", "int", "bool"];

    fn dtype(name: &str) -> DType {
        DType::ALL.into_iter().find(|dtype| dtype.torch_name() == name).unwrap()
    }

    /// `float32[2]`, `float32[]`, or a Python number.
    fn operand(name: &str) -> Result<Rhs> {
        match name.split_once('[') {
            Some((name, "]")) => Tensor::ones((), (dtype(name), Device::Cpu)).map(Rhs::Tensor),
            Some((name, _)) => Tensor::ones(2, (dtype(name), Device::Cpu)).map(Rhs::Tensor),
            None => Ok(match name {
                "float" => 1.0.into(),
                "int" => 1.into(),
                _ => true.into(),
            }),
        }
    }

    fn golden() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../../tests/golden/promotion.json")).unwrap()
    }

    /// Tests every pair of operands in `add`, `eq`, `where_cond` and, for tensors, `cat`.
    #[test]
    fn every_pair_of_operands_gives_pytorchs_dtype() -> Result<()> {
        let golden = golden();
        let pairs = golden["result_type"].as_object().unwrap();
        for (a_name, row) in pairs {
            for (b_name, want) in row.as_object().unwrap() {
                let (a, b, want) = (operand(a_name)?, operand(b_name)?, dtype(want.as_str().unwrap()));
                let what = format!("{a_name} with {b_name}");
                assert_eq!(result_type(&[&a, &b]), want, "{what}");
                let mask = Tensor::ones(2, (DType::Bool, Device::Cpu))?;
                assert_eq!(mask.where_cond(a.clone(), b.clone())?.dtype(), want, "where_cond: {what}");
                if let Rhs::Tensor(x) = &a {
                    assert_eq!(x.add(b.clone())?.dtype(), want, "add: {what}");
                    assert_eq!(x.mul(b.clone())?.dtype(), want, "mul: {what}");
                    assert!(x.eq(b.clone())?.all(())?.item::<bool>()?, "eq: {what}");
                }
                if let (Rhs::Tensor(x), Rhs::Tensor(y)) = (&a, &b)
                    && x.rank() + y.rank() == 2
                {
                    assert_eq!(Tensor::cat(&[x, y], 0)?.dtype(), want, "cat: {what}");
                    assert_eq!(Tensor::stack(&[x, y], 0)?.dtype(), want, "stack: {what}");
                }
            }
        }
        assert_eq!(pairs.len(), 2 * DType::ALL.len() + OPERANDS.len());
        for a in DType::ALL {
            for b in DType::ALL {
                let want = &golden["promote_types"][a.torch_name()][b.torch_name()];
                assert_eq!(a.promote(b).torch_name(), want.as_str().unwrap(), "{a} with {b}");
            }
        }
        Ok(())
    }

    /// `torch.tensor([True, False]) ** exponent`.
    #[test]
    fn powers_of_truth_values() -> Result<()> {
        let b = Tensor::new([true, false], Device::Cpu)?;
        assert_eq!(b.pow(true)?.to_vec::<bool>()?, [true, false]);
        assert_eq!(b.pow(false)?.to_vec::<bool>()?, [true, true]);
        assert_eq!(b.pow(2)?.to_vec::<i64>()?, [1, 0]);
        assert_eq!(b.pow(0)?.to_vec::<i64>()?, [1, 1]);
        assert_eq!(b.pow(0.5)?.to_vec::<f32>()?, [1.0, 0.0]);
        assert_eq!(b.rpow(2)?.to_vec::<i64>()?, [2, 1]);
        assert_eq!(b.pow(&Tensor::new([2i64, 0], Device::Cpu)?)?.to_vec::<i64>()?, [1, 1]);
        assert_eq!(Tensor::new([2i64, 3], Device::Cpu)?.pow(&b)?.to_vec::<i64>()?, [2, 1]);
        assert_eq!(Tensor::new([2i64, 3], Device::Cpu)?.pow(true)?.to_vec::<i64>()?, [2, 3]);
        for refused in [b.pow(&b), b.rpow(true), b.sub(&b), b.sub(1), Tensor::new([1i64, 2], Device::Cpu)?.sub(&b)] {
            assert!(refused.unwrap_err().to_string().contains("dtype bool is not supported"));
        }
        Ok(())
    }

    /// In place, results are cast back if that is permitted.
    #[test]
    fn in_place_results_are_cast_as_pytorch_casts() -> Result<()> {
        let golden = golden();
        for own in DType::ALL {
            for other in DType::ALL {
                let (x, y) = (Tensor::ones(2, (own, Device::Cpu))?, Tensor::ones(2, (other, Device::Cpu))?);
                let from = own.promote(other).torch_name();
                let castable = golden["can_cast"][from][own.torch_name()].as_bool().unwrap();
                let result = x.mul_(&y);
                assert_eq!(result.is_ok(), castable, "{own} *= {other}: {result:?}");
                assert_eq!(x.eq(1)?.to_vec::<bool>()?, [true, true]);
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_arrive_in_the_operands_dtypes() -> Result<()> {
        let x = Tensor::new([1.5f32, 2.0], Device::Cpu)?.requires_grad_(true)?;
        let y = Tensor::new([3.0f64, 5.0], Device::Cpu)?.requires_grad_(true)?;
        let h = Tensor::new([2.0f32], Device::Cpu)?.to_dtype(DType::BF16)?.detach().requires_grad_(true)?;
        let z = x.mul(&y)?.add(&h)?.sub(&Tensor::new([1i64, 1], Device::Cpu)?)?;
        assert_eq!((z.dtype(), z.to_vec::<f64>()?), (DType::F64, vec![5.5, 11.0]));
        z.sum(())?.backward()?;
        let grads = [&x, &y, &h].map(|t| t.grad().unwrap());
        assert_eq!(grads.each_ref().map(Tensor::dtype), [DType::F32, DType::F64, DType::BF16]);
        assert_eq!((grads[0].to_vec::<f32>()?, grads[1].to_vec::<f64>()?), (vec![3.0, 5.0], vec![1.5, 2.0]));
        assert_eq!(grads[2].item::<f64>()?, 2.0);
        // In place as well.
        x.zero_grad();
        let w = x.copy()?;
        w.mul_(&y.detach())?;
        w.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [3.0, 5.0]);
        Ok(())
    }

    /// A scalar tensor combines with half precision as a number does: not rounded, and not infinite.
    #[test]
    fn scalar_tensors_are_not_rounded_to_half_precision() -> Result<()> {
        let h = Tensor::full(2, 0.001, (DType::F16, Device::Cpu))?;
        let large = Tensor::new(1e5f32, Device::Cpu)?;
        let product = h.mul(&large)?;
        assert_eq!((product.dtype(), product.to_vec::<half::f16>()?), (DType::F16, h.mul(1e5)?.to_vec()?));
        assert_eq!(h.add_alpha(&large, 1e-5)?.to_vec::<half::f16>()?, h.add(1.0)?.to_vec::<half::f16>()?);
        h.mul_(&large.to_dtype(DType::I64)?)?;
        assert_eq!(h.to_vec::<half::f16>()?, product.to_vec::<half::f16>()?);
        Ok(())
    }
}
