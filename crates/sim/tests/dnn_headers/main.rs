//! The simulated cuDNN against NVIDIA's headers and library, where these are installed (`pip install nvidia-cudnn-cu13
//! nvidia-cuda-runtime nvidia-cublas nvidia-cuda-nvrtc`): numbers and names, and the results of both for random graphs,
//! valid and invalid ones, and for texts of plans. None of this needs a device: the real library gets a description of one
//! (`CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR`).
//!
//! They are looked for in the active Python environment. Without them the tests pass, unless `KILN_REQUIRE_HEADERS` is
//! set.
#[path = "../../../cuda/src/described/devices.rs"]
#[allow(dead_code, reason = "the table of plans has names for them")]
mod devices;
#[path = "../../../cuda/src/described/stub.rs"]
mod stub;

#[path = "../required/mod.rs"]
mod required;

mod attention;
mod destroyed;
mod libraries;
mod numbers;
mod plan_texts;
mod random_graphs;
mod small_graphs;
