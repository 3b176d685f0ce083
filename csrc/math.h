// Per-pixel mathematics of warp and Demons, shared by every CPU path and by CUDA.
#pragma once

#include <cfloat>
#include <cmath>

#ifdef __CUDACC__
#define CXR_HD __host__ __device__ __forceinline__
#else
#define CXR_HD inline __attribute__((always_inline))
#endif

namespace cxr {

enum Force : int { two_force = 0, esm = 1, thirion = 2 };

template <class T> struct Limits;
template <> struct Limits<float> {
  static constexpr float smallest = FLT_MIN, largest = FLT_MAX;
};
template <> struct Limits<double> {
  static constexpr double smallest = DBL_MIN, largest = DBL_MAX;
};

// Position of a bilinear sample on an axis of n pixels: pixels i and i + 1 with weights 1 - f and f. Positions beyond the
// border are clamped to it; the last pixel is (n - 2, f = 1), so that i + 1 exists. NaN counts as 0.
template <class T> struct Position {
  int i;
  T f;
};

template <class T> CXR_HD Position<T> position(T p, int n) {
  const T last = T(n - 1);
  p = p > T(0) ? p : T(0);
  p = p < last ? p : last;
  int i = int(p);
  i = i < n - 2 ? i : n - 2;
  i = i > 0 ? i : 0;
  return {i, p - T(i)};
}

// The nearest pixel of an axis of n, halves to even as torch rounds; clamped and NaN as above.
template <class T> CXR_HD int nearest_pixel(T p, int n) {
  p = p > T(0) ? p : T(0);
  p = p < T(n - 1) ? p : T(n - 1);
  return int(rint(p));
}

// ITK counts a sample as inside up to half a pixel beyond the border.
template <class T> CXR_HD bool inside(T p, int n) { return p >= T(-0.5) && p < T(n) - T(0.5); }

// (1 - f) a + f b: exact at f = 0 and f = 1.
template <class T> CXR_HD T mix(T a, T b, T f) { return (1 - f) * a + f * b; }

// The border-clamped bilinear value image(px, py).
template <class T> CXR_HD T sample(const T* image, int height, int width, long stride, T px, T py) {
  const Position<T> x = position(px, width), y = position(py, height);
  const long right = width > 1, down = height > 1 ? stride : 0;
  const T* p = image + y.i * stride + x.i;
  return mix(mix(p[0], p[right], x.f), mix(p[down], p[down + right], x.f), y.f);
}

// The Demons update at a pixel is du = scale (x, y) / denominator. Gradients enter doubled, R = 2 grad r and W = 2 grad w of
// the fixed and the warped moving image, so that differences of neighbours need no halving; d = r - w.
//   two_force  d (r / (|r|^2 + d^2/K) + w / (|w|^2 + d^2/K))     Wang et al. 2005; r, w for their gradients; one division
//   esm        2 d J / (|J|^2 + d^2/K), J = r + w                Vercauteren et al. 2009
//   thirion    d r / (|r|^2 + d^2/K)                             Thirion 1998
// V is a number, or a vector of them on the CPU.
template <class V> struct Direction {
  V x, y, scale, denominator;
};

template <int F, class T, class V> CXR_HD Direction<V> direction(V d, V Rx, V Ry, V Wx, V Wy, T inverse_k) {
  const V energy = d * d * (T(4) * inverse_k);
  if (F == two_force) {
    const V a = Rx * Rx + Ry * Ry + energy, b = Wx * Wx + Wy * Wy + energy;
    return {Rx * b + Wx * a, Ry * b + Wy * a, T(2) * d, a * b};
  }
  const V x = F == esm ? Rx + Wx : Rx, y = F == esm ? Ry + Wy : Ry;
  return {x, y, T(F == esm ? 4 : 2) * d, x * x + y * y + energy};
}

template <class V> struct Update {
  V x, y;
};

// du, 0 where the denominator is 0 or something is NaN or infinite.
template <class T, class V> CXR_HD Update<V> update(const Direction<V>& a) {
  const V quotient = a.scale / a.denominator, x = quotient * a.x, y = quotient * a.y, zero = {};
  const auto valid = (a.denominator >= Limits<T>::smallest) & (a.denominator <= Limits<T>::largest);
  return {valid ? x : zero, valid ? y : zero};
}

// ITK's gradient of the warped image, doubled, where NaN marks neighbours outside: central, one-sided, or 0.
template <class V> CXR_HD V one_sided(V before, V here, V after) {
  const auto has_before = before == before, has_after = after == after;
  const auto both = has_before & has_after;  // of scalars an int, of vectors a mask
  const V difference = (has_after ? after : here) - (has_before ? before : here), twice = difference + difference;
  return both ? difference : twice;
}

}  // namespace cxr
