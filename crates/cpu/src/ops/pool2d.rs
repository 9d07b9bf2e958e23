//! Two-dimensional max and average pooling, and their gradients.
//!
//! Forward, a line of windows is computed at a time, tap by tap: along a row of the output, or along the channels in
//! channels-last images and where windows differ in size. Backward, one plane at a time is accumulated, in row-major
//! order of the windows.

mod average;
mod gradient;
mod lines;
mod max;
mod pairs;
mod positions;

use kiln_backend::{
    AvgPool2dArgs, AvgPool2dGradArgs, Checked, MaxPool2dArgs, MaxPool2dGradArgs, Pool2dBackend, Result,
};

use crate::{
    device::CpuBackend,
    memory::view::{Source, Target},
    numeric::dispatch::for_float,
};

use average::average_of;
use gradient::{gradient_of_average, gradient_of_largest};
use max::largest_of;
use positions::Positions;

impl Pool2dBackend for CpuBackend {
    fn max_pool2d(&self, args: Checked<MaxPool2dArgs>) -> Result<()> {
        const OP: &str = "max_pool2d";
        let MaxPool2dArgs { pool, x, out, indices } = args.into_inner();
        let indices = indices.map(|indices| Positions::write(OP, indices)).transpose()?;
        for_float!(OP, x.dtype(), S => {
            let (x, out) = (Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            largest_of(&pool, x.erased(), out.erased(), indices);
            Ok(())
        })
    }

    fn avg_pool2d(&self, args: Checked<AvgPool2dArgs>) -> Result<()> {
        const OP: &str = "avg_pool2d";
        let AvgPool2dArgs { pool, divisor, x, out } = args.into_inner();
        for_float!(OP, x.dtype(), S => {
            let (x, out) = (Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            average_of(&pool, divisor, x.erased(), out.erased());
            Ok(())
        })
    }

    fn max_pool2d_grad(&self, args: Checked<MaxPool2dGradArgs>) -> Result<()> {
        const OP: &str = "max_pool2d_grad";
        let MaxPool2dGradArgs { pool, grad, indices, out } = args.into_inner();
        let indices = Positions::read(OP, indices)?;
        for_float!(OP, grad.dtype(), S => {
            let (grad, out) = (Source::<S>::new(OP, grad)?, Target::<S>::new(OP, out)?);
            gradient_of_largest(&pool, grad.erased(), &indices, out.erased())
        })
    }

    fn avg_pool2d_grad(&self, args: Checked<AvgPool2dGradArgs>) -> Result<()> {
        const OP: &str = "avg_pool2d_grad";
        let AvgPool2dGradArgs { pool, divisor, grad, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, out) = (Source::<S>::new(OP, grad)?, Target::<S>::new(OP, out)?);
            gradient_of_average(&pool, divisor, grad.erased(), out.erased())
        })
    }
}
