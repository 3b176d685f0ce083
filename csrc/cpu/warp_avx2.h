// The warp in vectors of eight lanes: loads lane by lane, from positions in memory.
#pragma once

#include "cpu/warp_vectors.h"

namespace cxr {
namespace {

constexpr int block = 16;  // vectors that are placed before any of them is read a second time, for another channel
constexpr int narrowest = lanes, lowest = 2, longest = 1 << 30;  // other images go pixel by pixel

// left[k] = p[index[k]], right[k] = p[index[k] + 1]: one load brings both, in a third of the time of two gathers.
CXR_HD void pairs(const float* p, const int* index, Vec& left, Vec& right) {
  const auto two = [&](int i, int j) {  // left and right of lanes i and j, 8 bytes each at any address
    double first;
    std::memcpy(&first, p + index[i], sizeof first);
    return _mm_castpd_ps(_mm_loadh_pd(_mm_set_sd(first), (const double*)(p + index[j])));
  };
  const __m256 a = _mm256_insertf128_ps(_mm256_castps128_ps256(two(0, 1)), two(4, 5), 1);
  const __m256 b = _mm256_insertf128_ps(_mm256_castps128_ps256(two(2, 3)), two(6, 7), 1);
  left = (Vec)_mm256_shuffle_ps(a, b, 0x88);
  right = (Vec)_mm256_shuffle_ps(a, b, 0xdd);
}

// The same pointer, about which the compiler knows nothing: it stays in a register and is not added up anew for each pixel.
CXR_HD const float* kept(const float* p) {
  asm("" : "+r"(p));
  return p;
}

// p[index[k]]
CXR_HD Vec each(const float* p, const int* index) {
  const auto lane = [&](int i) { return _mm256_broadcast_ss(p + index[i]); };
  const __m256 low = _mm256_blend_ps(_mm256_blend_ps(lane(0), lane(1), 2), _mm256_blend_ps(lane(2), lane(3), 8), 12);
  const __m256 high = _mm256_blend_ps(_mm256_blend_ps(lane(4), lane(5), 32), _mm256_blend_ps(lane(6), lane(7), 128), 192);
  return (Vec)_mm256_blend_ps(low, high, 240);
}

// Vectors 0 .. count - 1 go through two stages, the second `ahead` vectors behind the first: a core looks some three vectors
// ahead, so while one stage waits for memory the other computes; and what the first one stored has arrived.
template <class First, class Second> CXR_HD void two_stages(int count, First first, Second second) {
  constexpr int ahead = 4;
  const int lead = count < ahead ? count : ahead;
  for (int k = 0; k < lead; ++k) first(k);
  for (int k = lead; k < count; ++k) first(k), second(k - lead);
  for (int k = count - lead; k < count; ++k) second(k);
}

template <bool ITK> CXR_HD void warp_block(const WarpRow<float>& a, int from, int count) {
  alignas(64) int index[block][lanes];
  alignas(64) float fx[block][lanes], fy[block][lanes];
  Placing<ITK> placing(a, from);
  const float *ux = a.ux + from, *uy = a.uy + from;
  const auto place = [&](int k) __attribute__((always_inline)) {
    const Place p = placing.next(ux, uy);
    ux += lanes, uy += lanes;
    // Of the next block, so that it is there in time.
    __builtin_prefetch(ux + block * lanes), __builtin_prefetch(uy + block * lanes);
    store(index[k], p.iy * a.width + p.ix), store(fx[k], p.fx), store(fy[k], p.fy);
  };
  const auto read = [&](const float* image, const float* below, float* out, int k) __attribute__((always_inline)) {
    const Vec x = load<lanes>(fx[k]), y = load<lanes>(fy[k]);
    Vec left, right, low_left, low_right;
    // Two rows below what is read now: the hardware does not see rows coming in this pattern.
    __builtin_prefetch(below + 2 * long(a.width) + index[k][0]);
    pairs(image, index[k], left, right);
    pairs(below, index[k], low_left, low_right);
    store(out + k * lanes, mix(mix(left, right, x), mix(low_left, low_right, x), y));
  };
  const float *image = a.image, *below = kept(image + a.width);
  float* out = a.out + from;
  two_stages(count, place, [&](int k) { read(image, below, out, k); });
  for (int c = 1; c < a.channels; ++c) {
    image += a.plane, below = kept(image + a.width), out += a.plane;
    for (int k = 0; k < count; ++k) read(image, below, out, k);
  }
}

CXR_HD void nearest_block(const WarpRow<float>& a, int from, int count) {
  alignas(64) int index[block][lanes];
  Placing<false> placing(a, from);
  const float *ux = a.ux + from, *uy = a.uy + from;
  const auto place = [&](int k) __attribute__((always_inline)) {
    const Place p = placing.next_nearest(ux, uy);
    ux += lanes, uy += lanes;
    __builtin_prefetch(ux + block * lanes), __builtin_prefetch(uy + block * lanes);
    store(index[k], p.iy * a.width + p.ix);
  };
  const auto read = [&](const float* image, float* out, int k) __attribute__((always_inline)) {
    __builtin_prefetch(image + index[k][0] + 2 * long(a.width));
    store(out + k * lanes, each(image, index[k]));
  };
  two_stages(count, place, [&](int k) { read(a.image, a.out + from, k); });
  for (int c = 1; c < a.channels; ++c) {
    const float* image = a.image + c * a.plane;
    float* out = a.out + c * a.plane + from;
    for (int k = 0; k < count; ++k) read(image, out, k);
  }
}

// Both fetch ahead in any case.
template <bool ITK, bool> CXR_HD void warp_bilinear(const WarpRow<float>& a) { by_blocks(a, a.width, block, warp_block<ITK>); }
template <bool> CXR_HD void warp_nearest(const WarpRow<float>& a) { by_blocks(a, a.width, block, nearest_block); }

}  // namespace
}  // namespace cxr
