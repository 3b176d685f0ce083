// W(x) = image(x + ux, y + uy) for one row: portable, and in vectors where the instruction set can shuffle at run time.
#pragma once

#include "cpu/row_kernels.h"
#if defined(__AVX512F__)
#include "cpu/warp_avx512.h"
#elif defined(__AVX2__)
#include "cpu/warp_avx2.h"
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

#ifdef __AVX2__
CXR_HD bool in_vectors(const WarpRow<float>& a) {  // whose places are ints
  const int longer = a.width > a.height ? a.width : a.height;
  return a.width >= narrowest && a.height >= lowest && longer <= longest && long(a.width) * a.height < 1L << 31;
}

// ROUGH: with AVX-512, how rough fields are read, if not by gathers.
template <auto... ROUGH> void warp_in_vectors(const WarpRow<float>& a) {
  if (!in_vectors(a)) return warp_pixels(a);
  if (a.itk) warp_bilinear<true, false, ROUGH...>(a);
  else if (a.ahead) warp_bilinear<false, true, ROUGH...>(a);
  else warp_bilinear<false, false, ROUGH...>(a);
}

template <auto... ROUGH> void warp_in_vectors_nearest(const WarpRow<float>& a) {
  if (!in_vectors(a)) return warp_pixels_nearest(a);
  a.ahead ? warp_nearest<true, ROUGH...>(a) : warp_nearest<false, ROUGH...>(a);
}

template <> void warp_row<float>(const WarpRow<float>& a) { warp_in_vectors<>(a); }
template <> void warp_row_nearest<float>(const WarpRow<float>& a) { warp_in_vectors_nearest<>(a); }
#endif

}  // namespace
}  // namespace cxr
