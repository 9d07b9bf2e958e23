//! Kernels compute correct results in every order, without findings.
use kiln_sim::api::launch::cuOccupancyMaxActiveBlocksPerMultiprocessor;
use kiln_sim::{Order, Profile};

use crate::common::{Program, arg, ok};

/// A device for each order.
fn programs() -> impl Iterator<Item = Program> {
    [(Order::Forward, 0), (Order::Reversed, 0), (Order::Random, 1), (Order::Random, 2)]
        .into_iter()
        .map(|(order, seed)| Program::new(Profile { order, seed, ..Profile::default() }))
}

#[test]
fn a_strided_struct_by_value() {
    for program in programs() {
        let x = program.upload(&[1.0f32, 0.0, 2.0, 0.0, 3.0, 0.0]);
        let y = program.upload(&[10.0f32, 20.0, 30.0]);
        #[derive(Clone, Copy)]
        #[repr(C)]
        struct Strides(u64, i64, i64);
        program.launch(c"t_axpy_f32", (2, 32, 0), 0, &[arg(x), arg(y), arg(2.0f32), arg(Strides(3, 2, 1))]);
        assert_eq!(program.download::<f32>(y, 3), [12.0, 24.0, 36.0]);
        program.silent();
    }
}

#[test]
fn vectors_and_half_precision() {
    for program in programs() {
        let x = program.upload(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let out = program.alloc(32);
        program.launch(c"t_vector_f32", (1, 32, 0), 0, &[arg(x), arg(out), arg(2u64)]);
        assert_eq!(program.download::<f32>(out, 8), [2.0, 2.0, 3.0, 4.0, 6.0, 6.0, 7.0, 8.0]);
        // 1.5, the smallest subnormal, infinity in f16; 2, -3, 0 in bfloat16.
        let halves = program.upload(&[0x3e00u16, 1, 0x7c00]);
        let bfloats = program.upload(&[0x4000u16, 0xc040, 0]);
        program.launch(c"t_half", (1, 32, 0), 0, &[arg(halves), arg(bfloats), arg(out), arg(3u64)]);
        let expected = [3.5, -3.0 + 2f32.powi(-24), f32::INFINITY];
        assert_eq!(program.download::<f32>(out, 3), expected);
        program.silent();
    }
}

#[test]
fn a_reduction_with_shuffles_and_barriers() {
    for program in programs() {
        let numbers: Vec<i64> = (0..1000).collect();
        let floats: Vec<f32> = numbers.iter().map(|number| *number as f32).collect();
        let (x, y) = (program.upload(&numbers), program.upload(&floats));
        let out = program.alloc(16);
        program.launch(c"t_sum_i64", (1, 256, 0), 0, &[arg(x), arg(out), arg(1000u64)]);
        program.launch(c"t_sum_f32", (1, 128, 0), 0, &[arg(y), arg(out + 8), arg(1000u64)]);
        assert_eq!(program.download::<i64>(out, 1), [499_500]);
        assert_eq!(program.download::<f32>(out + 8, 1), [499_500.0]);
        program.silent();
    }
}

#[test]
fn dynamic_shared_memory() {
    for program in programs() {
        let x: Vec<f32> = (0..128u8).map(f32::from).collect();
        let (from, out) = (program.upload(&x), program.alloc(512));
        program.launch(c"t_reverse_f32", (2, 64, 256), 0, &[arg(from), arg(out)]);
        let mut expected = x;
        expected[..64].reverse();
        expected[64..].reverse();
        assert_eq!(program.download::<f32>(out, 128), expected);
        program.silent();
    }
}

#[test]
fn votes_and_partial_masks() {
    for program in programs() {
        let out = program.alloc(40);
        program.launch(c"t_votes", (1, 64, 0), 0, &[arg(out)]);
        assert_eq!(program.download::<u32>(out, 10), [1, 0, 3, 2, 5, 4, 7, 6, 0xaaaa_aaaa, 5]);
        program.silent();
    }
}

#[test]
fn atomics_are_no_race() {
    for program in programs() {
        let x: Vec<u32> = (0..300).collect();
        let (from, bins, ticket) = (program.upload(&x), program.upload(&[0u32; 16]), program.upload(&[0u32]));
        program.launch(c"t_histogram", (3, 128, 0), 0, &[arg(from), arg(bins), arg(ticket), arg(300u32)]);
        let counts = program.download::<u32>(bins, 16);
        assert_eq!((counts.iter().sum::<u32>(), counts[0], counts[15]), (300, 19, 18));
        assert_eq!(program.download::<u32>(ticket, 1), [3]);
        program.silent();
    }
}

#[test]
fn arguments_are_copied_at_launch() {
    let program = Program::new(Profile::default());
    let out = program.alloc(16);
    let mut value = arg(1.0f32);
    let function = program.function(c"t_fill_f32");
    let arguments = [arg(out), value, arg(4u64)];
    ok(program.try_launch(function, ([1; 3], [32, 1, 1], 0), 0, &arguments));
    value = arg(2.0f32);
    drop((arguments, value));
    assert_eq!(program.download::<f32>(out, 4), [1.0; 4]);
}

#[test]
fn occupancy() {
    let program = Program::new(Profile::default());
    let mut blocks = 0;
    // SAFETY: the pointer is to a variable of its type.
    ok(unsafe {
        cuOccupancyMaxActiveBlocksPerMultiprocessor(&raw mut blocks, program.function(c"t_fill_f32"), 256, 0)
    });
    assert_eq!(blocks, 8);
}
