// W(x) = image(x + ux, y + uy) for one row: portable, and in vectors where the instruction set can shuffle at run time.
#pragma once

#include "cpu/row_kernels.h"
#include "cpu/vectors.h"
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

// Where a block of neighbouring pixels samples the image: at `index`, index + 1 and a row below, with position()'s weights fx
// and fy. A block is placed before any of it is read: once for all channels.
template <class T> struct Samples {
  static constexpr int size = 128;
  alignas(64) int index[size];
  alignas(64) T fx[size], fy[size];
};

#ifdef __AVX2__
constexpr int lanes = 8, block = Samples<float>::size / lanes;
using Vec = Vector<float, lanes>;
using Int = Vector<int, lanes>;

CXR_HD Vec real(Int i) { return __builtin_convertvector(i, Vec); }
CXR_HD Int whole(Vec v) { return __builtin_convertvector(v, Int); }
// The larger and the smaller of each lane; where p is NaN, the limit. One instruction each.
CXR_HD Vec at_least(Vec p, Vec limit) { return (Vec)_mm256_max_ps((__m256)p, (__m256)limit); }
CXR_HD Vec at_most(Vec p, Vec limit) { return (Vec)_mm256_min_ps((__m256)p, (__m256)limit); }

// Places the vectors of a row, one after another from column `from`; vector k of them goes to place k of `s`. `inside` (ITK): all
// bits of the lanes that lie inside.
template <bool ITK> struct Placing {
  const float *ux, *uy;
  Vec column, row, right, bottom, columns, rows;
  Int last_x, last_y, width;

  CXR_HD Placing(const WarpRow<float>& a, int from)
      : ux(a.ux + from), uy(a.uy + from), column(real(Int{0, 1, 2, 3, 4, 5, 6, 7} + from)), row(Vec{} + float(a.y)),
        right(Vec{} + float(a.width - 1)), bottom(Vec{} + float(a.height - 1)), columns(Vec{} + float(a.width)),
        rows(Vec{} + float(a.height)), last_x(Int{} + (a.width - 2)), last_y(Int{} + (a.height - 2)), width(Int{} + a.width) {}

  CXR_HD void operator()(int k, Samples<float>& s, Int* inside) {
    Vec px = column + load<lanes>(ux + k * lanes), py = row + load<lanes>(uy + k * lanes);
    // Of the next block, so that it is there in time.
    __builtin_prefetch(ux + k * lanes + s.size), __builtin_prefetch(uy + k * lanes + s.size);
    if (ITK) inside[k] = (px >= -0.5f) & (px < columns - 0.5f) & (py >= -0.5f) & (py < rows - 0.5f);
    px = at_most(at_least(px, Vec{}), right), py = at_most(at_least(py, Vec{}), bottom);
    Int ix = whole(px), iy = whole(py);
    ix = ix < last_x ? ix : last_x, iy = iy < last_y ? iy : last_y;
    store(s.fx + k * lanes, px - real(ix));
    store(s.fy + k * lanes, py - real(iy));
    store(s.index + k * lanes, iy * width + ix);
    column += float(lanes);
  }
};

// The same pointer, about which the compiler knows nothing: it stays in a register and is not added up anew for each pixel.
CXR_HD const float* kept(const float* p) {
  asm("" : "+r"(p));
  return p;
}

// left[k] = p[index[k]], right[k] = p[index[k] + 1]. One load brings both: a third of the time of two gathers.
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
  Samples<float> s;
  Int inside[block];
  Placing<ITK> place(a, from);
  const auto read = [&](const float* image, const float* below, float* out, int k) __attribute__((always_inline)) {
    const int* index = s.index + k * lanes;
    const Vec fx = load<lanes>(s.fx + k * lanes), fy = load<lanes>(s.fy + k * lanes), gx = 1 - fx, gy = 1 - fy;
    Vec left, right, low_left, low_right;
    // Two rows below what is read now: the hardware does not see rows coming in this pattern.
    __builtin_prefetch(below + 2 * long(a.width) + index[0]);
    pairs(image, index, left, right);
    pairs(below, index, low_left, low_right);
    const Vec value = gy * (gx * left + fx * right) + fy * (gx * low_left + fx * low_right);
    store(out + k * lanes, ITK ? (inside[k] ? value : Vec{} + __builtin_nanf("")) : value);
  };
  const float *image = a.image, *below = kept(image + a.width);
  float* out = a.out + from;
  two_stages(count, [&](int k) { place(k, s, inside); }, [&](int k) { read(image, below, out, k); });
  for (int c = 1; c < a.channels; ++c) {
    image += a.plane, below = kept(image + a.width), out += a.plane;
    for (int k = 0; k < count; ++k) read(image, below, out, k);
  }
}

CXR_HD void nearest_block(const WarpRow<float>& a, int from, int count) {
  const Vec right = Vec{} + float(a.width - 1), bottom = Vec{} + float(a.height - 1), row = Vec{} + float(a.y);
  const Int width = Int{} + a.width;
  const float *ux = a.ux + from, *uy = a.uy + from;
  alignas(64) int index[block][lanes];
  Vec column = real(Int{0, 1, 2, 3, 4, 5, 6, 7} + from);
  const auto place = [&](int k) __attribute__((always_inline)) {
    const Vec px = at_most(at_least(column + load<lanes>(ux + k * lanes), Vec{}), right);
    const Vec py = at_most(at_least(row + load<lanes>(uy + k * lanes), Vec{}), bottom);
    __builtin_prefetch(ux + k * lanes + block * lanes), __builtin_prefetch(uy + k * lanes + block * lanes);
    const Int ix = (Int)_mm256_cvtps_epi32((__m256)px), iy = (Int)_mm256_cvtps_epi32((__m256)py);  // halves to even
    store(index[k], iy * width + ix);
    column += float(lanes);
  };
  const auto read = [&](const float* image, float* out, int k) __attribute__((always_inline)) {
    const auto lane = [&](int i) { return _mm256_broadcast_ss(image + index[k][i]); };
    __builtin_prefetch(image + index[k][0] + 2 * long(a.width));
    const __m256 low = _mm256_blend_ps(_mm256_blend_ps(lane(0), lane(1), 2), _mm256_blend_ps(lane(2), lane(3), 8), 12);
    const __m256 high = _mm256_blend_ps(_mm256_blend_ps(lane(4), lane(5), 32), _mm256_blend_ps(lane(6), lane(7), 128), 192);
    store(out + k * lanes, (Vec)_mm256_blend_ps(low, high, 240));
  };
  two_stages(count, place, [&](int k) { read(a.image, a.out + from, k); });
  for (int c = 1; c < a.channels; ++c) {
    const float* image = a.image + c * a.plane;
    float* out = a.out + c * a.plane + from;
    for (int k = 0; k < count; ++k) read(image, out, k);
  }
}

// Blocks of whole vectors; the last vector of a row overlaps its neighbour.
template <class Row, class Block> CXR_HD void by_blocks(const Row& args, int width, Block do_block) {
  const Row a = args;  // a copy, which no store can change: what depends on it leaves the loop
  const int vectors = width / lanes;
  for (int k = 0; k < vectors; k += block) do_block(a, k * lanes, vectors - k < block ? vectors - k : block);
  if (width % lanes) do_block(a, width - lanes, 1);
}

template <> void warp_row<float>(const WarpRow<float>& a) {
  if (a.width < lanes || a.height < 2) return warp_pixels(a);
  a.itk ? by_blocks(a, a.width, warp_block<true>) : by_blocks(a, a.width, warp_block<false>);
}

template <> void warp_row_nearest<float>(const WarpRow<float>& a) {
  if (a.width < lanes) return warp_pixels_nearest(a);
  by_blocks(a, a.width, nearest_block);
}
#endif

}  // namespace
}  // namespace cxr
