// Gated recurrent cells, LSTM and GRU: one step from the products with the input and the hidden state, and its gradient. The
// grids number the elements of a state, or packs of 16 bytes of them. The gates of an element are `…_gates` elements apart.
#include "map.cuh"
#include "real.cuh"

// `lstm gru lstm_packed gru_packed` of float. Operands of the grid: x, hidden, state, out, next_state (may be null for a GRU),
// saved (may be null).
FAMILY(rnn_cell, Grid<6> grid, i64 x_gates, i64 hidden_gates, i64 saved_gates, address x, address hidden, address state,
       address out, address next_state, address saved);
// The same. Operands of the grid: grad, recurrent, carried (each may be null), saved, state, next_cell (null for a GRU), x,
// hidden (null for an LSTM), state_grad.
FAMILY(rnn_cell_grad, Grid<9> grid, i64 saved_gates, i64 x_gates, i64 hidden_gates, address grad, address recurrent,
       address carried, address saved, address state, address next_cell, address x, address hidden, address state_grad);

template <int V, typename T>
__device__ inline void read(const T* from, Compute<T> (&to)[V]) {
    Tensor<T>{from}.pack(0, to);
}

template <int V, typename T>
__device__ inline void write(T* to, const Compute<T> (&from)[V]) {
    Pack<T, V> pack;
#pragma unroll
    for (int v = 0; v < V; ++v) pack.elements[v] = store<T>(from[v]);
    write_pack(to, pack);
}

// Adds what is there.
template <int V, typename T>
__device__ inline void add(const T* from, int64_t at, Compute<T> (&sum)[V]) {
    if (!from) return;
    Compute<T> part[V];
    read<V>(from + at, part);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] += part[v];
}

template <int V, typename T>
__device__ inline void lstm_cell(const Grid<6>& grid, int64_t x_gates, int64_t hidden_gates, int64_t saved_gates, const T* x,
                                 const T* hidden, const T* c, T* out, T* next_state, T* saved) {
    typedef Compute<T> R;
#pragma unroll 1
    for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {
        Offsets<6> at = locate(grid, i);
        // Input, forget, cell and output gate.
        R gates[4][V], old[V], next[V];
        read<V>(c + at.at[2], old);
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) {
            read<V>(x + at.at[0] + gate * x_gates, gates[gate]);
            add<V>(hidden, at.at[1] + gate * hidden_gates, gates[gate]);
        }
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                R sum = gates[gate][v];
                gates[gate][v] = gate == 2 ? real::tanh(sum) : real::sigmoid(sum);
            }
            if (saved) write<V>(saved + at.at[5] + gate * saved_gates, gates[gate]);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) next[v] = gates[1][v] * old[v] + gates[0][v] * gates[2][v];
        write<V>(next_state + at.at[4], next);
#pragma unroll
        for (int v = 0; v < V; ++v) next[v] = gates[3][v] * real::tanh(next[v]);
        write<V>(out + at.at[3], next);
    }
}

template <int V, typename T>
__device__ inline void gru_cell(const Grid<6>& grid, int64_t x_gates, int64_t hidden_gates, int64_t saved_gates, const T* x,
                                const T* hidden, const T* h, T* out, T* next_state, T* saved) {
    typedef Compute<T> R;
#pragma unroll 1
    for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {
        Offsets<6> at = locate(grid, i);
        // Reset, update and new gate, and what the new gate resets.
        R gates[4][V], old[V];
        read<V>(h + at.at[2], old);
        read<V>(hidden + at.at[1] + 2 * hidden_gates, gates[3]);
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
            read<V>(x + at.at[0] + gate * x_gates, gates[gate]);
            if (gate < 2) add<V>(hidden, at.at[1] + gate * hidden_gates, gates[gate]);
        }
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                R sum = gates[gate][v];
                gates[gate][v] = gate == 2 ? real::tanh(sum + gates[0][v] * gates[3][v]) : real::sigmoid(sum);
            }
        }
        if (saved) {
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) write<V>(saved + at.at[5] + gate * saved_gates, gates[gate]);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) old[v] = gates[2][v] + gates[1][v] * (old[v] - gates[2][v]);
        write<V>(out + at.at[3], old);
        if (next_state) write<V>(next_state + at.at[4], old);
    }
}

template <int V, typename T>
__device__ inline void lstm_cell_grad(const Grid<9>& grid, int64_t saved_gates, int64_t x_gates, int64_t, const T* grad,
                                      const T* recurrent, const T* carried, const T* saved, const T* c, const T* next_cell,
                                      T* x, T*, T* state_grad) {
    typedef Compute<T> R;
#pragma unroll 1
    for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {
        Offsets<9> at = locate(grid, i);
        R gates[4][V], of_h[V], of_c[V], old[V], next[V];
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) read<V>(saved + at.at[3] + gate * saved_gates, gates[gate]);
        read<V>(c + at.at[4], old);
        read<V>(next_cell + at.at[5], next);
#pragma unroll
        for (int v = 0; v < V; ++v) of_h[v] = of_c[v] = R(0);
        add<V>(grad, at.at[0], of_h);
        add<V>(recurrent, at.at[1], of_h);
        add<V>(carried, at.at[2], of_c);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            R in = gates[0][v], forget = gates[1][v], fresh = gates[2][v], output = gates[3][v];
            R bent = real::tanh(next[v]);
            R slope = of_h[v] * output * (R(1) - bent * bent) + of_c[v];
            gates[0][v] = slope * fresh * in * (R(1) - in);
            gates[1][v] = slope * old[v] * forget * (R(1) - forget);
            gates[2][v] = slope * in * (R(1) - fresh * fresh);
            gates[3][v] = of_h[v] * bent * output * (R(1) - output);
            of_c[v] = slope * forget;
        }
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) write<V>(x + at.at[6] + gate * x_gates, gates[gate]);
        write<V>(state_grad + at.at[8], of_c);
    }
}

template <int V, typename T>
__device__ inline void gru_cell_grad(const Grid<9>& grid, int64_t saved_gates, int64_t x_gates, int64_t hidden_gates,
                                     const T* grad, const T* recurrent, const T* carried, const T* saved, const T* h, const T*,
                                     T* x, T* hidden, T* state_grad) {
    typedef Compute<T> R;
#pragma unroll 1
    for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {
        Offsets<9> at = locate(grid, i);
        R gates[4][V], of_h[V], old[V];
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) read<V>(saved + at.at[3] + gate * saved_gates, gates[gate]);
        read<V>(h + at.at[4], old);
#pragma unroll
        for (int v = 0; v < V; ++v) of_h[v] = R(0);
        add<V>(grad, at.at[0], of_h);
        add<V>(recurrent, at.at[1], of_h);
        add<V>(carried, at.at[2], of_h);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            R reset = gates[0][v], update = gates[1][v], fresh = gates[2][v], added = gates[3][v];
            R slope = of_h[v] * (R(1) - update) * (R(1) - fresh * fresh);
            gates[0][v] = slope * added * reset * (R(1) - reset);
            gates[1][v] = of_h[v] * (old[v] - fresh) * update * (R(1) - update);
            gates[2][v] = slope;
            gates[3][v] = slope * reset;
            of_h[v] = of_h[v] * update;
        }
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
            write<V>(x + at.at[6] + gate * x_gates, gates[gate]);
            write<V>(hidden + at.at[7] + gate * hidden_gates, gate == 2 ? gates[3] : gates[gate]);
        }
        write<V>(state_grad + at.at[8], of_h);
    }
}

#define CELL(name, T, cell, op, V)                                                                                         \
    KERNEL_OF(3) rnn_cell_##op##_##name(BY_VALUE Grid<6> grid, int64_t x_gates, int64_t hidden_gates, int64_t saved_gates, \
                                  const T* x, const T* hidden, const T* state, T* out, T* next_state, T* saved) {          \
        cell##_cell<V>(grid, x_gates, hidden_gates, saved_gates, x, hidden, state, out, next_state, saved);                \
    }                                                                                                                      \
    KERNEL rnn_cell_grad_##op##_##name(BY_VALUE Grid<9> grid, int64_t saved_gates, int64_t x_gates, int64_t hidden_gates,  \
                                       const T* grad, const T* recurrent, const T* carried, const T* saved,                \
                                       const T* state, const T* next_cell, T* x, T* hidden, T* state_grad) {               \
        cell##_cell_grad<V>(grid, saved_gates, x_gates, hidden_gates, grad, recurrent, carried, saved, state, next_cell,   \
                            x, hidden, state_grad);                                                                        \
    }
#define CELLS(name, T)                                       \
    CELL(name, T, lstm, lstm, 1)                             \
    CELL(name, T, gru, gru, 1)                               \
    CELL(name, T, lstm, lstm_packed, (int)(16 / sizeof(T)))  \
    CELL(name, T, gru, gru_packed, (int)(16 / sizeof(T)))
FOR_FLOAT(CELLS)
