// Activations and their derivatives on vectors, and what stands between the two projections of an expert.
#pragma once

#include "vectors.h"

namespace sparsemix {

// e^x = 2^n e^r with |r| <= ln(2) / 2, the latter by its Taylor series up to r^7: within 2 units in the last place.
inline Vec exp(Vec x) {
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
    constexpr float to_nearest = 12582912.0f;  // 1.5 * 2^23: adding it leaves no room for a fraction
    Vec n = x * 1.44269504f + to_nearest - to_nearest;
    Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vec series = all(1.0f / 5040);
    for (float next : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f}) series = series * r + next;
    IntVec exponent = __builtin_convertvector(n, IntVec) << 23;
    IntVec bits;
    std::memcpy(&bits, &series, sizeof bits);
    bits += exponent;
    std::memcpy(&series, &bits, sizeof bits);
    return series;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

struct Point {
    Vec value, slope;
};

struct Silu {
    static Point at(Vec x) {
        Vec s = sigmoid(x);
        return {x * s, s + x * s * (1.0f - s)};
    }
};

// x Phi(x). Phi by Abramowitz and Stegun 7.1.26, off by at most 1e-7.
struct Gelu {
    static Point at(Vec x) {
        Vec size = (x < 0.0f ? -x : x) * 0.70710678f;
        Vec t = 1.0f / (1.0f + 0.3275911f * size);
        Vec bell = exp(-size * size);
        Vec tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
        Vec outside = 0.5f * tail * bell;  // Phi(-|x|)
        Vec phi = x < 0.0f ? outside : 1.0f - outside;
        return {x * phi, phi + x * bell * 0.39894228f};
    }
};

struct GeluTanh {
    static Point at(Vec x) {
        constexpr float scale = 1.59576912f;  // 2 sqrt(2 / pi), since (1 + tanh z) / 2 = sigmoid(2 z)
        Vec s = sigmoid(scale * (x + 0.044715f * x * x * x));
        return {x * s, s + x * s * (1.0f - s) * scale * (1.0f + 0.134145f * x * x)};
    }
};

struct Relu {
    static Point at(Vec x) { return {x <= 0.0f ? all(0.0f) : x, x <= 0.0f ? all(0.0f) : all(1.0f)}; }
};

struct Relu2 {
    static Point at(Vec x) {
        Vec positive = Relu::at(x).value;
        return {positive * positive, 2.0f * positive};
    }
};

struct Sigmoid {
    static Point at(Vec x) {
        Vec s = sigmoid(x);
        return {s, s * (1.0f - s)};
    }
};

struct Identity {
    static Point at(Vec x) { return {x, all(1.0f)}; }
};

// Of rows of W tokens each: weighted = w act(gate) up, or w act(gate) where there is no up.
template <class Act>
void activate(int rows, const float* gate, const float* up, Vec w, float* weighted) {
    for (int i = 0; i < rows * W; i += W) {
        Vec a = w * Act::at(load(gate + i)).value;
        store(weighted + i, up ? a * load(up + i) : a);
    }
}

// From the gradient of `weighted`: that of gate and up, that of w (added up over the rows); and `weighted` again.
template <class Act>
Vec activate_backward(int rows, const float* gate, const float* up, Vec w, const float* grad, float* dgate, float* dup,
                      float* weighted) {
    Vec dw{};
    for (int i = 0; i < rows * W; i += W) {
        Point act = Act::at(load(gate + i));
        Vec dwa = load(grad + i);
        Vec u = up ? load(up + i) : all(1.0f);
        Vec da = dwa * w, a = act.value * u;
        dw += dwa * a;
        store(dgate + i, da * u * act.slope);
        if (up) store(dup + i, da * act.value);
        store(weighted + i, w * a);
    }
    return dw;
}

struct Activation {
    decltype(&activate<Silu>) forward;
    decltype(&activate_backward<Silu>) backward;
};

// In the order that the caller counts them.
inline const Activation activations[] = {
    {activate<Silu>, activate_backward<Silu>},         {activate<Gelu>, activate_backward<Gelu>},
    {activate<GeluTanh>, activate_backward<GeluTanh>}, {activate<Relu>, activate_backward<Relu>},
    {activate<Relu2>, activate_backward<Relu2>},       {activate<Sigmoid>, activate_backward<Sigmoid>},
    {activate<Identity>, activate_backward<Identity>},
};

}  // namespace sparsemix
