//! `TensorTree`: the batches and results of captured steps, which are tensors, and tuples, arrays, vectors and options of
//! them.

use crate::tensor::Tensor;

/// A structure of tensors: the batch or the result of a [`CapturedStep`](super::CapturedStep).
pub trait TensorTree: Sized {
    /// Appends its tensors to `all`.
    fn tensors(&self, all: &mut Vec<Tensor>);

    /// The same structure with its tensors replaced, in the same order. If `tensors` ends early, the rest stay.
    #[must_use]
    fn with_tensors(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self;
}

impl TensorTree for Tensor {
    fn tensors(&self, all: &mut Vec<Tensor>) {
        all.push(self.clone());
    }

    fn with_tensors(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self {
        tensors.next().unwrap_or_else(|| self.clone())
    }
}

impl<T: TensorTree> TensorTree for Vec<T> {
    fn tensors(&self, all: &mut Vec<Tensor>) {
        self.iter().for_each(|one| one.tensors(all));
    }

    fn with_tensors(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self {
        self.iter().map(|one| one.with_tensors(tensors)).collect()
    }
}

impl<T: TensorTree> TensorTree for Option<T> {
    fn tensors(&self, all: &mut Vec<Tensor>) {
        self.iter().for_each(|one| one.tensors(all));
    }

    fn with_tensors(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self {
        self.as_ref().map(|one| one.with_tensors(tensors))
    }
}

impl<T: TensorTree, const N: usize> TensorTree for [T; N] {
    fn tensors(&self, all: &mut Vec<Tensor>) {
        self.iter().for_each(|one| one.tensors(all));
    }

    fn with_tensors(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self {
        std::array::from_fn(|i| self[i].with_tensors(tensors))
    }
}

macro_rules! tuples {
    ($(($($name:ident $at:tt),*))*) => {$(
        impl<$($name: TensorTree),*> TensorTree for ($($name,)*) {
            #[allow(unused_variables, reason = "the empty tuple has no tensors")]
            fn tensors(&self, all: &mut Vec<Tensor>) {
                $(self.$at.tensors(all);)*
            }

            #[allow(unused_variables, clippy::unused_unit, reason = "as above")]
            fn with_tensors(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self {
                ($(self.$at.with_tensors(tensors),)*)
            }
        }
    )*};
}
tuples! {
    ()
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn structures_keep_their_shape() -> crate::Result<()> {
        let t = |value: f32| Tensor::new(value, Device::Cpu);
        let tree = (vec![t(1.)?, t(2.)?], Some([t(3.)?]), None::<Tensor>, (), (t(4.)?,));
        let mut all = Vec::new();
        tree.tensors(&mut all);
        assert_eq!(all.iter().map(|t| t.item::<f32>()).collect::<crate::Result<Vec<_>>>()?, [1., 2., 3., 4.]);
        let (list, some, none, (), (last,)) = tree.with_tensors(&mut all.into_iter().rev());
        let values = [&list[0], &list[1], &some.unwrap()[0], &last].map(|t| t.item::<f32>().unwrap());
        assert_eq!((values, none.is_none()), ([4., 3., 2., 1.], true));
        Ok(())
    }
}
