//! Stands in for `Tensor::stack` and `Tensor::index_select` until they are written.

use kiln_tensor::{DType, Device, Element, Error, Result, Tensor};

pub(crate) fn stack(tensors: &[Tensor]) -> Result<Tensor> {
    let first = tensors.first().ok_or_else(|| Error::argument("stack", "there are no tensors to join"))?;
    for tensor in tensors {
        if tensor.shape() != first.shape() {
            return Err(Error::shapes("stack", first.shape(), tensor.shape(), "all must be equal"));
        }
        if tensor.dtype() != first.dtype() {
            return Err(Error::dtypes("stack", first.dtype(), tensor.dtype()));
        }
    }
    fn typed<T: Element>(tensors: &[Tensor]) -> Result<Tensor> {
        let mut all = Vec::new();
        for tensor in tensors {
            all.extend(tensor.to_vec::<T>()?);
        }
        let dims: Vec<usize> = std::iter::once(tensors.len()).chain(tensors[0].dims().iter().copied()).collect();
        Tensor::from_vec(all, dims, Device::Cpu)
    }
    match first.dtype() {
        DType::F32 => typed::<f32>(tensors),
        DType::F64 => typed::<f64>(tensors),
        DType::F16 => typed::<half::f16>(tensors),
        DType::BF16 => typed::<half::bf16>(tensors),
        DType::I64 => typed::<i64>(tensors),
        DType::I32 => typed::<i32>(tensors),
        DType::U8 => typed::<u8>(tensors),
        DType::Bool => typed::<bool>(tensors),
    }
}

pub(crate) fn rows(tensor: &Tensor, indices: &[usize]) -> Result<Tensor> {
    let rows = indices.iter().map(|&index| tensor.select(0, index as i64)).collect::<Result<Vec<_>>>()?;
    stack(&rows)
}
