// Special functions of the formulas in unary_table.cuh and binary_table.cuh, as crates/cpu/src/numeric/special.rs describes
// them: derivatives of the logarithm of the gamma function, the inverse of the error function, modified Bessel functions.
// Included by real.cuh, in its namespace. Loops are not unrolled: the bodies call functions of the library.

// c[0] + c[1] x + c[2] x^2 + ...
template <typename R>
__device__ inline R polynomial(R, f64 last) {
    return R(last);
}
template <typename R, typename... More>
__device__ inline R polynomial(R x, f64 first, More... more) {
    return polynomial(x, more...) * x + R(first);
}

// By the recurrence to 10 or more, and the asymptotic series there, of Bernoulli numbers B(2k) / 2k.
template <typename R>
__device__ inline R digamma_of_positive(R x) {
    R sum = R(0);
#pragma unroll 1
    while (x < R(10)) {
        sum += R(1) / x;
        x += R(1);
    }
    R z = R(1) / (x * x);
    R series = polynomial(z, 1.0 / 12, -1.0 / 120, 1.0 / 252, -1.0 / 240, 1.0 / 132, -691.0 / 32760, 1.0 / 12);
    return log(x) - R(0.5) / x - z * series - sum;
}

template <typename R>
__device__ inline R digamma(R x) {
    if (x == R(0)) return R(-1) / x;
    R reflected = R(0);
    if (x < R(0)) {
        R part = x - rint(x);
        if (part == R(0)) return R(NAN);
        // The tangent would be prepared for huge angles, in local memory.
        reflected = R(PI) * cospi(part) / sinpi(part);
        x = R(1) - x;
    }
    return digamma_of_positive(x) - reflected;
}

// Hurwitz's zeta function of a positive q: the first terms, and the formula of Euler and Maclaurin for the rest, with Bernoulli
// numbers B(2k) / (2k)!.
template <typename R>
__device__ inline R zeta_of_positive(R s, R q) {
    R from = R(10) + R(0.5) * (s < R(172) ? s : R(172)), sum = R(0), a = q;
#pragma unroll 1
    while (a < from) {
        sum += pow(a, -s);
        a += R(1);
    }
    R integral = pow(a, R(1) - s);
    R factor = integral / a;
    sum = sum + integral / (s - R(1)) + R(0.5) * factor;
    const R numbers[7] = {R(1.0 / 12),       R(-1.0 / 720),
                          R(1.0 / 30240),    R(-1.0 / 1209600),
                          R(1.0 / 47900160), R(-691.0 / 1307674368000.0),
                          R(1.0 / 74724249600.0)};
#pragma unroll
    for (int j = 0; j < 7; ++j) {
        R k = R(2 * j);
        factor = factor * (s + k) / a;
        sum += numbers[j] * factor;
        factor = factor * (s + k + R(1)) / a;
    }
    return sum;
}

// Hurwitz's zeta function of an integer s. Terms with negative bases are those of 1 - part up to -q, up to their sign.
template <typename R>
__device__ inline R zeta(R s, R q, bool s_is_even) {
    R below = floor(q);
    if (q <= R(0) && q == below) return R(INFINITY);
    if (!(q <= R(0))) return zeta_of_positive(s, q);
    R part = q - below, sign = s_is_even ? R(1) : R(-1), sum = R(0);
    // One copy of the function for all three.
#pragma unroll 1
    for (int i = 0; i < 3; ++i) {
        R term = zeta_of_positive(s, i == 0 ? R(1) - part : i == 1 ? R(1) - q : part);
        sum = i == 0 ? term : i == 1 ? sum - term : term + sign * sum;
    }
    return sum;
}

template <typename R>
__device__ inline R polygamma(R x, R n) {
    n = floor(n);
    if (n == R(0)) return digamma(x);
    if (!(n > R(0))) return R(NAN);
    R factorial = R(1);
#pragma unroll 1
    for (R k = R(2); k <= n && k <= R(171); k += R(1)) factorial *= k;
    bool is_odd = n - R(2) * floor(n * R(0.5)) == R(1);
    R value = factorial * zeta(n + R(1), x, is_odd);
    return is_odd ? value : -value;
}

// The quantile of the standard normal distribution at q + 1/2 (Wichura, AS 241); `tail` is the probability of the nearer tail.
template <typename R>
__device__ inline R normal_quantile(R q, R tail) {
    if (abs(q) <= R(0.425)) {
        R r = R(0.180625) - q * q;
        R above = polynomial(r, 3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946,
                             45921.95393154987, 67265.7709270087, 33430.57558358813, 2509.0809287301227);
        R below = polynomial(r, 1.0, 42.31333070160091, 687.1870074920579, 5394.196021424751, 21213.794301586597,
                             39307.89580009271, 28729.085735721943, 5226.495278852854);
        return q * above / below;
    }
    R r = sqrt(-log(tail)), above, below;
    if (r <= R(5)) {
        r -= R(1.6);
        above = polynomial(r, 1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045,
                           1.2704582524523684, 0.2417807251774506, 0.022723844989269184, 7.745450142783414e-4);
        below = polynomial(r, 1.0, 2.053191626637759, 1.6763848301838038, 0.6897673349851, 0.14810397642748008,
                           0.015198666563616457, 5.475938084995345e-4, 1.0507500716444169e-9);
    } else {
        r -= R(5);
        above = polynomial(r, 6.657904643501103, 5.463784911164114, 1.7848265399172913, 0.29656057182850487,
                           0.026532189526576124, 0.0012426609473880784, 2.7115555687434876e-5, 2.0103343992922881e-7);
        below = polynomial(r, 1.0, 0.599832206555888, 0.1369298809227358, 0.014875361290850615, 7.868691311456133e-4,
                           1.8463183175100548e-5, 1.421511758316446e-7, 2.0442631033899398e-15);
    }
    return q < R(0) ? -(above / below) : above / below;
}

template <typename R>
__device__ inline R erfinv(R x) {
    R size = abs(x);
    if (size == R(1)) return x * R(INFINITY);
    return R(FRAC_1_SQRT_2) * normal_quantile(R(0.5) * x, R(0.5) * (R(1) - size));
}

// The modified Bessel function of order 0 or 1: by its power series below 20, by the asymptotic one from there on, up to the
// term that changes nothing, or the 50th.
template <typename R>
__device__ inline R bessel(R x, R order) {
    bool small = x < R(20);
    if (x == R(INFINITY)) return x;
    R half = R(0.5) * x, square = R(4) * order * order;
    R term = small && order != R(0) ? half : R(1), sum = term;
#pragma unroll 1
    for (R k = R(1); k < R(50); k += R(1)) {
        R odd = k + k - R(1);
        term = term * (small ? half * half / (k * (k + order)) : (odd * odd - square) / (R(8) * k * x));
        R next = sum + term;
        if (next == sum) break;
        sum = next;
    }
    if (small) return sum;
    // The exponential in two factors: it overflows before the result does.
    R root = exp(half);
    return root * (sum / (R(2.5066282746310002) * sqrt(x))) * root;
}

template <typename R>
__device__ inline R i0(R x) {
    return bessel(abs(x), R(0));
}

template <typename R>
__device__ inline R i1(R x) {
    R value = bessel(abs(x), R(1));
    return x < R(0) ? -value : value;
}
