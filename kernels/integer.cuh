// The functions of the integer formulas in unary_table.cuh and binary_table.cuh. Arithmetic wraps.
#pragma once
#include "common.cuh"

namespace integer {
template <typename I>
__device__ inline I add(I a, I b) {
    return (I)((uint64_t)a + (uint64_t)b);
}

template <typename I>
__device__ inline I sub(I a, I b) {
    return (I)((uint64_t)a - (uint64_t)b);
}

template <typename I>
__device__ inline I mul(I a, I b) {
    return (I)((uint64_t)a * (uint64_t)b);
}

template <typename I>
__device__ inline I neg(I x) {
    return (I)(0 - (uint64_t)x);
}

template <typename I>
__device__ inline I abs(I x) {
    return x < I(0) ? neg(x) : x;
}

template <typename I>
__device__ inline I sign(I x) {
    return (I)((x > I(0)) - (x < I(0)));
}

template <typename I>
__device__ inline I maximum(I a, I b) {
    return a > b ? a : b;
}

template <typename I>
__device__ inline I minimum(I a, I b) {
    return a < b ? a : b;
}

// By repeated squaring; a negative exponent is reported.
template <typename I>
__device__ inline I pow(I base, I exponent, Status* status) {
    if (exponent < I(0)) {
        report(status, STATUS_EXPONENT, (int64_t)exponent, 0);
        return 0;
    }
    uint64_t factor = (uint64_t)base, result = 1;
    for (uint64_t left = (uint64_t)exponent; left > 0; left >>= 1) {
        if (left & 1) result *= factor;
        factor *= factor;
    }
    return (I)result;
}

// The quotient, rounded towards 0; 0 as divisor is reported.
template <typename I>
__device__ inline I trunc_divide(I a, I b, Status* status) {
    if (b == I(0)) {
        report(status, STATUS_DIVISOR, (int64_t)a, 0);
        return 0;
    }
    // The smallest number divided by -1 overflows.
    return b == I(-1) && I(-1) < I(0) ? neg(a) : (I)(a / b);
}

// C's %: the sign is that of the dividend; 0 as divisor is reported.
template <typename I>
__device__ inline I fmod(I a, I b, Status* status) {
    return sub(a, mul(trunc_divide(a, b, status), b));
}

// Python's %: the sign is that of the divisor; 0 as divisor is reported.
template <typename I>
__device__ inline I remainder(I a, I b, Status* status) {
    I rest = fmod(a, b, status);
    return b != I(0) && rest != I(0) && (rest < I(0)) != (b < I(0)) ? (I)(rest + b) : rest;
}

// The quotient, rounded down; 0 as divisor is reported.
template <typename I>
__device__ inline I floor_divide(I a, I b, Status* status) {
    I quotient = trunc_divide(a, b, status);
    bool below = b != I(0) && mul(quotient, b) != a && (a < I(0)) != (b < I(0));
    return below ? (I)(quotient - I(1)) : quotient;
}

template <typename I>
__device__ inline uint64_t size(I x) {
    return x < I(0) ? 0 - (uint64_t)x : (uint64_t)x;
}

// By shifts and differences: a division of 64 bits in a loop would be a call.
__device__ inline uint64_t common_divisor(uint64_t a, uint64_t b) {
    if (a == 0 || b == 0) return a | b;
    int twos = 0;
#pragma unroll 1
    while (((a | b) & 1) == 0) {
        a >>= 1;
        b >>= 1;
        ++twos;
    }
#pragma unroll 1
    while (b != 0) {
        // One of them is odd.
        if ((b & 1) == 0) {
            b >>= 1;
        } else if ((a & 1) == 0) {
            a >>= 1;
        } else if (a > b) {
            a = (a - b) >> 1;
        } else {
            b = (b - a) >> 1;
        }
    }
    return a << twos;
}

// The greatest common divisor, not negative.
template <typename I>
__device__ inline I gcd(I a, I b) {
    return (I)common_divisor(size(a), size(b));
}

// The least common multiple, not negative; 0 where one is 0.
template <typename I>
__device__ inline I lcm(I a, I b) {
    uint64_t left = size(a), right = size(b), divisor = common_divisor(left, right);
    return divisor == 0 ? I(0) : abs((I)(left / divisor * right));
}

// Shifts left; 0 if b is negative or at least the number of bits.
template <typename I>
__device__ inline I shift_left(I a, I by) {
    return by < I(0) || by >= I(8 * sizeof(I)) ? I(0) : (I)((uint64_t)a << by);
}

// Shifts right and fills with the sign bit; all sign bits if b is negative or at least the number of bits.
template <typename I>
__device__ inline I shift_right(I a, I by) {
    if (by < I(0) || by >= I(8 * sizeof(I))) return a < I(0) ? I(-1) : I(0);
    return (I)(a >> by);
}
}  // namespace integer
