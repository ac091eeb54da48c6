// Activations and their derivatives on vectors, and what stands between the two projections of an expert.
#pragma once

#include "vectors.h"

namespace sparsemix {

// e^x = 2^n e^r with |r| <= ln(2) / 2, the latter by its Taylor series up to r^7. Of all float32 from -87 to 88, none is
// off by more than 1.3 units in the last place (by more than 1 with fused multiply-add).
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

// x Phi(x), Phi by Abramowitz and Stegun 7.1.26. Of all float32 from -20 to 20, none is off by more than 2e-7 max(1, |x|);
// the slope by no more than 4e-7.
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

struct Cubic {
    static Point at(Vec x) { return {x * x * x, 3.0f * x * x}; }
};

// What a gated activation makes of its two inputs, and how that changes with each.
struct Joint {
    Vec value, by_gate, by_up;
};

struct Clamp {
    float limit, alpha, offset;
};

template <class Act>
struct Times {
    static Joint at(Vec gate, Vec up, Clamp) {
        Point act = Act::at(gate);
        return {act.value * up, act.slope * up, act.value};
    }
};

// g sigmoid(alpha g) (u + offset), g clamped from above and u on both sides.
struct Clamped {
    static Joint at(Vec gate, Vec up, Clamp clamp) {
        Vec gate_inside = gate <= clamp.limit ? all(1.0f) : all(0.0f);
        Vec up_inside = up <= clamp.limit ? (up >= -clamp.limit ? all(1.0f) : all(0.0f)) : all(0.0f);
        gate = gate > clamp.limit ? all(clamp.limit) : gate;
        up = up > clamp.limit ? all(clamp.limit) : up;
        up = (up < -clamp.limit ? all(-clamp.limit) : up) + clamp.offset;
        Vec s = sigmoid(clamp.alpha * gate), act = gate * s;
        return {act * up, up * (s + clamp.alpha * act * (1.0f - s)) * gate_inside, act * up_inside};
    }
};

// Rows of the pre-activation, or of its gradient, W tokens each and `step` floats apart; no `up` where nothing is gated.
struct Rows {
    float *gate, *up;
    long step;
};

// weighted = w a.
template <class Form>
void activate(long rows, Rows h, Vec w, Clamp clamp, float* weighted) {
    for (long i = 0; i < rows; ++i) {
        Vec up = h.up ? load(h.up + i * h.step) : all(1.0f);
        store(weighted + i * W, w * Form::at(load(h.gate + i * h.step), up, clamp).value);
    }
}

// From the gradient of `weighted`, in its place: that of h, that of w (added up over the rows); and `weighted` again.
template <class Form>
Vec activate_backward(long rows, Rows h, Vec w, Clamp clamp, Rows dh, float* weighted) {
    Vec dw{};
    for (long i = 0; i < rows; ++i) {
        Joint a = Form::at(load(h.gate + i * h.step), h.up ? load(h.up + i * h.step) : all(1.0f), clamp);
        Vec dwa = load(weighted + i * W), da = dwa * w;
        dw += dwa * a.value;
        store(dh.gate + i * dh.step, da * a.by_gate);
        if (dh.up) store(dh.up + i * dh.step, da * a.by_up);
        store(weighted + i * W, w * a.value);
    }
    return dw;
}

struct Activation {
    decltype(&activate<Clamped>) forward;
    decltype(&activate_backward<Clamped>) backward;

    template <class Form>
    static constexpr Activation of() {
        return {activate<Form>, activate_backward<Form>};
    }
};

// In the order that the caller counts them.
inline const Activation activations[] = {
    Activation::of<Times<Silu>>(),     Activation::of<Times<Gelu>>(),  Activation::of<Times<GeluTanh>>(),
    Activation::of<Times<Relu>>(),     Activation::of<Times<Relu2>>(), Activation::of<Times<Sigmoid>>(),
    Activation::of<Times<Identity>>(), Activation::of<Times<Cubic>>(), Activation::of<Clamped>(),
};

}  // namespace sparsemix
