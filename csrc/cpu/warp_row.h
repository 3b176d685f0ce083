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
    for (int c = 0; c < a.channels; ++c) {
      const T value = sample(a.image + c * a.image_plane, a.height, a.width, a.width, px, py);
      a.out[c * a.out_plane + x] = outside ? T(__builtin_nan("")) : value;
    }
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
//   base  = the first lane's pixel (row b); the window starts a little left of it
//   row r : h(r) = (1 - fx) window(r)[ix] + fx window(r)[ix + 1]
//   W     = (1 - fy) h(iy) + fy h(iy + 1), with iy mostly b, and further rows as long as any lane needs them
//
// Where the field is too rough for that, warp_pixels does the work.
template <bool ITK> bool warp_vector(const WarpRow<float>& a, int x) {
  const int w = a.width, h = a.height;
  const Vec px = __builtin_convertvector(iota() + x, Vec) + load(a.ux + x), py = float(a.y) + load(a.uy + x);
  const Vec zero = Vec{} , right = zero + float(w - 1), bottom = zero + float(h - 1);
  Vec cx = px > zero ? px : zero, cy = py > zero ? py : zero;
  cx = cx < right ? cx : right;
  cy = cy < bottom ? cy : bottom;
  Int ix = __builtin_convertvector(cx, Int), iy = __builtin_convertvector(cy, Int);
  const Int last_x = Int{} + (w - 2), last_y = Int{} + (h - 2);
  ix = ix < last_x ? ix : last_x;
  iy = iy < last_y ? iy : last_y;
  const Vec fx = cx - __builtin_convertvector(ix, Vec), fy = cy - __builtin_convertvector(iy, Vec);
  const Vec gx = 1.0f - fx, gy = 1.0f - fy;

  int base = ix[0] - lanes / 4;
  base = base < w - 2 * lanes ? base : w - 2 * lanes;
  base = base > 0 ? base : 0;
  const Int place = ix - base, row = iy - iy[0];
  if (any((place < 0) | (place > 2 * lanes - 2) | (row < -most_rows) | (row > most_rows))) return false;
  const Int next = place + 1;
  const long corner = long(iy[0]) * w + base;

  for (int c = 0; c < a.channels; ++c) {
    const float* image = a.image + c * a.image_plane + corner;
    auto line = [&](const float* p) {
      const Vec low = load(p), high = load(p + lanes);
      return gx * __builtin_shuffle(low, high, place) + fx * __builtin_shuffle(low, high, next);
    };
    const Vec first = line(image), second = line(image + w);
    Vec top = first, low = second, last = second;
    for (int k = 1; any(row >= k); ++k) {
      const Vec fresh = line(image + (k + 1) * long(w));
      top = row >= k ? last : top;
      low = row >= k ? fresh : low;
      last = fresh;
    }
    last = first;
    for (int k = -1; any(row <= k); --k) {
      const Vec fresh = line(image + k * long(w));
      low = row <= k ? last : low;
      top = row <= k ? fresh : top;
      last = fresh;
    }
    Vec value = gy * top + fy * low;
    if (ITK) {
      const Int in = (px >= -0.5f) & (px < w - 0.5f) & (py >= -0.5f) & (py < h - 0.5f);
      value = in ? value : zero + __builtin_nanf("");
    }
    *reinterpret_cast<Vec*>(a.out + c * a.out_plane + x) = value;
  }
  return true;
}

template <> void warp_row<float>(const WarpRow<float>& a) {
  if (a.width < 2 * lanes || a.height < 2) return warp_pixels(a, 0, a.width);
  for (int from = 0; from < a.width; from += lanes) {
    const int x = from < a.width - lanes ? from : a.width - lanes;  // the last vector overlaps its neighbour
    if (!(a.itk ? warp_vector<true>(a, x) : warp_vector<false>(a, x))) warp_pixels(a, x, x + lanes);
  }
}
#endif

}  // namespace
}  // namespace cxr
