//! Structured operations whose tests are one row each: golden values, gradients against finite differences, random
//! calls.
//!
//! A row is a name in `op_table` and, in this order: `golden`, the call of a golden case from its inputs and PyTorch's
//! keyword arguments; any number of `gradient`, each with shapes of the operands, their values, and a call; `random`, a
//! call with two tensors and a source of arguments. Each test passes the rows to its own macro, which takes the part
//! that it runs.

macro_rules! op_rows {
    ($expand:ident) => {
        $expand! {
            cumsum {
                golden |x, a| match (a.int("dim").unwrap(), a.dtype("dtype")) {
                    (dim, None) => x[0].cumsum(dim)?,
                    (dim, Some(dtype)) => x[0].cumsum_dtype(dim, dtype)?,
                };
                gradient CUBE Any |x| x[0].cumsum(1);
                gradient ANY Any |x| x[0].cumsum(-1);
                random |x, _y, r| Ok(vec![x.cumsum(r.dim())?]);
            }
            cummax {
                golden |x, a| x[0].cummax(a.int("dim").unwrap())?;
                gradient ROWS Distinct |x| Ok(x[0].cummax(0)?.0);
                gradient FULL_CUBE Distinct |x| Ok(x[0].cummax(1)?.0);
                gradient ANY Distinct |x| Ok(x[0].cummax(-1)?.0);
                random |x, _y, r| x.cummax(r.dim()).map(|(values, indices)| vec![values, indices]);
            }
            cummin {
                golden |x, a| x[0].cummin(a.int("dim").unwrap())?;
                gradient ROWS Distinct |x| Ok(x[0].cummin(0)?.0);
                gradient FULL_CUBE Distinct |x| Ok(x[0].cummin(1)?.0);
                gradient ANY Distinct |x| Ok(x[0].cummin(-1)?.0);
                random |x, _y, r| x.cummin(r.dim()).map(|(values, indices)| vec![values, indices]);
            }
        }
    };
}
