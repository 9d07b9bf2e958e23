//! Datasets with transforms, applied when a sample is read.

use kiln_tensor::Result;

use super::{Dataset, short_type_name, subset::Subset};
use crate::transforms::{Transform, transformed};

/// Adaptors of datasets.
pub trait DatasetExt: Dataset + Sized {
    /// Applies a function to each sample when it is read, on the loader's worker threads.
    fn map<T, F>(self, f: F) -> Map<Self, F>
    where
        F: Fn(Self::Item) -> Result<T> + Send + Sync,
    {
        Map { dataset: self, f }
    }

    /// Applies a transform to the input of each `(input, target)` sample: the `transform` argument of torchvision's
    /// datasets. A function is a [`Transform`] as well, but its argument needs a type: `|image: Tensor| …`.
    fn transform<X, Y, T>(self, transform: T) -> WithTransform<Self, T>
    where
        Self: Dataset<Item = (X, Y)>,
        T: Transform<X>,
    {
        WithTransform { dataset: self, f: transform }
    }

    /// Applies a transform to the target of each `(input, target)` sample: torchvision's `target_transform`.
    fn target_transform<X, Y, T>(self, transform: T) -> WithTargetTransform<Self, T>
    where
        Self: Dataset<Item = (X, Y)>,
        T: Transform<Y>,
    {
        WithTargetTransform { dataset: self, f: transform }
    }

    /// The samples at these indices.
    ///
    /// # Errors
    /// If an index is out of range.
    fn subset(self, indices: impl Into<Vec<usize>>) -> Result<Subset<Self>> {
        Subset::new(self, indices)
    }
}

impl<D: Dataset> DatasetExt for D {}

macro_rules! adaptor {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name<D, F> {
            dataset: D,
            f: F,
        }

        impl<D, F> $name<D, F> {
            /// The dataset inside.
            pub fn inner(&self) -> &D {
                &self.dataset
            }
        }
    };
}
adaptor!(
    /// A dataset with a function applied to its samples; made by [`DatasetExt::map`].
    Map
);
adaptor!(
    /// A dataset with a transform of its inputs; made by [`DatasetExt::transform`].
    WithTransform
);
adaptor!(
    /// A dataset with a transform of its targets; made by [`DatasetExt::target_transform`].
    WithTargetTransform
);

impl<D, F, T> Dataset for Map<D, F>
where
    D: Dataset,
    F: Fn(D::Item) -> Result<T> + Send + Sync,
{
    type Item = T;
    fn len(&self) -> usize {
        self.dataset.len()
    }
    fn get(&self, index: usize) -> Result<T> {
        (self.f)(self.dataset.get(index)?).map_err(|error| error.in_transform(short_type_name::<F>))
    }
    fn name(&self) -> String {
        self.dataset.name()
    }
}

impl<D, T, X, Y> Dataset for WithTransform<D, T>
where
    D: Dataset<Item = (X, Y)>,
    T: Transform<X>,
{
    type Item = (T::Output, Y);
    fn len(&self) -> usize {
        self.dataset.len()
    }
    fn get(&self, index: usize) -> Result<(T::Output, Y)> {
        let (x, y) = self.dataset.get(index)?;
        Ok((transformed(&self.f, x)?, y))
    }
    fn name(&self) -> String {
        self.dataset.name()
    }
}

impl<D, T, X, Y> Dataset for WithTargetTransform<D, T>
where
    D: Dataset<Item = (X, Y)>,
    T: Transform<Y>,
{
    type Item = (X, T::Output);
    fn len(&self) -> usize {
        self.dataset.len()
    }
    fn get(&self, index: usize) -> Result<(X, T::Output)> {
        let (x, y) = self.dataset.get(index)?;
        Ok((x, transformed(&self.f, y)?))
    }
    fn name(&self) -> String {
        self.dataset.name()
    }
}

#[cfg(test)]
mod tests {
    use kiln_tensor::Error;

    use super::{super::Samples, *};

    #[test]
    fn transforms() -> Result<()> {
        let pairs: Samples<(f32, i64)> = (0..4).map(|i| (i as f32, i)).collect();
        let data = pairs.transform(|x: f32| Ok(x * 10.0)).target_transform(|y: i64| Ok(format!("class {y}")));
        assert_eq!(data.get(2)?, (20.0, "class 2".to_string()));
        let (x, y) = data.get_batch(&[3, 1])?;
        assert_eq!((x.to_vec::<f32>()?, y), (vec![30., 10.], vec!["class 3".to_string(), "class 1".to_string()]));

        let odd = Samples(vec![1i64, 2]).map(|n| if n == 2 { Err(Error::argument("transform", "two")) } else { Ok(n) });
        assert!(odd.get(0).is_ok() && odd.get(1).is_err() && odd.get_batch(&[0, 1]).is_err());
        Ok(())
    }
}
