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
template <class T> CXR_HD T mix(T a, T b, T f) { return (T(1) - f) * a + f * b; }

// The border-clamped bilinear value image(px, py).
template <class T> CXR_HD T sample(const T* image, int height, int width, long stride, T px, T py) {
  const Position<T> x = position(px, width), y = position(py, height);
  const long right = width > 1, down = height > 1 ? stride : 0;
  const T* p = image + y.i * stride + x.i;
  return mix(mix(p[0], p[right], x.f), mix(p[down], p[down + right], x.f), y.f);
}

template <class T> struct Update {
  T x, y;
  bool valid;  // false: a denominator is 0 or something is NaN, and the update is 0
};

// The Demons update for d = R - W, the gradients r of the fixed and w of the warped moving image, and 1/K.
//   two_force  d (r / (|r|^2 + d^2/K) + w / (|w|^2 + d^2/K))     Wang et al. 2005; written with one division
//   esm        2 d J / (|J|^2 + d^2/K), J = r + w                Vercauteren et al. 2009
//   thirion    d r / (|r|^2 + d^2/K)                             Thirion 1998
template <int F, class T> CXR_HD Update<T> update(T d, T rx, T ry, T wx, T wy, T inverse_k) {
  const T energy = d * d * inverse_k;
  T x, y, denominator;
  if (F == two_force) {
    const T a = rx * rx + ry * ry + energy, b = wx * wx + wy * wy + energy;
    x = rx * b + wx * a;
    y = ry * b + wy * a;
    denominator = a * b;
  } else if (F == esm) {
    x = T(2) * (rx + wx);
    y = T(2) * (ry + wy);
    denominator = T(0.25) * (x * x + y * y) + energy;
  } else {
    x = rx;
    y = ry;
    denominator = rx * rx + ry * ry + energy;
  }
  const bool valid = denominator >= Limits<T>::smallest && denominator <= Limits<T>::largest;
  const T scale = d / denominator;
  return {valid ? scale * x : T(0), valid ? scale * y : T(0), valid};
}

// Central difference with the border repeated.
template <class T> CXR_HD T central(T before, T after) { return T(0.5) * (after - before); }

// ITK's gradient of the warped image, where NaN marks samples outside: central, one-sided, or 0. `before_in` and `after_in`
// say whether that neighbour lies in the image.
template <class T> CXR_HD T one_sided(T before, T here, T after, bool before_in, bool after_in) {
  const bool has_before = before_in && before == before, has_after = after_in && after == after;
  const T difference = (has_after ? after : here) - (has_before ? before : here);
  return has_before && has_after ? T(0.5) * difference : difference;
}

}  // namespace cxr
