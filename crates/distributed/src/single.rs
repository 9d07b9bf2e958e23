//! The group of one process, so that a program launched alone runs the same code.

use kiln_tensor::{Result, no_grad};

use crate::{
    collective::{Collective, CollectiveKind},
    error::DistributedError,
    group::{ProcessGroup, Work},
};
use parking_lot::Mutex;

/// A group of one process, whose collectives change nothing except to copy an input to a different output.
#[derive(Debug, Default)]
pub struct SingleProcess {
    aborted: Mutex<Option<String>>,
}

impl SingleProcess {
    /// Creates the group.
    #[must_use]
    pub fn new() -> SingleProcess {
        SingleProcess::default()
    }
}

impl ProcessGroup for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn engine(&self) -> &'static str {
        "single process"
    }

    fn start(&self, call: Collective) -> Result<Work> {
        if let Some(reason) = self.aborted.lock().clone() {
            let collective = call.to_string();
            return Err(DistributedError::Aborted { rank: 0, size: 1, collective, reason }.into());
        }
        call.check(1)?;
        if let (CollectiveKind::AllGather | CollectiveKind::ReduceScatter(_), Some(input), Some(output)) =
            (call.kind, &call.input, &call.output)
        {
            no_grad(|| output.copy_(&input.reshape(output.shape())?))?;
        }
        Ok(Work::done())
    }

    fn abort(&self, reason: &str) {
        self.aborted.lock().get_or_insert_with(|| reason.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kiln_tensor::{Device, Error, Tensor};

    use super::*;
    use crate::collective::ReduceOp;

    #[test]
    fn a_process_alone_is_a_group() -> Result<()> {
        let group: Arc<dyn ProcessGroup> = Arc::new(SingleProcess::new());
        let x = Tensor::new([[1.0f32, 2.0], [3.0, 4.0]], Device::Cpu)?;
        group.broadcast(&x, 0)?;
        group.all_reduce(&x, ReduceOp::Mean)?;
        group.barrier()?;
        let out = Tensor::zeros(4, Device::Cpu)?;
        group.all_gather(&out, &x)?;
        assert_eq!(out.to_vec::<f32>()?, [1., 2., 3., 4.]);
        group.reduce_scatter(&out, &x.mul(2)?, ReduceOp::Sum)?;
        assert_eq!(out.to_vec::<f32>()?, [2., 4., 6., 8.]);
        assert_eq!(group.sums(&[1.5, 2.0])?, [1.5, 2.0]);
        assert_eq!(group.gather_texts("abc", "a text")?, ["abc"]);
        assert_eq!(group.on_main(|| Ok(7))?, Some(7));
        let failed = group.on_main(|| Err::<(), _>(Error::argument("save", "no space")));
        assert_eq!(failed.unwrap_err().to_string(), "save: no space");
        assert!(group.broadcast(&x, 1).is_err());
        group.abort("enough");
        assert!(group.barrier().unwrap_err().to_string().contains("enough"));
        Ok(())
    }
}
