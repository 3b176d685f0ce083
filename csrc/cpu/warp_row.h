// W(x) = image(x + ux, y + uy) for one row: portable, and in vectors where the instruction set can shuffle at run time.
#pragma once

#include "cpu/row_kernels.h"

namespace cxr {
namespace {

// The ten lines that the vectors below must agree with, bit for bit.
template <class T> void warp_pixels(const WarpRow<T>& a, int from, int to) {
  for (int x = from; x < to; ++x) {
    const T px = T(x) + a.ux[x], py = T(a.y) + a.uy[x];
    const bool outside = a.itk && !(inside(px, a.width) && inside(py, a.height));
    const T value = sample(a.image, a.height, a.width, a.width, px, py);
    a.out[x] = outside ? T(__builtin_nan("")) : value;
  }
}

template <class T> void warp_row(const WarpRow<T>& a) { warp_pixels(a, 0, a.width); }

#ifdef __AVX2__
#ifdef __AVX512F__
constexpr int lanes = 16;
#else
constexpr int lanes = 8;
#endif
constexpr int most_rows = 6;  // a vector that spans more is done pixel by pixel
typedef float Vec __attribute__((vector_size(4 * lanes), aligned(4), may_alias));
typedef int Int __attribute__((vector_size(4 * lanes)));

CXR_HD Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
CXR_HD Int iota() {
  Int i;
  for (int k = 0; k < lanes; ++k) i[k] = k;
  return i;
}

CXR_HD bool any(Int mask) {
#ifdef __AVX512F__
  return __builtin_ia32_cvtd2mask512(reinterpret_cast<__attribute__((vector_size(64))) int&>(mask));
#else
  return __builtin_ia32_movmskps256(reinterpret_cast<__attribute__((vector_size(32))) float&>(mask));
#endif
}

// Neighbouring pixels of a smooth field read neighbouring pixels of few source rows. So each source row is loaded once as
// a window of 2 * lanes pixels, and its pixels are put in their places by shuffles, which is far cheaper than gathers:
//
//   base  = the first lane's pixel, in row b; the window starts a little left of it
//   row r : h(r) = (1 - fx) window(r)[ix] + fx window(r)[ix + 1]
//   W     = (1 - fy) h(iy) + fy h(iy + 1)
//
// Rows b - 1 .. b + 2 are always computed, which costs less than a branch that is guessed wrongly; more where a lane needs
// them. Returns false, having done nothing, where the field is too rough for the window.
template <bool ITK> CXR_HD bool warp_vector(const WarpRow<float>& a, int x) {
  const int w = a.width, h = a.height;
  const Vec zero{}, one = zero + 1.0f, right = zero + float(w - 1), bottom = zero + float(h - 1);
  const Vec px = __builtin_convertvector(iota() + x, Vec) + load(a.ux + x), py = float(a.y) + load(a.uy + x);
  Vec cx = px > zero ? px : zero, cy = py > zero ? py : zero;
  cx = cx < right ? cx : right;
  cy = cy < bottom ? cy : bottom;
  const Int last_x = Int{} + (w - 2), last_y = Int{} + (h - 2);
  Int ix = __builtin_convertvector(cx, Int), iy = __builtin_convertvector(cy, Int);
  ix = ix < last_x ? ix : last_x;
  iy = iy < last_y ? iy : last_y;
  const Vec fx = cx - __builtin_convertvector(ix, Vec), fy = cy - __builtin_convertvector(iy, Vec);
  const Vec gx = one - fx, gy = one - fy;

  const int b = iy[0];
  int base = ix[0] - lanes / 4;
  base = base < w - 2 * lanes ? base : w - 2 * lanes;
  base = base > 0 ? base : 0;
  const Int place = ix - base, next = place + 1, row = iy - b;
  if (any((place < 0) | (place > 2 * lanes - 2) | (row < -most_rows) | (row > most_rows))) return false;
  const bool far = any((row < -1) | (row > 1));

  const float* window = a.image + base;
  auto line = [&](int r) {
    const float* p = window + long(r) * w;
    const Vec low = load(p), high = load(p + lanes);
    return gx * __builtin_shuffle(low, high, place) + fx * __builtin_shuffle(low, high, next);
  };
  const Vec h0 = line(b > 0 ? b - 1 : 0), h1 = line(b), h2 = line(b + 1), h3 = line(b + 2 < h ? b + 2 : b + 1);
  Vec top = row < 0 ? h0 : row > 0 ? h2 : h1, low = row < 0 ? h1 : row > 0 ? h3 : h2;
  if (far) {
    Vec last = h3;
    for (int k = 2; any(row >= k); ++k) {
      const Vec fresh = line(b + k + 1);
      top = row >= k ? last : top;
      low = row >= k ? fresh : low;
      last = fresh;
    }
    last = h0;
    for (int k = -2; any(row <= k); --k) {
      const Vec fresh = line(b + k);
      low = row <= k ? last : low;
      top = row <= k ? fresh : top;
      last = fresh;
    }
  }
  Vec value = gy * top + fy * low;
  if (ITK) {
    const Int in = (px >= -0.5f) & (px < w - 0.5f) & (py >= -0.5f) & (py < h - 0.5f);
    value = in ? value : zero + __builtin_nanf("");
  }
  *reinterpret_cast<Vec*>(a.out + x) = value;
  return true;
}

template <bool ITK> void warp_vectors(const WarpRow<float>& args) {
  const WarpRow<float> a = args;  // a copy, which no store can change: what depends on it leaves the loop
  for (int from = 0; from < a.width; from += lanes) {
    const int x = from < a.width - lanes ? from : a.width - lanes;  // the last vector overlaps its neighbour
    if (!warp_vector<ITK>(a, x)) warp_pixels(a, x, x + lanes);
  }
}

template <> void warp_row<float>(const WarpRow<float>& a) {
  if (a.width < 2 * lanes || a.height < 2) return warp_pixels(a, 0, a.width);
  a.itk ? warp_vectors<true>(a) : warp_vectors<false>(a);
}
#endif

}  // namespace
}  // namespace cxr
