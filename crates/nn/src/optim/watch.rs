//! Detects changes of an optimizer that make a captured step invalid: of hyperparameters that are arguments of launches, and of
//! the tensors of its state.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use kiln_tensor::{
    Result,
    captured::{is_capturing, valid_while},
};

use super::group::{self as groups, Groups};

/// Tells captured steps whether the optimizer is still the one that was captured.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Something may have changed since the signature was made.
    is_stale: AtomicBool,
    /// What the latest step was made with; 0 if nobody has asked yet.
    signature: AtomicU64,
}

impl Watch {
    /// Options, members or states may have changed.
    pub fn changed(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// A step begins, for which everything is there.
    pub fn step(self: &Arc<Self>, groups: &dyn Groups, fused: bool) -> Result<()> {
        let is_asked = is_capturing() || self.signature.load(Ordering::Acquire) != 0;
        if !is_asked || (!is_capturing() && !self.is_stale.load(Ordering::Acquire)) {
            return Ok(());
        }
        self.is_stale.store(false, Ordering::Release);
        let now = signature(groups, fused)?;
        self.signature.store(now, Ordering::Release);
        if is_capturing() {
            let watch = self.clone();
            valid_while(move || {
                !watch.is_stale.load(Ordering::Acquire) && watch.signature.load(Ordering::Acquire) == now
            });
        }
        Ok(())
    }
}

/// A number that all of it but the learning rates makes, which are in the device's memory.
fn signature(groups: &dyn Groups, fused: bool) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    fused.hash(&mut hasher);
    for (rule, members) in groups::iter(groups) {
        let mut rule = rule.boxed();
        *rule.lr_mut() = 0.0;
        rule.each(&mut |name, value| {
            (name, format!("{value:?}")).hash(&mut hasher);
            Ok(())
        })?;
        for slot in &members.slots {
            slot.param.id().hash(&mut hasher);
            slot.step.iter().chain(&slot.states).for_each(|tensor| tensor.id().hash(&mut hasher));
        }
    }
    Ok(hasher.finish().max(1))
}
