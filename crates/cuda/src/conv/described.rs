//! Plans for a device that is described and need not be there: cuDNN 9.8 and later builds them without a GPU.

use super::{
    descriptor::{Descriptor, Kind, attribute},
    plan::{Candidates, Plan, Target, candidates},
    problem::Problem,
};
use crate::libs::Cudnn;

/// A device as cuDNN describes it to itself.
#[allow(missing_debug_implementations, reason = "an address")]
pub struct DescribedDevice {
    library: &'static Cudnn,
    properties: Descriptor,
}

/// What the library has for a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// How many candidates the heuristics propose that fit.
    pub candidates: usize,
    /// How many of them are compiled at run time.
    pub compiled: usize,
    /// The first that can be finalized and is not compiled, as its engine with notes, and its workspace.
    pub first: Option<(String, usize)>,
    /// How many do not finalize, of all that are not compiled.
    pub refused: usize,
    /// Why there is nothing (more), in the library's words.
    pub reason: String,
}

impl DescribedDevice {
    /// The device of this description, a JSON text of its properties.
    ///
    /// # Errors
    /// There is no cuDNN, or it does not take the description.
    pub fn new(json: &str) -> Result<DescribedDevice, String> {
        let library: &'static Cudnn = Box::leak(Box::new(Cudnn::open(13)?));
        let mut text = json.as_bytes().to_vec();
        text.push(0);
        let properties = Descriptor::new(library, Kind::DeviceProperties)
            .and_then(|desc| desc.set(attribute::DEVICE_PROPERTIES_JSON, &text)?.finalize())
            .map_err(|failed| failed.to_string())?;
        Ok(DescribedDevice { library, properties })
    }

    /// The library's version, as in 9.26.0.
    #[must_use]
    pub fn version(&self) -> String {
        let version = self.library.version().unwrap_or(0);
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// Asks for the plans of a problem as a device that is there would, and finalizes all that are not compiled if `all` is
    /// set, else those up to the first that can be.
    ///
    /// # Errors
    /// A call failed in another way than by being unsupported.
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
