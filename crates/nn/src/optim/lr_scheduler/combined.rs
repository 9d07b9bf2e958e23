//! Combined rules: one after another, or all at once.

use kiln_tensor::Result;

use super::{LinearLR, LrRule, require};

/// Rules one after another: rule `i + 1` starts, with its step 0, at milestone `i`.
pub struct SequentialLR {
    rules: Vec<Box<dyn LrRule>>,
    milestones: Vec<u64>,
}

impl SequentialLR {
    /// Starts with this rule.
    pub fn new(rule: impl LrRule + 'static) -> SequentialLR {
        SequentialLR { rules: vec![Box::new(rule)], milestones: Vec::new() }
    }

    /// Continues with this rule from step `milestone` on.
    #[must_use]
    pub fn then(mut self, milestone: u64, rule: impl LrRule + 'static) -> SequentialLR {
        self.rules.push(Box::new(rule));
        self.milestones.push(milestone);
        self
    }

    /// A linear warm-up over `steps` steps, from `start_factor` times the rate to the rate, and then `rule`.
    pub fn warmup(steps: u64, start_factor: f64, rule: impl LrRule + 'static) -> SequentialLR {
        SequentialLR::new(LinearLR::new(steps).start_factor(start_factor)).then(steps, rule)
    }

    /// The rule that is active at `epoch`, and the step at which it started.
    fn current(&self, epoch: u64) -> (&dyn LrRule, u64) {
        let index = self.milestones.partition_point(|&m| m <= epoch);
        let begin = if index > 0 { self.milestones[index - 1] } else { 0 };
        (&*self.rules[index], begin)
    }
}

impl LrRule for SequentialLR {
    fn validate(&self) -> Result<()> {
        self.rules.iter().try_for_each(|rule| rule.validate())?;
        require(self.milestones.is_sorted(), "SequentialLR", "the milestones must not decrease")
    }
    fn next(&self, epoch: u64, base: f64, lr: f64) -> Result<f64> {
        let (rule, begin) = self.current(epoch);
        if epoch > 0 && epoch == begin { rule.at(0, base) } else { rule.next(epoch - begin, base, lr) }
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        let (rule, begin) = self.current(epoch);
        rule.at(epoch - begin, base)
    }
    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        let (rule, begin) = self.current(epoch);
        rule.momentum(epoch - begin)
    }
}

/// Applies all rules in every step, each to the rate that the previous one returned: PyTorch's `ChainedScheduler`.
pub struct ChainedScheduler {
    rules: Vec<Box<dyn LrRule>>,
}

impl ChainedScheduler {
    /// Starts with this rule.
    pub fn new(rule: impl LrRule + 'static) -> ChainedScheduler {
        ChainedScheduler { rules: vec![Box::new(rule)] }
    }

    /// Adds this rule.
    #[must_use]
    pub fn and(mut self, rule: impl LrRule + 'static) -> ChainedScheduler {
        self.rules.push(Box::new(rule));
        self
    }
}

impl LrRule for ChainedScheduler {
    fn validate(&self) -> Result<()> {
        self.rules.iter().try_for_each(|rule| rule.validate())
    }
    fn next(&self, epoch: u64, base: f64, lr: f64) -> Result<f64> {
        self.rules.iter().try_fold(lr, |lr, rule| rule.next(epoch, base, lr))
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        // Rules that multiply have no closed form in combination with others.
        (0..=epoch).try_fold(base, |lr, epoch| self.next(epoch, base, lr))
    }
    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        self.rules.iter().try_fold(None, |momentum, rule| Ok(rule.momentum(epoch)?.or(momentum)))
    }
}
