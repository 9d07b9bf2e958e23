//! What a gradient scaler does on the device: one launch for up to 254 gradients of a dtype, and one that moves the scale.

use kiln_backend::{Checked, DType, GradScalerBackend, Result, UnscaleGradsArgs, UpdateScaleArgs};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    params::Unscale,
    view::Access,
};

impl GradScalerBackend for CudaBackend {
    fn unscale_grads(&self, args: Checked<UnscaleGradsArgs>) -> Result<()> {
        let UnscaleGradsArgs { grads, scale, found_inf } = args.into_inner();
        let access = Access { device: self.0, op: "unscale_grads" };
        let scale = access.read_if(scale)?.map_or(0, |scale| scale.address);
        let found_inf = access.write(found_inf)?.address;
        let grads = grads.into_iter().map(|grad| access.write(grad)).collect::<Result<Vec<_>>>()?;
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            let mut step = Unscale::new(scale, found_inf);
            for grad in grads.iter().filter(|grad| grad.dtype == dtype && grad.layout.numel() > 0) {
                let numel = grad.layout.numel() as u64;
                if !step.push(grad.address, numel) {
                    self.0.launch_unscale(dtype, step)?;
                    step = Unscale::new(scale, found_inf);
                    step.push(grad.address, numel);
                }
            }
            if step.slots > 0 {
                self.0.launch_unscale(dtype, step)?;
            }
        }
        Ok(())
    }

    fn update_scale(&self, args: Checked<UpdateScaleArgs>) -> Result<()> {
        let device = self.0;
        let UpdateScaleArgs { scale, growth_tracker, found_inf, growth_factor, backoff_factor, growth_interval } =
            args.into_inner();
        let access = Access { device, op: "update_scale" };
        let (scale, tracker) = (access.write(scale)?.address, access.write(growth_tracker)?.address);
        let (found_inf, interval) = (access.write(found_inf)?.address, i64::from(growth_interval));
        let tag = Tag::of(DType::F32);
        launch!(device, UPDATE, "scale", tag, 1, scale, tracker, found_inf, growth_factor, backoff_factor, interval)
    }
}

impl Device {
    fn launch_unscale(&self, dtype: DType, step: Unscale) -> Result<()> {
        launch!(self, UNSCALE, "grads", Tag::of(dtype), step.blocks, step)
    }
}
