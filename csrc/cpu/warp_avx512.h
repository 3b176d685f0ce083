// The warp in vectors of sixteen lanes: gathers, and positions in registers.
#pragma once

#include <climits>

#include "cpu/warp_vectors.h"

namespace cxr {
namespace {

constexpr int block = INT_MAX;  // a row at once

// left[k] = p[index[k]], right[k] = p[index[k] + 1]: a gather of 8 bytes a lane brings both.
CXR_HD void pairs(const float* p, Int index, Vec& left, Vec& right) {
  const __m512 a = (__m512)_mm512_i32gather_pd(_mm512_castsi512_si256((__m512i)index), p, 4);
  const __m512 b = (__m512)_mm512_i32gather_pd(_mm512_extracti64x4_epi64((__m512i)index, 1), p, 4);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  left = (Vec)_mm512_permutex2var_ps(a, even, b);
  right = (Vec)_mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}

CXR_HD void pairs(const float* p, const int* index, Vec& left, Vec& right) { pairs(p, load<lanes>(index), left, right); }

// The lines that the next rows need, since the hardware does not see rows coming in this pattern: of the image, two rows below
// what is read now; of the displacement and the result, in the next row.
CXR_HD void fetch_ahead(const WarpRow<float>& a, size_t plane, Int index, int x) {
  const int first = _mm_cvtsi128_si32(_mm512_castsi512_si128((__m512i)index));
  __builtin_prefetch(a.image + plane + 3 * long(a.width) + first);
  __builtin_prefetch(a.out + plane + a.width + x, 1);
  if (plane == 0) __builtin_prefetch(a.ux + a.width + x), __builtin_prefetch(a.uy + a.width + x);
}

// read(k, place()) for k = 0 .. count - 1. Each vector is placed before the one in front of it is read: a gather waits for its
// addresses, and a core does not look far enough ahead to find those of the next meanwhile.
template <class Place, class Read> CXR_HD void place_and_read(int count, Place place, Read read) {
  auto next = place();
  for (int k = 0; k < count; ++k) {
    const auto here = next;
    if (k + 1 < count) next = place();
    read(k, here);
  }
}

template <bool ITK, bool AHEAD> CXR_HD void warp_block(const WarpRow<float>& a, int from, int count) {
  Placing<ITK> placing(a, from);
  const float *image = a.image, *below = kept(a.image + a.width);
  const auto place = [&]() __attribute__((always_inline)) { return placing.next(); };
  const auto read = [&](int k, const Place& p) __attribute__((always_inline)) {
    const int x = from + k * lanes;
    const auto channel = [&](size_t plane) __attribute__((always_inline)) {
      Vec left, right, low_left, low_right;
      if (AHEAD) fetch_ahead(a, plane, p.index, x);
      pairs(image + plane, p.index, left, right);
      pairs(below + plane, p.index, low_left, low_right);
      const Vec value = mix(mix(left, right, p.fx), mix(low_left, low_right, p.fx), p.fy);
      store(a.out + plane + x, ITK ? (p.inside ? value : Vec{} + __builtin_nanf("")) : value);
    };
    channel(0);  // by itself: one channel is the usual case
    for (int c = 1; c < a.channels; ++c) channel(c * a.plane);
  };
  place_and_read(count, place, read);
}

template <bool AHEAD> CXR_HD void nearest_block(const WarpRow<float>& a, int from, int count) {
  const Vec right = Vec{} + float(a.width - 1), bottom = Vec{} + float(a.height - 1), row = Vec{} + float(a.y);
  const Int width = Int{} + a.width;
  const float *ux = a.ux + from, *uy = a.uy + from;
  Vec column = columns_from(from);
  const auto place = [&]() __attribute__((always_inline)) {
    const Vec px = at_most(at_least(column + load<lanes>(ux), Vec{}), right);
    const Vec py = at_most(at_least(row + load<lanes>(uy), Vec{}), bottom);
    column += float(lanes), ux += lanes, uy += lanes;
    return rounded(py) * width + rounded(px);
  };
  const auto read = [&](int k, const Int& index) __attribute__((always_inline)) {
    const int x = from + k * lanes;
    for (int c = 0; c < a.channels; ++c) {
      if (AHEAD) fetch_ahead(a, c * a.plane, index, x);
      store(a.out + c * a.plane + x, (Vec)_mm512_i32gather_ps((__m512i)index, a.image + c * a.plane, 4));
    }
  };
  place_and_read(count, place, read);
}

}  // namespace
}  // namespace cxr
