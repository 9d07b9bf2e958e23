//! Flat memory for several tensors: buckets of gradients, and broadcasts of several tensors at once.

use kiln_tensor::{Result, Tensor};

use crate::{collective::Collective, group::ProcessGroup};

/// Alignment of gradients in their bucket in bytes, for kernels that require it.
const ALIGNMENT: usize = 64;

/// Gradients that are averaged together.
pub(super) struct Bucket {
    /// The concatenated gradients.
    pub(super) flat: Tensor,
    /// The indices of its parameters.
    pub(super) parameters: Vec<usize>,
    /// The name in errors.
    pub(super) name: String,
}

/// Assigns parameters to buckets: from the last to the first, the order in which gradients arrive, each bucket with one
/// dtype and device.
pub(super) fn assign(parameters: &[(String, Tensor)], first: usize, others: usize) -> Vec<Vec<usize>> {
    let mut full: Vec<Vec<usize>> = Vec::new();
    // One unfilled bucket per dtype and device.
    let mut open: Vec<(Vec<usize>, usize)> = Vec::new();
    for (i, (_, tensor)) in parameters.iter().enumerate().rev() {
        let like = |(members, _): &(Vec<usize>, usize)| {
            let other = &parameters[members[0]].1;
            other.dtype() == tensor.dtype() && other.device() == tensor.device()
        };
        let at = open.iter().position(like).unwrap_or_else(|| {
            open.push((vec![i], 0));
            open.len() - 1
        });
        let (members, bytes) = &mut open[at];
        if *bytes > 0 {
            members.push(i);
        }
        *bytes += padded(tensor) * tensor.dtype().size();
        if *bytes >= if full.is_empty() { first } else { others } {
            full.push(open.swap_remove(at).0);
        }
    }
    // An unfilled bucket is complete when its last parameter, the one with the lowest index, has its gradient.
    let mut rest: Vec<Vec<usize>> = open.into_iter().map(|(members, _)| members).collect();
    rest.sort_by_key(|members| std::cmp::Reverse(members.last().copied()));
    full.extend(rest);
    full
}

/// The number of elements that a tensor occupies in its bucket.
fn padded(tensor: &Tensor) -> usize {
    tensor.numel().next_multiple_of(ALIGNMENT / tensor.dtype().size()).max(1)
}

impl Bucket {
    /// Allocates the gradients of these parameters, and makes the view for each of them.
    pub(super) fn new(
        number: usize,
        members: Vec<usize>,
        parameters: &[(String, Tensor)],
    ) -> Result<(Bucket, Vec<Tensor>)> {
        let tensors = || members.iter().map(|&i| &parameters[i].1);
        let first = &parameters[members[0]];
        let flat = Tensor::zeros(tensors().map(padded).sum::<usize>(), (first.1.dtype(), first.1.device()))?;
        let mut start = 0;
        let mut views = Vec::new();
        for tensor in tensors() {
            views.push(view_like(&flat.narrow(0, start, tensor.numel())?, tensor)?);
            start += padded(tensor);
        }
        let last = &parameters[members[members.len() - 1]];
        let names = if members.len() == 1 { first.0.clone() } else { format!("{} to {}", first.0, last.0) };
        let name = format!("bucket {number}: the gradients of {names}");
        Ok((Bucket { flat, parameters: members, name }, views))
    }
}

/// A view of a vector in the shape of `tensor`, with the same memory order if that has no gaps: channels-last weights
/// have channels-last gradients.
fn view_like(part: &Tensor, tensor: &Tensor) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..tensor.rank()).collect();
    order.sort_by_key(|&d| std::cmp::Reverse((tensor.strides()[d], tensor.dims()[d])));
    let extents: Vec<usize> = order.iter().map(|&d| tensor.dims()[d]).collect();
    let mut place = vec![0i64; order.len()];
    for (position, &d) in order.iter().enumerate() {
        place[d] = position as i64;
    }
    let view = part.view(&extents[..])?.permute::<i64>(&place)?;
    let view = if view.strides() == tensor.strides() { view } else { part.view(tensor.dims())? };
    Ok(view.detach())
}

/// Gives tensors the values of rank 0, with one collective per dtype and device.
pub(super) fn broadcast(tensors: Vec<Tensor>, group: &dyn ProcessGroup, name: &str) -> Result<()> {
    let mut rest = tensors;
    while let Some(first) = rest.first() {
        let (dtype, device) = (first.dtype(), first.device());
        let (same, others): (Vec<Tensor>, Vec<Tensor>) =
            rest.into_iter().partition(|tensor| tensor.dtype() == dtype && tensor.device() == device);
        rest = others;
        let flat = same.iter().map(|tensor| tensor.contiguous()?.reshape(tensor.numel()));
        let flat = Tensor::cat(&flat.collect::<Result<Vec<_>>>()?, 0)?;
        group.start(Collective::broadcast(&flat, 0).named(name))?.wait()?;
        if group.rank() > 0 {
            let mut start = 0;
            for tensor in &same {
                tensor.copy_(&flat.narrow(0, start, tensor.numel())?.reshape(tensor.shape())?)?;
                start += tensor.numel();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kiln_tensor::{DType, Device};

    use super::*;

    fn parameter(name: &str, dims: &[usize], dtype: DType) -> (String, Tensor) {
        (name.into(), Tensor::zeros(dims, (dtype, Device::Cpu)).unwrap())
    }

    #[test]
    fn buckets_go_from_the_last_parameter_to_the_first() -> Result<()> {
        let kib = |name: &str, kib: usize| parameter(name, &[kib * 256], DType::F32);
        let parameters = [kib("a", 3), kib("b", 30), kib("c", 3), kib("d", 1), kib("e", 1)];
        // The first bucket is filled by 2 KiB, others by 25.
        assert_eq!(assign(&parameters, 2048, 25 << 10), [vec![4, 3], vec![2, 1], vec![0]]);
        assert_eq!(assign(&parameters, 1 << 20, 1 << 20), [vec![4, 3, 2, 1, 0]]);
        assert_eq!(assign(&parameters, 1, 1), [[4], [3], [2], [1], [0]]);
        // Another dtype has its own buckets; full buckets come first.
        let mixed = [kib("a", 1), parameter("h", &[4], DType::F16), kib("b", 1), parameter("i", &[0], DType::F16)];
        assert_eq!(assign(&mixed, 1024, 1024), [vec![2], vec![0], vec![3, 1]]);
        let (bucket, views) = Bucket::new(1, vec![2, 0], &mixed)?;
        assert_eq!(bucket.name, "bucket 1: the gradients of b to a");
        assert!(views.iter().all(|view| view.shares_memory(&bucket.flat)) && views.len() == 2);
        Ok(())
    }

    #[test]
    fn views_have_the_memory_order_of_their_parameter() -> Result<()> {
        let weight = Tensor::randn([4, 3, 2, 5], Device::Cpu)?;
        let last = weight.channels_last()?;
        let gaps = Tensor::zeros([4, 6], Device::Cpu)?.narrow(1, 0, 3)?;
        for tensor in [weight, last, gaps.clone(), Tensor::zeros((), Device::Cpu)?, Tensor::zeros([0, 3], Device::Cpu)?]
        {
            let flat = Tensor::zeros(tensor.numel(), Device::Cpu)?;
            let view = view_like(&flat, &tensor)?;
            assert_eq!(view.dims(), tensor.dims());
            if !tensor.is_same(&gaps) {
                assert_eq!(view.strides(), tensor.strides());
            }
            view.copy_(&tensor.add(1)?)?;
            assert_eq!(view.sum(())?.item::<f32>()?.to_bits(), flat.sum(())?.item::<f32>()?.to_bits());
        }
        Ok(())
    }
}
