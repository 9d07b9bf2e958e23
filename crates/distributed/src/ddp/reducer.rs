//! Averages the gradients of a model: keeps track of which gradients have arrived, and which buckets are being
//! averaged.

use std::sync::{Arc, Weak};

use kiln_tensor::{
    Error, Result, Tensor,
    autograd::{BackwardPass, HookHandle},
    no_grad,
};
use parking_lot::Mutex;

use super::{
    bucket::{Bucket, assign, broadcast},
    options::DdpOptions,
};
use crate::{
    collective::{Collective, ReduceOp},
    group::{ProcessGroup, Work},
};

const OP: &str = "DistributedDataParallel";

/// A report on a backward pass that averaged gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// The number of buckets.
    pub buckets: usize,
    /// How many of them were started before the last gradient had arrived.
    pub begun_early: usize,
    /// The bytes of all buckets.
    pub bytes: usize,
}

pub(super) struct Reducer {
    pub(super) group: Arc<dyn ProcessGroup>,
    parameters: Vec<(String, Tensor)>,
    /// The view for each parameter's gradient.
    views: Vec<Tensor>,
    buckets: Vec<Bucket>,
    /// The bucket of each parameter.
    bucket_of: Vec<usize>,
    buffers: Vec<Tensor>,
    options: DdpOptions,
    pass: Mutex<Pass>,
    /// The number of active `no_sync` calls.
    paused: Mutex<usize>,
}

/// The state of a backward pass.
#[derive(Default)]
struct Pass {
    id: Option<u64>,
    /// Whether it averages gradients.
    averages: bool,
    /// Whether each parameter's gradient has arrived, or is known not to arrive.
    ready: Vec<bool>,
    /// Whether it has arrived.
    used: Vec<bool>,
    /// How many gradients each bucket waits for.
    missing: Vec<usize>,
    /// How many gradients have yet to arrive in total.
    left: usize,
    /// The next bucket to start. The order is the same on all ranks.
    next: usize,
    under_way: Vec<Work>,
    report: StepReport,
}

/// Ends a `no_sync`.
pub(super) struct Resume<'a>(&'a Reducer);

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        *self.0.paused.lock() -= 1;
    }
}

impl Reducer {
    pub(super) fn new(
        parameters: Vec<(String, Tensor)>,
        buffers: Vec<Tensor>,
        group: Arc<dyn ProcessGroup>,
        options: DdpOptions,
    ) -> Result<Reducer> {
        let assigned = assign(&parameters, options.first_bucket_bytes, options.bucket_bytes);
        let (mut views, mut bucket_of) = (vec![None; parameters.len()], vec![0; parameters.len()]);
        let mut buckets = Vec::new();
        for (number, members) in assigned.into_iter().enumerate() {
            let (bucket, parts) = no_grad(|| Bucket::new(number, members, &parameters))?;
            for (&i, view) in bucket.parameters.iter().zip(parts) {
                views[i] = Some(view);
                bucket_of[i] = number;
            }
            buckets.push(bucket);
        }
        let views: Vec<Tensor> = views.into_iter().flatten().collect();
        let (pass, paused) = (Mutex::default(), Mutex::new(0));
        Ok(Reducer { group, parameters, views, buckets, bucket_of, buffers, options, pass, paused })
    }

    /// Registers hooks that are called when gradients arrive.
    pub(super) fn watch(this: &Arc<Reducer>) -> Result<Vec<HookHandle>> {
        let watch = |(i, (_, tensor)): (usize, &(String, Tensor))| {
            // The parameter owns the hook, so the hook must not own the parameter.
            let reducer: Weak<Reducer> = Arc::downgrade(this);
            tensor.register_post_accumulate_grad_hook(move |_, pass| match reducer.upgrade() {
                Some(reducer) => Reducer::arrived(&reducer, i, pass),
                None => Ok(()),
            })
        };
        this.parameters.iter().enumerate().map(watch).collect()
    }

    pub(super) fn pause(&self) -> Resume<'_> {
        *self.paused.lock() += 1;
        Resume(self)
    }

    pub(super) fn report(&self) -> StepReport {
        self.pass.lock().report
    }

    pub(super) fn sync_buffers(&self) -> Result<()> {
        no_grad(|| broadcast(self.buffers.clone(), &*self.group, "buffers"))
    }

    /// Called when a gradient has arrived.
    fn arrived(this: &Arc<Reducer>, i: usize, pass: &BackwardPass) -> Result<()> {
        let done = this.take(this, i, pass);
        if let Err(error) = &done {
            // The other ranks wait for collectives that this rank will not call.
            this.group.abort(&error.to_string());
        }
        done
    }

    fn take(&self, this: &Arc<Reducer>, i: usize, pass: &BackwardPass) -> Result<()> {
        let mut state = self.pass.lock();
        let state = &mut *state;
        if state.id != Some(pass.id()) {
            self.begin(state, pass)?;
            let this = this.clone();
            pass.at_end(move || {
                let done = this.finish();
                if let Err(error) = &done {
                    this.group.abort(&error.to_string());
                }
                done
            });
        }
        // Copies the gradient into the bucket if it was newly allocated: after `zero_grad`, and in the first pass.
        let (name, parameter) = &self.parameters[i];
        if let Some(grad) = parameter.unconverted_grad()
            && !grad.is_same(&self.views[i])
        {
            // Which converts it, after a pass under autocast.
            no_grad(|| self.views[i].copy_(&grad))?;
            parameter.set_grad(Some(self.views[i].clone()))?;
        }
        if !state.averages {
            return Ok(());
        }
        if state.ready[i] {
            return Err(Error::autograd(OP, format!("the gradient of {name} arrived twice in one backward pass")));
        }
        state.used[i] = true;
        self.mark_ready(state, i);
        self.begin_buckets(state)
    }

    /// Called when the first gradient of a pass has arrived.
    fn begin(&self, state: &mut Pass, pass: &BackwardPass) -> Result<()> {
        let count = self.parameters.len();
        let averages = *self.paused.lock() == 0;
        let report = StepReport {
            buckets: self.buckets.len(),
            begun_early: 0,
            bytes: self.buckets.iter().map(|bucket| bucket.flat.numel() * bucket.flat.dtype().size()).sum(),
        };
        *state = Pass {
            id: Some(pass.id()),
            averages,
            ready: vec![false; count],
            used: vec![false; count],
            missing: self.buckets.iter().map(|bucket| bucket.parameters.len()).collect(),
            left: count,
            next: 0,
            under_way: Vec::new(),
            report: if averages { report } else { state.report },
        };
        if !state.averages {
            return Ok(());
        }
        let unused: Vec<usize> = (0..count).filter(|&i| !pass.reaches(&self.parameters[i].1)).collect();
        if !unused.is_empty() && !self.options.find_unused {
            return Err(self.unused(&unused));
        }
        for i in unused {
            self.leave_out(state, i)?;
        }
        self.begin_buckets(state)
    }

    /// Called for a parameter that gets no gradient in this pass: the average includes its gradient from earlier
    /// passes, or else 0.
    fn leave_out(&self, state: &mut Pass, i: usize) -> Result<()> {
        match self.parameters[i].1.unconverted_grad() {
            None => no_grad(|| self.views[i].zero_())?,
            Some(grad) if grad.is_same(&self.views[i]) => {}
            Some(grad) => no_grad(|| self.views[i].copy_(&grad))?,
        }
        self.mark_ready(state, i);
        Ok(())
    }

    fn mark_ready(&self, state: &mut Pass, i: usize) {
        state.ready[i] = true;
        state.left -= 1;
        state.missing[self.bucket_of[i]] -= 1;
    }

    /// Starts averaging the buckets that are complete, in order.
    fn begin_buckets(&self, state: &mut Pass) -> Result<()> {
        while let Some(bucket) = self.buckets.get(state.next).filter(|_| state.missing[state.next] == 0) {
            let call = Collective::all_reduce(&bucket.flat, ReduceOp::Mean).named(&bucket.name);
            state.under_way.push(self.group.start(call)?);
            state.next += 1;
            if state.left > 0 {
                state.report.begun_early += 1;
            }
        }
        Ok(())
    }

    /// Called at the end of the pass: waits for the averages.
    fn finish(&self) -> Result<()> {
        let mut state = self.pass.lock();
        let state = &mut *state;
        if !state.averages {
            return Ok(());
        }
        let missing: Vec<usize> = (0..self.parameters.len()).filter(|&i| !state.ready[i]).collect();
        if !missing.is_empty() && !self.options.find_unused {
            return Err(self.unused(&missing));
        }
        for i in missing {
            self.leave_out(state, i)?;
        }
        self.begin_buckets(state)?;
        // Started after the gradients, and waited for after them.
        let used = self.options.find_unused.then(|| self.count_uses(&state.used)).transpose()?;
        for work in std::mem::take(&mut state.under_way) {
            work.wait()?;
        }
        if let Some((used, work)) = used {
            work.wait()?;
            for ((uses, (_, parameter)), view) in
                used.to_vec::<i32>()?.into_iter().zip(&self.parameters).zip(&self.views)
            {
                // Other ranks have gradients for it, so this rank gets the average too.
                if uses > 0 && parameter.unconverted_grad().is_none() {
                    parameter.set_grad(Some(view.clone()))?;
                }
            }
        }
        if self.options.broadcast_buffers && !self.buffers.is_empty() {
            self.sync_buffers()?;
        }
        Ok(())
    }

    /// On how many ranks each parameter was used.
    fn count_uses(&self, used: &[bool]) -> Result<(Tensor, Work)> {
        let used: Vec<i32> = used.iter().map(|&used| i32::from(used)).collect();
        let device = self.parameters[0].1.device();
        let used = Tensor::from_slice(&used, used.len(), device)?;
        let work = self.group.start(Collective::all_reduce(&used, ReduceOp::Sum).named("uses of parameters"))?;
        Ok((used, work))
    }

    fn unused(&self, which: &[usize]) -> Error {
        let names: Vec<&str> = which.iter().map(|&i| self.parameters[i].0.as_str()).collect();
        let message = format!(
            "rank {} of {}: the backward pass brings no gradient to {}: the loss does not depend on them. Freeze them with \
             `requires_grad_(false)` before the model is wrapped, or, if steps differ in what they use, set \
             `DdpOptions::find_unused(true)`",
            self.group.rank(),
            self.group.size(),
            names.join(", ")
        );
        Error::autograd(OP, message)
    }
}
