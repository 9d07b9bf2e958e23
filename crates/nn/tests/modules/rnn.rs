//! Rows of the module tests: recurrent layers.

use kiln_nn::{GRU, GRUCell, LSTM, LSTMCell, RNN, RNNCell, RNNNonlinearity, RNNOptions};
use kiln_tensor::{Device, Tensor};

use crate::case::{Case, Miss, Row, Run};

fn nonlinearity(case: &Case<'_>) -> RNNNonlinearity {
    if case.option("nonlinearity") == Some("relu") { RNNNonlinearity::ReLU } else { RNNNonlinearity::Tanh }
}

fn options(case: &Case<'_>) -> RNNOptions {
    RNNOptions::default()
        .num_layers(case.size("num_layers", 1))
        .bias(case.flag("bias", true))
        .batch_first(case.flag("batch_first", false))
        .dropout(case.float("dropout", 0.0))
        .bidirectional(case.flag("bidirectional", false))
        .proj_size(case.size("proj_size", 0))
}

fn sizes(case: &Case<'_>) -> (usize, usize) {
    (case.size("input_size", 0), case.size("hidden_size", 0))
}

/// The states among the inputs: none, one, or a tuple of two.
fn states(case: &Case<'_>) -> Vec<Tensor> {
    let pair = [case.item(1, 0), case.item(1, 1)];
    let one = case.x(1).ok().into_iter();
    one.chain(pair.into_iter().filter_map(Result::ok)).collect()
}

fn run<M: kiln_nn::ModuleTree + 'static>(model: M, outputs: Vec<Tensor>) -> Result<Run, Miss> {
    Ok(Run { model: Some(Box::new(model)), outputs })
}

macro_rules! rows {
    ($($module:ident |$case:ident, $states:ident| $make:expr, $flat:expr;)*) => {
        &[$(Row {
            module: stringify!($module),
            run: |$case| {
                let layer = $case.loaded($make)?;
                let given = states($case);
                let $states = given.as_slice();
                let result = layer.forward_with_state(&$case.x(0)?, $crate::rnn::of!($module, $states))?;
                let flat = $flat;
                run(layer, flat(result))
            },
        }),*]
    };
}

/// The states as the layer takes them.
macro_rules! of {
    (LSTM, $states:ident) => {
        if let [h, c] = $states { Some((h, c)) } else { None }
    };
    (LSTMCell, $states:ident) => {
        if let [h, c] = $states { Some((h, c)) } else { None }
    };
    ($module:ident, $states:ident) => {
        $states.first()
    };
}
use of;

pub const ROWS: &[Row] = rows! {
    GRU |case, states| GRU::with_options(sizes(case).0, sizes(case).1, options(case))?, |(y, h)| vec![y, h];
    GRUCell |case, states| GRUCell::with_options(sizes(case).0, sizes(case).1, case.flag("bias", true), Device::Cpu)?,
        |h| vec![h];
    LSTM |case, states| LSTM::with_options(sizes(case).0, sizes(case).1, options(case))?, |(y, (h, c))| vec![y, h, c];
    LSTMCell |case, states| LSTMCell::with_options(sizes(case).0, sizes(case).1, case.flag("bias", true), Device::Cpu)?,
        |(h, c)| vec![h, c];
    RNN |case, states| RNN::with_options(sizes(case).0, sizes(case).1, options(case).nonlinearity(nonlinearity(case)))?,
        |(y, h)| vec![y, h];
    RNNCell |case, states| {
        RNNCell::with_options(sizes(case).0, sizes(case).1, case.flag("bias", true), Device::Cpu)?
            .nonlinearity(nonlinearity(case))
    }, |h| vec![h];
};
