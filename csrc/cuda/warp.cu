// warp(image, d)(p) = image(p + d(p)) and its gradients: a thread loops over the channels of its pixels.
#include "cuda/launch.cuh"
#include "demons.h"

namespace cxr {
namespace {

constexpr int strip = 4;

template <class T> __device__ bool within(T p, int n) { return p >= T(0) && p <= T(n - 1); }

// `strip` pixels below each other, so that several loads of a thread are on their way at once; stored when all are there.
template <class T> __global__ void __launch_bounds__(block_threads) warp_kernel(WarpImages<T> in, int mode, T* out) {
  const int x = blockIdx.x * block_x + threadIdx.x, top = blockIdx.y * strip * block_y + threadIdx.y, b = blockIdx.z;
  const long size = long(in.height) * in.width;
  if (x >= in.width) return;
  T px[strip], py[strip], value[strip];
  for (int k = 0; k < strip; ++k) {
    const int y = clamped(top + k * block_y, in.height);
    const T* u = in.displacement + b * 2 * size + long(y) * in.width + x;
    px[k] = T(x) + u[0];
    py[k] = T(y) + u[size];
  }
  for (int c = 0; c < in.channels; ++c) {
    const long plane = (long(b) * in.channels + c) * size;
    const T* image = in.image + plane;
    for (int k = 0; k < strip; ++k) {
      value[k] = mode == bilinear ? sample(image, in.height, in.width, in.width, px[k], py[k])
                                  : image[long(nearest_pixel(py[k], in.height)) * in.width + nearest_pixel(px[k], in.width)];
    }
    for (int k = 0; k < strip; ++k) {
      const int y = top + k * block_y;
      if (y < in.height) out[plane + long(y) * in.width + x] = value[k];
    }
  }
}

template <class T>
__global__ void warp_backward_kernel(WarpImages<T> in, int mode, const T* grad, T* grad_image, T* grad_displacement) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, b = blockIdx.z;
  if (x >= in.width || y >= in.height) return;
  const int h = in.height, w = in.width;
  const long size = long(h) * w, i = long(y) * w + x;
  const T px = T(x) + in.displacement[b * 2 * size + i], py = T(y) + in.displacement[(b * 2 + 1) * size + i];
  const Position<T> sx = position(px, w), sy = position(py, h);
  const long right = w > 1, down = h > 1 ? w : 0, corner = long(sy.i) * w + sx.i;
  T dx = 0, dy = 0;
  for (int c = 0; c < in.channels; ++c) {
    const long plane = (long(b) * in.channels + c) * size;
    const T g = grad[plane + i];
    if (grad_image && mode == nearest) {
      atomicAdd(grad_image + plane + long(nearest_pixel(py, h)) * w + nearest_pixel(px, w), g);
    } else if (grad_image) {
      T* p = grad_image + plane + corner;
      atomicAdd(p, g * (T(1) - sx.f) * (T(1) - sy.f));
      atomicAdd(p + right, g * sx.f * (T(1) - sy.f));
      atomicAdd(p + down, g * (T(1) - sx.f) * sy.f);
      atomicAdd(p + down + right, g * sx.f * sy.f);
    }
    if (grad_displacement && mode == bilinear) {
      const T* p = in.image + plane + corner;
      dx += g * mix(p[right] - p[0], p[down + right] - p[down], sy.f);
      dy += g * mix(p[down] - p[0], p[down + right] - p[right], sx.f);
    }
  }
  if (grad_displacement) {
    grad_displacement[b * 2 * size + i] = within(px, w) ? dx : T(0);
    grad_displacement[(b * 2 + 1) * size + i] = within(py, h) ? dy : T(0);
  }
}

}  // namespace

template <class T> void warp_cuda(const WarpImages<T>& in, int mode, T* out, void* stream) {
  const int rows = (in.height + strip - 1) / strip;
  CXR_LAUNCH(warp_kernel<T>, pixel_grid(rows, in.width, in.batch), pixel_block(), 0, stream, in, mode, out);
}

// The caller gives grad_image as zeros: outputs of many threads add to one pixel.
template <class T>
void warp_backward_cuda(const WarpImages<T>& in, int mode, const T* grad, T* grad_image, T* grad_displacement, void* stream) {
  CXR_LAUNCH(warp_backward_kernel<T>, pixel_grid(in.height, in.width, in.batch), pixel_block(), 0, stream, in, mode, grad,
             grad_image, grad_displacement);
}

#define CXR_INSTANTIATE(T)                                              \
  template void warp_cuda<T>(const WarpImages<T>&, int, T*, void*);     \
  template void warp_backward_cuda<T>(const WarpImages<T>&, int, const T*, T*, T*, void*);
CXR_INSTANTIATE(float)
CXR_INSTANTIATE(double)

}  // namespace cxr
