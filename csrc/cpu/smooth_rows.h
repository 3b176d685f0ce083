// Rows smoothed along the columns, and along themselves.
#pragma once

#include <utility>

#include "cpu/vectors.h"
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace cxr {
namespace {

template <class T, int RADIUS>
void weighted_sum_of(const T* const* rows, const T* taps, int n, T* __restrict__ out) {
  const T* row[2 * RADIUS + 1];
  T tap[RADIUS + 1];
  for (int j = 0; j <= 2 * RADIUS; ++j) row[j] = rows[j];
  for (int j = 0; j <= RADIUS; ++j) tap[j] = taps[j];
#pragma omp simd
  for (int x = 0; x < n; ++x) {
    T sum = tap[0] * row[RADIUS][x];
    for (int j = 1; j <= RADIUS; ++j) sum += tap[j] * (row[RADIUS - j][x] + row[RADIUS + j][x]);
    out[x] = sum;
  }
}

template <class T, int RADIUS>
void weighted_sums_of(const T* const* rows, const T* taps, int n, T* __restrict__ out, T* __restrict__ next) {
  const T* row[2 * RADIUS + 2];
  T tap[RADIUS + 1];
  for (int j = 0; j <= 2 * RADIUS + 1; ++j) row[j] = rows[j];
  for (int j = 0; j <= RADIUS; ++j) tap[j] = taps[j];
#pragma omp simd
  for (int x = 0; x < n; ++x) {
    T value[2 * RADIUS + 2];
    for (int j = 0; j <= 2 * RADIUS + 1; ++j) value[j] = row[j][x];
    T sum = tap[0] * value[RADIUS], sum_next = tap[0] * value[RADIUS + 1];
    for (int j = 1; j <= RADIUS; ++j) {
      sum += tap[j] * (value[RADIUS - j] + value[RADIUS + j]);
      sum_next += tap[j] * (value[RADIUS + 1 - j] + value[RADIUS + 1 + j]);
    }
    out[x] = sum;
    next[x] = sum_next;
  }
}

template <class T> void weighted_sum(const T* const* rows, const T* taps, int radius, int n, T* out) {
  switch (radius) {  // the usual radii are unrolled
    case 1: return weighted_sum_of<T, 1>(rows, taps, n, out);
    case 2: return weighted_sum_of<T, 2>(rows, taps, n, out);
    case 3: return weighted_sum_of<T, 3>(rows, taps, n, out);
    case 4: return weighted_sum_of<T, 4>(rows, taps, n, out);
    case 5: return weighted_sum_of<T, 5>(rows, taps, n, out);
    case 6: return weighted_sum_of<T, 6>(rows, taps, n, out);
  }
  const T centre = taps[0];
  const T* row = rows[radius];
  for (int x = 0; x < n; ++x) out[x] = centre * row[x];
  for (int j = 1; j <= radius; ++j) {
    const T tap = taps[j];
    const T *before = rows[radius - j], *after = rows[radius + j];
#pragma omp simd
    for (int x = 0; x < n; ++x) out[x] += tap * (before[x] + after[x]);
  }
}

template <class T> void weighted_sums(const T* const* rows, const T* taps, int radius, int n, T* out, T* next) {
  switch (radius) {
    case 1: return weighted_sums_of<T, 1>(rows, taps, n, out, next);
    case 2: return weighted_sums_of<T, 2>(rows, taps, n, out, next);
    case 3: return weighted_sums_of<T, 3>(rows, taps, n, out, next);
    case 4: return weighted_sums_of<T, 4>(rows, taps, n, out, next);
    case 5: return weighted_sums_of<T, 5>(rows, taps, n, out, next);
    case 6: return weighted_sums_of<T, 6>(rows, taps, n, out, next);
  }
  weighted_sum(rows, taps, radius, n, out);
  weighted_sum(rows + 1, taps, radius, n, next);
}

// As columns are smoothed: the rows above and below are the row itself, moved. `rows` has room for all of them.
template <class T> void along_pixels(const T* row, const T* taps, int radius, int n, const T** rows, T* out) {
  for (int j = 0; j <= 2 * radius; ++j) rows[j] = row + j - radius;
  weighted_sum(rows, taps, radius, n, out);
}

template <class T> void along_row(const T* row, const T* taps, int radius, int n, const T** rows, T* out) {
  along_pixels(row, taps, radius, n, rows, out);
}

#ifdef __AVX512F__
// Neighbours at an odd distance come out of three registers by shuffles, the others by loads, each of which straddles two lines of the
// cache: either alone would keep its half of the core busy for a third longer. J = 0 .. radius - 1.
template <int... J> void along_vectors(const float* row, const float* taps, int n, float* out, std::integer_sequence<int, J...>) {
  constexpr int lanes = 16, radius = sizeof...(J);
  __m512 tap[radius + 1];
  for (int j = 0; j <= radius; ++j) tap[j] = _mm512_set1_ps(taps[j]);
  __m512 left = _mm512_loadu_ps(row - lanes), here = _mm512_loadu_ps(row);
  for (int x = 0; x < n; x += lanes) {
    const __m512 right = _mm512_loadu_ps(row + x + lanes);
    const auto moved = [](__m512 low, __m512 high, auto by) __attribute__((always_inline)) {
      return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(high), _mm512_castps_si512(low), by));
    };
    const auto both = [&](auto distance) __attribute__((always_inline)) {  // of the neighbours at this distance
      constexpr int j = distance;
      if constexpr (j % 2 == 0) return _mm512_loadu_ps(row + x - j) + _mm512_loadu_ps(row + x + j);
      else return moved(left, here, std::integral_constant<int, lanes - j>()) + moved(here, right, std::integral_constant<int, j>());
    };
    __m512 sum = tap[0] * here;
    ((sum += tap[J + 1] * both(std::integral_constant<int, J + 1>())), ...);
    _mm512_storeu_ps(out + x, sum);
    left = here, here = right;
  }
}

template <> void along_row<float>(const float* row, const float* taps, int radius, int n, const float** rows, float* out) {
  switch (radius) {  // the usual radii
    case 1: return along_vectors(row, taps, n, out, std::make_integer_sequence<int, 1>());
    case 2: return along_vectors(row, taps, n, out, std::make_integer_sequence<int, 2>());
    case 3: return along_vectors(row, taps, n, out, std::make_integer_sequence<int, 3>());
    case 4: return along_vectors(row, taps, n, out, std::make_integer_sequence<int, 4>());
    case 5: return along_vectors(row, taps, n, out, std::make_integer_sequence<int, 5>());
    case 6: return along_vectors(row, taps, n, out, std::make_integer_sequence<int, 6>());
  }
  along_pixels(row, taps, radius, n, rows, out);
}
#endif

}  // namespace
}  // namespace cxr
