//! The tests of several crates that need no process of their own.

#[path = "../support/checkout.rs"]
mod checkout;
#[path = "../golden/fractions.rs"]
mod fractions;

mod bad_input;
mod examples;
#[cfg(target_os = "linux")]
mod gpu_report;
mod located;
mod mlp_curve;
mod vgg16_logits;
