//! The convolution that a graph describes, if it follows one of the patterns that there are engines for.
use super::attributes::Record;
use super::chain::{Chain, Step};
use super::direction::{Direction, convolution_attributes};
use super::image::{Image, data_of};
use super::status::{Refusal, unsupported};
use crate::blas::problem::Data;

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

impl Problem {
    /// The problem of a graph, by the patterns that the library has engines for.
    pub fn new(graph: &Record, arch: u32) -> Result<Problem, Refusal> {
        let operations = graph.parts(801);
        let [convolution, after @ ..] = operations else { return Err(unsupported("a graph of nothing")) };
        let Some((direction, [x, w, y, rule, alpha, beta])) = convolution_attributes(convolution.kind) else {
            return Err(unsupported("a graph that does not begin with a convolution"));
        };
        let rule = convolution.part(rule)?.as_ref();
        let mut ends = [convolution.part(x)?, convolution.part(w)?, convolution.part(y)?].map(std::sync::Arc::as_ref);
        let number = ends[1].number(901, 0);
        let compute = i64::from(number == 1);
        let beta = convolution.float(beta, 0.0);
        if !after.is_empty() && beta != 0.0 {
            return Err(unsupported("operations after a convolution that is added to what is there"));
        }
        let result = direction.result();
        let mut chain = Chain { compute, value: ends[result], steps: Vec::new(), sums: None };
        after.iter().try_for_each(|operation| chain.add(operation))?;
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

    pub fn images(&self) -> [&Image; 3] {
        [&self.x, &self.w, &self.y]
    }

    /// The tensor that is written.
    pub fn target(&self) -> &Image {
        self.images()[self.direction.result()]
    }

    /// Whether a filter or an image is unambiguously in NHWC.
    pub fn channels_last(&self) -> bool {
        self.images().iter().any(|image| !image.first)
    }

    /// Number of factors in each sum.
    pub fn depth(&self) -> usize {
        self.w.dims[1..].iter().product()
    }
}
