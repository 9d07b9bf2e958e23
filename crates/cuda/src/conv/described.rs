//! Convolution plans for a device that is described and need not exist: cuDNN 9.8 and later makes them without a GPU.

use super::{
    descriptor::{Descriptor, Kind, attribute},
    plan::{Candidates, Plan, Target, candidates},
    problem::Problem,
};
use crate::libs::Cudnn;

/// A device, as cuDNN describes devices.
#[allow(missing_debug_implementations, reason = "an address")]
pub struct DescribedDevice {
    library: &'static Cudnn,
    properties: Descriptor,
}

/// The plans that the library has for a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// How many fitting candidates the heuristics propose.
    pub candidates: usize,
    /// How many of them are compiled at run time.
    pub compiled: usize,
    /// The first one that can be finalized without compilation: its engine with notes, and its workspace.
    pub first: Option<(String, usize)>,
    /// How many of those that need no compilation cannot be finalized.
    pub refused: usize,
    /// Why there is nothing, or nothing more, in the library's words.
    pub reason: String,
}

impl DescribedDevice {
    /// A device of this description, a JSON text of its properties.
    ///
    /// # Errors
    /// If there is no cuDNN, or it does not accept the description.
    pub fn new(json: &str) -> Result<DescribedDevice, String> {
        let library: &'static Cudnn = Box::leak(Box::new(Cudnn::open(13)?));
        let mut text = json.as_bytes().to_vec();
        text.push(0);
        let properties = Descriptor::new(library, Kind::DeviceProperties)
            .and_then(|desc| desc.set(attribute::DEVICE_PROPERTIES_JSON, &text)?.finalize())
            .map_err(|failed| failed.to_string())?;
        Ok(DescribedDevice { library, properties })
    }

    /// The library's version, e.g. 9.26.0.
    #[must_use]
    pub fn version(&self) -> String {
        let version = self.library.version().unwrap_or(0);
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// Asks for the plans of a problem, as for a real device, and finalizes those that need no compilation: all of them
    /// if `all` is set, else those up to the first success.
    ///
    /// # Errors
    /// If a call fails for another reason than that something is unsupported.
    pub fn plans(&self, problem: &Problem, all: bool) -> Result<Planned, String> {
        let target = Target::Described(&self.properties);
        let Candidates { list, reason } =
            candidates(self.library, target, problem).map_err(|failed| failed.to_string())?;
        let mut planned = Planned {
            candidates: list.len(),
            reason: reason.map(|failed| failed.to_string()).unwrap_or_default(),
            ..Planned::default()
        };
        for candidate in list {
            if candidate.engine.is_compiled_at_run_time() {
                planned.compiled += 1;
                continue;
            }
            if planned.first.is_some() && !all {
                continue;
            }
            match candidate.plan(self.library, target) {
                Ok(Plan { engine, workspace, .. }) => {
                    planned.first.get_or_insert((engine.to_string(), workspace));
                }
                Err(failed) => {
                    planned.refused += 1;
                    planned.reason = failed.to_string();
                }
            }
        }
        Ok(planned)
    }
}
