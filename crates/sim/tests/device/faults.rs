//! One planted fault per test: reported with kernel, block and thread. The correct twins are in `kernels`.
use std::ffi::CStr;

use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::memory::{cuMemAlloc_v2, cuMemFree_v2};
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
    program.found(Kind::SharedUninitialized, &["thread (31, 0, 0): reads byte 124 of shared `tile`"]);
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

/// A kernel's output for `x`, whose values are 1, 2, 3 …, and what is found when it is read.
fn output(name: &CStr, blocks: u32, n: usize, unwritten: Option<&str>) -> Vec<f32> {
    let program = program();
    let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
    let (x, out) = (program.upload(&x), program.alloc(4 * n));
    program.launch(name, (blocks, 32, 0), 0, &[arg(x), arg(out), arg(n as u64)]);
    let out = program.download(out, n);
    match unwritten {
        Some(words) => program.found(Kind::Uninitialized, &["cuMemcpyDtoH", words, "nobody has written"]),
        None => program.silent(),
    }
    out
}

#[test]
fn a_block_too_few() {
    let want: Vec<f32> = (1..=40).map(|i| 2.0 * i as f32).collect();
    let got = output(c"f_no_loop", 1, 40, Some("reads byte 128 of an allocation of 160"));
    assert_eq!(got[..32], want[..32]);
    assert!(got[32..].iter().all(|v| v.is_nan()), "what nobody writes is poison: {got:?}");
    assert_eq!(output(c"t_double", 1, 40, None), want);
    assert_eq!(output(c"f_no_loop", 2, 40, None), want);
}

#[test]
fn an_element_that_is_not_written() {
    assert!(output(c"f_last_unwritten", 2, 40, Some("reads byte 156"))[39].is_nan());
    assert!(!output(c"t_double", 2, 40, None)[39].is_nan());
}

#[test]
fn a_gradient_that_is_overwritten_instead_of_accumulated() {
    for (name, want) in [(c"f_overwrites", 1.0), (c"t_accumulate", 11.0)] {
        let program = program();
        let (grad, sum) = (program.upload(&[1.0f32; 40]), program.upload(&[10.0f32; 40]));
        program.launch(name, (1, 64, 0), 0, &[arg(grad), arg(sum), arg(40u64)]);
        assert_eq!(program.download::<f32>(sum, 40), [want; 40], "{name:?}");
        program.silent();
    }
}

#[test]
fn a_gradient_that_is_accumulated_into_fresh_memory() {
    let program = program();
    let (grad, sum) = (program.upload(&[1.0f32; 40]), program.alloc(160));
    program.launch(c"t_accumulate", (1, 64, 0), 0, &[arg(grad), arg(sum), arg(40u64)]);
    assert!(program.download::<f32>(sum, 40).iter().all(|v| v.is_nan()));
    program.found(Kind::Uninitialized, &["t_accumulate", "byte 0 of an allocation of 160 bytes"]);
}

#[test]
fn updates_of_one_place_that_get_lost() {
    for (name, race) in [(c"f_lost_updates", true), (c"t_count", false)] {
        let program = program();
        let sum = program.alloc(4);
        program.launch(name, (1, 64, 0), 0, &[arg(sum)]);
        assert_eq!(synchronize(), Status::SUCCESS);
        if race {
            program.found(Kind::SharedRace, &["f_lost_updates", "shared `count`", "no barrier between"]);
        } else {
            assert_eq!(program.download::<u32>(sum, 1), [64]);
            program.silent();
        }
    }
}

#[test]
fn lanes_that_exchange_values_through_memory() {
    for (name, race) in [(c"f_shuffle_for_syncwarp", true), (c"t_syncwarp", false)] {
        let program = program();
        let (x, out) = (program.upload(&[1.0f32; 64]), program.alloc(256));
        program.launch(name, (1, 64, 0), 0, &[arg(x), arg(out)]);
        assert_eq!(synchronize(), Status::SUCCESS);
        if race {
            program.found(Kind::SharedRace, &[name.to_str().unwrap(), "shared `tile`", "no barrier between"]);
        } else {
            assert_eq!(program.download::<f32>(out, 64), [1.0; 64]);
            program.silent();
        }
    }
}

#[test]
fn strides_that_are_exchanged() {
    let program = program();
    let (x, out) = (program.upload(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]), program.alloc(24));
    let function = program.function(c"f_wrong_strides");
    let arguments = [arg(x), arg(out), arg(2u32), arg(3u32)];
    assert_eq!(program.try_launch(function, ([1; 3], [2, 3, 1], 0), 0, &arguments), Status::SUCCESS);
    // It stays inside its memory: only the values tell.
    assert_eq!(program.download::<f32>(out, 6), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    program.silent();
}

#[test]
fn a_shuffle_from_a_lane_outside_the_mask() {
    let program = program();
    let out = program.alloc(128);
    program.launch(c"f_shuffle_outside", (1, 32, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::LAUNCH_FAILED);
    program.found(Kind::WarpMask, &["f_shuffle_outside", "shuffle reads lane 20, which mask 0xffff does not name"]);
}

#[test]
fn an_index_of_32_bits_where_64_are_needed() {
    // 65,536 times 65,537 is 65,536 in 32 bits: a place inside the memory, and not the one that was meant.
    for (name, status) in [(c"f_narrow_index", Status::SUCCESS), (c"t_wide_index", Status::ILLEGAL_ADDRESS)] {
        let program = program();
        let out = program.alloc(4 * 65_537);
        program.launch(name, (1, 1, 0), 0, &[arg(out), arg(65_536u32), arg(65_537u32)]);
        assert_eq!(synchronize(), status, "{name:?}");
        if status == Status::SUCCESS {
            assert_eq!(program.download::<f32>(out, 65_537)[65_536], 1.0);
        }
    }
}

#[test]
fn blocks_that_share_memory_in_no_order() {
    for (races, name) in [(true, c"f_global_race"), (true, c"t_no_global_race"), (false, c"f_global_race")] {
        let program = Program::new(Profile { races, ..Profile::default() });
        let (out, count) = (program.alloc(1024), program.upload(&[0u32]));
        let arguments = [arg(out), arg(count)];
        program.launch(name, (4, 64, 0), 0, if name == c"f_global_race" { &arguments[..1] } else { &arguments });
        assert_eq!(synchronize(), Status::SUCCESS);
        if races && name == c"f_global_race" {
            program.found(Kind::GlobalRace, &["f_global_race", "of block 0", "in the same launch, in no order"]);
        } else {
            program.silent();
        }
    }
}

#[test]
fn what_c_leaves_open() {
    let words = ["index outside an array", "shift by more bits", "division by zero", "does not fit the integer"];
    for (which, word) in words.into_iter().enumerate() {
        // The last numbers are fine for each of them.
        for (x, fine) in [([40, 0], false), ([3, 1], which != 3)] {
            let program = program();
            let (from, out) = (program.upload(&x), program.alloc(4));
            program.launch(c"f_undefined", (1, 1, 0), 0, &[arg(from), arg(out), arg(which as i32)]);
            if fine {
                assert_eq!(synchronize(), Status::SUCCESS);
                program.silent();
            } else {
                assert_eq!(synchronize(), Status::LAUNCH_FAILED);
                program.found(Kind::Undefined, &["f_undefined", "faults.cu:", word]);
            }
        }
    }
}

#[test]
fn memory_that_is_never_given_back() {
    for (leaks, free) in [(true, false), (true, true), (false, false)] {
        let program = Program::new(Profile { leaks, ..Profile::default() });
        let kept = program.alloc(64);
        if free {
            // SAFETY: it takes no pointers.
            assert_eq!(unsafe { cuMemFree_v2(kept) }, Status::SUCCESS);
        }
        program.session.end();
        if leaks && !free {
            program.found(Kind::Leak, &["64 bytes of device memory", "faults::memory_that_is_never_given_back"]);
        } else {
            program.silent();
        }
    }
}

#[test]
fn a_trap() {
    let program = program();
    let out = program.upload(&[7i32]);
    program.launch(c"f_trap", (1, 1, 0), 0, &[arg(out)]);
    assert_eq!(synchronize(), Status::ASSERT);
    program.found(Kind::Trap, &["f_trap", "trap"]);
}
