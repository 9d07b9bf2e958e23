//! Attention that cuDNN refuses: it is left to products and softmax, and the report says why.

use std::env;

use kiln_backend::*;

use crate::{child::child, dense, device};

/// Attention of so many queries, each of which is a 1 and sees one key: whether the device has it, and its result.
fn attention(on: &dyn Backend, queries: usize) -> Result<(bool, bool, Vec<f32>)> {
    let (many, one, logs) = (dense(&[1, 1, queries, 8]), dense(&[1, 1, 1, 8]), dense(&[1, 1, queries]));
    let of = |layout: &Layout| on.adopt(HostVec::BF16(vec![half::bf16::ONE; layout.numel()]));
    let (q, k, v, grad) = (of(&many)?, of(&one)?, of(&one)?, of(&many)?);
    let (mut out, mut sums) = (on.alloc(DType::BF16, 8 * queries)?, on.alloc(DType::F32, queries)?);
    let [mut dq, mut dk, mut dv] =
        [on.alloc(DType::BF16, 8 * queries)?, on.alloc(DType::BF16, 8)?, on.alloc(DType::BF16, 8)?];
    let rule = AttentionRule { scale: 0.5, is_causal: false, mask: None, dropout: None };
    let view = |buffer, layout| View { buffer, layout };
    let forward = on.attention(
        AttentionArgs {
            query: view(&*q, &many),
            key: view(&*k, &one),
            value: view(&*v, &one),
            rule,
            out: ViewMut { buffer: &mut *out, layout: &many },
            log_sum: ViewMut { buffer: &mut *sums, layout: &logs },
        }
        .checked()?,
    )?;
    if !forward {
        return Ok((false, false, Vec::new()));
    }
    let backward = on.attention_grad(
        AttentionGradArgs {
            grad: view(&*grad, &many),
            query: view(&*q, &many),
            key: view(&*k, &one),
            value: view(&*v, &one),
            rule,
            out: view(&*out, &many),
            log_sum: view(&*sums, &logs),
            query_grad: ViewMut { buffer: &mut *dq, layout: &many },
            key_grad: ViewMut { buffer: &mut *dk, layout: &one },
            value_grad: ViewMut { buffer: &mut *dv, layout: &one },
        }
        .checked()?,
    )?;
    let values = half::bf16::read_vec(8 * queries, |bytes| on.download(&*out, 0, bytes))?;
    Ok((true, backward, values.into_iter().map(f32::from).collect()))
}

#[test]
fn attention_that_is_refused_is_declined() {
    for (refused, expect, report) in [
        ("", "true true", "plans of attention"),
        // No engine, no plan, nothing to compile it with, a failure when it is called, in one pass or both.
        ("heuristic", "false false", "attention composed of products and softmax"),
        ("plan", "false false", "CUDNN_STATUS_NOT_SUPPORTED"),
        ("plan=3008", "false false", "RUNTIME_PREREQUISITE_MISSING"),
        ("create=3005", "false false", "INCOMPATIBLE_CUDA_DRIVER"),
        ("attention", "false false", "CUDNN_STATUS_NOT_SUPPORTED"),
        ("attention=5000", "false false", "CUDNN_STATUS_EXECUTION_FAILED"),
        ("attention_grad", "true false", "CUDNN_STATUS_NOT_SUPPORTED"),
        // The first of two engines.
        ("attention:2,attention_grad:6", "false false", "attention composed"),
    ] {
        // A folder that cannot be made turns nothing off but what is written.
        let cache = ("KILN_PLAN_CACHE", "/proc/none");
        let settings = [("KILN_SIM_NO_CONVOLUTIONS", refused), ("EXPECT", expect), ("REPORT", report), cache];
        child("attention::child_attends", &settings);
    }
}

#[test]
#[ignore = "a child"]
fn child_attends() {
    // The second time by what is known.
    for _ in 0..2 {
        let (forward, backward, values) = attention(device(), 64).unwrap();
        assert_eq!(format!("{forward} {backward}"), env::var("EXPECT").unwrap());
        // All weight is on the only key.
        assert!(values.iter().all(|value| *value == 1.0), "{values:?}");
    }
    let (text, part) = (kiln_cuda::report(), env::var("REPORT").unwrap());
    assert!(text.contains(&part), "{part:?} is not in {text}");
}

#[test]
fn ever_new_shapes_are_not_compiled() {
    child("attention::child_attends_to_ever_new_shapes", &[]);
}

#[test]
#[ignore = "a child"]
fn child_attends_to_ever_new_shapes() {
    for queries in 64..96 {
        assert!(attention(device(), queries).unwrap().1, "{queries} queries");
    }
    // Two plans each.
    assert!(!attention(device(), 96).unwrap().0);
    assert!(attention(device(), 64).unwrap().1, "what has been compiled stays");
    let text = kiln_cuda::report();
    assert!(text.contains("64 plans have been compiled, which is the most per process"), "{text}");
}

/// Plans are kept for the next process, which compiles none.
#[test]
fn plans_of_attention_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for (refused, report) in [("", "attention: 0 read, 2 written"), ("heuristic", "attention: 2 read, 0 written")] {
        let settings = [
            ("KILN_SIM_NO_CONVOLUTIONS", refused),
            ("KILN_PLAN_CACHE", folder),
            ("EXPECT", "true true"),
            ("REPORT", report),
        ];
        child("attention::child_attends", &settings);
    }
}
