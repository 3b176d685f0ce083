// W(x) = image(x + ux, y + uy) for one row: portable, and in vectors where the instruction set can shuffle at run time.
#pragma once

#include "cpu/row_kernels.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace cxr {
namespace {

// The ten lines that the vectors below must agree with, bit for bit.
template <class T> void warp_pixels(const WarpRow<T>& a) {
  for (int x = 0; x < a.width; ++x) {
    const T px = T(x) + a.ux[x], py = T(a.y) + a.uy[x];
    const bool outside = a.itk && !(inside(px, a.width) && inside(py, a.height));
    for (int c = 0; c < a.channels; ++c) {
      const T value = sample(a.image + c * a.plane, a.height, a.width, a.width, px, py);
      a.out[c * a.plane + x] = outside ? T(__builtin_nan("")) : value;
    }
  }
}

template <class T> void warp_row(const WarpRow<T>& a) { warp_pixels(a); }

template <class T> void warp_pixels_nearest(const WarpRow<T>& a) {
  for (int x = 0; x < a.width; ++x) {
    const size_t i = size_t(nearest_pixel(T(a.y) + a.uy[x], a.height)) * a.width + nearest_pixel(T(x) + a.ux[x], a.width);
    for (int c = 0; c < a.channels; ++c) a.out[c * a.plane + x] = a.image[c * a.plane + i];
  }
}

template <class T> void warp_row_nearest(const WarpRow<T>& a) { warp_pixels_nearest(a); }

#ifdef __AVX2__
constexpr int lanes = 8;
typedef float Vec __attribute__((vector_size(4 * lanes), aligned(4), may_alias));
typedef int Int __attribute__((vector_size(4 * lanes)));
typedef unsigned Unsigned __attribute__((vector_size(4 * lanes)));

CXR_HD Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
CXR_HD void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
CXR_HD Vec real(Int i) { return __builtin_convertvector(i, Vec); }
CXR_HD Int whole(Vec v) { return __builtin_convertvector(v, Int); }
CXR_HD Int minus(Int a, Int b) { return (Int)((Unsigned)a - (Unsigned)b); }  // wraps: a NaN is the smallest integer
CXR_HD bool any_negative(Int i) { return _mm256_movemask_ps((__m256)i) != 0; }

// Where a vector of pixels samples the image: the pixels at `index`, index + 1 and a row below, with position()'s weights.
struct Samples {
  int index[lanes];
  Vec fx, fy;
  Int inside;  // itk: all bits of the lanes that lie inside
};

template <bool ITK> CXR_HD void place(const WarpRow<float>& a, int x, Samples& s) {
  const int w = a.width, h = a.height;
  const Int last_x = Int{} + (w - 2), last_y = Int{} + (h - 2);
  Vec px = real(Int{0, 1, 2, 3, 4, 5, 6, 7} + x) + load(a.ux + x), py = float(a.y) + load(a.uy + x);
  if (ITK) s.inside = (px >= -0.5f) & (px < w - 0.5f) & (py >= -0.5f) & (py < h - 0.5f);
  Int ix = whole(px), iy = whole(py);
  if (any_negative((Int)px | (Int)py | minus(last_x, ix) | minus(last_y, iy))) {  // seldom: some lane has to be clamped
    const Vec zero{}, right = zero + float(w - 1), bottom = zero + float(h - 1);
    px = px > zero ? px : zero, py = py > zero ? py : zero;
    px = px < right ? px : right, py = py < bottom ? py : bottom;
    ix = whole(px), iy = whole(py);
    ix = ix < last_x ? ix : last_x, iy = iy < last_y ? iy : last_y;
  }
  s.fx = px - real(ix), s.fy = py - real(iy);
  _mm256_storeu_si256((__m256i*)s.index, (__m256i)(iy * w + ix));
}

// left[k] = p[index[k]], right[k] = p[index[k] + 1]. One load brings both: a third of the time of two gathers.
CXR_HD void pairs(const float* p, const int* index, Vec& left, Vec& right) {
  const auto pair = [&](int k) { return _mm256_broadcast_sd((const double*)(p + index[k])); };
  // Lanes 0 1 4 5 and 2 3 6 7: a shuffle within the halves then puts them in order.
  const __m256d a = _mm256_blend_pd(_mm256_blend_pd(pair(0), pair(1), 2), _mm256_blend_pd(pair(4), pair(5), 8), 12);
  const __m256d b = _mm256_blend_pd(_mm256_blend_pd(pair(2), pair(3), 2), _mm256_blend_pd(pair(6), pair(7), 8), 12);
  left = (Vec)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
  right = (Vec)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd);
}

template <bool ITK> CXR_HD Vec interpolate(const float* image, int width, const Samples& s) {
  const Vec gx = 1 - s.fx, gy = 1 - s.fy;
  Vec left, right, low_left, low_right;
  pairs(image, s.index, left, right);
  pairs(image + width, s.index, low_left, low_right);
  const Vec value = gy * (gx * left + s.fx * right) + s.fy * (gx * low_left + s.fx * low_right);
  return ITK ? (s.inside ? value : Vec{} + __builtin_nanf("")) : value;
}

template <bool ITK> void warp_vectors(const WarpRow<float>& args) {
  const WarpRow<float> a = args;  // a copy, which no store can change: what depends on it leaves the loop
  constexpr int block = 16;// vectors that are placed once for all channels
  const int last = a.width - lanes;  // the last vector overlaps its neighbour
  const auto at = [&](int k) { return k * lanes < last ? k * lanes : last; };
  const int vectors = (a.width + lanes - 1) / lanes;
  Samples samples[block];
  for (int first = 0; first < vectors; first += block) {
    const int count = vectors - first < block ? vectors - first : block;
    for (int k = 0; k < count; ++k) place<ITK>(a, at(first + k), samples[k]);
    for (int c = 0; c < a.channels; ++c) {
      const float* image = a.image + c * a.plane;
      float* out = a.out + c * a.plane;
      // Two rows below what is read now: the hardware does not see rows coming in this pattern (2048 x 2048: 3.2 to 1.7 ns).
      for (int k = 0; k < count; k += 2) __builtin_prefetch(image + samples[k].index[0] + 3 * long(a.width));
      for (int k = 0; k < count; ++k) store(out + at(first + k), interpolate<ITK>(image, a.width, samples[k]));
    }
  }
}

template <> void warp_row_nearest<float>(const WarpRow<float>& args) {
  const WarpRow<float> a = args;
  const Vec zero{}, right = zero + float(a.width - 1), bottom = zero + float(a.height - 1);
  constexpr int block = 128;  // pixels that are placed before any is read
  int index[block];
  for (int from = 0; from < a.width; from += block) {
    const int count = a.width - from < block ? a.width - from : block;
    int k = 0;
    for (; k + lanes <= count; k += lanes) {
      const int x = from + k;
      Vec px = real(Int{0, 1, 2, 3, 4, 5, 6, 7} + x) + load(a.ux + x), py = float(a.y) + load(a.uy + x);
      px = px > zero ? px : zero, py = py > zero ? py : zero;
      px = px < right ? px : right, py = py < bottom ? py : bottom;
      const Int ix = (Int)_mm256_cvtps_epi32((__m256)px), iy = (Int)_mm256_cvtps_epi32((__m256)py);  // halves to even
      _mm256_storeu_si256((__m256i*)(index + k), (__m256i)(iy * a.width + ix));
    }
    for (; k < count; ++k) {
      const int x = from + k;
      index[k] = nearest_pixel(a.y + a.uy[x], a.height) * a.width + nearest_pixel(x + a.ux[x], a.width);
    }
    for (int c = 0; c < a.channels; ++c) {
      const float* image = a.image + c * a.plane;
      float* out = a.out + c * a.plane + from;
      for (k = 0; k < count; ++k) out[k] = image[index[k]];
    }
  }
}

template <> void warp_row<float>(const WarpRow<float>& a) {
  if (a.width < lanes || a.height < 2) return warp_pixels(a);
  a.itk ? warp_vectors<true>(a) : warp_vectors<false>(a);
}
#endif

}  // namespace
}  // namespace cxr
