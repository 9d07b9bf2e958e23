//! The operations after a convolution in a graph, followed from its result to that of the last one.
use super::attributes::{Kind, Record};
use super::image::Image;
use super::status::{Refusal, unsupported};

/// What is done to each element of a convolution's result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Plus the element of a tensor like the result, or the number of its channel.
    Add(Image),
    Relu,
    /// 0 where the element of a tensor like the result is not above 0.
    ReluGrad(Image),
}

impl Step {
    pub fn operand(&self) -> Option<&Image> {
        match self {
            Step::Add(image) | Step::ReluGrad(image) => Some(image),
            Step::Relu => None,
        }
    }
}

/// The operations after a convolution, followed from its result to that of the last.
pub struct Chain<'a> {
    pub compute: i64,
    /// The result so far.
    pub value: &'a Record,
    pub steps: Vec<Step>,
    pub sums: Option<Image>,
}

impl<'a> Chain<'a> {
    pub fn add(&mut self, operation: &'a Record) -> Result<(), Refusal> {
        if self.sums.is_some() {
            return Err(unsupported("an operation after sums"));
        }
        if operation.kind == Kind::ReductionOperation {
            return self.add_sums(operation);
        }
        if operation.kind != Kind::PointwiseOperation {
            return Err(unsupported("two convolutions"));
        }
        // Attributes that are not set have their defaults.
        let default = Record::new(Kind::Pointwise);
        let rule = operation.parts(750).first().map_or(&default, |rule| rule);
        // By default, ReLU turns NaN into 0.
        if rule.number(1, 0) != self.compute || rule.number(2, 0) != 0 {
            return Err(unsupported("a pointwise operation in another type than that of sums, or that propagates NaN"));
        }
        let operand = |attribute| match operation.part(attribute)? {
            tensor if tensor.numbers(906).is_empty() => Err(unsupported("an operand without a number")),
            tensor => Image::new(tensor),
        };
        let (from, to, step) = match rule.number(0, 0) {
            0 => (751, 753, Step::Add(operand(752)?)),
            100 => (751, 753, Step::Relu),
            200 => (757, 756, Step::ReluGrad(operand(751)?)),
            _ => return Err(unsupported("another element-wise operation than sums, ReLU and its gradient")),
        };
        let (value, to) = (self.value, operation.part(to)?);
        if !follows(operation.part(from)?, value) {
            return Err(unsupported("operations that are not joined"));
        }
        if value.number(907, 0) == 0 || value.number(901, 0) != self.compute {
            return Err(unsupported("between operations: a tensor without memory, in the type of sums"));
        }
        if value.numbers(902) != to.numbers(902) {
            return Err(unsupported("operations of different extents"));
        }
        self.steps.push(step);
        self.value = to;
        Ok(())
    }

    fn add_sums(&mut self, operation: &'a Record) -> Result<(), Refusal> {
        let sums = operation.part(1611)?;
        let default = Record::new(Kind::Reduction);
        let rule = operation.parts(1612).first().map_or(&default, |rule| rule);
        if rule.number(1600, 0) != 0 || rule.number(1601, 0) != self.compute {
            return Err(unsupported("another reduction than sums in their type"));
        }
        if !follows(operation.part(1610)?, self.value) || self.value.number(907, 0) != 0 {
            return Err(unsupported("sums of something else than the result"));
        }
        let channels = self.value.numbers(902).get(1).copied().unwrap_or(0);
        if sums.numbers(902) != [1, channels, 1, 1] || sums.number(901, 0) != self.compute || sums.number(907, 0) != 0 {
            return Err(unsupported("sums that are no [1, channels, 1, 1] in their type"));
        }
        self.sums = Some(Image::new(sums)?);
        Ok(())
    }
}

/// Whether both are the same tensor.
fn follows(one: &Record, other: &Record) -> bool {
    !one.numbers(906).is_empty() && one.numbers(906) == other.numbers(906)
}
