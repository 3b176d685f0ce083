// What the warps of eight and of sixteen lanes share: vectors of floats, and where they sample an image.
#pragma once

#include <immintrin.h>

#include "cpu/row_kernels.h"
#include "cpu/vectors.h"

namespace cxr {
namespace {

constexpr int lanes = register_bytes / sizeof(float);
using Vec = Vector<float, lanes>;
using Int = Vector<int, lanes>;

CXR_HD Vec real(Int i) { return __builtin_convertvector(i, Vec); }
CXR_HD Int whole(Vec v) { return __builtin_convertvector(v, Int); }

// The larger, the smaller of each lane; where p is NaN, the limit. To whole numbers, halves to even.
#ifdef __AVX512F__
CXR_HD Vec at_least(Vec p, Vec limit) { return (Vec)_mm512_max_ps((__m512)p, (__m512)limit); }
CXR_HD Vec at_most(Vec p, Vec limit) { return (Vec)_mm512_min_ps((__m512)p, (__m512)limit); }
CXR_HD Int rounded(Vec p) { return (Int)_mm512_cvtps_epi32((__m512)p); }
#else
CXR_HD Vec at_least(Vec p, Vec limit) { return (Vec)_mm256_max_ps((__m256)p, (__m256)limit); }
CXR_HD Vec at_most(Vec p, Vec limit) { return (Vec)_mm256_min_ps((__m256)p, (__m256)limit); }
CXR_HD Int rounded(Vec p) { return (Int)_mm256_cvtps_epi32((__m256)p); }
#endif

// 0, 1, 2 ... from `first`.
CXR_HD Vec columns_from(int first) {
  alignas(64) static constexpr int lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return real(load<lanes>(lane) + first);
}

// Where a vector of neighbouring pixels samples the image: at (ix, iy), the pixel to its right and a row below, with position()'s
// weights fx and fy. ITK: fx is NaN where that lies outside, and so is what is mixed by it.
struct Place {
  Vec fx, fy;
  Int ix, iy;
};

// Places the vectors of a row, one after another from column `from`.
template <bool ITK> struct Placing {
  Vec column, row, right, bottom, columns, rows;
  Int last_x, last_y;

  CXR_HD Placing(const WarpRow<float>& a, int from)
      : column(columns_from(from)), row(Vec{} + float(a.y)),
        right(Vec{} + float(a.width - 1)), bottom(Vec{} + float(a.height - 1)), columns(Vec{} + float(a.width)),
        rows(Vec{} + float(a.height)), last_x(Int{} + (a.width - 2)), last_y(Int{} + (a.height - 2)) {}

  CXR_HD Place next(const float* ux, const float* uy) {
    Vec px = column + load<lanes>(ux), py = row + load<lanes>(uy);
    const Int inside = (px >= -0.5f) & (px < columns - 0.5f) & (py >= -0.5f) & (py < rows - 0.5f);
    px = at_most(at_least(px, Vec{}), right), py = at_most(at_least(py, Vec{}), bottom);
    Int ix = whole(px), iy = whole(py);
    ix = ix < last_x ? ix : last_x, iy = iy < last_y ? iy : last_y;
    column += float(lanes);
    const Vec fx = px - real(ix);
    return {ITK ? (inside ? fx : Vec{} + __builtin_nanf("")) : fx, py - real(iy), ix, iy};
  }

  // The nearest pixels alone.
  CXR_HD Place next_nearest(const float* ux, const float* uy) {
    const Vec px = at_most(at_least(column + load<lanes>(ux), Vec{}), right);
    const Vec py = at_most(at_least(row + load<lanes>(uy), Vec{}), bottom);
    column += float(lanes);
    return {Vec{}, Vec{}, rounded(px), rounded(py)};
  }
};

// Blocks of at most `most` whole vectors; the last vector of a row overlaps its neighbour.
template <class Row, class Block> CXR_HD void by_blocks(const Row& args, int width, int most, Block do_block) {
  const Row a = args;  // a copy, which no store can change: what depends on it leaves the loop
  const int vectors = width / lanes;
  for (int k = 0; k < vectors; k += most) do_block(a, k * lanes, vectors - k < most ? vectors - k : most);
  if (width % lanes) do_block(a, width - lanes, 1);
}

}  // namespace
}  // namespace cxr
