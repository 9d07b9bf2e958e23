//! `TensorDataset`: tensors as a dataset.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};

use super::Dataset;
use crate::collate::Collate;

/// One or several tensors: a tensor, a tuple of up to six, or a vector. A batch of them has the same type, with one more
/// dimension.
pub trait TensorTuple: Clone + Send + Sync + Collate<Batch = Self> {
    /// The tensors in their order.
    fn tensors(&self) -> Vec<&Tensor>;

    /// The same structure with `f` applied to each tensor.
    ///
    /// # Errors
    /// If `f` fails.
    fn try_map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self>;
}

impl TensorTuple for Tensor {
    fn tensors(&self) -> Vec<&Tensor> {
        vec![self]
    }
    fn try_map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        f(self)
    }
}

impl TensorTuple for Vec<Tensor> {
    fn tensors(&self) -> Vec<&Tensor> {
        self.iter().collect()
    }
    fn try_map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        self.iter().map(f).collect()
    }
}

macro_rules! tuple {
    ($($name:ident)+) => {
        impl TensorTuple for ($(tuple!(@ $name Tensor),)+) {
            fn tensors(&self) -> Vec<&Tensor> {
                let ($($name,)+) = self;
                vec![$($name),+]
            }
            fn try_map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
                let ($($name,)+) = self;
                Ok(($(f($name)?,)+))
            }
        }
    };
    (@ $name:ident $ty:ty) => { $ty };
}
tuple!(a);
tuple!(a b);
tuple!(a b c);
tuple!(a b c d);
tuple!(a b c d e);
tuple!(a b c d e f);

/// Tensors whose first dimension counts samples: PyTorch's `TensorDataset`. Sample `i` is `(x[i], y[i])`.
///
/// ```
/// use kiln_data::{Dataset, TensorDataset};
/// use kiln_tensor::{Device, Tensor};
///
/// let x = Tensor::new([[1f32, 2.], [3., 4.], [5., 6.]], Device::Cpu)?;
/// let y = Tensor::new([0i64, 1, 0], Device::Cpu)?;
/// let data = TensorDataset::new((x, y))?;
/// let (x1, y1) = data.get(1)?;
/// assert_eq!((x1.to_vec::<f32>()?, y1.item::<i64>()?), (vec![3., 4.], 1));
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
#[derive(Clone)]
pub struct TensorDataset<T> {
    tensors: T,
    len: usize,
}

#[located(site)]
impl<T: TensorTuple> TensorDataset<T> {
    /// A dataset of tensors with the same first extent.
    ///
    /// # Errors
    /// If there is no tensor, a tensor is 0-D, or their first extents differ.
    pub fn new(tensors: T) -> Result<TensorDataset<T>> {
        const OP: &str = "TensorDataset";
        let mut all = tensors.tensors().into_iter();
        let first = all.next().ok_or_else(|| Error::argument(OP, "there are no tensors"))?;
        let scalar = |t: &Tensor| Error::shape(OP, "tensors whose first dimension counts samples", t.shape());
        let len = *first.dims().first().ok_or_else(|| scalar(first))?;
        for tensor in all {
            if *tensor.dims().first().ok_or_else(|| scalar(tensor))? != len {
                return Err(Error::shapes(OP, first.shape(), tensor.shape(), "their first extents must be equal"));
            }
        }
        Ok(TensorDataset { tensors, len })
    }

    /// The tensors.
    pub fn tensors(&self) -> &T {
        &self.tensors
    }
}

impl<T: TensorTuple> Dataset for TensorDataset<T> {
    type Item = T;

    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<T> {
        self.check(index)?;
        self.tensors.try_map(&mut |tensor| tensor.select(0, index as i64))
    }

    fn get_batch(&self, indices: &[usize]) -> Result<T> {
        indices.iter().try_for_each(|&index| self.check(index))?;
        self.tensors.try_map(&mut |tensor| rows(tensor, indices))
    }
}

/// The rows at these indices of dimension 0.
fn rows(tensor: &Tensor, indices: &[usize]) -> Result<Tensor> {
    let indices: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
    let len = indices.len();
    tensor.index_select(0, &Tensor::from_vec(indices, len, tensor.device())?)
}

#[cfg(test)]
mod tests {
    use kiln_tensor::Device;

    use super::*;

    #[test]
    fn batches_equal_collated_samples() -> Result<()> {
        let x = Tensor::from_vec((0..24).map(|v| v as f32).collect(), [4, 2, 3], Device::Cpu)?;
        let y = Tensor::from_vec(vec![1u8, 2, 3, 4], 4, Device::Cpu)?;
        let data = TensorDataset::new((x.transpose(1, 2)?, y))?;
        let (x, y) = data.get_batch(&[2, 0, 2])?;
        assert_eq!((x.dims(), y.to_vec::<u8>()?), (&[3, 3, 2][..], vec![3, 1, 3]));
        let (each_x, _) = Collate::collate([2, 0, 2].into_iter().map(|i| data.get(i)).collect::<Result<Vec<_>>>()?)?;
        assert_eq!(x.to_vec::<f32>()?, each_x.to_vec::<f32>()?);
        assert!(data.get(4).is_err() && data.get_batch(&[0, 4]).is_err());
        Ok(())
    }

    #[test]
    fn extents_are_checked() -> Result<()> {
        let of = |dims: &[usize]| Tensor::from_vec(vec![0f32; dims.iter().product()], dims.to_vec(), Device::Cpu);
        assert!(TensorDataset::new((of(&[3, 2])?, of(&[2, 3])?)).is_err());
        assert!(TensorDataset::new(of(&[])?).is_err());
        assert!(TensorDataset::new(vec![]).is_err());
        assert_eq!(TensorDataset::new(vec![of(&[3, 2])?, of(&[3])?])?.len(), 3);
        assert!(TensorDataset::new(of(&[0, 2])?)?.is_empty());
        Ok(())
    }
}
