//! Losses over classes.

use kiln_backend::{ClassLoss, Error, Result, View, ViewMut};

pub(crate) fn class_loss(
    _rule: &ClassLoss,
    _x: View,
    _target: View,
    _weight: Option<View>,
    _loss: ViewMut,
    _lse: ViewMut,
    _total: ViewMut,
) -> Result<()> {
    Err(Error::argument("class_loss", "not written yet"))
}

#[allow(clippy::too_many_arguments)] // one fused kernel
pub(crate) fn class_loss_grad(
    _rule: &ClassLoss,
    _grad: View,
    _x: View,
    _target: View,
    _weight: Option<View>,
    _lse: View,
    _total: View,
    _out: ViewMut,
) -> Result<()> {
    Err(Error::argument("class_loss_grad", "not written yet"))
}
