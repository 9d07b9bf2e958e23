//! Checks descriptors when they are finalized: tensors, convolutions, operations, graphs. What is valid need not have an
//! engine (`problem` says which graphs have).
use super::attributes::{Kind, Record};
use super::direction::{Direction, convolution_attributes};
use super::status::{Refusal, bad, unsupported};

/// Checks a tensor.
fn tensor(tensor: &Record) -> Result<(), Refusal> {
    let (dims, strides) = (tensor.numbers(902), tensor.numbers(903));
    if dims.is_empty() || dims.len() != strides.len() {
        return Err(bad("a tensor has as many extents as strides, and one at least"));
    }
    if dims.iter().chain(strides).any(|&value| value < 0) {
        return Err(bad("an extent or a stride is negative"));
    }
    let bytes = match tensor.number(901, 0) {
        0 | 4 => 4,
        1 | 10 => 8,
        2 | 9 => 2,
        3 | 6 | 11..=13 => 1,
        _ => return Err(unsupported("elements of a type that tensors do not have")),
    };
    let alignment = tensor.number(900, 1);
    if alignment <= 0 || alignment % bytes != 0 {
        return Err(bad("the alignment is no multiple of the elements' bytes"));
    }
    Ok(())
}

/// Checks how a filter moves.
fn convolution(of: &Record) -> Result<(), Refusal> {
    let axes = usize::try_from(of.number(106, -1)).unwrap_or(0);
    let [dilation, stride] = [of.numbers(102), of.numbers(103)];
    if axes == 0 || dilation.len() != axes || stride.len() != axes {
        return Err(bad("not as many dilations or strides as there are axes"));
    }
    let paddings = [of.numbers(104), of.numbers(105)];
    if paddings.iter().any(|padding| !padding.is_empty() && padding.len() != axes) {
        return Err(bad("not as many paddings as there are axes"));
    }
    let wrong =
        dilation.iter().chain(stride).any(|&step| step < 1) || paddings.iter().copied().flatten().any(|&p| p < 0);
    if wrong { Err(bad("padding is not negative; strides and dilations are positive")) } else { Ok(()) }
}

/// Whether elements of a tensor share memory, other than along an axis of stride 0.
fn overlaps(tensor: &Record) -> bool {
    let (dims, strides) = (tensor.numbers(902), tensor.numbers(903));
    let mut axes: Vec<_> = strides.iter().zip(dims).filter(|(stride, dim)| **dim > 1 && **stride > 0).collect();
    axes.sort_unstable();
    let mut reach = 1;
    axes.into_iter().any(|(stride, dim)| {
        let over = *stride < reach;
        reach += (dim - 1) * stride;
        over
    })
}

/// Whether a tensor spans exactly as many elements as it has.
fn is_packed(tensor: &Record) -> bool {
    let axes = || tensor.numbers(902).iter().zip(tensor.numbers(903));
    axes().map(|(dim, stride)| (dim - 1) * stride).sum::<i64>() + 1 == axes().map(|(dim, _)| dim).product::<i64>()
}

/// Checks a convolution of tensors.
fn operation(of: &Record, [x, w, y, rule]: [u32; 4]) -> Result<(), Refusal> {
    let rule = of.part(rule)?;
    if overlaps(of.part(x)?) || overlaps(of.part(y)?) || !is_packed(of.part(w)?) {
        return Err(bad("elements of an image lie in one place, or those of the filter with gaps"));
    }
    let [x, w, y] = [of.part(x)?, of.part(w)?, of.part(y)?].map(|tensor| tensor.numbers(902));
    let [pre, post] = [rule.numbers(105), rule.numbers(104)];
    let axes = rule.numbers(103).len();
    if [x, w, y].iter().any(|dims| dims.len() != axes + 2) {
        return Err(bad("a tensor has two dimensions more than there are axes"));
    }
    if [x, w, y].iter().any(|dims| dims.contains(&0)) {
        return Err(bad("an extent is 0"));
    }
    if y[0] != x[0] || y[1] != w[0] || x[1] % w[1] != 0 || w[0] % (x[1] / w[1]) != 0 {
        return Err(bad("the images' batches or channels do not fit the filter's"));
    }
    let at = |values: &[i64], axis: usize| values.get(axis).copied().unwrap_or(0);
    for axis in 0..axes {
        let reach = (w[axis + 2] - 1) * rule.numbers(102)[axis] + 1;
        let room = x[axis + 2] + at(pre, axis) + at(post, axis) - reach;
        if room < 0 || room / rule.numbers(103)[axis] + 1 != y[axis + 2] {
            return Err(bad("the output has other extents than the convolution gives"));
        }
    }
    Ok(())
}

/// Checks a reduction: the result's extents divide the operand's. Anything else is only refused by the engines.
fn reduction(of: &Record) -> Result<(), Refusal> {
    let [x, y] = [of.part(1610)?.numbers(902), of.part(1611)?.numbers(902)];
    let fits = x.len() == y.len() && x.iter().zip(y).all(|(x, y)| *y > 0 && x % y == 0);
    if fits { Ok(()) } else { Err(bad("sums of extents that do not divide those of what is summed")) }
}

/// The attributes of an element-wise operation's operands and of its result.
fn pointwise_attributes(of: &Record) -> ([u32; 2], u32) {
    let is_backward = of.parts(750).first().is_some_and(|rule| rule.number(0, 0) >= 200);
    if is_backward { ([751, 757], 756) } else { ([751, 752], 753) }
}

/// Operands that do not broadcast to the output are only refused by the engines.
fn pointwise(of: &Record) -> Result<(), Refusal> {
    if pointwise_attributes(of).1 == 756 {
        let dims = |attribute| of.part(attribute).map(|tensor| tensor.numbers(902).len());
        let differ = dims(751)? != dims(756)? || dims(757)? != dims(756)?;
        return if differ { Err(bad("operands and output differ in their dimensions")) } else { Ok(()) };
    }
    let rank = of.part(753)?.numbers(902).len();
    // Modes of two operands come first in the enum.
    let two = of.parts(750).first().is_none_or(|rule| rule.number(0, 0) < 10);
    if of.part(751)?.numbers(902).len() != rank || two && of.part(752)?.numbers(902).len() != rank {
        return Err(bad("operands and output differ in their dimensions"));
    }
    Ok(())
}

/// The ids of the tensors that an operation reads, and of the one that it writes; `None` for tensors without an id.
fn ends(operation: &Record) -> Result<(Vec<Option<i64>>, Option<i64>), Refusal> {
    let uid = |attribute| operation.part(attribute).map(|tensor| tensor.numbers(906).first().copied());
    Ok(match convolution_attributes(operation.kind) {
        Some((Direction::Forward, [x, w, y, ..])) => (vec![uid(x)?, uid(w)?], uid(y)?),
        Some((Direction::Data, [x, w, y, ..])) => (vec![uid(w)?, uid(y)?], uid(x)?),
        Some((Direction::Filter, [x, w, y, ..])) => (vec![uid(x)?, uid(y)?], uid(w)?),
        None if operation.kind == Kind::ReductionOperation => (vec![uid(1610)?], uid(1611)?),
        None => {
            let ([x, other], to) = pointwise_attributes(operation);
            (std::iter::once(uid(x)?).chain(uid(other).ok()).collect(), uid(to)?)
        }
    })
}

/// Checks a graph: each tensor is written once, and before it is read.
fn graph(graph: &Record) -> Result<(), Refusal> {
    let mut written = Vec::new();
    for operation in graph.parts(801) {
        let (reads, target) = ends(operation)?;
        if target.is_some() && (written.contains(&target) || reads.contains(&target)) {
            return Err(bad("the operations make no graph without cycles"));
        }
        written.push(target);
    }
    if written.is_empty() { Err(bad("a graph of nothing")) } else { Ok(()) }
}

/// Checks a single descriptor when it is finalized.
pub fn check(record: &Record) -> Result<(), Refusal> {
    match record.kind {
        Kind::Tensor => tensor(record),
        Kind::Convolution => convolution(record),
        Kind::PointwiseOperation => pointwise(record),
        Kind::ReductionOperation => reduction(record),
        Kind::Graph => graph(record),
        Kind::VariantPack if record.numbers(1000).len() != record.numbers(1001).len() => {
            Err(bad("not as many pointers as unique numbers"))
        }
        Kind::DeviceProperties if record.numbers(2702).is_empty() => Err(bad("nothing describes the device")),
        kind => match convolution_attributes(kind) {
            Some((_, [x, w, y, rule, ..])) => operation(record, [x, w, y, rule]),
            None => Ok(()),
        },
    }
}
