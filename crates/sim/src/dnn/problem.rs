//! The convolution that a graph describes, if it follows one of the patterns that there are engines for.
use super::attributes::Record;
use super::fusion::Step;
use super::image::Image;
use super::operation::{Direction, convolution_attributes};
use super::status::{Refusal, unsupported};
use crate::blas::problem::Data;

/// A convolution without its addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub direction: Direction,
    pub data: Data,
    /// x, w, y, and the operands of what is fused, in order.
    pub tensors: Vec<Image>,
    /// What is fused to it, in order.
    pub steps: Vec<Step>,
    /// Whether it is of volumes. Images move along a depth of 1.
    pub volumes: bool,
    /// Along depth, height and width.
    pub padding: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    pub groups: usize,
    /// The filter is mirrored: `CUDNN_CONVOLUTION`.
    pub mirrored: bool,
    pub alpha: f64,
    pub beta: f64,
}

impl Problem {
    /// The problem of a graph, by the patterns that the library has engines for.
    pub fn new(graph: &Record, arch: u32) -> Result<Problem, Refusal> {
        let [convolution, after @ ..] = graph.parts(801) else { return Err(unsupported("a graph of nothing")) };
        let Some((direction, [x, w, y, rule, alpha, beta])) = convolution_attributes(convolution.kind) else {
            return Err(unsupported("a graph that does not begin with a convolution"));
        };
        let rule = convolution.part(rule)?;
        let mut ends = [convolution.part(x)?, convolution.part(w)?, convolution.part(y)?];
        let number = ends[1].number(901, 0);
        let compute = i64::from(number == 1);
        let beta = convolution.float(beta, 0.0);
        if !after.is_empty() && beta != 0.0 {
            return Err(unsupported("operations after a convolution that is added to what is there"));
        }
        let (mut steps, mut fused) = (Vec::new(), Vec::new());
        let mut value = ends[direction.result()];
        for operation in after {
            let (step, other, to) = Step::new(operation, value, compute)?;
            steps.push(step);
            fused.extend(other);
            value = to;
        }
        ends[direction.result()] = value;
        if ends.iter().any(|tensor| tensor.number(901, 0) != number) {
            return Err(unsupported("no combination of types in the library's tables"));
        }
        if ends.iter().any(|tensor| tensor.is_virtual()) {
            return Err(unsupported("an operand or the result has no memory"));
        }
        if rule.number(100, 0) != compute {
            return Err(unsupported("a type of sums that does not belong to the elements"));
        }
        let [x, w, y] = [Image::new(ends[0])?, Image::new(ends[1])?, Image::new(ends[2])?];
        if w.data == Data::Bf16 && arch < 80 {
            return Err(unsupported("bfloat16 needs compute capability 8.0"));
        }
        if !(w.is_dense(false) || x.is_dense(true) && y.is_dense(true)) {
            return Err(unsupported("a filter in NHWC with images in NCHW"));
        }
        let axes = rule.numbers(103).len();
        let along = |attribute, default: usize| {
            let value = |axis: usize| rule.numbers(attribute).get(axis).map_or(default, |value| *value as usize);
            [0, 1, 2].map(|axis| (axis + axes).checked_sub(3).map_or(default, value))
        };
        let problem = Problem {
            direction,
            data: w.data,
            tensors: [x, w, y].into_iter().chain(fused).collect(),
            steps,
            volumes: axes == 3,
            padding: along(105, 0),
            stride: along(103, 1),
            dilation: along(102, 1),
            groups: x.dims[1] / w.dims[1],
            mirrored: rule.number(101, 0) == 0,
            alpha: convolution.float(alpha, 1.0),
            beta,
        };
        problem.check_fusion()?;
        Ok(problem)
    }

    /// x, w and y.
    pub fn images(&self) -> [&Image; 3] {
        [0, 1, 2].map(|i| &self.tensors[i])
    }

    /// The operands of what is fused.
    pub fn fused(&self) -> &[Image] {
        &self.tensors[3..]
    }

    /// The tensor that is written.
    pub fn target(&self) -> &Image {
        &self.tensors[self.direction.result()]
    }

    /// Whether the last tensor is written, too: sums of the result's channels.
    pub fn has_sums(&self) -> bool {
        self.steps.contains(&Step::Sums)
    }

    /// Whether a filter or an image is unambiguously in NHWC.
    pub fn channels_last(&self) -> bool {
        self.images().iter().any(|image| !image.is_dense(false))
    }

    /// Number of factors in each sum.
    pub fn depth(&self) -> usize {
        self.images()[1].dims[1..].iter().product()
    }
}
