//! Vector products: `dot`, `mv`, `outer`. (Matrix products are in `matmul`.)

use kiln_backend::{Error, Result};
use kiln_derive::located;

use crate::{autocast::cast_operands, tensor::Tensor};

#[located]
impl Tensor {
    /// The dot product of two vectors, a scalar.
    ///
    /// # Errors
    /// If they are not two vectors of the same length, or dtypes or devices differ.
    pub fn dot(&self, other: &Tensor) -> Result<Tensor> {
        if self.rank() != 1 || self.shape() != other.shape() {
            return Err(Error::shapes("dot", self.shape(), other.shape(), "they must be vectors of one length"));
        }
        cast_operands("dot", [self, other], [], |[a, b], []| a.matmul(b))
    }

    /// The product of this matrix and a vector.
    ///
    /// # Errors
    /// If they are not a matrix and a vector as long as its rows, or dtypes or devices differ.
    pub fn mv(&self, vector: &Tensor) -> Result<Tensor> {
        if self.rank() != 2 || vector.rank() != 1 || self.dims()[1] != vector.dims()[0] {
            let expected = "they must be a matrix and a vector as long as its rows";
            return Err(Error::shapes("mv", self.shape(), vector.shape(), expected));
        }
        self.matmul(vector)
    }

    /// The outer product: the matrix of products of each element of this vector with each of another.
    ///
    /// # Errors
    /// If they are not two vectors, or dtypes or devices differ.
    pub fn outer(&self, other: &Tensor) -> Result<Tensor> {
        if self.rank() != 1 || other.rank() != 1 {
            return Err(Error::shapes("outer", self.shape(), other.shape(), "they must be vectors"));
        }
        self.unsqueeze(1)?.mul(other)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn products_of_vectors() -> Result<()> {
        let v = Tensor::new(&[1f32, 2.], Device::Cpu)?.requires_grad_(true)?;
        let m = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], Device::Cpu)?;
        assert_eq!(v.dot(&v)?.item::<f32>()?, 5.);
        assert_eq!(m.mv(&v)?.to_vec::<f32>()?, [5., 11., 17.]);
        let o = v.outer(&Tensor::new(&[3f32, 4., 5.], Device::Cpu)?)?;
        assert_eq!((o.dims(), o.grad_fn().unwrap().name()), (&[2, 3][..], "MulBackward0"));
        o.sum(())?.add(&v.dot(&v)?)?.backward()?;
        assert_eq!(v.grad().unwrap().to_vec::<f32>()?, [14., 16.]);
        assert!(v.dot(&m).is_err() && m.mv(&m).is_err() && m.outer(&v).is_err());
        Ok(())
    }

    #[test]
    fn floor_division_rounds_down() -> Result<()> {
        let i = Tensor::new(&[7i64, -7], Device::Cpu)?;
        assert_eq!(i.floor_divide(2)?.to_vec::<i64>()?, [3, -4]);
        assert_eq!(i.floor_divide(&Tensor::new(&[-2i64, -2], Device::Cpu)?)?.to_vec::<i64>()?, [-4, 3]);
        assert_eq!(i.floor_divide(2.0)?.to_vec::<f32>()?, [3., -4.]);
        let u = Tensor::new(&[200u8, 3], Device::Cpu)?;
        assert_eq!(u.floor_divide(7)?.to_vec::<u8>()?, [28, 0]);
        Ok(())
    }
}
