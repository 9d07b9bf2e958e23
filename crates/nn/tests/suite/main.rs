//! The tests of this crate that need no process of their own: one program, because each is linked on its own, and brings its
//! copies of what is generic.

#[path = "../common/mod.rs"]
mod common;

mod adaptive_softmax;
mod averages;
mod derive;
mod display;
mod dropout;
mod early_stopping;
mod embeddings;
mod grad_scaler;
mod losses;
mod metrics;
mod optim_db;
mod schedulers;
mod sequences;
mod summary;
mod upsample;
