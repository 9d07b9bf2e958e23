//! The settings of [`GradScaler`], which may change while it is used.

use kiln_tensor::{Result, Tensor};

use super::{GradScaler, lock};

/// The settings, with PyTorch's defaults.
impl GradScaler {
    /// A scaler with PyTorch's defaults. Its scale will be on the device of the first loss.
    #[must_use]
    pub fn new() -> GradScaler {
        GradScaler::default()
    }

    /// The scale to begin with: 65536 by default.
    #[must_use]
    pub fn init_scale(self, init_scale: f64) -> GradScaler {
        GradScaler { init_scale, ..self }
    }

    /// What the scale is multiplied by after [`growth_interval`](GradScaler::growth_interval) steps in a row without
    /// infinities: 2 by default.
    #[must_use]
    pub fn growth_factor(self, growth_factor: f64) -> GradScaler {
        lock(&self.growth).growth_factor = growth_factor;
        self
    }

    /// What the scale is multiplied by after a step that was skipped: 0.5 by default.
    #[must_use]
    pub fn backoff_factor(self, backoff_factor: f64) -> GradScaler {
        lock(&self.growth).backoff_factor = backoff_factor;
        self
    }

    /// How many steps without infinities there are before the scale grows: 2000 by default.
    #[must_use]
    pub fn growth_interval(self, growth_interval: i32) -> GradScaler {
        lock(&self.growth).growth_interval = growth_interval;
        self
    }

    /// Whether it does anything: on by default. Otherwise [`scale`](GradScaler::scale) returns the loss, and
    /// [`step`](GradScaler::step) is the optimizer's, so that one loop serves all precisions.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> GradScaler {
        GradScaler { enabled, ..self }
    }

    /// A function that is called with `found_inf` (one `f32`: 1 if a gradient was infinite or NaN, else 0) each time
    /// that an optimizer's gradients were looked at, and may change it in place: an all-reduce (maximum, or sum) makes
    /// the decision one for all ranks. If it waits for the device, so does the step.
    #[must_use]
    pub fn reduce_found_inf(self, reduce: impl FnMut(&Tensor) -> Result<()> + Send + 'static) -> GradScaler {
        GradScaler { reduce: Some(Box::new(reduce)), ..self }
    }

    /// Whether it does anything.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The factor of growth.
    #[must_use]
    pub fn get_growth_factor(&self) -> f64 {
        lock(&self.growth).growth_factor
    }

    /// Sets the factor of growth.
    pub fn set_growth_factor(&mut self, growth_factor: f64) {
        lock(&self.growth).growth_factor = growth_factor;
    }

    /// The factor of backoff.
    #[must_use]
    pub fn get_backoff_factor(&self) -> f64 {
        lock(&self.growth).backoff_factor
    }

    /// Sets the factor of backoff.
    pub fn set_backoff_factor(&mut self, backoff_factor: f64) {
        lock(&self.growth).backoff_factor = backoff_factor;
    }

    /// The interval of growth.
    #[must_use]
    pub fn get_growth_interval(&self) -> i32 {
        lock(&self.growth).growth_interval
    }

    /// Sets the interval of growth.
    pub fn set_growth_interval(&mut self, growth_interval: i32) {
        lock(&self.growth).growth_interval = growth_interval;
    }
}
