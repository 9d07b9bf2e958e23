//! The copies of parameters that a region of autocast keeps.

use kiln_tensor::{DType, Result, Tensor, autocast, autocast_off, no_grad};

use super::{casts, parameter, randn, values};

#[test]
fn a_parameter_is_converted_once_until_it_changes() -> Result<()> {
    let (x, w) = (randn(&[4, 4]).to_dtype(DType::BF16)?, parameter(&[4, 4]));
    let copies = autocast(DType::BF16, || {
        let first = x.matmul(&w)?;
        let second = x.matmul(&w)?;
        assert_eq!(values(&first), values(&second));
        first.add(&second)?.sum(())?.backward()?;
        // Twice the gradient of one product, added once.
        let grad = values(&w.grad().unwrap());
        w.zero_grad();
        autocast_off(|| x.matmul(&w.to_dtype(DType::BF16)?)?.mul(2.0)?.sum(()))?.backward()?;
        assert_eq!(grad, values(&w.grad().unwrap()));
        no_grad(|| w.mul_(2.0))?;
        let third = x.matmul(&w)?;
        assert_eq!(values(&third), values(&first.mul(2.0)?));
        // What was changed afterwards is not in the graph of before: its gradient is of the new values.
        third.sum(())?.backward()?;
        Ok(w.version())
    })?;
    assert_eq!(copies, 1);
    Ok(())
}

/// The cache is not used in traces, which name what each operation reads, so copies are counted by their memory.
#[test]
fn uses_of_one_parameter_share_a_copy() -> Result<()> {
    let (x, w) = (randn(&[4, 4]).to_dtype(DType::BF16)?, parameter(&[4, 4]));
    let cast_of = |y: &Tensor| y.grad_fn().unwrap().next_functions()[1].as_ref().unwrap().id();
    autocast(DType::BF16, || {
        let (a, b) = (x.matmul(&w)?, x.matmul(&w)?);
        assert_eq!(cast_of(&a), cast_of(&b));
        let nested = autocast(DType::F16, || x.matmul(&w))?;
        let back = x.matmul(&w)?;
        assert!(cast_of(&nested) != cast_of(&a) && cast_of(&back) == cast_of(&a));
        no_grad(|| w.add_(1.0))?;
        assert_ne!(cast_of(&x.matmul(&w)?), cast_of(&a));
        Ok(())
    })?;
    let counted = casts(|| autocast(DType::BF16, || x.matmul(&w)?.add(&x.matmul(&w)?).map(drop)));
    assert_eq!(counted, 2);
    Ok(())
}

#[test]
fn copies_made_without_recording_do_not_cut_gradients() -> Result<()> {
    let (x, w) = (randn(&[4, 4]), parameter(&[4, 4]));
    autocast(DType::BF16, || {
        no_grad(|| x.matmul(&w))?;
        x.matmul(&w)?.sum(())?.backward()?;
        assert!(w.grad().is_some());
        // Frozen, it takes no part any more.
        w.set_requires_grad(false)?;
        assert!(!x.matmul(&w)?.requires_grad());
        Ok(())
    })
}
