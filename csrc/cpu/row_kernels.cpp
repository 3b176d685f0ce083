// Compiled once for each path (CXR_PATH = portable, avx2, avx512): same source, same arithmetic, same bits.
#include "cpu/force_row.h"
#include "cpu/gradient_row.h"
#include "cpu/jacobian_row.h"
#include "cpu/norm_image.h"
#include "cpu/row_kernels.h"
#include "cpu/warp_row.h"
#include "cpu/winograd_tiles.h"

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
  }
  weighted_sum(rows, taps, radius, n, out);
  weighted_sum(rows + 1, taps, radius, n, next);
}

template <class T, int COUNT> void add_rows(const T* const* rows, const T* weights, int n, T* __restrict__ out) {
  const T* row[COUNT];
  T weight[COUNT];
  for (int j = 0; j < COUNT; ++j) row[j] = rows[j], weight[j] = weights[j];
#pragma omp simd
  for (int x = 0; x < n; ++x) {
    T sum = out[x];
    for (int j = 0; j < COUNT; ++j) sum += weight[j] * row[j][x];
    out[x] = sum;
  }
}

template <class T> void weighted_rows(const T* const* rows, const T* weights, int count, int n, T* out) {
  for (int x = 0; x < n; ++x) out[x] = 0;
  for (; count >= 4; count -= 4, rows += 4, weights += 4) add_rows<T, 4>(rows, weights, n, out);
  for (; count > 0; --count, ++rows, ++weights) add_rows<T, 1>(rows, weights, n, out);
}

template <class T> constexpr RowKernels<T> table() {
  return {warp_row<T>,
          warp_row_nearest<T>,
          scatter_row<T>,
          slope_row<T>,
          {{force_row<T, two_force, false>, force_row<T, two_force, true>},
           {force_row<T, esm, false>, force_row<T, esm, true>},
           {force_row<T, thirion, false>, force_row<T, thirion, true>}},
          weighted_sum<T>,
          weighted_sums<T>,
          weighted_rows<T>,
          jacobian_row<T>,
          norm_silu,
          tiles_to_points,
          tiles_from_points};
}

}  // namespace

namespace CXR_PATH {
extern const RowKernels<float> kernels_float;
extern const RowKernels<double> kernels_double;
const RowKernels<float> kernels_float = table<float>();
const RowKernels<double> kernels_double = table<double>();
}  // namespace CXR_PATH
}  // namespace cxr
