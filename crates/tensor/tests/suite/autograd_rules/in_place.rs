//! In-place changes: of leaves, of saved tensors, through views.

use kiln_tensor::{DType, Error, Result, Tensor, autograd::gradcheck, no_grad};

use super::{assert_error, constant, leaf};
use crate::common::compare::{assert_close, floats};

#[test]
fn leaves_and_their_views_are_not_changed_while_recording() -> Result<()> {
    let w = leaf(&[1.0, 2.0, 3.0]);
    assert_error(w.add_(1), &["add_", "leaf", "no_grad"]);
    assert_error(w.zero_(), &["zero_", "leaf"]);
    assert_error(w.narrow(0, 0, 2)?.mul_(2), &["mul_", "view of a leaf"]);
    assert_error(w.copy_(&constant(&[0.0; 3])), &["copy_", "leaf"]);
    assert_error(w.clone().t_(), &["t_", "leaf"]);
    assert_eq!(floats(&w), [1.0, 2.0, 3.0], "an error changes nothing");
    no_grad(|| w.sub_(1))?;
    no_grad(|| w.narrow(0, 0, 1)?.fill_(9))?;
    assert_eq!(floats(&w), [9.0, 1.0, 2.0]);
    assert!(w.is_leaf() && w.requires_grad());
    Ok(())
}

#[test]
fn a_changed_saved_tensor_is_an_error_not_a_wrong_number() -> Result<()> {
    let x = leaf(&[0.5, 1.0]);
    // exp saves its output, sin its input.
    let y = x.exp()?;
    y.add_(1)?;
    assert_error(y.sum(())?.backward(), &["ExpBackward0", "in-place", "version 1", "version 0"]);
    let y = x.sin()?;
    no_grad(|| x.mul_(2))?;
    assert_error(y.sum(())?.backward(), &["SinBackward0", "in-place"]);
    // add saves nothing: the change does no harm.
    let y = x.add(&x)?;
    no_grad(|| x.mul_(2))?;
    y.sum(())?.backward()?;
    // A change through a view or a detached handle counts as well.
    let y = x.sin()?;
    x.detach().narrow(0, 0, 1)?.zero_()?;
    assert_error(y.sum(())?.backward(), &["SinBackward0"]);
    Ok(())
}

#[test]
fn a_change_becomes_part_of_the_history() -> Result<()> {
    let names = ["AddBackward0", "SubBackward0", "MulBackward0", "DivBackward0"];
    let ops: [fn(&Tensor, &Tensor) -> Result<()>; 4] =
        [|y, w| y.add_(w), |y, w| y.sub_(w), |y, w| y.mul_(w), |y, w| y.div_(w)];
    for (name, op) in names.into_iter().zip(ops) {
        let f = |inputs: &[Tensor]| {
            let y = inputs[0].mul(2)?;
            op(&y, &inputs[1])?;
            Ok(y)
        };
        gradcheck(f, &[&constant(&[1.0, 2.0]), &constant(&[3.0, 0.5])])?;
        // Also a tensor that had no history, and an operand that broadcasts.
        let started_plain = |inputs: &[Tensor]| {
            let y = Tensor::ones([3, 2], DType::F64)?;
            op(&y, &inputs[0])?;
            assert!(y.requires_grad() == inputs[0].requires_grad());
            Ok(y)
        };
        gradcheck(started_plain, &[&constant(&[1.0, 2.0])])?;
        let y = leaf(&[1.0]).mul(1)?;
        op(&y, &constant(&[2.0]))?;
        assert_eq!(y.grad_fn().unwrap().name(), name);
    }
    Ok(())
}

#[test]
fn a_tensor_added_to_itself_in_place() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let y = x.mul(3)?;
    y.add_(&y)?;
    assert_eq!(floats(&y), [6.0, 12.0]);
    y.sum(())?.backward()?;
    assert_eq!(floats(&x.grad().unwrap()), [6.0, 6.0]);
    Ok(())
}

#[test]
fn overwriting_cuts_the_gradient() -> Result<()> {
    for overwrite in [|y: &Tensor| y.zero_(), |y: &Tensor| y.fill_(3), |y: &Tensor| y.uniform_(0.0, 1.0)] {
        let x = leaf(&[1.0, 2.0]);
        let y = x.mul(3)?;
        overwrite(&y)?;
        y.sum(())?.backward()?;
        assert_eq!(floats(&x.grad().unwrap()), [0.0, 0.0]);
    }
    Ok(())
}

#[test]
fn a_change_through_a_view_changes_the_gradient_of_the_base() -> Result<()> {
    // y = 3x; y[1..3] *= w; the gradient of x is 3 outside and 3w inside, that of w is 3x inside.
    let x = leaf(&[1.0, 2.0, 3.0, 4.0]);
    let w = leaf(&[10.0, 20.0]);
    let y = x.mul(3)?;
    y.narrow(0, 1, 2)?.mul_(&w)?;
    assert_eq!(floats(&y), [3.0, 60.0, 180.0, 12.0]);
    assert_eq!(y.grad_fn().unwrap().name(), "CopySlices");
    y.sum(())?.backward()?;
    assert_eq!(floats(&x.grad().unwrap()), [3.0, 30.0, 60.0, 3.0]);
    assert_eq!(floats(&w.grad().unwrap()), [6.0, 9.0]);
    Ok(())
}

#[test]
fn views_of_changed_bases_check_against_differences() -> Result<()> {
    let (x, w) = (Tensor::rand([3, 4], DType::F64)?, Tensor::rand([3], DType::F64)?);
    type Change = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let changes: [(&str, Change); 7] = [
        ("column", |y, w| {
            y.select(1, 2)?.mul_(w)?;
            Ok(y.clone())
        }),
        ("a view of a view", |y, w| {
            y.t()?.narrow(0, 1, 2)?.select(0, 1)?.add_(w)?;
            y.mul(y)
        }),
        ("the view that changed is used", |y, w| {
            let view = y.select(1, 0)?;
            view.mul_(w)?;
            view.mul(&view)
        }),
        ("another view of the same elements is used", |y, w| {
            let (seen, changed) = (y.narrow(1, 0, 2)?, y.select(1, 1)?);
            changed.copy_(w)?;
            seen.mul(&seen)
        }),
        ("the base changed, a view is used", |y, w| {
            let view = y.t()?;
            y.mul_(&w.unsqueeze(1)?)?;
            view.mul(&view)
        }),
        ("an expanded view of a changed base", |y, w| {
            let view = y.select(1, 3)?.unsqueeze(0)?.expand([2, 3])?;
            y.select(1, 3)?.mul_(w)?;
            view.mul(&view)
        }),
        ("changed twice", |y, w| {
            y.select(1, 1)?.mul_(w)?;
            y.narrow(1, 0, 3)?.mul_(&w.unsqueeze(1)?)?;
            y.mul(y)
        }),
    ];
    for (name, change) in changes {
        gradcheck(|inputs| change(&inputs[0].mul(2)?, &inputs[1]), &[&x, &w])
            .map_err(|error| Error::argument("test", format!("{name}: {error}")))?;
    }
    Ok(())
}

#[test]
fn a_plain_tensor_filled_row_by_row_from_tracked_ones() -> Result<()> {
    let rows: Vec<Tensor> = (0..3).map(|i| leaf(&[f64::from(i), 2.0])).collect();
    let table = Tensor::zeros([3, 2], DType::F64)?;
    for (i, row) in rows.iter().enumerate() {
        table.select(0, i as i64)?.copy_(row)?;
    }
    table.mul(&table)?.sum(())?.backward()?;
    for row in &rows {
        assert_close(&row.grad().unwrap(), &no_grad(|| row.mul(2))?);
    }
    Ok(())
}

#[test]
fn in_place_errors_say_what_is_wrong() -> Result<()> {
    let y = leaf(&[1.0, 2.0]).mul(1)?;
    assert_error(y.unsqueeze(0)?.expand([3, 2])?.add_(1), &["add_", "broadcast view", "[3, 2]"]);
    assert_error(y.add_(&constant(&[1.0, 2.0, 3.0])), &["[2]", "[3]"]);
    let wide = Tensor::zeros([3, 2], DType::F64)?;
    assert_error(y.add_(&wide), &["add_", "[2]", "[3, 2]"]);
    let ints = Tensor::zeros(2, DType::I64)?;
    assert_error(ints.add_(0.5), &["add_", "i64"]);
    assert_error(ints.div_(2), &["div_", "i64"]);
    let hidden = no_grad(|| y.narrow(0, 0, 1))?;
    assert_error(hidden.add_(&leaf(&[1.0])), &["without recording"]);
    assert_eq!(floats(&y), [1.0, 2.0]);
    Ok(())
}
