//! Element-wise losses.

use kiln_backend::{Error, PointwiseLoss, Result, View, ViewMut};

pub(crate) fn pointwise_loss(_loss: &PointwiseLoss, _out: ViewMut) -> Result<()> {
    Err(Error::argument("pointwise_loss", "not written yet"))
}

pub(crate) fn pointwise_loss_grad(_loss: &PointwiseLoss, _grad: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("pointwise_loss_grad", "not written yet"))
}
