//! Plans for a device that is given by a description and need not exist: cuDNN 9.8 and later creates them without a GPU.
//! Tests ask NVIDIA's library which plans it has for each convolution and for attention, and `examples/compile_plans.rs`
//! builds plans ahead of time.

pub mod devices;
#[cfg_attr(not(target_os = "linux"), path = "no_stub.rs")]
pub mod stub;

use std::path::Path;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
    cudnnBackendDescriptorType_t::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR,
};
use kiln_backend::Conv2dCall;

use crate::{
    attention::problem::Problem as AttentionProblem,
    conv::problem::{Addresses, Problem},
    cudnn::{
        descriptor::Descriptor,
        plan::{Candidates, Computation, Plan, Target},
    },
    image_format::Format,
    libs::Cudnn,
    plan_cache::{DeviceKind, PlanCache},
};

/// A device created from cuDNN's description of it.
#[allow(missing_debug_implementations, reason = "an address")]
pub struct DescribedDevice {
    library: &'static Cudnn,
    properties: Descriptor,
    kind: DeviceKind,
}

/// The plans that the library has for a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// The first one that is compiled at run time before `first`, without trying it: its engine with notes.
    pub first_compiled: Option<String>,
    /// The first one that can be finalized without compilation: its engine with notes, and its workspace in bytes.
    pub first: Option<(String, usize)>,
    /// Why there is no plan, or no further one, in the library's words.
    pub reason: String,
}

/// The value of a member of a JSON object without nested objects.
fn member<'a>(json: &'a str, name: &str) -> Result<&'a str, String> {
    let missing = || format!("the description has no {name}");
    let (_, rest) = json.split_once(&format!("\"{name}\"")).ok_or_else(missing)?;
    let rest = rest.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start();
    match rest.strip_prefix('"') {
        Some(text) => text.split_once('"').map(|(text, _)| text).ok_or_else(missing),
        None => rest.split([',', '}']).next().map(str::trim_end).ok_or_else(missing),
    }
}

impl DescribedDevice {
    /// Creates a device from its description, a JSON text of its properties.
    ///
    /// # Errors
    /// If there is no cuDNN, or it does not accept the description.
    pub fn new(json: &str) -> Result<DescribedDevice, String> {
        let number = |name| member(json, name)?.parse::<u32>().map_err(|error| format!("{name}: {error}"));
        let version = number("deviceVer")?;
        let kind = DeviceKind {
            name: member(json, "deviceName")?.into(),
            compute_capability: (version / 100, version / 10 % 10),
            multiprocessors: number("multiProcessorCount")?,
        };
        let library: &'static Cudnn = Box::leak(Box::new(Cudnn::open(13)?));
        let mut text = json.as_bytes().to_vec();
        text.push(0);
        let properties = Descriptor::new(library, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)
            .and_then(|desc| desc.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, &text)?.finalize())
            .map_err(|failed| failed.to_string())?;
        Ok(DescribedDevice { library, properties, kind })
    }

    /// The library's version, e.g. 9.26.0.
    #[must_use]
    pub fn version(&self) -> String {
        let version = self.library.version().unwrap_or(0);
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// The plan cache of a device of this kind, in this folder or in the one that the environment names; `None` if that
    /// turns it off.
    #[must_use]
    pub fn cache(&self, root: Option<&Path>) -> Option<PlanCache> {
        let version = self.library.version()?;
        match root {
            Some(root) => Some(PlanCache::in_folder(root, version, &self.kind)),
            None => PlanCache::open(version, &self.kind),
        }
    }

    fn target(&self) -> Target<'_> {
        Target::Described(&self.properties)
    }

    /// Asks for the plans of a problem, as for a real device, up to the first that can be finalized without compilation.
    ///
    /// # Errors
    /// If a call fails for a reason other than that something is unsupported.
    pub fn plans<const R: usize, const A: usize>(&self, problem: &Problem<R, A>) -> Result<Planned, String> {
        self.plans_of(problem)
    }

    /// [`plans`](DescribedDevice::plans) for attention.
    ///
    /// # Errors
    /// As there.
    pub fn plans_of_attention(&self, problem: &AttentionProblem) -> Result<Planned, String> {
        self.plans_of(problem)
    }

    fn plans_of(&self, problem: &dyn Computation) -> Result<Planned, String> {
        let mut candidates = Candidates::new(self.library, self.target(), problem);
        let mut planned = Planned::default();
        let mut refused = None;
        for candidate in candidates.by_ref() {
            let candidate = candidate.map_err(|failed| failed.to_string())?;
            if candidate.engine.is_compiled_at_run_time() {
                planned.first_compiled.get_or_insert_with(|| candidate.engine.to_string());
                continue;
            }
            match candidate.plan(self.target()) {
                Ok(plan) => {
                    planned.first = Some((plan.engine.to_string(), plan.workspace));
                    break;
                }
                Err(failed) => refused = Some(failed),
            }
        }
        planned.reason = refused.or(candidates.reason).map(|failed| failed.to_string()).unwrap_or_default();
        Ok(planned)
    }

    /// Builds the plan that the device would choose, compiling one if there is no other, and returns its text and its
    /// engine with notes.
    ///
    /// # Errors
    /// If there is none: the reason, in the library's words.
    pub fn build(&self, problem: &Problem) -> Result<(Vec<u8>, String), String> {
        self.build_of(problem)
    }

    /// [`build`](DescribedDevice::build) for attention.
    ///
    /// # Errors
    /// As there.
    pub fn build_attention(&self, problem: &AttentionProblem) -> Result<(Vec<u8>, String), String> {
        self.build_of(problem)
    }

    fn build_of(&self, problem: &dyn Computation) -> Result<(Vec<u8>, String), String> {
        let mut candidates = Candidates::new(self.library, self.target(), problem);
        let mut list: Vec<_> = candidates.by_ref().collect::<Result<_, _>>().map_err(|failed| failed.to_string())?;
        list.sort_by_key(|candidate| candidate.engine.is_compiled_at_run_time());
        let mut why = candidates.reason.map_or_else(|| "no engine is proposed".into(), |failed| failed.to_string());
        for candidate in list {
            match candidate.plan(self.target()).and_then(|plan| Ok((plan.text()?, plan.engine.to_string()))) {
                Ok(built) => return Ok(built),
                Err(failed) => why = failed.to_string(),
            }
        }
        Err(why)
    }

    /// The engine, with notes, of a problem's plan, given as text.
    ///
    /// # Errors
    /// If the library does not accept the text for this device: the reason.
    pub fn accept(&self, problem: &Problem, text: &[u8]) -> Result<String, String> {
        Plan::from_text(self.library, self.target(), problem, text).map(|plan| plan.engine.to_string())
    }

    /// Builds the plans of a convolution for the cache. [`problems`] lists the ways to compute it; the first way for
    /// which the library has plans is used. Returns how many plans were written, and the problems without a plan, with
    /// the reason.
    pub fn write_plans(&self, call: &Conv2dCall, cache: &PlanCache) -> (usize, Vec<String>) {
        let (mut written, mut missing) = (0, Vec::new());
        for way in problems(call) {
            let mut whole = true;
            for problem in way {
                if cache.read(&problem).is_some_and(|text| self.accept(&problem, &text).is_ok()) {
                    continue;
                }
                match self.build(&problem) {
                    Ok((text, _)) => {
                        cache.write(&problem, &text);
                        written += 1;
                    }
                    Err(reason) => {
                        whole = false;
                        missing.push(format!("{problem:?}: {reason}"));
                    }
                }
            }
            if whole {
                return (written, missing);
            }
        }
        (written, missing)
    }
}

/// The problems of a convolution on whole allocations, as the backend passes them to cuDNN: one list for each way to
/// compute it, in the order in which they are tried.
#[must_use]
pub fn problems(call: &Conv2dCall) -> Vec<Vec<Problem>> {
    let [x, w, y] = &call.operands;
    if call.operands.iter().any(|layout| layout.numel() == 0) {
        return Vec::new();
    }
    let (format, _) = Format::of::<4, _>(call.dtype, [x, w, y]);
    let dims = [x, w, y].map(|layout| <[usize; 4]>::try_from(layout.dims()).unwrap_or_default());
    let way = |fusion, format| -> Vec<Problem> {
        let whole = Problem { fusion, ..Problem::new(call.direction, call.dtype, call.rule, dims, format) };
        whole.calls(Addresses::default()).into_iter().flatten().map(|(problem, _)| problem).collect()
    };
    let mut ways = Vec::new();
    ways.extend(call.fusion.map(|fusion| way(Some(fusion), format)));
    ways.push(way(None, format));
    if format == Format::ChannelsLast {
        ways.push(way(None, Format::ChannelsFirst));
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_description_must_have_is_found_in_it() {
        for device in &devices::DEVICES {
            let json = device.json();
            assert!(member(&json, "deviceName").unwrap().starts_with("NVIDIA "));
            assert!(member(&json, "deviceVer").unwrap().parse::<u32>().unwrap() >= 800);
        }
        assert!(member(r#"{"deviceVer": 900}"#, "deviceName").unwrap_err().contains("deviceName"));
        assert_eq!(member(r#"{"deviceVer": 900 }"#, "deviceVer"), Ok("900"));
        assert!(DescribedDevice::new("{}").err().unwrap().contains("deviceVer"));
    }
}
