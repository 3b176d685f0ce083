// The inner loops of Demons and warp: each does one row of an image, and exists once for each instruction set.
#pragma once

#include <cstddef>

#include "math.h"

namespace cxr {

template <class T> struct WarpRow {
  const T* image;          // [channels, height, width]
  int height, width;
  const T *ux, *uy;        // displacement of this row
  int y;
  T* out;                  // row of the first channel
  bool itk;                // NaN where the sample lies outside
  int channels;
  size_t plane;            // from one channel to the next, in `image` and in `out`
  bool ahead = false;      // whether to fetch what the rows below need: where images come from memory
};

// Backward of the warp `row`, whose `out` does not apply.
template <class T> struct GradientRow {
  WarpRow<T> row;
  const T* grad;           // of the output: row of the first channel
  T* image;                // scatter: the plane that receives the gradient of the image
  T *dx, *dy;              // slope: gradient of the displacement
};

// Pixels -1 and `width` of r and w exist, as do the rows above and below: what stands there says how differences are taken at
// the border (see Sweep).
template <class T> struct ForceRow {
  const T *r_above, *r, *r_below;   // fixed image, rows y - 1, y, y + 1
  const T *w_above, *w, *w_below;   // warped moving image
  const T *ux, *uy;                 // added to the update
  const T* mask;                    // null or 0/1
  T *out_x, *out_y;
  int width;
  T inverse_k, threshold;
};

struct Sums {
  double difference, update, count;  // sum d^2, sum |du|^2, number of pixels with a difference
  void operator+=(const Sums& s) { difference += s.difference, update += s.update, count += s.count; }
};

// Displacement rows y - 1, y, y + 1, the border repeated; at least two columns.
template <class T> struct JacobianRow {
  const T *ux_above, *ux, *ux_below, *uy_above, *uy, *uy_below;
  int width;
  T down;                           // 1 / rows from the one above to the one below
};

// Some or all channels of an image, all of their groups.
struct NormImage {
  const void* x;                    // [pixels, channels], float or bfloat16
  const float *weight, *bias;       // [channels]
  const float* shift;               // [channels], added to x; or null
  void* out;                        // as x
  long pixels;
  int channels, groups;             // channels: a multiple of 16
  int stride;                       // from pixel to pixel, in x and in out
  double eps;
  bool half;                        // x and out are bfloat16
  float* scratch;                   // [3, channels]
};

// One row of Winograd's tiles of 4 x 4 pixels of a channels-last image (see winograd_tiles.h); the last may reach beyond it.
struct TileRow {
  float* image;                     // [height, width, channels]; read on the way to points, written on the way from them
  const float* bias;                // [channels], added to what is written
  float* points;                    // [36, tiles, channels] of this row of tiles
  int height, width;
  int y;                            // first row of the tiles
  int channels;                     // a multiple of 16
  size_t stride;                    // from one point to the next
};

// The smaller one; NaN if either is.
template <class T> CXR_HD T smaller(T a, T b) { return a < b || a != a ? a : b; }

template <class T> struct RowKernels {
  void (*warp)(const WarpRow<T>&);          // bilinear
  void (*warp_nearest)(const WarpRow<T>&);  // `itk` does not apply
  void (*scatter)(const GradientRow<T>&);   // of one channel
  void (*slope)(const GradientRow<T>&);     // summed over the channels
  Sums (*force[3][2])(const ForceRow<T>&);  // [force][itk]
  // out[x] = taps[0] rows[radius][x] + sum_j taps[j] (rows[radius - j][x] + rows[radius + j][x])
  void (*weighted_sum)(const T* const* rows, const T* taps, int radius, int n, T* out);
  // The same of rows[0 .. 2 radius] into out and of rows[1 .. 2 radius + 1] into next: two sums that share their loads.
  void (*weighted_sums)(const T* const* rows, const T* taps, int radius, int n, T* out, T* next);
  // out[x] = taps[0] row[x] + sum_j taps[j] (row[x - j] + row[x + j]). Before `row`, behind it and behind `out` lies memory for a whole
  // vector; in `rows` there is room for 2 radius + 1.
  void (*along_row)(const T* row, const T* taps, int radius, int n, const T** rows, T* out);
  // out[x] = sum_j weights[j] rows[j][x], j < count, added up from the first to the last.
  void (*weighted_rows)(const T* const* rows, const T* weights, int count, int n, T* out);
  T (*jacobian)(const JacobianRow<T>&);     // the smallest determinant
  void (*norm_silu)(const NormImage&);      // of floats and bfloat16, whatever T
  void (*tiles_to_points)(const TileRow&);  // of floats, whatever T, as the next
  void (*tiles_from_points)(const TileRow&);
};

// The kernels in use: the best of this machine, or the path chosen by set_path.
template <class T> const RowKernels<T>& row_kernels();

}  // namespace cxr
