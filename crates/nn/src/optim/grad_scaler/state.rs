//! The state dict of [`GradScaler`], under PyTorch's names.

use kiln_derive::located;
use kiln_tensor::{Error, Result, ScaleGrowth, StateDict, captured::unless_capturing, no_grad};

use super::{GradScaler, OP, check, lock};
use crate::optim::state::{Source, scalar};

#[located(site)]
impl GradScaler {
    /// The scale, the settings and the number of steps since the scale grew, under PyTorch's names; nothing if the
    /// scaler is not enabled. Waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        if !self.enabled {
            return Ok(StateDict::default());
        }
        let growth = *lock(&self.growth);
        let tracker = match &self.on_device {
            Some(on_device) => on_device.growth_tracker.item::<i32>()?,
            None => self.init_growth_tracker,
        };
        Ok(StateDict::from([
            ("scale".into(), scalar(self.get_scale()?)?),
            ("growth_factor".into(), scalar(growth.growth_factor)?),
            ("backoff_factor".into(), scalar(growth.backoff_factor)?),
            ("growth_interval".into(), scalar(i64::from(growth.growth_interval))?),
            ("_growth_tracker".into(), scalar(i64::from(tracker))?),
        ]))
    }

    /// Restores what [`state_dict`](GradScaler::state_dict) returned; does nothing if the scaler is not enabled.
    ///
    /// # Errors
    /// If the state is that of a scaler that was not enabled, a name is missing or unexpected, or a value is invalid.
    /// Nothing has changed then.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        if state.is_empty() {
            return Err(Error::argument(
                OP,
                "load_state_dict: the state is empty: was it saved by a scaler that was not enabled?",
            ));
        }
        unless_capturing("GradScaler::load_state_dict", "the state would be loaded whenever the step is launched")?;
        let mut source = Source::new(OP, state);
        let scale = source.value::<f64>("scale")?;
        let (growth_factor, backoff_factor) = (source.value("growth_factor")?, source.value("backoff_factor")?);
        let (interval, tracker) = (source.value::<i64>("growth_interval")?, source.value::<i64>("_growth_tracker")?);
        source.finish()?;
        let small = |value: Option<i64>| {
            let value = value.unwrap_or_default();
            i32::try_from(value).map_err(|_| Error::argument(OP, format!("{value} steps in the state")))
        };
        let (scale, tracker) = (scale.unwrap_or(self.init_scale), small(tracker)?);
        let growth = ScaleGrowth {
            growth_factor: growth_factor.unwrap_or(2.0),
            backoff_factor: backoff_factor.unwrap_or(0.5),
            growth_interval: small(interval)?,
        };
        check(scale, &growth)?;
        if let Some(on_device) = &self.on_device {
            no_grad(|| {
                on_device.scale.fill_(scale)?;
                on_device.growth_tracker.fill_(tracker)?;
                self.optimizers.iter().try_for_each(|optimizer| optimizer.found_inf.zero_())
            })?;
        }
        *lock(&self.growth) = growth;
        (self.init_scale, self.init_growth_tracker) = (scale, tracker);
        self.begin_iteration();
        Ok(())
    }
}
