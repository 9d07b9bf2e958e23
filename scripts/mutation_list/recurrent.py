"""Faults in recurrent cells."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "rnn_cell_gate_order", "the output gate of an LSTM comes before its cell gate",
        "kernels/rnn_cell.cu",
        "gates[gate][v] = gate == 2 ? real::tanh(sum) : real::sigmoid(sum);",
        "gates[gate][v] = gate == 3 ? real::tanh(sum) : real::sigmoid(sum);",
        ["recurrent::rnn_cell"],
    ),
    Mutation(
        "rnn_cell_state_apart", "the state of a GRU that is written apart is the one before the step",
        "kernels/rnn_cell.cu",
        "        if (next_state) write<V>(next_state + at.at[4], old);\n",
        "        if (next_state) {\n            read<V>(h + at.at[2], old);\n            write<V>(next_state + at.at[4], old);\n"
        "        }\n",
        ["recurrent::rnn_cell"],
    ),
    Mutation(
        "rnn_cell_carried", "what the next step hands on is no part of the cell state's gradient",
        "kernels/rnn_cell.cu",
        "        add<V>(carried, at.at[2], of_c);\n",
        "",
        ["recurrent::rnn_cell_grad"],
    ),
    Mutation(
        "rnn_cell_reset_grad", "the gradient of the hidden state's part of a new gate lacks the reset gate",
        "kernels/rnn_cell.cu",
        "gate == 2 ? gates[3] : gates[gate]",
        "gates[gate]",
        ["recurrent::rnn_cell_grad"],
    ),
    Mutation(
        "rnn_cell_turns", "a thread takes one element, however many there are",
        "kernels/rnn_cell.cu",
        "    for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {\n        Offsets<6> at = locate(grid, i);\n"
        "        // Reset",
        "    for (uint64_t i = thread_index(); i < grid.numel; i += grid.numel) {\n        Offsets<6> at = locate(grid, i);\n"
        "        // Reset",
        ["turns::rnn_cell"],
    ),
    Mutation(
        "rnn_cell_alignment", "packs of 16 bytes wherever operands begin",
        "crates/cuda/src/ops/rnn_cell.rs",
        "tensor.address.is_multiple_of(PACK) && strides[1] == 1",
        "strides[1] == 1",
        ["recurrent::"],
    ),
    Mutation(
        "rnn_cell_row_alignment", "packs of 16 bytes wherever rows begin",
        "crates/cuda/src/ops/rnn_cell.rs",
        " && (n == 1 || is_whole(strides[0]))",
        "",
        ["recurrent::"],
    ),
    Mutation(
        "rnn_cell_gate_distance", "gates are as far apart as if elements were adjacent",
        "crates/cuda/src/ops/rnn_cell.rs",
        "stride as i64 * h)",
        "stride.min(1) as i64 * h)",
        ["recurrent::"],
    ),
]
