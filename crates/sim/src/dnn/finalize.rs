//! Checks descriptors when they are finalized: tensors, convolutions, operations, graphs. What is valid need not have an
//! engine (`problem` says which graphs have).
use super::attributes::{Kind, Record};
use super::operation::{INDEX, SELECT, SQRT, convolution_attributes, operands};
use super::status::{Refusal, bad, unsupported};

fn require(holds: bool, otherwise: &'static str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(bad(otherwise)) }
}

fn tensor(tensor: &Record) -> Result<(), Refusal> {
    let (dims, strides) = (tensor.dims(), tensor.numbers(903));
    require(!dims.is_empty() && dims.len() == strides.len(), "a tensor has as many extents as strides, at least one")?;
    require(dims.iter().chain(strides).all(|&value| value >= 0), "an extent or a stride is negative")?;
    let bytes = match tensor.number(901, 0) {
        0 | 4 => 4,
        1 | 10 => 8,
        2 | 9 => 2,
        3 | 6 | 11..=13 => 1,
        _ => return Err(unsupported("elements of a type that tensors do not have")),
    };
    let is_vector = dims.iter().filter(|dim| **dim > 1).count() <= 1;
    require(is_vector || !tensor.is_by_value(), "values of the host are a number or a vector")?;
    let alignment = tensor.number(900, 1);
    require(alignment > 0 && alignment % bytes == 0, "the alignment is no multiple of the elements' bytes")
}

/// How a filter moves.
fn convolution(of: &Record) -> Result<(), Refusal> {
    let axes = usize::try_from(of.number(106, -1)).unwrap_or(0);
    let (steps, paddings) = ([102, 103].map(|step| of.numbers(step)), [104, 105].map(|padding| of.numbers(padding)));
    let complete = steps.iter().all(|step| step.len() == axes);
    require(axes > 0 && complete, "not as many dilations or strides as there are axes")?;
    let complete = paddings.iter().all(|padding| padding.is_empty() || padding.len() == axes);
    require(complete, "not as many paddings as there are axes")?;
    let positive = steps.concat().iter().all(|&step| step > 0) && paddings.concat().iter().all(|&padding| padding >= 0);
    require(positive, "padding is not negative; strides and dilations are positive")
}

/// Whether elements of a tensor share memory, other than along an axis of stride 0.
fn overlaps(tensor: &Record) -> bool {
    let (dims, strides) = (tensor.dims(), tensor.numbers(903));
    let mut axes: Vec<_> = strides.iter().zip(dims).filter(|(stride, dim)| **dim > 1 && **stride > 0).collect();
    axes.sort_unstable();
    // As the library sees it: every index along an axis takes as much as the whole axis of the next smaller stride.
    let mut reach = 1;
    axes.into_iter().any(|(stride, dim)| {
        let over = *stride < reach;
        reach = dim * stride;
        over
    })
}

/// Whether a tensor spans exactly as many elements as it has.
fn is_packed(tensor: &Record) -> bool {
    let axes = || tensor.dims().iter().zip(tensor.numbers(903));
    axes().map(|(dim, stride)| (dim - 1) * stride).sum::<i64>() + 1 == axes().map(|(dim, _)| dim).product::<i64>()
}

/// A convolution of tensors.
fn operation(of: &Record, [x, w, y, rule]: [u32; 4]) -> Result<(), Refusal> {
    let [x, w, y, rule] = [of.part(x)?, of.part(w)?, of.part(y)?, of.part(rule)?];
    require(!overlaps(x) && !overlaps(y), "elements of an image lie in one place")?;
    require(is_packed(w), "elements of the filter lie with gaps")?;
    let [x, w, y] = [x.dims(), w.dims(), y.dims()];
    let axes = rule.numbers(103).len();
    let ranks_fit = [x, w, y].iter().all(|dims| dims.len() == axes + 2);
    require(ranks_fit, "a tensor has two dimensions more than there are axes")?;
    require(![x, w, y].concat().contains(&0), "an extent is 0")?;
    let channels_fit = y[1] == w[0] && x[1] % w[1] == 0 && w[0] % (x[1] / w[1]) == 0;
    require(y[0] == x[0] && channels_fit, "the images' batches or channels do not fit the filter's")?;
    for axis in 0..axes {
        let padding = |side| rule.numbers(side).get(axis).copied().unwrap_or(0);
        let reach = (w[axis + 2] - 1) * rule.numbers(102)[axis] + 1;
        let room = x[axis + 2] + padding(105) + padding(104) - reach;
        let fits = room >= 0 && room / rule.numbers(103)[axis] + 1 == y[axis + 2];
        require(fits, "the output has other extents than the convolution gives")?;
    }
    Ok(())
}

/// How numbers are reduced: `MUL_NO_ZEROS` and norms are for other functions of the library.
fn reduction_rule(of: &Record) -> Result<(), Refusal> {
    match of.number(1600, 0) {
        0..=4 => Ok(()),
        5..=8 => Err(unsupported("a reduction that graphs do not have")),
        _ => Err(bad("no such reduction")),
    }
}

/// The sums' extents divide those of what is summed. Anything else is only refused by the engines, a reduction of nothing
/// as well.
fn reduction(of: &Record) -> Result<(), Refusal> {
    let [x, y] = [1610, 1611].map(|tensor| of.parts(tensor).first().map_or(&[][..], |tensor| tensor.dims()));
    let fits = x.len() == y.len() && x.iter().zip(y).all(|(x, y)| *y > 0 && x % y == 0);
    require(fits, "sums of extents that do not divide those of what is summed")
}

/// An element-wise operation's operands and output have as many dimensions: none, if all of them are missing. Operands that
/// do not broadcast to the output are only refused by the engines.
fn pointwise(of: &Record) -> Result<(), Refusal> {
    let mode = of.number_in(750, 0, 0);
    let (reads, to) = operands(of);
    // In the enum, modes of one operand come after those of two but for one, and before gradients.
    let count = match mode {
        SQRT | 10..200 | INDEX => 1,
        SELECT => 3,
        _ => 2,
    };
    let rank = |tensor: u32| of.parts(tensor).first().map_or(0, |tensor| tensor.dims().len());
    let alike = reads[..count].iter().all(|operand| rank(*operand) == rank(to));
    require(alike, "operands and output differ in their dimensions")?;
    if mode == INDEX {
        let axis = of.number_in(750, 9, -1);
        require((0..rank(to) as i64).contains(&axis), "no axis of the tensor that is numbered")?;
    }
    if mode == SELECT {
        of.part(758)?;
    }
    Ok(())
}

/// A product of matrices: the last two dimensions. One of the others divides the other factor's.
fn product(of: &Record) -> Result<(), Refusal> {
    let [a, b, c] = [1520, 1521, 1522].map(|tensor| of.parts(tensor).first().map_or(&[][..], |tensor| tensor.dims()));
    if a.len() != b.len() || b.len() != c.len() {
        return Err(unsupported("factors and product differ in their dimensions"));
    }
    let (Some((a, [m, k])), Some((b, [rows, n])), Some((c, [c_rows, c_columns]))) =
        (a.split_last_chunk(), b.split_last_chunk(), c.split_last_chunk())
    else {
        return Err(bad("no matrices"));
    };
    require(k == rows && m == c_rows && n == c_columns, "the factors' rows and columns do not fit")?;
    let fit = a.iter().zip(b).zip(c).all(|((a, b), c)| {
        let (most, least) = (*a.max(b), *a.min(b));
        c == &most && (least == 0 || most % least == 0)
    });
    require(fit, "the factors' batches do not fit")
}

/// The same elements under other extents.
fn reshape(of: &Record) -> Result<(), Refusal> {
    let [x, y] = [of.part(2200)?, of.part(2201)?].map(|tensor| tensor.dims().iter().product::<i64>());
    require(x == y, "not as many elements under the new extents")
}

/// Each tensor of a graph is written once, and no cycle can be reached from an operation that needs no other. The number -1
/// is none for element-wise operations; convolutions take it for a number, and as that of tensors without one.
fn graph(graph: &Record) -> Result<(), Refusal> {
    let operations = graph.parts(801);
    let convolves = |of: &Record| convolution_attributes(of.kind).is_some();
    let uid = |of: &Record, attribute: u32| {
        let uid = of.part(attribute).map_or(-1, |tensor| tensor.uid().unwrap_or(-1));
        (convolves(of) || uid != -1).then_some(uid)
    };
    let targets: Vec<_> = operations.iter().map(|of| uid(of, operands(of).1)).collect();
    let all = || 0..operations.len();
    let again = all().any(|i| targets[i].is_some() && targets[..i].contains(&targets[i]));
    // Whether one operation reads what another writes.
    let follows = |later: usize, first: usize| {
        let of = &operations[later];
        targets[first].is_some() && operands(of).0.iter().any(|read| uid(of, *read) == targets[first])
    };
    let mut reached: Vec<_> = all().filter(|i| !all().any(|first| follows(*i, first))).collect();
    let mut cycles = reached.is_empty();
    for _ in all() {
        reached = all().filter(|i| reached.iter().any(|first| follows(*i, *first))).collect();
    }
    cycles |= !reached.is_empty();
    require(
        !again && (!cycles || operations.len() == 1 && convolves(&operations[0])),
        "the operations make no graph without cycles",
    )?;
    require(!operations.is_empty(), "a graph of nothing")
}

/// Checks a single descriptor when it is finalized.
pub fn check(record: &Record) -> Result<(), Refusal> {
    match record.kind {
        Kind::Tensor => tensor(record),
        Kind::Convolution => convolution(record),
        Kind::PointwiseOperation => pointwise(record),
        Kind::Reduction => reduction_rule(record),
        Kind::ReductionOperation => reduction(record),
        Kind::ProductOperation => product(record),
        Kind::ReshapeOperation => reshape(record),
        Kind::Graph => graph(record),
        Kind::VariantPack => {
            require(record.numbers(1000).len() == record.numbers(1001).len(), "not as many pointers as unique numbers")
        }
        Kind::DeviceProperties => require(!record.numbers(2702).is_empty(), "nothing describes the device"),
        kind => match convolution_attributes(kind) {
            Some((_, [x, w, y, rule, ..])) => operation(record, [x, w, y, rule]),
            None => Ok(()),
        },
    }
}
