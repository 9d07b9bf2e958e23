//! cuBLASLt: its results, its heuristic's candidates, and what it refuses.
use kiln_sim::api::blas::*;
use kiln_sim::{BlasStatus, Faults, Kind, Order, Profile, Refused};

use crate::products::{Call, done};

#[test]
fn products_in_every_order() {
    for order in [Order::Forward, Order::Reversed, Order::Random] {
        let call = Call::new(Profile { order, ..Profile::default() }, [[4, 3, 4], [3, 2, 3], [4, 2, 4]]);
        done(call.run());
        let a = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, -2.0, -1.0, 0.0, 1.0, 2.0];
        let b = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0];
        let want: Vec<f32> =
            (0..8).map(|i| (0..3).map(|k| a[i % 4 + 4 * k] * b[k + 3 * (i / 4)]).sum::<f32>()).collect();
        assert_eq!(call.output(8), want);
        call.program.silent();
    }
}

#[test]
fn epilogues() {
    let plain = Call::small();
    done(plain.run());
    let product = plain.output(8);
    drop(plain);
    let run = |epilogue: u32, vector: &[f32], mask: Option<Vec<u8>>| {
        let call = Call::small();
        let (bias, aux) = (call.program.upload(vector), call.program.upload(&mask.unwrap_or(vec![0xff; 32])));
        call.set(7, epilogue);
        call.set(8, bias);
        call.set(11, aux);
        call.set(12, 128i64);
        done(call.run());
        let out =
            (call.output(8), call.program.download::<f32>(bias, vector.len()), call.program.download::<u8>(aux, 32));
        call.program.silent();
        out
    };
    let bias = [1.0, 2.0, 3.0, 4.0];
    let with_bias: Vec<f32> = product.iter().enumerate().map(|(i, v)| v + bias[i % 4]).collect();
    let relu = |values: &[f32]| values.iter().map(|v| v.max(0.0)).collect::<Vec<_>>();
    assert_eq!(run(4, &bias, None).0, with_bias);
    assert_eq!(run(2, &bias, None).0, relu(&product));
    assert_eq!(run(6, &bias, None).0, relu(&with_bias));
    for (epilogue, before) in [(130, &product), (134, &with_bias)] {
        let (out, _, mask) = run(epilogue, &bias, None);
        assert_eq!(out, relu(before));
        let bits = |column: usize| (0..4).map(|i| u8::from(before[i + 4 * column] > 0.0) << i).sum::<u8>();
        // Lines of 128 bits; of the last byte only the rows that there are.
        assert_eq!((mask[0] & 15, mask[16] & 15, mask[1], mask[17]), (bits(0), bits(1), 0xff, 0xff));
        // The gradient takes the mask.
        let masked: Vec<f32> = before.iter().zip(&product).map(|(b, p)| if *b > 0.0 { *p } else { 0.0 }).collect();
        assert_eq!(run(136, &bias, Some(mask.clone())).0, masked);
        let (out, gradient, _) = run(152, &bias, Some(mask));
        assert_eq!(out, masked);
        assert_eq!(gradient, (0..4).map(|i| masked[i] + masked[i + 4]).collect::<Vec<_>>());
    }
    let a = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, -2.0, -1.0, 0.0, 1.0, 2.0];
    let (out, of_a, _) = run(256, &bias, None);
    assert_eq!(out, product);
    assert_eq!(of_a, (0..4).map(|i| a[i] + a[i + 4] + a[i + 8]).collect::<Vec<f32>>());
    assert_eq!(run(512, &bias[..2], None).1, [-3.0, 6.0]);
}

#[test]
fn relu_makes_zeros_of_what_is_no_number() {
    let call = Call::small();
    let poison = call.program.alloc(48);
    let call = Call { at: [poison, call.at[1], call.at[2], call.at[3]], ..call };
    done(call.run());
    assert!(call.output(8)[0].is_nan(), "fresh memory is poisoned, and shows");
    call.set(7, 2u32);
    done(call.run());
    assert_eq!(call.output(8), [0.0; 8]);
    call.program.found(Kind::Uninitialized, &["cublasLtMatmul", "byte 0 of an allocation of 48 bytes"]);
}

#[test]
fn accumulation_is_one_rounding_of_a_sum() {
    let mut call = Call::small();
    let before = call.program.upload(&[0.5f32; 8]);
    (call.at[2], call.at[3], call.beta) = (before, before, 2.0);
    done(call.run());
    let twice = call.output(8);
    let plain = Call { beta: 0.0, ..call };
    done(plain.run());
    assert_eq!(twice, plain.output(8).iter().map(|v| v + 1.0).collect::<Vec<_>>());
    plain.program.silent();
}

#[test]
fn types_are_those_of_the_table() {
    // Compute type, scale type, type of the matrices; 16-bit outputs from 32-bit sums.
    for (compute, scale, data, fits) in [
        (68, 0, [0; 4], true),
        (77, 0, [0; 4], true),
        (68, 0, [2; 4], true),
        (68, 0, [14; 4], true),
        (68, 0, [2, 2, 0, 0], true),
        (70, 1, [1; 4], true),
        (64, 2, [2; 4], true),
        (68, 0, [1; 4], false),
        (70, 0, [1; 4], false),
        (68, 0, [2, 14, 2, 2], false),
        (68, 1, [0; 4], false),
        (77, 0, [2; 4], false),
    ] {
        let call = Call::small();
        call.set::<i32>(0, compute);
        call.set::<i32>(1, scale);
        data.into_iter().enumerate().for_each(|(i, data)| call.layout::<i32>(i, 0, data));
        let want = if fits { Ok(()) } else { Err(BlasStatus::NOT_SUPPORTED) };
        assert_eq!(call.candidates(0, 256).map(drop), want, "{compute} {scale} {data:?}");
    }
}

#[test]
fn the_heuristic_respects_preferences() {
    let call = Call::new(Profile::default(), [[64, 256, 64], [256, 32, 256], [64, 32, 64]]);
    let all = call.candidates(1 << 20, 256).unwrap();
    assert_eq!(all.iter().map(|one| one.workspace).collect::<Vec<_>>(), [4 * 4 * 64 * 32, 0, 0]);
    assert_eq!(call.candidates(1 << 10, 256).unwrap().len(), 2, "less memory aside");
    assert_eq!(call.candidates(1 << 20, 4).unwrap().len(), 1, "less alignment");
    assert_eq!(call.candidates(1 << 20, 2).unwrap_err(), BlasStatus::NOT_SUPPORTED);
    call.set(7, 134u32);
    call.set(12, 128i64);
    assert_eq!(call.candidates(0, 256).map(|found| found.len()), Ok(2));
    call.program.silent();
}

#[test]
fn the_heuristic_can_be_told_to_offer_nothing() {
    let faults = Faults { no_epilogues: vec![6], ..Faults::default() };
    let call = Call::new(Profile { faults, ..Profile::default() }, [[4, 3, 4], [3, 2, 3], [4, 2, 4]]);
    assert!(call.candidates(0, 256).is_ok());
    call.set(7, 6u32);
    assert_eq!(call.candidates(0, 256).unwrap_err(), BlasStatus::NOT_SUPPORTED);
}

#[test]
fn products_can_be_refused_when_they_are_tried() {
    let no_products = ["6:1=14", "1:0=8"].into_iter().filter_map(Refused::read).collect();
    let faults = Faults { no_products, ..Faults::default() };
    let call = Call::new(Profile { faults, ..Profile::default() }, [[4, 3, 4], [3, 2, 3], [4, 2, 4]]);
    let all = call.candidates(0, 256).unwrap();
    assert_eq!(all.iter().map(|one| call.run_with(&one.algorithm).0).collect::<Vec<_>>(), [8, 0]);
    let bias = call.program.upload(&[0.0f32; 4]);
    call.set(7, 6u32);
    call.set(8, bias);
    assert_eq!(all.iter().map(|one| call.run_with(&one.algorithm).0).collect::<Vec<_>>(), [0, 14]);
    call.program.silent();
}

#[test]
fn without_a_context_there_is_no_handle() {
    let _session = kiln_sim::Session::new(Profile::default());
    let mut handle = 0;
    // SAFETY: the pointer is to a variable of its type.
    unsafe {
        assert_eq!(cublasLtCreate(&raw mut handle), BlasStatus::NOT_INITIALIZED);
        assert_eq!(cublasLtDestroy(77), BlasStatus::NOT_INITIALIZED);
    }
}
