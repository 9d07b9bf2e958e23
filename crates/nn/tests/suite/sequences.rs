//! Sequences of different lengths against PyTorch: padding, packing, and recurrent layers over packed sequences.

use crate::common::{Golden, assert_close, suite_device};
use kiln_nn::{
    GRU, LSTM, ModuleTree, PackedSequence, RNN, RNNNonlinearity, RNNOptions, pack_padded_sequence, pack_sequence,
    pad_packed_sequence, pad_sequence, unpack_sequence, unpad_sequence,
};
use kiln_tensor::{
    DType, Device, Result, StateDict, Tensor,
    autograd::{self, BackwardOptions},
};
use serde_json::Value;

fn lengths(args: &Value) -> Vec<usize> {
    args["lengths"].as_array().unwrap().iter().map(|length| length.as_u64().unwrap() as usize).collect()
}

fn integers(values: &[usize]) -> Vec<i64> {
    values.iter().map(|value| *value as i64).collect()
}

fn flag(args: &Value, name: &str) -> bool {
    args[name].as_bool().unwrap_or(false)
}

fn pack(x: &Tensor, args: &Value) -> Result<PackedSequence> {
    pack_padded_sequence(x, &lengths(args), flag(args, "batch_first"), flag(args, "enforce_sorted"))
}

#[test]
fn packing_and_padding_are_pytorchs() -> Result<()> {
    let golden = Golden::open("sequences.safetensors");
    let mut count = 0;
    for case in &golden.cases {
        let (name, op, args) = (case["name"].as_str().unwrap(), case["op"].as_str().unwrap(), &case["args"]);
        let batch_first = flag(args, "batch_first");
        let value = args["padding_value"].as_f64().unwrap_or(0.0);
        let (inputs, outputs) = match op {
            "pack_padded_sequence" => {
                let x = golden.get(name, "in0").requires_grad_(true)?;
                let packed = pack(&x, args)?;
                let total = args["total_length"].as_u64().map(|total| total as usize);
                let (padded, lengths_) = pad_packed_sequence(&packed, batch_first, value, total)?;
                assert_eq!(lengths_, lengths(args), "{name}");
                assert_eq!(integers(packed.batch_sizes()), golden.get(name, "out2").to_vec::<i64>()?, "{name}");
                let order = [packed.sorted_indices(), packed.unsorted_indices()];
                for (i, index) in order.into_iter().enumerate() {
                    let want =
                        golden.find(name, &format!("out{}", 4 + i)).map(|want| want.to_vec::<i64>()).transpose()?;
                    assert_eq!(index.map(Tensor::to_vec::<i64>).transpose()?, want, "{name}");
                }
                // Sequences apart, and packed again, are the same.
                let apart = unpack_sequence(&packed)?;
                let again = pack_sequence(&apart.iter().collect::<Vec<_>>(), flag(args, "enforce_sorted"))?;
                assert_close(again.data(), packed.data(), name);
                (vec![x], vec![packed.data().clone(), padded])
            }
            "pad_sequence" => {
                let inputs = (0..lengths(args).len()).map(|i| golden.get(name, &format!("in{i}")).requires_grad_(true));
                let inputs = inputs.collect::<Result<Vec<_>>>()?;
                let padded = pad_sequence(&inputs.iter().collect::<Vec<_>>(), batch_first, value)?;
                let apart = unpad_sequence(&padded, &lengths(args), batch_first)?;
                (inputs, [vec![padded], apart].concat())
            }
            _ => continue,
        };
        count += 1;
        let mut pairs = Vec::new();
        for (i, out) in outputs.iter().enumerate() {
            assert_close(&out.detach(), &golden.get(name, &format!("out{i}")), name);
            pairs.push((out.clone(), golden.find(name, &format!("cotangent{i}"))));
        }
        let grads = autograd::grad_with(&pairs, &inputs.iter().collect::<Vec<_>>(), BackwardOptions::default())?;
        for (i, grad) in grads.into_iter().enumerate() {
            assert_close(&grad.unwrap(), &golden.get(name, &format!("grad{i}")), &format!("{name}: gradient {i}"));
        }
    }
    assert_eq!(count, 8);
    Ok(())
}

#[test]
fn recurrent_layers_take_packed_sequences() -> Result<()> {
    let golden = Golden::open("sequences.safetensors");
    let mut count = 0;
    for case in &golden.cases {
        let (name, op, args) = (case["name"].as_str().unwrap(), case["op"].as_str().unwrap(), &case["args"]);
        if !["RNN", "GRU", "LSTM"].contains(&op) {
            continue;
        }
        count += 1;
        let size = |key: &str, default: usize| args[key].as_u64().map_or(default, |size| size as usize);
        let relu = args["nonlinearity"] == "relu";
        let options = RNNOptions::default()
            .num_layers(size("num_layers", 1))
            .bias(args["bias"].as_bool().unwrap_or(true))
            .batch_first(flag(args, "batch_first"))
            .bidirectional(flag(args, "bidirectional"))
            .proj_size(size("proj_size", 0))
            .nonlinearity(if relu { RNNNonlinearity::ReLU } else { RNNNonlinearity::Tanh })
            .tensor(DType::F64);
        let leaf = |key: &str| golden.find(name, key).map(|leaf| leaf.requires_grad_(true)).transpose();
        let (x, h, c) = (leaf("x")?.unwrap(), leaf("h")?, leaf("c")?);
        let packed = pack(&x, args)?;
        let load = |model: &dyn ModuleTree| -> Result<Vec<(String, Tensor)>> {
            let names = model.named_parameters();
            let state: StateDict = names.iter().map(|(key, _)| (key.clone(), golden.get(name, key))).collect();
            model.load_state_dict(&state, true)?;
            Ok(names)
        };
        let (parameters, output, states) = match op {
            "RNN" => {
                let layer = RNN::with_options(2, 3, options)?.to(suite_device())?;
                let parameters = load(&layer)?;
                let (output, h) = layer.forward_packed(&packed, h.as_ref())?;
                (parameters, output, vec![h])
            }
            "GRU" => {
                let layer = GRU::with_options(2, 3, options)?.to(suite_device())?;
                let parameters = load(&layer)?;
                let (output, h) = layer.forward_packed(&packed, h.as_ref())?;
                (parameters, output, vec![h])
            }
            _ => {
                let layer = LSTM::with_options(2, 3, options)?.to(suite_device())?;
                let parameters = load(&layer)?;
                let (output, (h, c)) = layer.forward_packed(&packed, h.as_ref().zip(c.as_ref()))?;
                (parameters, output, vec![h, c])
            }
        };
        let (padded, _) = pad_packed_sequence(&output, flag(args, "batch_first"), 0.0, None)?;
        let outputs = [vec![padded], states].concat();
        let mut pairs = Vec::new();
        for (i, out) in outputs.iter().enumerate() {
            assert_close(&out.detach(), &golden.get(name, &format!("out{i}")), &format!("{name}: output {i}"));
            pairs.push((out.clone(), Some(golden.get(name, &format!("cotangent{i}")))));
        }
        let given = [("x".to_owned(), Some(x.clone())), ("h".to_owned(), h), ("c".to_owned(), c)];
        let given = given.into_iter().filter_map(|(key, leaf)| Some((key, leaf?)));
        let leaves: Vec<(String, Tensor)> = given.chain(parameters).collect();
        let grads = autograd::grad_with(
            &pairs,
            &leaves.iter().map(|(_, leaf)| leaf).collect::<Vec<_>>(),
            BackwardOptions::default(),
        )?;
        for ((key, _), grad) in leaves.iter().zip(grads) {
            assert_close(
                &grad.unwrap(),
                &golden.get(name, &format!("{key}.grad")),
                &format!("{name}: gradient of {key}"),
            );
        }
    }
    assert_eq!(count, 11);
    Ok(())
}

/// Without padding it is the layer itself, also in half precision and with elements computed beforehand.
#[test]
fn equal_lengths_are_no_different() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        let x = Tensor::randn([5, 3, 4], (dtype, Device::Cpu))?;
        let gru = GRU::with_options(4, 6, RNNOptions::default().num_layers(2).bidirectional(true).tensor(dtype))?;
        let (want, want_h) = gru.forward_with_state(&x, None)?;
        let packed = pack_padded_sequence(&x.mul(0.5)?, &[5; 3], false, true)?.map_data(|data| data.mul(2))?;
        assert_eq!((packed.len(), packed.is_empty(), packed.lengths()), (3, false, vec![5; 3]));
        let (y, h) = gru.forward_packed(&packed, None)?;
        let (y, _) = pad_packed_sequence(&y, false, 0.0, None)?;
        for (got, want) in [(y, want), (h, want_h)] {
            assert_eq!(got.dtype(), dtype);
            let wide = |t: &Tensor| t.detach().to_dtype(DType::F32);
            assert!(wide(&got)?.allclose(&wide(&want)?, 1e-2, 1e-5)?, "{dtype}");
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let x = Tensor::zeros([4, 2, 3], Device::Cpu)?;
    for (lengths, sorted, want) in [
        (&[4][..], false, "1 lengths for a batch of 2"),
        (&[4, 0], false, "length 0 of sequence 1"),
        (&[5, 1], false, "length 5 of sequence 0 is not in 1..=4"),
        (&[1, 4], true, "enforce_sorted"),
    ] {
        let error = pack_padded_sequence(&x, lengths, false, sorted).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains("pack_padded_sequence"), "{error}");
    }
    let none = Tensor::zeros([4, 0, 3], Device::Cpu)?;
    assert!(pack_padded_sequence(&none, &[], false, true).is_err());
    assert!(pack_padded_sequence(&Tensor::zeros(4, Device::Cpu)?, &[4], false, true).is_err());

    let packed = pack_padded_sequence(&x, &[2, 4], false, false)?;
    let error = pad_packed_sequence(&packed, false, 0.0, Some(3)).unwrap_err().to_string();
    assert!(error.contains("total_length 3 is less than the longest length 4"), "{error}");
    assert!(packed.map_data(|data| data.narrow(0, 0, 2)).unwrap_err().to_string().contains("[6, …]"));

    let one = Tensor::zeros([2, 3], Device::Cpu)?;
    for sequences in [&[][..], &[&one, &Tensor::zeros([2, 4], Device::Cpu)?], &[&Tensor::zeros((), Device::Cpu)?]] {
        assert!(pad_sequence(sequences, false, 0.0).unwrap_err().to_string().contains("pad_sequence"));
    }
    assert!(pad_sequence(&[&one, &Tensor::zeros([1, 3], DType::F64)?], false, 0.0).is_err());
    assert!(pack_sequence(&[&one, &one.narrow(0, 0, 0)?], false).unwrap_err().to_string().contains("pack_sequence"));
    assert!(unpad_sequence(&x, &[1, 5], false).is_err() && unpad_sequence(&x, &[1], false).is_err());

    let gru = GRU::new(5, 2)?;
    assert!(gru.forward_packed(&packed, None).unwrap_err().to_string().contains("[sum of lengths, 5]"));
    let gru = GRU::new(3, 2)?;
    for shape in [&[1, 3, 2][..], &[2, 2, 2], &[2]] {
        let states = Tensor::zeros(shape, Device::Cpu)?;
        let error = gru.forward_packed(&packed, Some(&states)).unwrap_err().to_string();
        assert!(error.contains("states of shape [1, 2, 2]"), "{error}");
    }
    Ok(())
}

/// A layer records one node for all steps.
#[test]
fn a_layer_without_gates_is_one_node() -> Result<()> {
    let x = Tensor::randn([5, 2, 4], Device::Cpu)?;
    for (nonlinearity, node) in
        [(RNNNonlinearity::Tanh, "RnnTanhLayerBackward0"), (RNNNonlinearity::ReLU, "RnnReluLayerBackward0")]
    {
        let layer = RNN::with_options(4, 3, RNNOptions::default().nonlinearity(nonlinearity))?;
        let (y, _) = layer.forward_with_state(&x, None)?;
        let last = y.grad_fn().unwrap();
        assert_eq!(last.name(), node);
        // The product with all inputs, the recurrent weight; the initial state has no gradient.
        let names: Vec<_> = last.next_functions().iter().flatten().map(|next| next.name().to_string()).collect();
        assert_eq!(names, ["ViewBackward0", "AccumulateGrad"]);
    }
    Ok(())
}
