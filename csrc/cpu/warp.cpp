// warp(image, d)(p) = image(p + d(p)) and its gradients.
#include <algorithm>
#include <vector>

#include "cpu/row_kernels.h"
#include "demons.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace cxr {
namespace {

// A large result is written once, page after page: pages of 2 MB where the system has them, as numpy asks for too.
void ask_for_large_pages(void* p, size_t bytes) {
#ifdef __linux__
  constexpr size_t page = 4096, large = size_t(4) << 20;
  const size_t first = (reinterpret_cast<size_t>(p) + page - 1) / page * page;
  if (bytes >= large) madvise(reinterpret_cast<void*>(first), bytes - page, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

template <class T> bool within(T p, int n) { return p >= T(0) && p <= T(n - 1); }

}  // namespace

template <class T> void warp_cpu(const WarpImages<T>& in, int mode, T* out, int threads) {
  const int h = in.height, w = in.width;
  const size_t size = size_t(h) * w;
  const RowKernels<T>& kernels = row_kernels<T>();
  ask_for_large_pages(out, size_t(in.batch) * in.channels * size * sizeof(T));
#pragma omp parallel for num_threads(threads) collapse(2)
  for (int b = 0; b < in.batch; ++b) {
    for (int y = 0; y < h; ++y) {
      const T *ux = in.displacement + b * 2 * size + size_t(y) * w, *uy = ux + size;
      const T* image = in.image + size_t(b) * in.channels * size;
      T* row = out + size_t(b) * in.channels * size + size_t(y) * w;
      (mode == nearest ? kernels.warp_nearest : kernels.warp)({image, h, w, ux, uy, y, row, false, in.channels, size});
    }
  }
}

template <class T>
void warp_backward_cpu(const WarpImages<T>& in, int mode, const T* grad, T* grad_image, T* grad_displacement, int threads) {
  const int h = in.height, w = in.width, planes = in.batch * in.channels;
  const size_t size = size_t(h) * w;
  if (grad_image) {
    // Every output adds its weights to four pixels. Planes are independent, so the order of the sum is fixed.
#pragma omp parallel for num_threads(threads)
    for (int plane = 0; plane < planes; ++plane) {
      const T *ux = in.displacement + size_t(plane / in.channels) * 2 * size, *uy = ux + size, *g = grad + plane * size;
      T* out = grad_image + plane * size;
      std::fill(out, out + size, T(0));
      for (int y = 0; y < h; ++y) {
        for (int x = 0; x < w; ++x) {
          const size_t i = size_t(y) * w + x;
          const T px = T(x) + ux[i], py = T(y) + uy[i];
          if (mode == nearest) {
            out[size_t(nearest_pixel(py, h)) * w + nearest_pixel(px, w)] += g[i];
            continue;
          }
          const Position<T> sx = position(px, w), sy = position(py, h);
          const size_t right = w > 1, down = h > 1 ? w : 0;
          T* p = out + size_t(sy.i) * w + sx.i;
          p[0] += g[i] * (1 - sx.f) * (1 - sy.f);
          p[right] += g[i] * sx.f * (1 - sy.f);
          p[down] += g[i] * (1 - sx.f) * sy.f;
          p[down + right] += g[i] * sx.f * sy.f;
        }
      }
    }
  }
  if (!grad_displacement) return;
  if (mode == nearest) {
    std::fill(grad_displacement, grad_displacement + in.batch * 2 * size, T(0));
    return;
  }
  // d image(p) / d p = the differences of the four pixels; 0 where the border clamps.
#pragma omp parallel for num_threads(threads) collapse(2)
  for (int b = 0; b < in.batch; ++b) {
    for (int y = 0; y < h; ++y) {
      for (int x = 0; x < w; ++x) {
        const size_t i = size_t(y) * w + x;
        const T *ux = in.displacement + b * 2 * size, *uy = ux + size;
        const T px = T(x) + ux[i], py = T(y) + uy[i];
        const Position<T> sx = position(px, w), sy = position(py, h);
        const size_t right = w > 1, down = h > 1 ? w : 0;
        T dx = 0, dy = 0;
        for (int c = 0; c < in.channels; ++c) {
          const size_t plane = (size_t(b) * in.channels + c) * size;
          const T* p = in.image + plane + size_t(sy.i) * w + sx.i;
          dx += grad[plane + i] * mix(p[right] - p[0], p[down + right] - p[down], sy.f);
          dy += grad[plane + i] * mix(p[down] - p[0], p[down + right] - p[right], sx.f);
        }
        grad_displacement[b * 2 * size + i] = within(px, w) ? dx : T(0);
        grad_displacement[(b * 2 + 1) * size + i] = within(py, h) ? dy : T(0);
      }
    }
  }
}

#define CXR_INSTANTIATE(T)                                                 \
  template void warp_cpu<T>(const WarpImages<T>&, int, T*, int);           \
  template void warp_backward_cpu<T>(const WarpImages<T>&, int, const T*, T*, T*, int);
CXR_INSTANTIATE(float)
CXR_INSTANTIATE(double)

}  // namespace cxr
