//! One planted fault a test: found, and named with kernel, block and thread. The correct twins are in `kernels`.
use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::memory::cuMemAlloc_v2;
use kiln_sim::{Kind, Profile, Status};

use crate::common::{Program, arg};

fn program() -> Program {
    Program::new(Profile::default())
}

fn synchronize() -> Status {
    // SAFETY: it takes nothing.
    unsafe { cuCtxSynchronize() }
}

#[test]
fn one_element_too_many() {
    let program = program();
    let out = program.alloc(40);
    program.launch(c"f_off_by_one", (1, 32, 0), 0, &[arg(out), arg(10u64)]);
    assert_eq!(synchronize(), Status::ILLEGAL_ADDRESS);
    program.found(
        Kind::IllegalAddress,
        &["f_off_by_one", "block (0, 0, 0), thread (10, 0, 0)", "byte 40 of an", "of 40 bytes"],
    );
    // The context is lost: every call says so from now on.
    let mut address = 0;
    // SAFETY: the pointer is to a variable of its type.
    assert_eq!(unsafe { cuMemAlloc_v2(&raw mut address, 16) }, Status::ILLEGAL_ADDRESS);
    assert_eq!(synchronize(), Status::ILLEGAL_ADDRESS);
}

#[test]
fn a_missing_barrier() {
    let program = program();
    let (x, out) = (program.upload(&[1.0f32; 64]), program.alloc(256));
    program.launch(c"f_no_barrier", (1, 64, 256), 0, &[arg(x), arg(out)]);
    assert_eq!(synchronize(), Status::SUCCESS);
    let findings = program.findings();
    assert!(findings.iter().any(|finding| finding.kind == Kind::SharedRace), "{findings:?}");
}

#[test]
fn a_missing_second_barrier() {
    let program = program();
    let (x, out) = (program.upload(&[1.0f32; 128]), program.alloc(256));
    program.launch(c"f_no_second_barrier", (1, 64, 0), 0, &[arg(x), arg(out)]);
    assert_eq!(synchronize(), Status::SUCCESS);
    program.found(Kind::SharedRace, &["f_no_second_barrier", "shared `tile`", "no barrier between"]);
}

#[test]
fn a_barrier_that_half_of_the_threads_miss() {
    let program = program();
    let out = program.alloc(256);
    program.launch(c"f_divergent_barrier", (1, 64, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::LAUNCH_FAILED);
    program.found(Kind::DivergentBarrier, &["f_divergent_barrier", "thread (32, 0, 0)", "has ended", "faults.cu:"]);
}

#[test]
fn a_mask_that_names_lanes_that_do_not_come() {
    let program = program();
    let out = program.alloc(128);
    program.launch(c"f_wrong_mask", (1, 32, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::LAUNCH_FAILED);
    program.found(Kind::WarpMask, &["f_wrong_mask", "waits for lane 16", "has ended"]);
}

#[test]
fn a_mask_that_does_not_name_its_caller() {
    let program = program();
    let out = program.alloc(128);
    program.launch(c"f_mask_without_self", (1, 32, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::LAUNCH_FAILED);
    program.found(Kind::WarpMask, &["lane 16 is not named by its own mask 0xffff"]);
}

#[test]
fn a_write_past_a_shared_variable() {
    let program = program();
    let out = program.alloc(128);
    program.launch(c"f_shared_overrun", (1, 32, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::ILLEGAL_ADDRESS);
    program.found(Kind::SharedBounds, &["f_shared_overrun", "thread (31, 0, 0)", "byte 128 of `tile`"]);
}

#[test]
fn a_read_of_shared_memory_that_nobody_wrote() {
    let program = program();
    let out = program.alloc(128);
    program.launch(c"f_shared_unset", (1, 32, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::SUCCESS);
    program.found(Kind::SharedUninitialised, &["thread (31, 0, 0): reads byte 124 of shared `tile`"]);
    assert!(program.download::<f32>(out, 32)[31].is_nan());
}

#[test]
fn a_vector_that_is_not_aligned() {
    let program = program();
    let (x, out) = (program.upload(&[1.0f32; 64]), program.alloc(256));
    program.launch(c"f_unaligned_vector", (1, 4, 0), 0, &[arg(x), arg(out)]);
    assert_eq!(synchronize(), Status::MISALIGNED_ADDRESS);
    program.found(Kind::Misaligned, &["f_unaligned_vector", "needs 16 bytes"]);
}

#[test]
fn null_and_wild_pointers() {
    let first = program();
    let out = first.alloc(256);
    first.launch(c"f_null", (1, 1, 0), 0, &[arg(0u64), arg(out)]);
    assert_eq!(synchronize(), Status::ILLEGAL_ADDRESS);
    first.found(Kind::IllegalAddress, &["f_null", "a null pointer"]);
    drop(first);
    let second = program();
    let out = second.alloc(256);
    second.launch(c"f_wild", (1, 1, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::ILLEGAL_ADDRESS);
    second.found(Kind::IllegalAddress, &["f_wild", "0x123456789abc"]);
}

#[test]
fn a_trap() {
    let program = program();
    let out = program.alloc(4);
    program.launch(c"f_trap", (1, 1, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::ASSERT);
    program.found(Kind::Trap, &["f_trap", "trap"]);
}
