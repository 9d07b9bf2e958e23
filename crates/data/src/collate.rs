//! `Collate`: makes a batch from samples, like PyTorch's `default_collate`.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use kiln_tensor::{Device, Error, Result, Tensor};

use crate::image::Image;

/// Samples that can be collated into a batch, by the rules of PyTorch's `default_collate`:
///
/// | samples | batch |
/// |---|---|
/// | `Tensor` of shape `s` | `Tensor` of shape `[n, ..s]` |
/// | a number or `bool` | `Tensor` of shape `[n]` and the number's dtype (`usize`, `u32`, `u16`, `i16`: `i64`) |
/// | [`Image`] of `h` × `w` with `c` channels | `Tensor` of bytes of shape `[n, c, h, w]` |
/// | [`ChannelsLast`] of an `Image` or a `Tensor` `[c, h, w]` | the same in channels-last memory |
/// | `String`, `&'static str` | `Vec` of them |
/// | a tuple, array, `Vec` or map of the above | one of batches: `(A, B)` gives `(A::Batch, B::Batch)` |
///
/// A user's own sample type implements it field by field:
///
/// ```
/// use kiln_data::Collate;
/// use kiln_tensor::{Result, Tensor};
///
/// struct Photo { pixels: Tensor, name: String }
/// struct Photos { pixels: Tensor, names: Vec<String> }
///
/// impl Collate for Photo {
///     type Batch = Photos;
///     fn collate(photos: Vec<Photo>) -> Result<Photos> {
///         let (pixels, names) = photos.into_iter().map(|p| (p.pixels, p.name)).collect::<(Vec<_>, Vec<_>)>();
///         Ok(Photos { pixels: Collate::collate(pixels)?, names })
///     }
/// }
/// ```
pub trait Collate: Sized {
    /// The type of a batch.
    type Batch;

    /// Collates samples, in their order.
    ///
    /// # Errors
    /// If they do not fit together, e.g. their tensors have different shapes.
    fn collate(samples: Vec<Self>) -> Result<Self::Batch>;
}

impl Collate for Tensor {
    type Batch = Tensor;
    fn collate(samples: Vec<Tensor>) -> Result<Tensor> {
        Tensor::stack(&samples, 0)
    }
}

impl Collate for Image {
    type Batch = Tensor;
    fn collate(samples: Vec<Image>) -> Result<Tensor> {
        let [channels, height, width] = common_size(&samples)?;
        let mut bytes: Vec<u8> = Vec::with_capacity(samples.len() * channels * height * width);
        for image in &samples {
            (0..channels).for_each(|c| bytes.extend(image.pixels().iter().skip(c).step_by(channels)));
        }
        Tensor::from_vec(bytes, [samples.len(), channels, height, width], Device::Cpu)
    }
}

/// The channels, height and width that all images have.
fn common_size(samples: &[Image]) -> Result<[usize; 3]> {
    let of = |image: &Image| [image.channels(), image.height(), image.width()];
    let size = samples.first().map_or([0; 3], of);
    match samples.iter().find(|image| of(image) != size) {
        Some(other) => {
            Err(Error::argument("collate", format!("images have different sizes, {:?} and {other:?}", samples[0])))
        }
        None => Ok(size),
    }
}

/// A sample whose batches are in channels-last memory, as [channels-last models](kiln_tensor::Tensor::channels_last) take them:
/// the pixels of an [`Image`] are in that order already, and are only copied.
///
/// ```
/// use kiln_data::{ChannelsLast, Collate, transforms::Image};
/// # fn main() -> kiln_tensor::Result<()> {
/// let photo = || Image::new(1, 2, 3, vec![10, 20, 30, 11, 21, 31]);
/// let batch = Collate::collate(vec![ChannelsLast(photo()?), ChannelsLast(photo()?)])?;
/// assert_eq!((batch.dims(), batch.is_channels_last()), (&[2, 3, 1, 2][..], true));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ChannelsLast<T>(pub T);

impl Collate for ChannelsLast<Image> {
    type Batch = Tensor;
    fn collate(samples: Vec<ChannelsLast<Image>>) -> Result<Tensor> {
        let images: Vec<Image> = samples.into_iter().map(|ChannelsLast(image)| image).collect();
        let [channels, height, width] = common_size(&images)?;
        let bytes = images.iter().flat_map(Image::pixels).copied().collect::<Vec<u8>>();
        Tensor::from_vec(bytes, [images.len(), height, width, channels], Device::Cpu)?.permute([0, 3, 1, 2])
    }
}

impl Collate for ChannelsLast<Tensor> {
    type Batch = Tensor;
    fn collate(samples: Vec<ChannelsLast<Tensor>>) -> Result<Tensor> {
        let last = |ChannelsLast(image): &ChannelsLast<Tensor>| match image.rank() {
            3 => image.permute([1, 2, 0]),
            _ => Err(Error::shape("collate", "channels-last samples are images [C, H, W]", image.shape())),
        };
        Tensor::stack(&samples.iter().map(last).collect::<Result<Vec<_>>>()?, 0)?.permute([0, 3, 1, 2])
    }
}

macro_rules! number {
    ($($ty:ty)*) => {$(
        impl Collate for $ty {
            type Batch = Tensor;
            fn collate(samples: Vec<$ty>) -> Result<Tensor> {
                let n = samples.len();
                Tensor::from_vec(samples, n, Device::Cpu)
            }
        }
    )*};
}
kiln_tensor::for_each_element!(number);

macro_rules! as_i64 {
    ($($ty:ty)*) => {$(
        impl Collate for $ty {
            type Batch = Tensor;
            fn collate(samples: Vec<$ty>) -> Result<Tensor> {
                let convert = |n| i64::try_from(n).map_err(|_| Error::argument("collate", format!("{n} exceeds i64")));
                samples.into_iter().map(convert).collect::<Result<Vec<i64>>>().and_then(Collate::collate)
            }
        }
    )*};
}
as_i64!(usize u32 u16 i16);

macro_rules! text {
    ($($ty:ty)*) => {$(
        impl Collate for $ty {
            type Batch = Vec<$ty>;
            fn collate(samples: Vec<$ty>) -> Result<Vec<$ty>> {
                Ok(samples)
            }
        }
    )*};
}
text!(String &'static str);

macro_rules! tuple {
    ($($ty:ident $column:ident)+) => {
        impl<$($ty: Collate),+> Collate for ($($ty,)+) {
            type Batch = ($($ty::Batch,)+);
            fn collate(samples: Vec<Self>) -> Result<Self::Batch> {
                $(let mut $column = Vec::with_capacity(samples.len());)+
                for sample in samples {
                    #[allow(non_snake_case)]
                    let ($($ty,)+) = sample;
                    $($column.push($ty);)+
                }
                Ok(($(Collate::collate($column)?,)+))
            }
        }
    };
}
tuple!(A a);
tuple!(A a B b);
tuple!(A a B b C c);
tuple!(A a B b C c D d);
tuple!(A a B b C c D d E e);
tuple!(A a B b C c D d E e F f);

/// Sequences are collated element by element and must have the same length.
impl<T: Collate> Collate for Vec<T> {
    type Batch = Vec<T::Batch>;
    fn collate(samples: Vec<Vec<T>>) -> Result<Vec<T::Batch>> {
        let (n, len) = (samples.len(), samples.first().map_or(0, Vec::len));
        let mut columns: Vec<Vec<T>> = (0..len).map(|_| Vec::with_capacity(n)).collect();
        for sample in samples {
            if sample.len() != len {
                let message =
                    format!("sequences have {len} and {} elements; pad them, or use a collate function", sample.len());
                return Err(Error::argument("collate", message));
            }
            columns.iter_mut().zip(sample).for_each(|(column, value)| column.push(value));
        }
        columns.into_iter().map(T::collate).collect()
    }
}

impl<T: Collate, const N: usize> Collate for [T; N] {
    type Batch = Vec<T::Batch>;
    fn collate(samples: Vec<[T; N]>) -> Result<Vec<T::Batch>> {
        Collate::collate(samples.into_iter().map(Vec::from).collect::<Vec<_>>())
    }
}

macro_rules! map {
    ($($map:ident: $($bound:ident)+;)*) => {$(
        /// Maps are collated key by key and must have the same keys.
        impl<K: $($bound +)+, V: Collate> Collate for $map<K, V> {
            type Batch = $map<K, V::Batch>;
            fn collate(samples: Vec<Self>) -> Result<Self::Batch> {
                let mut samples = samples.into_iter();
                let first = samples.next().into_iter().flatten();
                let mut columns: $map<K, Vec<V>> = first.map(|(key, value)| (key, vec![value])).collect();
                for sample in samples {
                    let keys = columns.len();
                    let same = sample.len() == keys && sample.keys().all(|key| columns.contains_key(key));
                    if !same {
                        return Err(Error::argument("collate", format!("maps have different keys ({keys} and {})", sample.len())));
                    }
                    for (key, value) in sample {
                        columns.entry(key).or_default().push(value);
                    }
                }
                columns.into_iter().map(|(key, column)| Ok((key, V::collate(column)?))).collect()
            }
        }
    )*};
}
map! {
    BTreeMap: Ord;
    HashMap: Eq Hash;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_text() -> Result<()> {
        assert_eq!(Collate::collate(vec![1.5f32, 2.0])?.to_vec::<f32>()?, [1.5, 2.0]);
        assert_eq!(Collate::collate(vec![3usize, 4])?.to_vec::<i64>()?, [3, 4]);
        assert_eq!(Collate::collate(vec![true, false])?.to_vec::<bool>()?, [true, false]);
        assert_eq!(Collate::collate(vec!["a".to_string(), "b".to_string()])?, ["a", "b"]);
        assert!(Collate::collate(vec![usize::MAX]).is_err());
        Ok(())
    }

    #[test]
    fn channels_last_batches_have_the_same_pixels() -> Result<()> {
        for channels in [1, 3] {
            let image = |start: u8| Image::new(2, 4, channels, (start..).take(8 * channels).collect());
            let images = [0, 50, 100].into_iter().map(image).collect::<Result<Vec<_>>>()?;
            let want = Collate::collate(images.clone())?;
            let batch = Collate::collate(images.into_iter().map(ChannelsLast).collect::<Vec<_>>())?;
            assert_eq!((batch.dims(), batch.to_vec::<u8>()?), (want.dims(), want.to_vec::<u8>()?));
            assert_eq!(batch.is_channels_last(), channels == 3);
            let tensors = (0..3).map(|i| want.select(0, i).map(ChannelsLast)).collect::<Result<Vec<_>>>()?;
            let batch = Collate::collate(tensors)?;
            assert_eq!((batch.is_channels_last(), batch.to_vec::<u8>()?), (channels == 3, want.to_vec::<u8>()?));
        }
        let odd = [Image::new(1, 1, 3, vec![0; 3])?, Image::new(1, 2, 3, vec![0; 6])?].map(ChannelsLast);
        assert!(Collate::collate(Vec::from(odd)).is_err());
        assert_eq!(Collate::collate(Vec::<ChannelsLast<Image>>::new())?.dims(), [0; 4]);
        let flat = Collate::collate(vec![ChannelsLast(Tensor::zeros([4], Device::Cpu)?)]);
        assert!(flat.unwrap_err().to_string().contains("[C, H, W]"));
        Ok(())
    }

    #[test]
    fn tensors_stack() -> Result<()> {
        let rows = [[1f32, 2.], [3., 4.], [5., 6.]].map(|row| Tensor::new(row, Device::Cpu));
        let batch = Collate::collate(rows.into_iter().collect::<Result<Vec<_>>>()?)?;
        assert_eq!((batch.dims(), batch.to_vec::<f32>()?), (&[3, 2][..], vec![1., 2., 3., 4., 5., 6.]));
        let odd = vec![Tensor::new([1f32, 2.], Device::Cpu)?, Tensor::new([1f32], Device::Cpu)?];
        assert!(Collate::collate(odd).is_err());
        Ok(())
    }

    #[test]
    fn nested() -> Result<()> {
        let (numbers, (texts, flags)) =
            Collate::collate(vec![(1i64, ("a", [true, false])), (2, ("b", [false, true]))])?;
        assert_eq!(numbers.to_vec::<i64>()?, [1, 2]);
        assert_eq!(texts, ["a", "b"]);
        assert_eq!(flags[1].to_vec::<bool>()?, [false, true]);

        let columns = Collate::collate(vec![vec![1f64, 2.], vec![3., 4.], vec![5., 6.]])?;
        assert_eq!((columns.len(), columns[1].to_vec::<f64>()?), (2, vec![2., 4., 6.]));
        assert!(Collate::collate(vec![vec![1f64], vec![]]).is_err());

        let map = |x: i32, y: i32| HashMap::from([("x", x), ("y", y)]);
        assert_eq!(Collate::collate(vec![map(1, 2), map(3, 4)])?["y"].to_vec::<i32>()?, [2, 4]);
        assert!(Collate::collate(vec![map(1, 2), HashMap::from([("x", 1), ("z", 2)])]).is_err());
        assert!(Collate::collate(vec![BTreeMap::from([("x", 1)]), BTreeMap::new()]).is_err());
        Ok(())
    }
}
