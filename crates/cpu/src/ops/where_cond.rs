//! `where_cond`: chooses between two operands by a condition.

use kiln_backend::{Checked, Result, WhereCondArgs, WhereCondBackend};

use crate::{
    device::CpuBackend,
    engine::{elementwise::map3, par::GRAIN, simd::multiversion},
    memory::view::{Input, Source, Target},
    numeric::{
        dispatch::for_all,
        stored::{Stored, Truth},
    },
};

impl WhereCondBackend for CpuBackend {
    fn where_cond(&self, args: Checked<WhereCondArgs>) -> Result<()> {
        const OP: &str = "where";
        let WhereCondArgs { condition, a, b, out } = args.into_inner();
        for_all!(out.buffer.dtype(), T => {
            let condition = Input::Tensor(Source::<Truth>::new(OP, condition)?);
            let (a, b) = (Input::<T>::rounded(OP, a)?, Input::<T>::rounded(OP, b)?);
            map3(GRAIN, &condition, &a, &b, &mut Target::<T>::new(OP, out)?, choose::<<T as Stored>::Compute>);
            Ok(())
        })
    }
}

multiversion! {
    fn choose[C: Copy](condition: &[u8], a: &[C], b: &[C], out: &mut [C]) {
        for (((&condition, &a), &b), out) in condition.iter().zip(a).zip(b).zip(out) {
            // A branch would be mispredicted half of the time on random conditions.
            *out = std::hint::select_unpredictable(condition != 0, a, b);
        }
    }
}
