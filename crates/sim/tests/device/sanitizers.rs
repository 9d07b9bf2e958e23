//! Planted faults under the sanitizers' own libraries, each in a separate process, beside twins that must not be
//! reported.
use std::process::Command;

use kiln_sim::Profile;
use kiln_sim::api::context::cuCtxSynchronize;

use crate::common::{Program, arg};

/// Names the case that [`child`] runs.
const CASE: &str = "KILN_SIM_CASE";

/// What the process says that runs a case under a sanitizer, and whether it succeeds.
fn run(sanitizer: &str, case: &str) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-sim"));
    command.args(["--sanitize", sanitizer]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "sanitizers::child", "--ignored", "--nocapture"]).env(CASE, case);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn caught(sanitizer: &str, case: &str, words: &[&str]) {
    let (success, text) = run(sanitizer, case);
    assert!(!success, "{case} is not noticed:\n{text}");
    for word in words {
        assert!(text.contains(word), "{case}: `{word}` is not in:\n{text}");
    }
}

fn silent(sanitizer: &str, cases: &[&str]) {
    for case in cases {
        let (success, text) = run(sanitizer, case);
        assert!(success && text.contains("1 passed"), "{case} is no mistake:\n{text}");
    }
}

#[test]
fn addresses() {
    let here = "AddressSanitizer: ";
    caught("address", "f_shared_overrun", &[here, "use-after-poison", "f_shared_overrun", "faults.cu:"]);
    caught("address", "f_local_overrun 4", &[here, "stack-buffer-overflow", "f_local_overrun", "faults.cu:"]);
    caught("address", "f_off_by_one 10", &[here, "use-after-poison", "f_off_by_one", "faults.cu:"]);
    silent("address", &["t_reverse_f32", "t_count", "f_local_overrun 3", "f_off_by_one 9"]);
}

#[test]
fn undefined_behavior() {
    let here = "faults.cu:";
    caught("address", "f_signed_overflow 2147483647", &[here, "runtime error: signed integer overflow"]);
    caught("address", "f_undefined 40", &[here, "runtime error: shift exponent 40 is too large"]);
    caught("address", "f_unaligned_vector", &[here, "misaligned address"]);
    silent("address", &["f_signed_overflow 7", "f_undefined 3", "t_sum_f32"]);
}

#[test]
fn missing_barriers() {
    let here = "ThreadSanitizer: data race";
    caught("thread", "f_no_barrier", &[here, "f_no_barrier"]);
    caught("thread", "f_no_second_barrier", &[here, "f_no_second_barrier"]);
    caught("thread", "f_lost_updates", &[here, "f_lost_updates"]);
    caught("thread", "f_no_syncwarp", &[here, "f_no_syncwarp"]);
    caught("thread", "f_shuffle_for_syncwarp", &[here, "f_shuffle_for_syncwarp"]);
    silent("thread", &["t_reverse_f32", "t_sum_f32", "t_count", "t_no_global_race", "t_syncwarp"]);
}

/// A launch is watched although one of another shape was, and what is not watched is no mistake.
#[test]
fn launches_that_are_watched() {
    caught("thread", "f_no_barrier 1", &["ThreadSanitizer: data race", "f_no_barrier"]);
    silent("thread", &["t_reverse_f32 4"]);
}

#[test]
#[ignore = "a child"]
fn child() {
    let case = std::env::var(CASE).unwrap();
    let (name, number) = case.split_once(' ').unwrap_or((&case, "0"));
    let number: i32 = number.parse().unwrap();
    let program = Program::new(Profile::default());
    let (x, out) = (program.upload(&[number; 128]), program.upload(&[0u32; 256]));
    let name = std::ffi::CString::new(name).unwrap();
    let launch = |shape, arguments: &[_]| program.launch(&name, shape, 0, arguments);
    match name.to_str().unwrap() {
        "f_no_barrier" if number == 1 => {
            [1, 64].iter().for_each(|&threads| launch((1, threads, 256), &[arg(x), arg(out)]));
        }
        "t_reverse_f32" if number == 4 => (0..2).for_each(|_| launch((4, 32, 128), &[arg(x), arg(out)])),
        "f_off_by_one" => launch((1, 32, 0), &[arg(program.alloc(40)), arg(number as u64)]),
        "f_shared_overrun" | "t_count" | "f_lost_updates" => launch((1, 32, 0), &[arg(out)]),
        "f_local_overrun" | "f_signed_overflow" => launch((1, 1, 0), &[arg(x), arg(out)]),
        "f_undefined" => launch((1, 1, 0), &[arg(x), arg(out), arg(1)]),
        "f_unaligned_vector" => launch((1, 4, 0), &[arg(x), arg(out)]),
        "t_sum_f32" => launch((1, 128, 0), &[arg(x), arg(out), arg(128u64)]),
        "f_no_barrier" | "f_no_second_barrier" | "t_reverse_f32" => launch((1, 64, 256), &[arg(x), arg(out)]),
        "f_no_syncwarp" | "f_shuffle_for_syncwarp" | "t_syncwarp" => launch((1, 64, 0), &[arg(x), arg(out)]),
        "t_no_global_race" => launch((4, 32, 0), &[arg(out), arg(program.upload(&[0u32]))]),
        other => panic!("no case {other}"),
    }
    // SAFETY: it takes nothing.
    let status = unsafe { cuCtxSynchronize() };
    assert_eq!(status, kiln_sim::Status::SUCCESS);
    program.silent();
}
