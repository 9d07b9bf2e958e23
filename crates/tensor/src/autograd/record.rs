//! Recording operations on the tape.

use std::{borrow::Cow, sync::Arc};

use kiln_backend::{DType, Layout, MAX_RANK, Result, Shape};
use smallvec::{SmallVec, smallvec};

use super::{
    anomaly::check_result,
    fused_relu::ReluEpilogue,
    mode::{grad_enabled, no_grad},
    node::{Edge, Node},
    rule::{Ctx, Grads, Rule, one},
    saved::SavedTensor,
    trace::note,
};
use crate::tensor::Tensor;

/// Appends the operation that made `out` from `inputs`, if recording is on and one of them requires gradients. `saved`
/// are the tensors that the rule will request by index (`out` may be among them). The rule returns one gradient per
/// input.
pub(crate) fn record(
    out: Tensor,
    name: &'static str,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    rule: impl Fn(&Ctx<'_>) -> Result<Grads> + Send + Sync + 'static,
) -> Result<Tensor> {
    record_node(out, Cow::Borrowed(name), inputs, saved, None, rule)
}

/// Whether [`record`] will record an operation with these inputs.
pub(crate) fn is_recorded(inputs: &[&Tensor]) -> bool {
    grad_enabled() && inputs.iter().any(|t| t.requires_grad())
}

/// [`record`] with a name that is made at run time, or for a node that ends in a ReLU.
pub(crate) fn record_node(
    out: Tensor,
    name: Cow<'static, str>,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    relu: Option<ReluEpilogue>,
    rule: impl Fn(&Ctx<'_>) -> Result<Grads> + Send + Sync + 'static,
) -> Result<Tensor> {
    append(&[&out], name, inputs, saved, relu, Box::new(rule))?;
    Ok(out)
}

/// [`record`] for an operation with several results, whose gradients the rule finds by [`Ctx::grad_of`].
pub(crate) fn record_all(
    outs: &[&Tensor],
    name: &'static str,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    rule: impl Fn(&Ctx<'_>) -> Result<Grads> + Send + Sync + 'static,
) -> Result<()> {
    append(outs, Cow::Borrowed(name), inputs, saved, None, Box::new(rule))
}

/// Appends a node with these results.
fn append(
    outs: &[&Tensor],
    name: Cow<'static, str>,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    relu: Option<ReluEpilogue>,
    rule: Rule,
) -> Result<()> {
    for out in outs {
        note(name.clone(), inputs, out);
        check_result(&name, inputs, out)?;
    }
    let (true, Some(first)) = (is_recorded(inputs), outs.first()) else { return Ok(()) };
    let edges = inputs.iter().map(|t| t.edge()).collect();
    let saved = saved.iter().map(|t| SavedTensor::new(t, inputs, first)).collect();
    let node = Node::new(name, edges, outs.iter().map(|out| *out.shape()).collect(), saved, relu, rule);
    outs.iter().enumerate().for_each(|(output, out)| out.set_history(node.clone(), output));
    Ok(())
}

/// A node that derives a view from its base alone, as the view's elements at their positions in the base. Used once the
/// base or another view of it was changed in place.
pub(crate) fn as_strided_node(view: &Tensor, base: &Tensor, edge: Edge) -> Arc<Node> {
    let (view_layout, base_layout) = (*view.layout(), *base.layout());
    let rule = move |ctx: &Ctx<'_>| {
        let grad = ctx.grad()?;
        if ctx.create_graph {
            let positions = positions(&view_layout, &base_layout, &grad)?;
            let sum = Tensor::zeros([base_layout.numel()], grad.options())?;
            return Ok(one(sum.index_add(0, &positions, &grad.flatten_all()?)?.reshape(base_layout.shape())?));
        }
        let spread = spread_out(&base_layout, &grad)?;
        // A broadcast view reads an element many times: those gradients add up.
        let (layout, grad) = fold_broadcast(&view_layout, grad)?;
        let slot = spread.alias(relative(&layout, &base_layout)?);
        slot.copy_(&grad)?;
        Ok(one(spread.contiguous()?))
    };
    Node::new(
        "AsStridedBackward0".into(),
        smallvec![Some(edge)],
        smallvec![*view.shape()],
        SmallVec::new(),
        None,
        Box::new(rule),
    )
}

/// The node of a base that was changed through a view: outside the view the gradient flows on to the old base, inside
/// it to the operation that wrote there.
pub(crate) fn copy_slices_node(view: &Tensor, base: &Tensor, base_edge: Option<Edge>, written: Edge) -> Arc<Node> {
    let (view_layout, base_layout) = (*view.layout(), *base.layout());
    let rule = move |ctx: &Ctx<'_>| {
        let grad = ctx.grad()?;
        if ctx.create_graph {
            let (positions, flat) = (positions(&view_layout, &base_layout, &grad)?, grad.flatten_all()?);
            let outside = flat.scatter(0, &positions, 0)?.reshape(base_layout.shape())?;
            let inside = flat.index_select(0, &positions)?.reshape(view_layout.shape())?;
            return Ok(smallvec![Some(outside), Some(inside)]);
        }
        let spread = spread_out(&base_layout, &grad)?;
        spread.copy_(&grad)?;
        let slot = spread.alias(relative(&view_layout, &base_layout)?);
        let inside = slot.copy()?;
        slot.zero_()?;
        Ok(smallvec![Some(spread.contiguous()?), Some(inside)])
    };
    Node::new(
        "CopySlices".into(),
        smallvec![base_edge, Some(written)],
        smallvec![*base.shape()],
        SmallVec::new(),
        None,
        Box::new(rule),
    )
}

/// For each element of a view, in row-major order, its index among the elements of the base. For gradients that are
/// recorded: a write through an alias, as below, would not be.
fn positions(view: &Layout, base: &Layout, like: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let numbers = Tensor::arange(0, base.numel(), (DType::I64, like.device()))?;
        let spread = spread_out(base, &numbers)?;
        spread.copy_(&numbers.reshape(base.shape())?)?;
        spread.alias(relative(view, base)?).copy()?.flatten_all()
    })
}

/// A zeroed tensor with the layout of `base`, and the dtype and device of `like`.
fn spread_out(base: &Layout, like: &Tensor) -> Result<Tensor> {
    let span = base.span().unwrap_or(0..0);
    let memory = Tensor::zeros(&[span.len()][..], like.device())?.to_dtype(like.dtype())?;
    Ok(memory.alias(relative(base, base)?))
}

/// `layout`, relative to memory that begins at `base`'s first element.
fn relative(layout: &Layout, base: &Layout) -> Result<Layout> {
    let start = base.span().unwrap_or(0..0).start;
    Layout::strided(*layout.shape(), layout.strides(), layout.offset().saturating_sub(start))
}

/// Sums the gradient over the broadcast dimensions of `layout`, and returns the layout without them.
fn fold_broadcast(layout: &Layout, grad: Tensor) -> Result<(Layout, Tensor)> {
    let repeated: SmallVec<[usize; MAX_RANK]> =
        (0..layout.rank()).filter(|&d| layout.strides()[d] == 0 && layout.dims()[d] > 1).collect();
    if repeated.is_empty() {
        return Ok((*layout, grad));
    }
    let mut dims: SmallVec<[usize; MAX_RANK]> = layout.dims().into();
    for &dim in &repeated {
        dims[dim] = 1;
    }
    let folded = Layout::strided(Shape::new(&dims)?, layout.strides(), layout.offset())?;
    Ok((folded, grad.sum_keepdim(&repeated[..])?))
}
