//! Views, reshaping and broadcasting against arithmetic on index lists.

use kiln_tensor::{Device, Tensor};
use proptest::prelude::*;

/// A tensor as a plain list: what views must give.
#[derive(Clone, Debug)]
struct Model {
    dims: Vec<usize>,
    values: Vec<i64>,
}

/// All indices of a shape in row-major order.
fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    dims.iter().fold(vec![vec![]], |all, &extent| {
        all.iter().flat_map(|index| (0..extent).map(|i| [&index[..], &[i]].concat()).collect::<Vec<_>>()).collect()
    })
}

impl Model {
    fn arange(dims: &[usize]) -> Model {
        Model { dims: dims.to_vec(), values: (0..dims.iter().product::<usize>() as i64).collect() }
    }

    fn at(&self, index: &[usize]) -> i64 {
        let position = index.iter().zip(&self.dims).fold(0, |position, (&i, &extent)| position * extent + i);
        self.values[position]
    }

    /// The tensor whose element at an index is that of `self` at the index's image.
    fn image(&self, dims: Vec<usize>, image: impl Fn(&[usize]) -> Vec<usize>) -> Model {
        let values = indices(&dims).iter().map(|index| self.at(&image(index))).collect();
        Model { dims, values }
    }
}

/// A view to take, with numbers that are reduced to what the shape allows.
#[derive(Clone, Debug)]
enum Step {
    Transpose(usize, usize),
    Rotate(usize),
    Narrow(usize, usize, usize),
    Slice(usize, usize, usize, usize),
    Select(usize, usize),
    Unsqueeze(usize),
    Squeeze,
    Expand(usize),
    Reshape(usize),
    Flatten(usize, usize),
    Flip(usize),
    Diagonal(usize, i64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0usize..8;
    prop_oneof![
        (n.clone(), n.clone()).prop_map(|(a, b)| Step::Transpose(a, b)),
        n.clone().prop_map(Step::Rotate),
        (n.clone(), n.clone(), n.clone()).prop_map(|(d, a, b)| Step::Narrow(d, a, b)),
        (n.clone(), n.clone(), n.clone(), 1usize..4).prop_map(|(d, a, b, s)| Step::Slice(d, a, b, s)),
        (n.clone(), n.clone()).prop_map(|(d, i)| Step::Select(d, i)),
        n.clone().prop_map(Step::Unsqueeze),
        Just(Step::Squeeze),
        (2usize..4).prop_map(Step::Expand),
        n.clone().prop_map(Step::Reshape),
        (n.clone(), n.clone()).prop_map(|(a, b)| Step::Flatten(a, b)),
        n.clone().prop_map(Step::Flip),
        (n, -3i64..4).prop_map(|(d, offset)| Step::Diagonal(d, offset)),
    ]
}

impl Step {
    /// The step on the tensor and on the model; `None` if the shape does not allow it.
    fn apply(&self, x: &Tensor, model: &Model) -> Option<(Tensor, Model)> {
        let (dims, rank) = (model.dims.clone(), model.dims.len());
        let dim = |d: &usize| (rank > 0).then(|| d % rank);
        let with = |dim: usize, extent: usize| {
            let mut dims = dims.clone();
            dims[dim] = extent;
            dims
        };
        Some(match self {
            Step::Transpose(a, b) => {
                let (a, b) = (dim(a)?, dim(b)?);
                let mut new = dims.clone();
                new.swap(a, b);
                let image = |index: &[usize]| {
                    let mut index = index.to_vec();
                    index.swap(a, b);
                    index
                };
                (x.transpose(a, b as i64 - rank as i64).unwrap(), model.image(new, image))
            }
            Step::Rotate(by) => {
                let by = dim(by)?;
                let order: Vec<usize> = (0..rank).map(|d| (d + by) % rank).collect();
                let new = order.iter().map(|&d| dims[d]).collect();
                let image = |index: &[usize]| {
                    let mut out = vec![0; rank];
                    order.iter().zip(index).for_each(|(&d, &i)| out[d] = i);
                    out
                };
                (x.permute(&order).unwrap(), model.image(new, image))
            }
            Step::Narrow(d, start, len) => {
                let d = dim(d)?;
                let start = start % (dims[d] + 1);
                let len = len % (dims[d] - start + 1);
                (x.narrow(d, start, len).unwrap(), model.image(with(d, len), moved(d, |i| i + start)))
            }
            Step::Slice(d, start, end, step) => {
                let d = dim(d)?;
                let start = start % (dims[d] + 1);
                let end = start + end % (dims[d] - start + 1);
                let len = (end - start).div_ceil(*step);
                // The same bound counted from the end, if there is one.
                let written = if start > 0 && start < dims[d] { start as i64 - dims[d] as i64 } else { start as i64 };
                let sliced = x.slice(d, written, end as i64, *step).unwrap();
                (sliced, model.image(with(d, len), moved(d, |i| start + i * step)))
            }
            Step::Select(d, at) => {
                let d = dim(d)?;
                if dims[d] == 0 {
                    return None;
                }
                let at = at % dims[d];
                let mut new = dims.clone();
                new.remove(d);
                let image = |index: &[usize]| {
                    let mut index = index.to_vec();
                    index.insert(d, at);
                    index
                };
                (x.select(d, at as i64).unwrap(), model.image(new, image))
            }
            Step::Unsqueeze(d) => {
                if rank >= 6 {
                    return None;
                }
                let d = d % (rank + 1);
                let mut new = dims.clone();
                new.insert(d, 1);
                (x.unsqueeze(d).unwrap(), Model { dims: new, values: model.values.clone() })
            }
            Step::Squeeze => {
                let new = dims.iter().copied().filter(|&extent| extent != 1).collect();
                (x.squeeze(()).unwrap(), Model { dims: new, values: model.values.clone() })
            }
            Step::Expand(extent) => {
                let d = dims.iter().position(|&extent| extent == 1)?;
                let new = with(d, *extent);
                (x.expand(&new[..]).unwrap(), model.image(new, moved(d, |_| 0)))
            }
            Step::Reshape(way) => {
                let numel = model.values.len();
                let new = match way % 3 {
                    0 => vec![numel],
                    1 if numel.is_multiple_of(2) => vec![2, numel / 2],
                    _ => dims.iter().rev().copied().collect(),
                };
                (x.reshape(&new[..]).unwrap(), Model { dims: new, values: model.values.clone() })
            }
            Step::Flatten(a, b) => {
                let (a, b) = (dim(a)?.min(dim(b)?), dim(a)?.max(dim(b)?));
                let new = [&dims[..a], &[dims[a..=b].iter().product()], &dims[b + 1..]].concat();
                (x.flatten(a, b).unwrap(), Model { dims: new, values: model.values.clone() })
            }
            Step::Flip(d) => {
                let d = dim(d)?;
                let last = dims[d].wrapping_sub(1);
                (x.flip(d).unwrap(), model.image(dims.clone(), moved(d, |i| last - i)))
            }
            Step::Diagonal(d, offset) => {
                if rank < 2 {
                    return None;
                }
                let (a, b) = (d % (rank - 1), rank - 1);
                let (down, right) = ((-offset).max(0) as usize, (*offset).max(0) as usize);
                let len = dims[a].saturating_sub(down).min(dims[b].saturating_sub(right));
                let mut new: Vec<usize> =
                    dims.iter().enumerate().filter(|&(i, _)| i != a && i != b).map(|(_, &e)| e).collect();
                new.push(len);
                let image = |index: &[usize]| {
                    let (&last, front) = index.split_last().unwrap();
                    let mut out = front.to_vec();
                    out.insert(a, last + down);
                    out.push(last + right);
                    out
                };
                (x.diagonal(*offset, a, b).unwrap(), model.image(new, image))
            }
        })
    }
}

/// The image of an index of which one number changes.
fn moved(dim: usize, f: impl Fn(usize) -> usize) -> impl Fn(&[usize]) -> Vec<usize> {
    move |index| {
        let mut index = index.to_vec();
        index[dim] = f(index[dim]);
        index
    }
}

fn shape(max_rank: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1 => Just(0usize), 9 => 1usize..5], 0..=max_rank)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_are_index_arithmetic(dims in shape(4), steps in prop::collection::vec(step(), 0..8)) {
        let mut model = Model::arange(&dims);
        let mut x = Tensor::from_slice(&model.values, &dims[..], Device::Cpu).unwrap();
        for step in &steps {
            // Expanded copies grow quickly.
            if model.values.len() > 2000 {
                break;
            }
            let Some((next, next_model)) = step.apply(&x, &model) else { continue };
            prop_assert_eq!(next.dims(), &next_model.dims[..], "{:?} of {:?}", step, model.dims);
            prop_assert_eq!(&next.to_vec::<i64>().unwrap(), &next_model.values, "{:?} of {:?}", step, model.dims);
            (x, model) = (next, next_model);
        }
    }

    /// What is written through a view arrives where the view's elements lie, and nowhere else.
    #[test]
    fn writing_through_a_view_changes_its_elements_only(dims in shape(4), steps in prop::collection::vec(step(), 0..6)) {
        let base_model = Model::arange(&dims);
        let base = Tensor::from_slice(&base_model.values, &dims[..], Device::Cpu).unwrap();
        let (mut x, mut model) = (base.clone(), base_model.clone());
        for step in &steps {
            let Some((next, next_model)) = step.apply(&x, &model) else { continue };
            // A copy is no view, and what is expanded cannot be written.
            if !next.shares_memory(&base) || matches!(step, Step::Expand(_)) {
                continue;
            }
            (x, model) = (next, next_model);
        }
        x.fill_(-1).unwrap();
        let expected: Vec<i64> =
            base_model.values.iter().map(|value| if model.values.contains(value) { -1 } else { *value }).collect();
        prop_assert_eq!(base.to_vec::<i64>().unwrap(), expected);
    }

    #[test]
    fn broadcasting_is_numpys(dims in shape(4), ones in any::<[bool; 8]>(), cut in 0usize..3) {
        // Two shapes that broadcast to `dims`: extents of 1 here and there, and leading ones left out.
        let thin = |from: usize| dims.iter().enumerate().map(|(i, &e)| if ones[from + i] { 1 } else { e }).collect::<Vec<_>>();
        let (a_dims, b_dims) = (thin(0), thin(4)[cut.min(dims.len())..].to_vec());
        let (a, b) = (Model::arange(&a_dims), Model::arange(&b_dims));
        let out_dims: Vec<usize> = (0..dims.len())
            .map(|i| {
                let b_extent = i.checked_sub(dims.len() - b_dims.len()).map_or(1, |j| b_dims[j]);
                if a_dims[i] == 1 { b_extent } else { a_dims[i] }
            })
            .collect();
        let read = |model: &Model, index: &[usize]| {
            let own = &index[index.len() - model.dims.len()..];
            model.at(&own.iter().zip(&model.dims).map(|(&i, &extent)| if extent == 1 { 0 } else { i }).collect::<Vec<_>>())
        };
        let expected: Vec<i64> = indices(&out_dims).iter().map(|index| read(&a, index) + 1000 * read(&b, index)).collect();
        let x = Tensor::from_slice(&a.values, &a_dims[..], Device::Cpu).unwrap();
        let y = Tensor::from_slice(&b.values, &b_dims[..], Device::Cpu).unwrap();
        let sum = y.mul(1000).unwrap().add(&x).unwrap();
        prop_assert_eq!(sum.dims(), &out_dims[..]);
        prop_assert_eq!(sum.to_vec::<i64>().unwrap(), expected);
    }

    #[test]
    fn shapes_that_do_not_broadcast_are_an_error(a in shape(3), b in shape(3)) {
        let x = Tensor::zeros(&a[..], Device::Cpu).unwrap();
        let y = Tensor::zeros(&b[..], Device::Cpu).unwrap();
        let fits = a.iter().rev().zip(b.iter().rev()).all(|(a, b)| a == b || *a == 1 || *b == 1);
        prop_assert_eq!(x.add(&y).is_ok(), fits);
        let reshapes = a.iter().product::<usize>() == b.iter().product::<usize>();
        prop_assert_eq!(x.reshape(&b[..]).is_ok(), reshapes);
    }
}
