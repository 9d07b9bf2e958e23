//! The combined meaning of descriptors, checked when they are finalized: tensors, convolutions, operations, graphs. A
//! graph that an engine could compute is a problem; other graphs are valid, but no engine takes them.
use super::attributes::{Kind, Record};
use super::fusion::{Chain, Step};
use super::{Refusal, bad, unsupported};
use crate::blas::problem::Data;

/// Which of the three computations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Data,
    Filter,
}

/// An image or a filter in memory: extents and strides in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id, by which a variant pack gives it an address.
    pub uid: i64,
    /// The number of bytes that the address is a multiple of.
    pub alignment: u64,
    pub data: Data,
    pub dims: [usize; 4],
    pub steps: [usize; 4],
    /// Whether it is channels-last, and whether it is channels-first; both if only one extent is not 1.
    pub last: bool,
    pub first: bool,
    /// The stride of the channels, which is given even if there is only one.
    pub channel_step: usize,
}

/// The element type for a number of the library (`cudnnDataType_t`).
pub fn data_of(number: i64) -> Option<Data> {
    Some(match number {
        0 => Data::F32,
        1 => Data::F64,
        2 => Data::F16,
        9 => Data::Bf16,
        _ => return None,
    })
}

impl Image {
    fn strides([_, c, h, w]: [usize; 4], last: bool) -> [usize; 4] {
        if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }
    }

    pub fn new(tensor: &Record) -> Result<Image, Refusal> {
        let four = |attribute| <[i64; 4]>::try_from(tensor.numbers(attribute));
        let (Ok(dims), Ok(steps)) = (four(902), four(903)) else {
            return Err(unsupported("the simulator has convolutions of two axes only"));
        };
        let (dims, steps) = (dims.map(|dim| dim as usize), steps.map(|step| step as usize));
        let fits = |last| {
            let dense = Image::strides(dims, last);
            (0..4).all(|dim| dims[dim] == 1 || steps[dim] == dense[dim])
        };
        let (first, last) = (fits(false), fits(true));
        if !first && !last {
            return Err(unsupported("a tensor that is not dense as NCHW or NHWC"));
        }
        let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
        if count.is_none_or(|count| count > i32::MAX as usize) {
            return Err(unsupported("a tensor of 2^31 elements or more"));
        }
        let (uid, alignment) = (tensor.number(906, 0), tensor.number(900, 1) as u64);
        let data = data_of(tensor.number(901, 0));
        let data = data.ok_or(unsupported("no combination of types in the library's tables"))?;
        Ok(Image {
            uid,
            alignment,
            data,
            dims,
            steps: Image::strides(dims, !first),
            last,
            first,
            channel_step: steps[1],
        })
    }

    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn bytes(&self) -> usize {
        self.count() * self.data.bytes()
    }
}

/// A convolution without its addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub direction: Direction,
    pub data: Data,
    pub x: Image,
    pub w: Image,
    pub y: Image,
    /// The operations that are fused to it, in order.
    pub steps: Vec<Step>,
    /// The sums of the result's channels.
    pub sums: Option<Image>,
    pub padding: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
    /// The filter is mirrored: `CUDNN_CONVOLUTION`.
    pub mirrored: bool,
    pub alpha: f64,
    pub beta: f64,
}

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

/// The attributes of x, w, y, the rule, alpha and beta of an operation, if it is a convolution.
pub fn convolution_attributes(kind: Kind) -> Option<(Direction, [u32; 6])> {
    Some(match kind {
        Kind::Forward => (Direction::Forward, [704, 703, 705, 702, 700, 701]),
        Kind::BackwardData => (Direction::Data, [710, 709, 711, 708, 706, 707]),
        Kind::BackwardFilter => (Direction::Filter, [716, 715, 717, 714, 712, 713]),
        _ => return None,
    })
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

impl Problem {
    /// The problem of a graph, by the patterns that the library has engines for.
    pub fn new(graph: &Record, arch: u32) -> Result<Problem, Refusal> {
        let operations = graph.parts(801);
        let [convolution, behind @ ..] = operations else { return Err(unsupported("a graph of nothing")) };
        let Some((direction, [x, w, y, rule, alpha, beta])) = convolution_attributes(convolution.kind) else {
            return Err(unsupported("a graph that does not begin with a convolution"));
        };
        let rule = convolution.part(rule)?.as_ref();
        let mut ends = [convolution.part(x)?, convolution.part(w)?, convolution.part(y)?].map(std::sync::Arc::as_ref);
        let number = ends[1].number(901, 0);
        let compute = i64::from(number == 1);
        let beta = convolution.float(beta, 0.0);
        if !behind.is_empty() && beta != 0.0 {
            return Err(unsupported("operations behind a convolution that is added to what is there"));
        }
        let result = match direction {
            Direction::Forward => 2,
            Direction::Data => 0,
            Direction::Filter => 1,
        };
        let mut chain = Chain { compute, value: ends[result], steps: Vec::new(), sums: None };
        behind.iter().try_for_each(|operation| chain.add(operation))?;
        ends[result] = chain.value;
        let [x, w, y] = ends;
        let Chain { steps, sums, .. } = chain;
        let tensors = [x, w, y];
        let Some(data) = data_of(number).filter(|_| tensors.iter().all(|one| one.number(901, 0) == number)) else {
            return Err(unsupported("no combination of types in the library's tables"));
        };
        if tensors.iter().any(|tensor| tensor.number(907, 0) != 0) {
            return Err(unsupported("an operand or the result has no memory"));
        }
        if rule.number(100, 0) != compute {
            return Err(unsupported("a type of sums that does not belong to the elements"));
        }
        if data == Data::Bf16 && arch < 80 {
            return Err(unsupported("bfloat16 needs compute capability 8.0"));
        }
        let (x, w, y) = (Image::new(x)?, Image::new(w)?, Image::new(y)?);
        if w.last && !w.first && !(x.last && y.last) {
            return Err(unsupported("a filter in NHWC with images in NCHW"));
        }
        let pair = |attribute, default: usize| {
            let [h, w] = [0, 1].map(|axis| rule.numbers(attribute).get(axis).map_or(default, |value| *value as usize));
            [h, w]
        };
        let problem = Problem {
            direction,
            data,
            x,
            w,
            y,
            steps,
            sums,
            padding: pair(105, 0),
            stride: pair(103, 1),
            dilation: pair(102, 1),
            groups: x.dims[1] / w.dims[1],
            mirrored: rule.number(101, 0) == 0,
            alpha: convolution.float(alpha, 1.0),
            beta,
        };
        problem.check_fusion()?;
        Ok(problem)
    }

    /// The tensor that is written.
    pub fn target(&self) -> &Image {
        match self.direction {
            Direction::Forward => &self.y,
            Direction::Data => &self.x,
            Direction::Filter => &self.w,
        }
    }

    /// Whether a filter or an image is unambiguously in NHWC.
    pub fn channels_last(&self) -> bool {
        [self.x, self.w, self.y].iter().any(|image| !image.first)
    }

    /// Number of factors in each sum.
    pub fn depth(&self) -> usize {
        self.w.dims[1..].iter().product()
    }
}
