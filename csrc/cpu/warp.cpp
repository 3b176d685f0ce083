// warp(image, d)(p) = image(p + d(p)) and its gradients.
#include <algorithm>

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

// The gradient of a nearest warp goes to the pixel that was read.
template <class T> void scatter_nearest(const WarpRow<T>& a, const T* grad, T* image) {
  for (int x = 0; x < a.width; ++x) {
    const int column = nearest_pixel(T(x) + a.ux[x], a.width), row = nearest_pixel(T(a.y) + a.uy[x], a.height);
    image[size_t(row) * a.width + column] += grad[x];
  }
}

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
      (mode == nearest ? kernels.warp_nearest : kernels.warp)({image, h, w, ux, uy, y, row, false, in.channels, size, true});
    }
  }
}

template <class T>
void warp_backward_cpu(const WarpImages<T>& in, int mode, const T* grad, T* grad_image, T* grad_displacement, int threads) {
  const int h = in.height, w = in.width, planes = in.batch * in.channels;
  const size_t size = size_t(h) * w;
  const RowKernels<T>& kernels = row_kernels<T>();
  const auto row_of = [&](int item, int y) {
    const T* ux = in.displacement + size_t(item) * 2 * size + size_t(y) * w;
    return WarpRow<T>{in.image + size_t(item) * in.channels * size, h, w, ux, ux + size, y, nullptr, false, in.channels, size};
  };
  if (grad_image) {
    ask_for_large_pages(grad_image, planes * size * sizeof(T));
    // Planes are independent, and the rows of one come in order: the sum does not depend on the number of threads.
#pragma omp parallel for num_threads(threads)
    for (int plane = 0; plane < planes; ++plane) {
      T* image = grad_image + plane * size;
      std::fill(image, image + size, T(0));
      for (int y = 0; y < h; ++y) {
        const WarpRow<T> row = row_of(plane / in.channels, y);
        const T* g = grad + plane * size + size_t(y) * w;
        if (mode == nearest) scatter_nearest(row, g, image);
        else kernels.scatter({row, g, image, nullptr, nullptr});
      }
    }
  }
  if (!grad_displacement) return;
  ask_for_large_pages(grad_displacement, in.batch * 2 * size * sizeof(T));
  if (mode == nearest) {
    std::fill(grad_displacement, grad_displacement + in.batch * 2 * size, T(0));
    return;
  }
#pragma omp parallel for num_threads(threads) collapse(2)
  for (int b = 0; b < in.batch; ++b) {
    for (int y = 0; y < h; ++y) {
      const T* g = grad + size_t(b) * in.channels * size + size_t(y) * w;
      T* dx = grad_displacement + size_t(b) * 2 * size + size_t(y) * w;
      kernels.slope({row_of(b, y), g, nullptr, dx, dx + size});
    }
  }
}

#define CXR_INSTANTIATE(T)                                                 \
  template void warp_cpu<T>(const WarpImages<T>&, int, T*, int);           \
  template void warp_backward_cpu<T>(const WarpImages<T>&, int, const T*, T*, T*, int);
CXR_INSTANTIATE(float)
CXR_INSTANTIATE(double)

}  // namespace cxr
