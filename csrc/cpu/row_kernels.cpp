// Compiled once for each instruction set (CXR_PATH = portable, avx2, avx512): same source, same arithmetic, same bits.
#include "cpu/force_row.h"
#include "cpu/gradient_row.h"
#include "cpu/jacobian_row.h"
#include "cpu/norm_image.h"
#include "cpu/row_kernels.h"
#include "cpu/smooth_rows.h"
#include "cpu/warp_row.h"
#include "cpu/winograd_tiles.h"

namespace cxr {
namespace {

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
          along_row<T>,
          weighted_rows<T>,
          jacobian_row<T>,
          norm_silu,
          tiles_to_points,
          tiles_from_points};
}

#ifdef __AVX512F__
// Rough fields by windows of all rows instead of gathers.
constexpr RowKernels<float> with_windows() {
  RowKernels<float> kernels = table<float>();
  kernels.warp = warp_in_vectors<By::all_rows>, kernels.warp_nearest = warp_in_vectors_nearest<By::all_rows>;
  return kernels;
}
#endif

}  // namespace

namespace CXR_PATH {
extern const RowKernels<float> kernels_float;
extern const RowKernels<double> kernels_double;
constexpr RowKernels<float> kernels_float = table<float>();
constexpr RowKernels<double> kernels_double = table<double>();
#ifdef __AVX512F__
extern const RowKernels<float> kernels_float_windows;
constexpr RowKernels<float> kernels_float_windows = with_windows();
#endif
}  // namespace CXR_PATH
}  // namespace cxr
