// What a registration is: the images, the options and where the results go. Filled by bindings.cpp, read by CPU and CUDA.
#pragma once

#include <cstddef>
#include <vector>

#include "math.h"

namespace cxr {

struct DemonsOptions {
  std::vector<int> iterations, shrink;           // one entry a level, coarse to fine
  int force = two_force;
  bool diffeomorphic = false;                    // update through exp(du), fields composed
  bool itk = false;                              // ITK's borders, threshold and order of smoothing
  double inverse_k = 1;                          // d^2 is divided by K
  int squarings = 2;                             // of the exponential
  std::vector<double> diffusion, fluid;          // half kernels: centre first, empty = none
  double tolerance = -1;                         // a level stops when the RMS update falls below it; negative: never

  int total_iterations() const {
    int total = 0;
    for (int n : iterations) total += n;
    return total;
  }
};

// Batch of contiguous images. `initial` and `mask` may be null.
template <class T> struct DemonsImages {
  const T *moving, *fixed, *initial, *mask;      // [B,H,W], [B,H,W], [B,2,H,W], [B,H,W]
  T *displacement, *mse, *rms;                   // [B,2,H,W], [B,N], [B,N]; N = total iterations, NaN where not run
  int batch, height, width;
};

inline int level_size(int size, int shrink) { return (size + shrink - 1) / shrink; }

template <class T> void demons_cpu(const DemonsImages<T>& images, const DemonsOptions& options, int threads);
// `workspace` is device memory of that many bytes.
template <class T> size_t demons_cuda_workspace(int batch, int height, int width);
template <class T>
void demons_cuda(const DemonsImages<T>& images, const DemonsOptions& options, void* workspace, void* stream);

// Antialiased bilinear resize of one plane, as torch's interpolate(mode="bilinear", antialias=True); values times `scale`.
template <class T> void resize_cpu(const T* in, int height, int width, T* out, int new_height, int new_width, T scale);

// Means over squares of 2 radius + 1 pixels a side, the border repeated, of one plane; `times` times.
void box_mean_cpu(const double* in, int height, int width, int radius, int times, double* out);

// The smallest Jacobian determinant of p -> p + u(p) of each item: central differences, one-sided on the border; NaN stays.
template <class T> void smallest_jacobian_cpu(const T* displacement, int batch, int height, int width, T* out, int threads);

// Affine maps p -> a [x, y, 1] in coordinates of [-1, 1], refined until moving(a [x, y, 1]) correlates with fixed(x, y).
struct AffineSearch {
  const double *moving, *fixed;                  // [n,n], finite
  int size;                                      // n, from 2
  double *maps, *correlation;                    // [S,2,3]: starts, replaced by the best on the way of each; [S], -2: there is none
  int starts, iterations;
  double settled, min_overlap, damping, flat;    // see cxrsynth/ops/affine.py
};

void affine_cpu(const AffineSearch& in);

// silu(group norm(x + shift)) of channels-last images; `shift` [B,C] may be null. `half`: x and out are bfloat16.
struct NormBatch {
  const void* x;                                 // [B,pixels,C]
  const float *weight, *bias, *shift;            // [C], [C], [B,C]
  void* out;                                     // as x
  int batch;
  long pixels;
  int channels, groups;                          // on a CPU channels: a multiple of 16
  double eps;
  bool half;
};

void norm_silu_cpu(const NormBatch& in, int threads);
// Bytes of workspace that CUDA needs; -1 = it cannot.
long norm_silu_cuda_workspace(const NormBatch& in);
void norm_silu_cuda(const NormBatch& in, void* workspace, void* stream);

// Channels-last images [B,H,W,C], and the 36 points of tiles of 4 x 4 of their pixels [36,rows * tiles a row,C], `stride` apart, of
// `rows` rows of tiles from the row `first` of the whole batch; C is a multiple of 16. Winograd's transform to the points, of pixels
// with one ring around, or from them to pixels, `bias` [C] added.
struct TileBatch {
  float* image;
  const float* bias;                             // null on the way to the points
  float* points;
  int first, rows, height, width, channels;
  size_t stride;
};

void winograd_cpu(const TileBatch& in, bool forward, int threads);

enum Mode : int { bilinear = 0, nearest = 1 };

template <class T> struct WarpImages {
  const T *image, *displacement;                 // [B,C,H,W], [B,2,H,W]
  int batch, channels, height, width;
};

template <class T> void warp_cpu(const WarpImages<T>& in, int mode, T* out, int threads);
template <class T> void warp_cuda(const WarpImages<T>& in, int mode, T* out, void* stream);
// `grad` [B,C,H,W]; grad_image and grad_displacement may be null. Both are overwritten; CUDA wants grad_image as zeros.
template <class T>
void warp_backward_cpu(const WarpImages<T>& in, int mode, const T* grad, T* grad_image, T* grad_displacement, int threads);
template <class T>
void warp_backward_cuda(const WarpImages<T>& in, int mode, const T* grad, T* grad_image, T* grad_displacement, void* stream);

}  // namespace cxr
