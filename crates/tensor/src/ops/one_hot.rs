//! `one_hot`: class numbers as vectors with a single 1.

use kiln_backend::{DType, Error, ErrorKind, Result};
use kiln_derive::located;
use smallvec::SmallVec;

use super::check;
use crate::tensor::Tensor;

#[located]
impl Tensor {
    /// For each class label (`i64`), a vector of `num_classes` zeros with a 1 at the class: the shape gets one more
    /// dimension at the end; the result is `i64`. `-1` means the largest label present plus 1, for which it waits for
    /// the device.
    ///
    /// # Errors
    /// If the tensor is not `i64`, a label is not in `0..num_classes`, or `num_classes` is -1 and there are no labels.
    pub fn one_hot(&self, num_classes: i64) -> Result<Tensor> {
        const OP: &str = "one_hot";
        check::indices(OP, self)?;
        let classes = match num_classes {
            -1 if self.numel() == 0 => {
                return Err(Error::shape(OP, "labels to count the classes of, or their number", self.shape()));
            }
            -1 => self.amax(())?.item::<i64>()?.saturating_add(1).max(0) as usize,
            // With 0 classes no label is valid.
            0 if self.numel() > 0 => return Err(Error::argument(OP, "the number of classes must be positive")),
            n => usize::try_from(n)
                .map_err(|_| Error::argument(OP, format!("{n} is not a number of classes; -1 counts them")))?,
        };
        let mut dims: SmallVec<[usize; 8]> = self.dims().into();
        dims.push(classes);
        let out = Tensor::zeros(&dims[..], self.options().dtype(DType::I64))?;
        out.scatter_(-1, &self.unsqueeze(-1)?, 1).map_err(|error| match error.kind() {
            ErrorKind::IndexOutOfRange { index, .. } => {
                Error::index(OP, *index, classes, format!("the {classes} classes"))
            }
            _ => error,
        })?;
        Ok(out.noted(OP, &[self], || [("classes", classes.into())]))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn classes_are_counted_or_given() -> Result<()> {
        let x = Tensor::new(&[0i64, 2], Device::Cpu)?;
        assert_eq!(x.one_hot(-1)?.to_vec::<i64>()?, [1, 0, 0, 0, 0, 1]);
        assert_eq!(x.one_hot(5)?.dims(), [2, 5]);
        assert_eq!(Tensor::new(1i64, Device::Cpu)?.one_hot(2)?.to_vec::<i64>()?, [0, 1]);
        let error = x.one_hot(2).unwrap_err().to_string();
        assert!(error.starts_with("one_hot: index 2"), "{error}");
        assert!(Tensor::new(&[-1i64], Device::Cpu)?.one_hot(-1).is_err());
        assert!(Tensor::new(&[] as &[i64], Device::Cpu)?.one_hot(-1).is_err());
        assert_eq!(Tensor::new(&[] as &[i64], Device::Cpu)?.one_hot(3)?.dims(), [0, 3]);
        Ok(())
    }
}
